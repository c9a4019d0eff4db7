"""A model that was loaded says what the evaluation of its run said."""

import copy
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import jaxmnist
from jaxmnist import predict
from jaxmnist.config import get_config
from jaxmnist.data import datasets, pictures
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError
from jaxmnist.models import CNN
from jaxmnist.optimizers import create_optimizer
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.train_step import init_state
from jaxmnist.trained import inference, reading


def untrained(image_shape, class_names, **preparation):
    """A model of a small network for images of any shape, with made-up names, untrained."""
    resize = {"shows": "picture", "method": "resize", "swap_axes": False}
    preparation = resize | {"shape": list(image_shape)} | preparation
    info = datasets.DatasetInfo("own", {"test": 9}, class_names, image_shape, preparation)
    config = get_config()
    network = CNN(features=(8,), hidden=16, num_classes=len(class_names))
    state = init_state(network, create_optimizer(config), 0, image_shape)
    return inference.Model(Run(config, Workdir(Path("nowhere"))), info, state, Layout.create())


def doubt(monkeypatch, *indices):
    """Has the answers to those regions of a picture be unsure."""
    detect = reading.detect

    def doubting(model, pages):
        return [
            [
                found._replace(doubt="it is not written as digits are" * (i in indices))
                for i, found in enumerate(each)
            ]
            for each in detect(model, pages)
        ]

    monkeypatch.setattr(reading, "detect", doubting)


def side_by_side(*images):
    """A picture of paper on which digits of the data set are in a row, each 100 pixels wide."""
    paper = Image.new("L", (100 * len(images), 120), 255)
    for i, image in enumerate(images):
        large = Image.fromarray(255 - image[..., 0]).resize((80, 80))
        paper.paste(large, (100 * i + 10, 20))
    return paper


def boxes_of(*images):
    """Where the digits are in `side_by_side`: left, top, right and bottom of each."""
    boxes = []
    for i, image in enumerate(images):
        left, top, right, bottom = (
            Image.fromarray(image[..., 0])
            .resize((80, 80))
            .point(lambda level: 255 * (level > 127))
            .getbbox()
        )
        boxes.append((100 * i + 10 + left, 20 + top, 100 * i + 10 + right, 20 + bottom))
    return np.array(boxes)


SHAPES = [(32, 32, 3), (8, 8, 1), (20, 30, 3), (4, 4, 1), (3, 5, 1)]


@pytest.mark.parametrize("image_shape", [*SHAPES, (7, 8, 6)])
def test_inputs_of_any_shape_are_used_as_they_are(image_shape):
    model = untrained(image_shape, ["a", "b", "c"])
    images = np.random.default_rng(0).integers(256, size=(6, *image_shape), dtype=np.uint8)
    wanted = model.predict(images)
    assert wanted.probabilities.shape == (6, 3)
    np.testing.assert_array_equal(wanted.probabilities, model.probabilities(images))
    ways = [images, list(images), images / 255, images.astype(np.int64), images.tolist()]
    if image_shape[2] == 1:
        ways += [images[..., 0], list(images[..., 0]), images[..., 0] / 255]
    for same in ways:
        found = model.predict(same)
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    one = model.predict(images[2])
    assert one.classes.shape == ()
    np.testing.assert_allclose(one.probabilities, wanted.probabilities[2], atol=1e-6)
    assert model.predict(images[:0]).probabilities.shape == (0, 3)
    assert model.predict([]).probabilities.shape == (0, 3)
    if image_shape[2] not in (1, 3):
        with pytest.raises(
            UserError, match=r"no.png is a picture, and inputs of 6 channels are none"
        ):
            model.predict("no.png")
        return
    # A picture that has the shape goes through untouched.
    same = model.predict([pictures.to_pillow(image) for image in images])
    np.testing.assert_array_equal(same.probabilities, wanted.probabilities)


