"""Paths that are found again, locks that tell whose they are."""

import errno
import json
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from jaxmnist import files
from jaxmnist.errors import UserError
from jaxmnist.files import local_path, lock
from jaxmnist.record.checkpoints import Checkpoints

BUSY = "another process is training in DIR"


def test_who_holds_the_lock_is_told(tmp_path):
    path = tmp_path / ".lock"
    owner = rf"\(process {os.getpid()} on {socket.gethostname()}, since 20\d\d-.*\)"
    sentence = f"^{BUSY} {owner}: wait for it, or choose another.$"
    with lock(path, BUSY), pytest.raises(UserError, match=sentence), lock(path, BUSY):
        pass


def test_a_lock_that_was_released_under_our_hands_is_none(tmp_path, monkeypatch):
    """A file that is opened, and deleted by its owner before it is locked, locks nobody out."""
    path, flock, deleted = tmp_path / ".lock", files.fcntl.flock, []

    def delete_first(fd, operation):
        if not deleted:
            deleted.append(path.unlink())
        flock(fd, operation)

    monkeypatch.setattr(files.fcntl, "flock", delete_first)
    with lock(path, BUSY):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_lock_without_flock(tmp_path, monkeypatch, code):
    """The file is the lock; one that a killed process left names it, and what to delete."""

    def flock(fd, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    path = tmp_path / ".lock"
    with lock(path, BUSY):
        with pytest.raises(UserError, match=f"{BUSY} .process {os.getpid()} on "), lock(path, BUSY):
            pass
        assert path.exists()
    assert list(tmp_path.iterdir()) == []

    left = json.dumps({"host": "node7", "pid": 12, "since": "2026-11-26 01:02:03+00:00"})
    todo = rf"or was killed there: wait for it or, if it has ended, delete {path}\.$"
    for text, owner in (
        (left, r" \(process 12 on node7, since 2026-11-26 01:02:03\+00:00\)"),
        ("", ""),
        ("12\nnode7\n", ""),
        ("[]", ""),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"^{BUSY}{owner}, {todo}"), lock(path, BUSY):
            pass
        assert path.read_text() == text


def test_waiting_for_a_lock(tmp_path, monkeypatch, capsys):
    path = tmp_path / ".lock"
    first = lock(path, BUSY)
    first.__enter__()
    monkeypatch.setattr(time, "sleep", lambda seconds: first.__exit__(None, None, None))
    with lock(path, BUSY, wait=True):
        pass
    assert capsys.readouterr().err.startswith(f"{BUSY} (process {os.getpid()} on ")


# One name of all that people use and that patterns leave alone.
GOOD = "a b é数 %41 # {c} ] [] '\" $HOME ~ a:b c=d\nlast."


def test_a_checkpoint_comes_back_from_any_path_that_is_allowed(tmp_path):
    (tmp_path / GOOD).mkdir()
    folder = local_path(tmp_path / GOOD, "workdir")
    tree = {"params": {"w": np.arange(6.0)}, "step": np.array(1)}
    for read_only in (False, True):
        checkpoints = Checkpoints(folder / "checkpoints", read_only=read_only)
        if not read_only:
            checkpoints.save(1, tree)
            checkpoints.wait()
        else:
            assert checkpoints.read(1, tree)["params"]["w"].tolist() == [0, 1, 2, 3, 4, 5]
        checkpoints.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--workdir is empty: give it a path"),
        ("gs://bucket/run", "--workdir=gs://bucket/run is a URL"),
        ("s3://bucket", "is a URL"),
        ("hdfs:///run", "is a URL"),
        ("file:///tmp/run", "is a URL"),
        (Path("gs://bucket/run"), "--workdir=gs:/bucket/run is a URL"),
        ("~nobody-of-that-name/run", "there is no such home folder"),
        ("train[:400]", r"'\[:400\]' in .*/train\[:400\] would keep checkpoints or data from"),
        ("a/b[x]c/d", "symbolic link"),
        ("a*", "'\\*' in"),
        ("what?", "'\\?' in"),
        ("back\\slash", "not allowed"),
        ("a/gs:/b", "'gs:/' in"),
        ("\udcff", "not allowed"),
    ],
)
def test_paths_that_are_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        local_path(text, "--workdir")


def test_paths_that_are_not_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/a", "--workdir") == tmp_path / "runs/a"
    for text in ("runs/a", ".", "C:/runs", "a[b/c]d", "x" * 250):
        assert local_path(text, "--workdir") == Path(text)
    assert local_path("a[1].html", "--output", as_pattern=False) == Path("a[1].html")
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a[1]")
    assert local_path(tmp_path / "link/run", "--workdir") == tmp_path / "link/run"
    monkeypatch.chdir(tmp_path / "a[1]")
    with pytest.raises(UserError, match=r"'\[1\]' in .*/a\[1\]/run would keep"):
        local_path("run", "--workdir")
