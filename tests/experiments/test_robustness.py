"""The benchmark of what carries over: its corruptions, its tables, and a whole run."""

import numpy as np
import pytest

from experiments.benchmarks import robustness
from experiments.benchmarks.robustness import CORRUPTIONS, corrupt

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
    monkeypatch.setattr(robustness, "AT_ONCE", 7)
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


def test_a_slant_is_of_columns_and_by_23_degrees():
    found = corrupt(np.stack([with_square(3, 12)] * 40), "shear")
    places = np.array([centre_of_mass(each) for each in found]) - 13.5
    np.testing.assert_allclose(places[:, 0], -9 / np.cos(0.4), atol=0.15)
    assert set(np.round(places[:, 1] / places[:, 0], 1)) == {-0.4, 0.4}  # The tangent is 0.42.


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