@pytest.mark.parametrize("image_shape", SHAPES)
def test_pictures_of_other_sizes_are_resized_to_the_shape(image_shape, tmp_path):
    model = untrained(image_shape, ["a", "b"])
    large = Image.fromarray(
        np.random.default_rng(1).integers(256, size=(90, 120, 3), dtype=np.uint8)
    )
    large.save(tmp_path / "large.png")
    wanted = model.predict(large)
    inputs = pictures.read(large, "it", model.preparation)
    np.testing.assert_array_equal(model.predict(inputs).probabilities, wanted.probabilities)
    for same in (tmp_path / "large.png", np.asarray(large), np.asarray(large) / 255):
        np.testing.assert_array_equal(model.predict(same).probabilities, wanted.probabilities)
    listed = model.predict([large, inputs, str(tmp_path / "large.png")])
    np.testing.assert_allclose(listed.probabilities, [wanted.probabilities] * 3, atol=1e-6)


def test_strokes_are_drawn_for_a_network_of_another_shape():
    paper = Image.new("L", (200, 100), 255)
    paper.paste(0, (90, 20, 100, 80))
    strokes = {"method": "strokes", "box": 24, "centre": "mass"}
    for shape in ((32, 32, 1), (32, 40, 3)):
        model = untrained(shape, ["a", "b"], **strokes)
        inputs = pictures.read(paper, "it", model.preparation)
        assert inputs.shape == shape
        same(model.predict(paper), model.predict(inputs))
        with pytest.raises(UserError, match="the picture shows no picture: it is blank"):
            model.predict(Image.new("L", (99, 99)))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 32, 32, 5)), r"the array has the shape \(2, 32, 32, 5\)"),
        (np.zeros((0, 32)), "shape"),
        ([np.zeros((3, 32, 32, 3))], r"images\[0\]: .* several pictures"),
        (np.full((32, 32, 3), 300), "must be in 0 to 255"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_a_network_of_another_shape(images, words):
    with pytest.raises(ValueError, match=words):
        untrained((32, 32, 3), ["a", "b"]).predict(images)


def test_the_package_is_imported_at_once_and_says_what_it_has():
    code = "import sys, jaxmnist; help(jaxmnist); print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False\n")
    for signature in (
        "get_config() -> 'ConfigDict'",
        "load(workdir: 'str | Path', *, trust_code: 'bool' = False) -> 'Model'",
        "train_and_evaluate(config: 'ConfigDict', workdir: 'str | Path', ",
    ):
        assert signature in run.stdout
    assert set(jaxmnist.__all__) == {"get_config", "load", "train_and_evaluate"}


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


def test_few_images_need_little_memory_and_many_get_the_evaluations_classes(
    trained, test_split, monkeypatch
):
    sizes, to_float = [], inference.to_float

    def noted(images):  # Called once for each size of a batch, while it is compiled.
        sizes.append(len(images))
        return to_float(images)

    monkeypatch.setattr(inference, "to_float", noted)
    # In a type that no other test computes in: what they have compiled is not compiled again.
    greedy, model = (inference.load(trained, "bfloat16") for _ in range(2))
    greedy.config.eval_batch_size = 20_000
    found = [greedy.predict(test_split.images[:n]).classes for n in (1, 2, 201, 1000)]
    assert len(set(sizes)) == len(sizes) == 2
    assert max(sizes) <= Layout.create().round_up(200)
    np.testing.assert_array_equal(found[-1], model.predict(test_split.images).classes)


def as_pictures(image):
    """A digit of the data set as pictures of several kinds: (file's name, the picture)."""
    large = Image.fromarray(image).resize((140, 140), Image.Resampling.BICUBIC)
    paper = ImageOps.invert(large)
    colour = ImageOps.colorize(large, "ivory", "navy")
    cut_out = Image.new("RGB", large.size, "navy")
    cut_out.putalpha(large)
    return [
        ("small.png", Image.fromarray(image)),
        ("small-colour.png", Image.fromarray(image).convert("RGB")),
        ("large.png", large),
        ("paper.png", paper),
        ("paper.jpg", ImageOps.expand(paper, (40, 10, 0, 30), 255)),
        ("colour.png", colour),
        ("cut-out.png", cut_out),
        ("opacity.png", cut_out.convert("LA")),
        ("ink.png", paper.point(lambda level: 255 * (level > 127)).convert("1")),
        ("sixteen.png", Image.fromarray(np.asarray(paper).astype(np.uint16) * 257)),
    ]


