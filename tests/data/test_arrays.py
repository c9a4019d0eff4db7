"""Arrays: what they may be, that nothing is lost, and that their workdir keeps them."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmnist
from jaxmnist import train
from jaxmnist.data import arrays, datasets
from jaxmnist.data.input_pipeline import Data
from jaxmnist.errors import UserError
from jaxmnist.record.workdir import Workdir
from jaxmnist.trained.checkpoint_evaluation import evaluate_checkpoints
from tests.conftest import content


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 6, 8, 3), np.uint8)


@pytest.fixture
def labels():
    return np.arange(60) % 3


@pytest.fixture
def data(images, labels):
    return (images[:40], labels[:40]), (images[40:], labels[40:])


@pytest.fixture
def config(config):
    config.train_split, config.eval_split, config.data_dir = "train", "test", None
    return config


def packed(x, y):
    return arrays.pack(((x[:40], y[:40]), (x[40:], y[40:])))


def test_levels_of_all_types_are_the_same_arrays(images, labels):
    name, held = packed(images, labels)
    assert name.startswith("arrays:")
    assert len(name) == len("arrays:") + 16
    for x in (images.astype(int), images / 255, (images / 255).astype(np.float32)):
        again, other = packed(x, labels)
        assert again == name
        np.testing.assert_array_equal(other["train_images"], held["train_images"], strict=True)
    assert packed(jnp.asarray(images), labels.reshape(60, 1))[0] == name
    assert packed(255 - images, labels)[0] != name
    assert packed(images, (labels + 1) % 3)[0] != name
    np.testing.assert_array_equal(packed(images > 99, labels)[1]["train_images"].max(), 255)
    assert packed(images[..., 0], labels)[1]["test_images"].shape == (20, 6, 8, 1)


def test_finer_levels_are_kept_to_the_bit(images, labels):
    x = np.random.default_rng(1).random(images.shape, np.float32)
    _, held = packed(x, labels)
    found = np.concatenate([held["train_images"], held["test_images"]])
    np.testing.assert_array_equal(found, x, strict=True)
    _, held = arrays.pack(((images[:40], labels[:40]), (x[40:], labels[40:])))
    np.testing.assert_array_equal(held["train_images"], images[:40] / np.float32(255), strict=True)


def test_names_of_classes(images):
    words = np.array(["10", "2", "cat"] * 20)
    assert packed(images, words)[1]["train_labels"][:4].tolist() == [1, 0, 2, 1]
    assert packed(images, words.astype(object))[0] == packed(images, words)[0]


IMAGES, LABELS = np.zeros((6, 4, 4, 1), np.uint8), np.array([0, 1, 2, 0, 1, 2])
GOOD = (IMAGES, LABELS)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ((), r"data is not allowed: it must be \(\(x, y\), \(x_test, y_test\)\)"),
        (GOOD, r"data is not allowed: it must be"),
        (((), ()), "data is not allowed: it must be"),
        (((IMAGES[0, 0], LABELS), GOOD), r"x has the shape \(4, 1\), where images have"),
        ((GOOD, (IMAGES[:0], LABELS[:0])), r"x_test has the shape \(0, 4, 4, 1\)"),
        (((np.zeros((6, 3, 32, 32)), LABELS), GOOD), "channels come second: .*moveaxis.x, 1, -1"),
        ((GOOD, (IMAGES[:, :3], LABELS)), "x and x_test differ in their shapes, 4x4x1 and 3x4x1"),
        (((IMAGES - 1.0, LABELS), GOOD), "x has values from -1 to -1"),
        (((IMAGES.astype(int) + 256, LABELS), GOOD), "x has values from 256 to 256"),
        ((GOOD, (IMAGES + np.nan, LABELS)), "x_test has values that are no numbers"),
        (((IMAGES.astype(str), LABELS), GOOD), "x is of <U3, where images are of numbers"),
        (((IMAGES, LABELS[:5]), GOOD), "x has 6 images, and y 5 labels"),
        ((GOOD, (IMAGES, np.eye(6))), r"y_test has the shape \(6, 6\), where labels have \(n,\)"),
        (((IMAGES, LABELS / 2), GOOD), "y is of float64, where labels are whole numbers"),
        (((IMAGES, LABELS - 1), GOOD), "labels are from -1 to 2, and no example has 0|no example"),
        (((IMAGES, LABELS * 2), (IMAGES, LABELS * 2)), "from 0 to 4, and no example has 1"),
        (((IMAGES, LABELS * 0), (IMAGES, LABELS * 0)), "all labels are 0, where two classes"),
        (((IMAGES, LABELS.astype(str)), GOOD), "must both be whole numbers, or both names"),
    ],
)
def test_what_is_wrong_is_one_sentence(data, sentence, config, tmp_path):
    with pytest.raises(UserError, match=sentence) as caught:
        train.train_and_evaluate(config, tmp_path / "run", data)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_arrays_goes_on_from_its_workdir_alone(config, data, tmp_path, here, capsys):
    whole = jaxmnist.train_and_evaluate(config, tmp_path / "whole", data)
    name = whole["dataset"]["name"]
    assert whole["dataset"] == {"name": name, "num_examples": {"train": 40, "test": 20}}
    config.num_steps = 2
    jaxmnist.train_and_evaluate(config, tmp_path / "run", data)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert here(workdir=moved, **{"config.num_steps": 6}) == 0
    results = Workdir(moved).load_results()
    assert results["params_sha256"] == whole["params_sha256"]
    saved = Workdir(moved).load_config()
    assert saved.data_dir == str(moved)
    (_, step, metrics), *_ = evaluate_checkpoints(saved, moved)
    assert (step, metrics["accuracy"]) == (6, pytest.approx(whole["test"]["accuracy"]))
    saved.eval_split = "test[:5]+train[:5]"
    assert len(datasets.read(saved, [saved.eval_split]).splits[0]) == 10
    info = Workdir(moved).dataset_info(saved)
    assert (info.image_shape, info.class_names) == ((6, 8, 3), ["0", "1", "2"])
    (moved / arrays.FILE).unlink()
    with pytest.raises(UserError, match=f"dataset={name}: its arrays are not in {moved}/data.npz"):
        datasets.describe(Workdir(moved).load_config())


def test_other_arrays_are_refused_and_nothing_changes(config, data, tmp_path):
    jaxmnist.train_and_evaluate(config, tmp_path / "run", data)
    before = content(tmp_path)
    config.num_steps = 8
    (x, y), test = data
    with pytest.raises(UserError, match="run holds a run on other arrays than these: choose"):
        jaxmnist.train_and_evaluate(config, tmp_path / "run", ((255 - x, y), test))
    assert content(tmp_path) == before


def test_a_refused_run_leaves_no_arrays(config, data, tmp_path, finished):
    config.batch_size = 41
    with pytest.raises(UserError, match="must be at most 40, the examples of arrays:"):
        jaxmnist.train_and_evaluate(config, tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
    config.batch_size = 20
    before = content(finished)
    with pytest.raises(
        UserError, match=r"trained differently: dataset \('mnist_sample' there, 'ar"
    ):
        jaxmnist.train_and_evaluate(config, finished, data)
    assert content(finished) == before


def test_several_seeds_share_the_arrays(config, data, tmp_path):
    config.num_seeds, config.num_steps = 2, 2
    results = jaxmnist.train_and_evaluate(config, tmp_path / "run", data)
    assert len(results["test"]["accuracy"]["each"]) == 2
    assert [path.parent.name for path in tmp_path.rglob(arrays.FILE)] == ["run"]
    seed = Workdir(tmp_path / "run/seed-1")
    assert datasets.describe(seed.load_config()).num_examples == {"train": 40, "test": 20}
    shutil.move(tmp_path / "run/seed-1", tmp_path / "alone")
    with pytest.raises(UserError, match="its arrays are not in"):
        datasets.describe(Workdir(tmp_path / "alone").load_config())


def test_finer_levels_are_trained_on_and_shown(config, images, labels, tmp_path):
    x = np.random.default_rng(1).random((60, 6, 8, 1), np.float32)
    config.num_steps = 2
    results = train.train_and_evaluate(
        config, tmp_path / "run", ((x[:40], labels[:40]), (x[40:], labels[40:]))
    )
    assert np.isfinite(results["test"]["loss"])
    saved = Workdir(tmp_path / "run").load_config()
    dataset = datasets.read(saved, ["test"])
    np.testing.assert_array_equal(dataset.splits[0].images, x[40:], strict=True)
    shown = dataset.splits[0].upright(dataset.info.preparation)
    assert shown.images.dtype == np.uint8


def test_data_that_calls_share_is_still_taken(config, tmp_path):
    config.train_split, config.eval_split, config.num_steps = "train[:40]", "test[:20]", 2
    assert train.train_and_evaluate(config, tmp_path / "run", Data())["step"] == 2
