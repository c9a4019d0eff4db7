"""The benchmark of what carries over: its corruptions, its tables, and a whole run."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import corruptions, robustness
from experiments.benchmarks.corruptions import CORRUPTIONS, corrupt

DRAWN_ONCE = {"scale", "brightness", "stripe", "canny_edges"}  # The same for every seed.


@pytest.fixture(scope="module")
def images(test_split):
    return test_split.images[:40, ..., 0]


def with_square(top, left, size=4):
    image = np.zeros((28, 28), np.uint8)
    image[top : top + size, left : left + size] = 255
    return image


def centre_of_mass(image):
    return [float((axis * image).sum() / image.sum()) for axis in np.mgrid[:28, :28]]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_changes_each_image_alone_and_always_so(kind, images):
    before = images.copy()
    found = corrupt(images, kind)
    np.testing.assert_array_equal(images, before)
    assert (found.dtype, found.shape) == (np.uint8, images.shape)
    assert (found != images).any((1, 2)).all()
    assert found.std((1, 2)).min() > 10  # Something is left to be seen.
    np.testing.assert_array_equal(corrupt(images, kind), found)
    others = np.concatenate([images[:2], 255 - images[2:30]])
    np.testing.assert_array_equal(corrupt(others, kind)[:2], found[:2])
    assert np.array_equal(corrupt(images, kind, seed=1), found) == (kind in DRAWN_ONCE)
    same = corrupt(np.repeat(images[:1], 30, 0), kind)
    assert (len(np.unique(same, axis=0)) == 1) == (kind in DRAWN_ONCE)


def test_images_at_once_change_nothing(images, monkeypatch):
    found = {kind: corrupt(images, kind) for kind in CORRUPTIONS}
    monkeypatch.setattr(corruptions, "AT_ONCE", 7)
    for kind, each in found.items():
        np.testing.assert_array_equal(corrupt(images, kind), each)
    assert corrupt(images[:0], "fog").shape == (0, 28, 28)


def test_what_is_no_kind_or_no_image_is_refused(images):
    with pytest.raises(ValueError, match="'snow' is none of shot_noise, impulse_noise"):
        corrupt(images, "snow")
    with pytest.raises(ValueError, match=r"uint8 \(n, 28, 28\), not float32 \(40, 28, 28\)"):
        corrupt(images.astype(np.float32), "fog")
    with pytest.raises(ValueError, match=r"not uint8 \(40, 28, 28, 1\)"):
        corrupt(images[..., None], "fog")


def test_noise_is_as_strong_as_told():
    grey = np.full((60, 28, 28), 153, np.uint8)  # 0.6 of white: 1.8 photons in the mean.
    shot = corrupt(grey, "shot_noise")
    assert set(np.unique(shot)) == {0, 85, 170, 255}
    assert (shot == 0).mean() == pytest.approx(np.exp(-1.8), abs=0.01)
    impulse = corrupt(grey, "impulse_noise")
    for level, share in ((0, 0.085), (255, 0.085), (153, 0.83)):
        assert (impulse == level).mean() == pytest.approx(share, abs=0.01)


def test_a_shift_is_of_3_pixels_to_all_four_corners():
    image = with_square(10, 13)
    moved = corrupt(np.stack([image] * 40), "translate")
    places = {tuple(np.argwhere(each).min(0)) for each in moved}
    assert places == {(7, 10), (7, 16), (13, 10), (13, 16)}
    assert all(each.sum() == image.sum() for each in moved)


def test_a_turn_is_about_the_centre_by_23_degrees():
    found = corrupt(np.stack([with_square(3, 12)] * 40), "rotate")  # 9 pixels above the centre.
    angles = set()
    for each in found:
        row, column = np.array(centre_of_mass(each)) - 13.5
        assert np.hypot(row, column) == pytest.approx(9, abs=0.15)
        angles.add(round(float(np.arctan2(column, -row)), 1))
    assert angles == {-0.4, 0.4}


def test_a_slant_is_of_columns_and_by_21_degrees():
    found = corrupt(np.stack([with_square(3, 12)] * 40), "shear")
    places = np.array([centre_of_mass(each) for each in found]) - 13.5
    np.testing.assert_allclose(places[:, 0], -9 / np.cos(0.4), atol=0.15)
    slants = places[:, 1] / places[:, 0]
    np.testing.assert_allclose(abs(slants), np.sin(0.4), atol=0.01)
    assert {True, False} == set(slants > 0)


def test_a_smaller_image_is_of_0_7_times_the_size():
    (found,) = corrupt(with_square(4, 4, 20)[None], "scale")
    assert found.sum() == pytest.approx(0.49 * 255 * 400, rel=0.02)
    assert centre_of_mass(found) == pytest.approx([13.5, 13.5], abs=1e-3)


def test_brightness_and_stripes_have_exact_levels():
    ramp = np.tile(np.arange(28, dtype=np.uint8) * 9, (1, 28, 1))
    brighter = np.minimum(ramp + 127.5, 255)
    np.testing.assert_allclose(corrupt(ramp, "brightness"), brighter, atol=0.5)
    expected = ramp.copy()
    expected[..., :7], expected[..., 21:] = 255 - ramp[..., :7], 255 - ramp[..., 21:]
    np.testing.assert_array_equal(corrupt(ramp, "stripe"), expected)


@pytest.mark.parametrize("kind", ["glass_blur", "motion_blur"])
def test_a_blur_keeps_the_light(kind):
    image = with_square(12, 12)
    found = corrupt(np.stack([image] * 20), kind)
    np.testing.assert_allclose(found.sum((1, 2)), image.sum(), rtol=0.05)
    assert (found > 0).sum((1, 2)).min() > 2 * 16


def test_a_trail_is_to_one_side():
    image = with_square(12, 18)
    for each in corrupt(np.stack([image] * 20), "motion_blur"):
        row, column = np.array(centre_of_mass(each)) - centre_of_mass(image)
        assert -3 < column < -1
        assert abs(row) < abs(column) + 0.3


def test_a_line_is_across_and_dotted_and_a_zigzag_is_in_between():
    black = np.zeros((30, 28, 28), np.uint8)
    columns = np.arange(28)
    dots, teeth = corrupt(black, "dotted_line"), corrupt(black, "zigzag")
    assert not dots[..., columns % 4 < 2].any()
    assert (dots.max(1)[:, columns % 4 >= 2] > 150).all()
    assert not teeth[..., (columns < 2) | (columns >= 25)].any()
    assert 150 < dots.sum((1, 2)).mean() / 255 * 10 < 800


def test_fog_is_smooth_and_leaves_a_quarter_of_the_contrast():
    image = with_square(8, 8, 12)
    found = corrupt(np.stack([image] * 60), "fog").astype(int)
    steps = found[:, 12, 19] - found[:, 12, 20]
    assert steps.mean() == pytest.approx(255 / 4, abs=4)
    assert abs(np.diff(found[:, :6], axis=2)).mean() < 10
    assert found[:, 0, 0].std() > 15  # Thick and thin.
    assert not corrupt(np.zeros((1, 28, 28), np.uint8), "fog").any()  # As bright as before.


def test_drops_are_dark_grey_and_cover_a_part():
    found = corrupt(np.full((30, 28, 28), 255, np.uint8), "spatter")
    assert 0.05 < (found < 255).mean() < 0.4
    assert 63 <= found.min() <= 75


def test_edges_are_a_closed_line_round_a_square():
    (found,) = corrupt(with_square(8, 8, 12)[None], "canny_edges")
    assert set(np.unique(found)) == {0, 255}
    rows, columns = np.nonzero(found)
    assert {rows.min(), columns.min()} <= {7, 8}
    assert {rows.max(), columns.max()} <= {19, 20}
    assert not found[11:17, 11:17].any()
    assert 40 <= len(rows) <= 100
    assert not corrupt(np.full((1, 28, 28), 200, np.uint8), "canny_edges").any()
    faint = corrupt((with_square(8, 8, 12) // 127)[None], "canny_edges")  # 2 of 255.
    assert not faint.any()


def results(**models):
    """What is measured of models, each given by the accuracies of its seeds in %, but of fog 0."""
    kinds = ["clean", *CORRUPTIONS, "digits"]
    of = {name: {kind: [x / 100 for x in each] for kind in kinds} for name, each in models.items()}
    for each in of.values():
        each["fog"] = [0.0] * len(each["clean"])
    numbers = {"images": 10_000, "seed": 0, "digits": 1797}
    return {"dataset": "mnist", "split": "test", "note": "", "models": of, **numbers}


def test_the_table_has_means_and_deviations_over_seeds():
    one, *lines = robustness.table(results(paper=[98.0, 99.0, 97.0], quick=[90.0])).splitlines()
    assert one == "10,000 images of mnist, test. 1,797 digits of scikit-learn."
    assert lines[1:6] == [
        "| accuracy, % | paper, mean of 3 single seeds | quick |",
        "|---|---:|---:|",
        "| clean test | 98.00 ± 1.00 | 90.00 |",
        "| mean of the 15 kinds | 91.47 ± 0.93 | 84.00 |",  # 14 of 15.
        "| scikit-learn's digits | 98.00 ± 1.00 | 90.00 |",
    ]
    assert lines[6] == "| shot noise | 98.00 ± 1.00 | 90.00 |"
    assert "| fog | 0.00 ± 0.00 | 0.00 |" in lines
    assert len(lines) == 6 + 15


def test_a_table_without_digits_says_why():
    without = results(quick=[90.0]) | {"digits": 0, "note": "They are left out."}
    text = robustness.table(without)
    assert text.startswith("10,000 images of mnist, test. They are left out.\n")
    assert "scikit" not in text


@pytest.fixture
def few_digits(monkeypatch):
    """scikit-learn has 20 digits only."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    loaded = datasets.load_digits()
    loaded.images, loaded.target = loaded.images[:20], loaded.target[:20]
    monkeypatch.setattr(datasets, "load_digits", lambda: loaded)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process: its exit status, and what it printed."""
    monkeypatch.setattr("jaxmnist.devices.tuning.keep_freed_memory", lambda: None)

    def run(*args):
        capsys.readouterr()  # What fixtures printed.
        try:
            status = robustness.main([str(each) for each in args])
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()

    return run


def test_a_whole_run(command, trained, finished, tmp_path, few_digits):
    for i, each in ((10, finished), (9, trained)):
        shutil.copytree(each, tmp_path / f"several/seed-{i}")
    file = tmp_path / "figures.json"
    workdirs = [trained, tmp_path / "several"]
    status, out, err = command(*workdirs, "--split=test[:100]", f"--output={file}")
    assert status == 0, err
    assert "seed-9: " in err
    assert err.index("seed-9") < err.index("seed-10")
    found = json.loads(file.read_text())
    assert (found["images"], found["digits"]) == (100, 20)
    one, several = found["models"]["trained"], found["models"]["several"]
    assert set(one) == {"clean", *CORRUPTIONS, "digits"}
    assert one["clean"][0] > 0.85 > one["fog"][0]
    assert one["digits"][0] > 0.6
    assert all(len(each) == 1 for each in one.values())
    # seed-9 is the same run; the other has hardly begun.
    assert {kind: each[:1] for kind, each in several.items()} == one
    assert several["clean"][1] < one["clean"][0]
    assert command(f"--table={file}") == (0, out, "")


def test_without_scikit_learn_its_digits_are_left_out(command, trained, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, out, err = command(trained, "--split=test[:20]")
    assert status == 0, err
    assert "digits are left out: scikit-learn is not installed.\n" in out
    assert "| clean test[:20] |" in out


def test_validation_has_no_digits_of_scikit_learn(command, trained):
    status, out, err = command(trained, "--split=train[3950:]")
    assert status == 0, err
    assert out.startswith(
        "50 images of mnist_sample, train[3950:]. scikit-learn's digits are left out: train[3950:] "
        "is not the test set.\n\n| accuracy, % | trained |\n"
    )
    assert "| clean train[3950:] |" in out


def test_digits_are_prepared_as_mnist_was(few_digits):
    images, labels = robustness.digits()
    assert (images.dtype, images.shape) == (np.uint8, (20, 28, 28))
    assert labels.tolist() == [*range(10), *range(10)]
    for image in images:
        rows, columns = np.nonzero(image > 25)
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21
        np.testing.assert_allclose(centre_of_mass(image), 13.5, atol=1)


def test_the_picture_names_every_kind(command, tmp_path):
    path = tmp_path / "picture"
    assert command(f"--picture={path}") == (0, "", "")
    with Image.open(path) as image:
        assert image.size == (730, 960)
        levels = np.asarray(image)
    names = (levels[:, :130] < 128).reshape(16, 60, 130).sum((1, 2))
    assert names.min() > 100


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["{tmp}/nowhere"], "error: {tmp}/nowhere holds no run: train there first.\n"),
        (["{trained}", "--split=test[7:7]"], "error: 'test[7:7]' names no examples of mnist_samp"),
        (["{trained}", "{other}"], "error: the runs are on mnist_sample and mnist: name those of"),
        (["{trained}", "{unfinished}"], "{unfinished} is not finished: train it to its end, or na"),
        (["{fashion}"], "is a run on fashion_mnist, not on MNIST: name another.\n"),
        (["--table={trained}/config.json"], "config.json is no file that --output wrote: name"),
        (["--table={tmp}/nothing"], "error: No such file or directory ({tmp}/nothing).\n"),
        (["--table={picture}"], "is no file that --output wrote"),
        (["{trained}", "--seed=-1"], "error: --seed must be 0 or more\n"),
        (["--output=figures.json", "--picture=x.png"], "error: --output is for the figures of"),
        ([], "error: name a workdir, or give --picture or --table\n"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(command, trained, tmp_path, args, told):
    places = {"tmp": tmp_path, "trained": trained, "picture": tmp_path / "a.png"}
    places["picture"].write_bytes(b"\x89PNG\xff")
    sample = json.loads((trained / "config.json").read_text())["dataset"]
    datasets = {"other": "mnist", "fashion": "fashion_mnist", "unfinished": sample}
    for name, dataset in datasets.items():
        places[name] = tmp_path / name
        places[name].mkdir()
        config = json.loads((trained / "config.json").read_text()) | {"dataset": dataset}
        (places[name] / "config.json").write_text(json.dumps(config))
        if name != "unfinished":
            shutil.copy(trained / "results.json", places[name])
    status, out, err = command(*(each.format(**places) for each in args))
    assert status in (1, 2)
    assert told.format(**places) in err
    assert out == ""
    assert "Traceback" not in err