def same(a, b):
    np.testing.assert_array_equal(a.classes, b.classes)
    np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_a_picture_is_a_picture_however_it_comes(trained, model, test_split, tmp_path, capsys):
    """A path, its text, a Pillow image, the array of its pixels, a list: as the command has it."""
    made = as_pictures(test_split.images[0, ..., 0])
    for name, picture in made:
        picture.save(tmp_path / name)
    paths = [tmp_path / name for name, _ in made]
    assert predict.main([f"--workdir={trained}", "--json", *map(str, paths)]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    listed = model.predict(paths)
    assert [each["classes"] for each in said] == listed.classes.tolist()
    np.testing.assert_allclose(
        [each["probabilities"] for each in said], listed.probabilities, rtol=1e-5, atol=1e-9
    )
    assert np.mean(listed.classes == test_split.labels[0]) > 0.85
    for path in paths:
        wanted = model.predict(path)
        same(model.predict(str(path)), wanted)
        with Image.open(path) as picture:
            before = picture.tobytes()
            same(model.predict(picture), wanted)
            assert picture.tobytes() == before
            pixels = np.asarray(picture)
        same(model.predict(pixels), wanted)
        if pixels.dtype != np.uint16:  # A list has lost how many bits its levels have.
            same(model.predict(pixels.tolist()), wanted)
        if pixels.dtype == np.uint8:
            same(model.predict(pixels.astype(np.int64)), wanted)
            if pixels.shape != (28, 28):  # Its floating-point levels are taken as they are.
                same(model.predict(pixels / 255), wanted)
    mixed = [paths[0], str(paths[3]), made[5][1], np.asarray(made[2][1]) / 255, made[0][1]]
    found = model.predict(mixed)
    np.testing.assert_allclose(
        found.probabilities, listed.probabilities[[0, 3, 5, 2, 0]], atol=1e-6
    )


def test_a_photo_that_its_camera_held_sideways_is_turned(model, test_split, tmp_path):
    upright = as_pictures(test_split.images[0, ..., 0])[3][1]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # To be turned clockwise.
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    same(model.predict(tmp_path / "turned.png"), model.predict(upright))
    same(model.predict(Image.open(tmp_path / "turned.png")), model.predict(upright))


def test_a_photo_of_clothing_is_one_however_it_comes(model, test_split, tmp_path):
    fashion = copy.copy(model)
    fashion.preparation = datasets.preparation("fashion_mnist")
    for name, picture in as_pictures(test_split.images[0, ..., 0]):
        picture.save(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            wanted = fashion.predict(tmp_path / name)
            same(fashion.predict(opened), wanted)
            same(fashion.predict(np.asarray(opened)), wanted)


def test_an_array_of_many_pictures_is_answered_as_each(model, test_split):
    large = np.stack(
        [np.asarray(as_pictures(image)[3][1]) for image in test_split.images[:4, ..., 0]]
    )
    wanted = model.predict(list(large))
    for many in (large, large[..., None], np.repeat(large[..., None], 3, -1), large / 255):
        same(model.predict(many), wanted)


@pytest.mark.parametrize("of_none", [[], np.zeros((0, 28, 28), np.uint8), np.zeros((0, 99, 99))])
def test_no_images_give_no_answers(model, of_none):
    found = model.predict(of_none)
    assert found.classes.shape == (0,)
    assert found.probabilities.shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros(28), ValueError, r"the picture: the array has the shape \(28,\)"),
        (np.zeros((2, 28, 28, 5)), ValueError, "shape"),
        (np.zeros((0, 28)), ValueError, "shape"),
        (np.zeros((1, 2, 28, 28, 1)), ValueError, "shape"),
        (np.full((28, 28), 256), ValueError, "levels of type int64 must be in 0 to 255"),
        (np.full((99, 99), -1), ValueError, "levels of type int64 must be in 0 to 255"),
        (np.full((28, 28), 255.0), ValueError, r"\[0, 1\]"),
        (np.full((28, 28), np.nan), ValueError, r"\[0, 1\]"),
        ([np.zeros((3, 99, 99))], ValueError, r"images\[0\]: .* several pictures"),
        (b"photo.jpg", ValueError, "no path, no Pillow image and no array of numbers"),
        (["photo.jpg", 7], ValueError, "no path, no Pillow image and no array of numbers"),
        (np.zeros((99, 99), np.uint8), UserError, "the picture shows no digit: it is blank"),
        (np.zeros((2, 99, 99), bool), UserError, r"images\[0\] shows no digit: it is blank"),
        ([Image.new("L", (99, 99))], UserError, r"images\[0\] shows no digit: it is blank"),
        ("gone.jpg", UserError, "gone.jpg: there is no such file"),
        (["gone.jpg"], UserError, "gone.jpg: there is no such file"),
        ("https://example.org/7.png", UserError, "is a URL"),
        (Path(__file__), UserError, "test_inference.py is no picture"),
        (Path(__file__).parent, UserError, "is a folder: name the pictures in it"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, images, error, words):
    with pytest.raises(error, match=words) as caught:
        model.predict(images)
    assert re.fullmatch(r".*\.", str(caught.value))


def test_a_model_and_its_answers_say_what_they_are(trained, model, test_split):
    results = json.loads((trained / "results.json").read_text())
    accuracy = f"accuracy {results['test']['accuracy']:.4f} on test"
    assert model.metrics["test"]["accuracy"] == results["test"]["accuracy"]
    assert repr(model) == (
        f"Model(mnist_sample, step 120 of {trained}: {accuracy}, 3,274,634 parameters)"
    )
    found = model.predict(test_split.images[0])
    first, second = np.argsort(-found.probabilities)[:2]
    p = found.probabilities
    assert repr(found) == (
        f"Predictions({first} ({p[first]:.4f}), then {second} ({p[second]:.4f}))"
    )
    assert repr(pickle.loads(pickle.dumps(found))) == repr(found)
    fashion = copy.copy(model)
    fashion.class_names = datasets.class_names("fashion_mnist")
    name = fashion.class_names[first]
    many = fashion.predict(test_split.images[:9])
    assert repr(many).startswith(f"Predictions(9 pictures: {name} ({p[first]:.4f}), ")
    assert repr(many).endswith(", ...)")
    assert repr(fashion.predict(test_split.images[:1])) == (
        f"Predictions(1 picture: {name} ({p[first]:.4f}))"
    )
    assert repr(fashion.predict([])) == "Predictions(0 pictures)"


def test_several_digits_are_detected_and_not_predicted(model, test_split, tmp_path):
    images = [i for i in test_split.images[:20] if model.predict(i).probabilities.max() > 0.99][:2]
    wanted = model.predict(images).classes.tolist()
    paper = side_by_side(*images)
    paper.save(tmp_path / "two.png")
    text = "".join(map(str, wanted))
    for picture in (tmp_path / "two.png", str(tmp_path / "two.png"), paper, np.asarray(paper)):
        found = model.detect(picture)
        assert [each.classes for each in found] == wanted
        np.testing.assert_allclose([each.box for each in found], boxes_of(*images), atol=5)
        a, b = (each.probabilities.max() for each in found)
        words = f"{text}: {wanted[0]} ({a:.4f}), {wanted[1]} ({b:.4f})"
        assert repr(found) == f"Detections({words})"
        assert repr(pickle.loads(pickle.dumps(found))) == repr(found)
    for picture, name in ((tmp_path / "two.png", f"{tmp_path}/two.png"), (paper, "the picture")):
        words = rf"{name} shows 2 digits: `model\.detect` answers each of them\."
        with pytest.raises(UserError, match=words):
            model.predict(picture)
    # An array of the inputs' shape is one digit, as it is, in a list too.
    given = [paper, images[0], images[1] / 255]
    two, first, second = model.detect(given)
    assert repr(two) == repr(found)
    assert [each[0].classes for each in (first, second)] == wanted
    np.testing.assert_array_equal(second[0].image, images[1])
    assert first[0].box == (0, 0, 28, 28)
    assert model.detect([]) == []
    with pytest.raises(UserError, match=r"images\[0\] shows 2 digits"):
        model.predict(given)


def test_a_picture_that_shows_nothing_and_one_that_is_unsure(model, test_split, monkeypatch):
    paper = side_by_side(test_split.images[0])
    wanted = model.predict(paper)
    doubt(monkeypatch, 0)
    same(model.predict(paper), wanted)  # Probabilities as ever.
    words = inference.in_words(wanted.probabilities, model.class_names)
    assert repr(model.detect(paper)) == (
        f"Detections(unsure, perhaps {words}: it is not written as digits are.)"
    )
    blank = Image.new("L", (99, 99))
    assert [len(each) for each in model.detect([paper, blank])] == [1, 0]
    empty = pictures.Page(paper.convert("RGB"), paper.size, [])
    monkeypatch.setattr(pictures, "find", lambda *_: empty)
    assert repr(model.detect(paper)) == "Detections()"
    with pytest.raises(UserError, match=r"the picture shows no digit\."):
        model.predict(paper)


def test_what_was_detected_is_read_in_lines():
    def at(row, classes):
        image, probabilities = np.zeros((28, 28, 1), np.uint8), np.eye(10, dtype=np.float32)
        return reading.Detection((0, 0, 9, 9), image, classes, probabilities[classes], row=row)

    found = [at(0, 1), at(0, 2), at(0, 3), at(1, 4), at(1, 5), at(2, 6)]
    digits = [str(i) for i in range(10)]
    assert inference.text_of(found, digits) == "123 / 45 / 6"
    assert inference.text_of(found, [*digits[:9], "none"]) == "1 2 3 / 4 5 / 6"
    assert inference.text_of([], digits) == ""


def test_a_model_between_two_evaluations_has_no_accuracy(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] < 120]
    (tmp_path / "run/metrics.jsonl").write_text("".join(kept))
    wanted = f"Model(mnist_sample, step 120 of {tmp_path}/run: 3,274,634 parameters)"
    assert repr(jaxmnist.load(tmp_path / "run")) == wanted


def test_the_newest_whole_checkpoint_is_loaded(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(tmp_path / "run/checkpoints/120", tmp_path / "run/checkpoints/110")
    assert jaxmnist.load(tmp_path / "run").step == 120


def test_a_workdir_without_a_model_is_told_of(tmp_path):
    with pytest.raises(UserError, match=r"nope: there is no such folder\."):
        jaxmnist.load(tmp_path / "nope")
    with pytest.raises(UserError, match="holds no run"):
        jaxmnist.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no whole checkpoint"):
        jaxmnist.load(tmp_path)
    (tmp_path / "config.json").write_text('{"num_seeds": 2}')
    with pytest.raises(UserError, match="holds no run"):  # None of its seeds was begun.
        jaxmnist.load(tmp_path)
    for seed in ("seed-0", "seed-1"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds 2 runs: .*seed-0 .*seed-1 .*\. Name one of them\."):
        jaxmnist.load(tmp_path)


def test_the_sample_never_stands_in_for_what_a_model_was_trained_on(no_network, tmp_path):
    config = get_config()
    config.data_dir = str(tmp_path)
    with pytest.raises(UserError, match=r"mnist is not in .*, and .* cannot be reached"):
        inference.load_evaluation(config)
