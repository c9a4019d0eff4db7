"""A model that was loaded says what the evaluation of its run said."""

import copy
import json
import shutil

import numpy as np
import pytest

import jaxmnist
from jaxmnist import datasets, inference, runs
from jaxmnist.config import get_config
from jaxmnist.errors import UserError


def test_the_loaded_model_is_as_accurate_as_the_results_say(trained, model, test_split):
    results = json.loads((trained / "results.json").read_text())
    found = model.predict(test_split.images)
    assert model.step == 120
    assert np.mean(found.classes == test_split.labels) == results["test"]["accuracy"]
    assert results["test"]["accuracy"] > 0.9
    of_label = np.take_along_axis(found.probabilities, test_split.labels[:, None].astype(int), 1)
    assert -np.log(of_label).mean() == pytest.approx(results["test"]["loss"], rel=1e-4)


def test_every_way_to_hand_over_the_same_images_gives_the_same(model, test_split):
    images = test_split.images[:7]
    classes, probabilities = model.predict(images)
    assert classes.shape == (7,)
    assert probabilities.shape == (7, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    scaled = images / 255
    for same in (images[..., 0], scaled, scaled[..., 0], scaled.astype(np.float32)):
        found = model.predict(same)
        np.testing.assert_array_equal(found.classes, classes)
        np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    for i in (0, 6):
        for one in (images[i], images[i, ..., 0], scaled[i]):
            found = model.predict(one)
            assert found.classes.shape == ()
            assert found.classes == classes[i]
            np.testing.assert_allclose(found.probabilities, probabilities[i], atol=1e-6)


def test_images_are_upright_whatever_the_network_was_trained_on(model, test_split):
    emnist = copy.copy(model)
    emnist.preparation = datasets.preparation("emnist/digits")
    inputs = test_split.images[:5]
    upright = inputs.swapaxes(1, 2)
    wanted = model.predict(inputs)
    for images in (upright, upright[..., 0], upright / 255):
        found = emnist.predict(images)
        np.testing.assert_array_equal(found.classes, wanted.classes)
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    assert emnist.predict(upright[3]).classes == wanted.classes[3]
    np.testing.assert_array_equal(emnist.logits(inputs), model.logits(inputs))
    np.testing.assert_array_equal(emnist.probabilities(inputs), wanted.probabilities)


def test_few_images_need_little_memory_and_many_get_the_evaluations_classes(model, test_split):
    sizes, apply = set(), model._apply
    greedy = copy.copy(model)
    greedy.config = model.config.copy_and_resolve_references()
    greedy.config.eval_batch_size = 20_000
    greedy._apply = lambda params, images: (sizes.add(len(images)), apply(params, images))[1]
    found = [greedy.predict(test_split.images[:n]).classes for n in (1, 2, 201, 1000)]
    assert len(sizes) <= 2
    assert max(sizes) <= greedy._layout.round_up(200)
    np.testing.assert_array_equal(found[-1], model.predict(test_split.images).classes)


def test_no_images_give_no_answers(model):
    found = model.predict(np.zeros((0, 28, 28), np.uint8))
    assert found.classes.shape == (0,)
    assert found.probabilities.shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((28, 27), np.uint8), "shape"),
        (np.zeros((2, 28, 28, 3), np.uint8), "shape"),
        (np.zeros((28, 28), np.int64), "int64"),
        (np.full((28, 28), 255.0), r"\[0, 1\]"),
        (np.full((28, 28), np.nan), r"\[0, 1\]"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(model, images, words):
    with pytest.raises(ValueError, match=words):
        model.predict(images)


def test_the_newest_whole_checkpoint_is_loaded(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(tmp_path / "run/checkpoints/120", tmp_path / "run/checkpoints/110")
    assert jaxmnist.load(tmp_path / "run").step == 120


def test_a_workdir_without_a_model_is_told_of(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        jaxmnist.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no whole checkpoint"):
        jaxmnist.load(tmp_path)
    (tmp_path / "config.json").write_text('{"num_seeds": 2}')
    with pytest.raises(UserError, match="several seeds: name one of them"):
        jaxmnist.load(tmp_path)


def test_the_sample_never_stands_in_for_what_a_model_was_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_reachable", lambda url: False)
    config = get_config()
    config.data_dir = str(tmp_path)
    with pytest.raises(UserError, match=r"mnist is not in .*, and .* cannot be reached"):
        inference.load_evaluation(config)
    with pytest.raises(UserError, match=r"mnist is not in .*, and .* cannot be reached"):
        runs.evaluate_checkpoints(config, tmp_path)
