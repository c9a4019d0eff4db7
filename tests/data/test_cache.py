"""What took long to make is made again only if what it was made from has changed."""

import numpy as np
import platformdirs
import pytest

from jaxmnist.data import cache


@pytest.fixture
def make():
    """A function that counts its calls."""

    def make():
        make.calls += 1
        return {"images": np.arange(6, dtype=np.uint8), "names": np.array(["a", "é"])}

    make.calls = 0
    return make


def test_arrays_are_made_once_for_what_they_are_made_from(tmp_path, make):
    paths = [tmp_path / "a/arrays.npz"]
    for made_from, calls in (([1, "x"], 1), ([1, "x"], 1), ([2, "x"], 2), ([2, "x"], 2)):
        found = cache.kept(paths, made_from, make)
        assert make.calls == calls
        assert set(found) == {"images", "names"}
        np.testing.assert_array_equal(found["images"], np.arange(6, dtype=np.uint8))
        assert found["names"].tolist() == ["a", "é"]


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"x"])
def test_a_damaged_file_is_made_again(tmp_path, make, damage):
    path = tmp_path / "arrays.npz"
    cache.kept([path], 1, make)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.kept([path], 1, make)["images"].sum() == 15
    assert make.calls == 2
    cache.kept([path], 1, make)
    assert make.calls == 2


def test_the_first_file_that_can_be_written_is(tmp_path, make):
    (tmp_path / "file").write_text("in the way")
    paths = [tmp_path / "file/arrays.npz", tmp_path / "arrays.npz", tmp_path / "not needed.npz"]
    cache.kept(paths, 1, make)
    assert [path.exists() for path in paths] == [False, True, False]
    cache.kept(paths, 1, make)
    assert make.calls == 1
    cache.kept([], 1, make)
    assert make.calls == 2


def test_without_a_home_there_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    one, other = cache.own_folder("one"), cache.own_folder("other")
    assert one != other
    assert one.parent == other.parent == tmp_path / "data"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: "~/.cache")
    assert cache.own_folder("one") is None


def test_what_was_made_from_files_is_unchanged_as_long_as_they_are(tmp_path, make):
    path, sources = tmp_path / "arrays.npz", [tmp_path / "a", tmp_path / "list"]
    for source in sources:
        source.write_text(source.name)
    cache.kept([path], cache.stats(sources), make)
    for needed, is_there in (("list", True), ("other", False)):
        assert (cache.unchanged([path], tmp_path, needed) is not None) == is_there
    sources[0].write_text("longer")
    assert cache.unchanged([path], tmp_path, "list") is None
    assert cache.unchanged([tmp_path / "none.npz"], tmp_path, "list") is None
    assert make.calls == 1
