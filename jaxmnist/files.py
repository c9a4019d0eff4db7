"""Paths that users write, locks, and files that are written whole or not at all."""

import contextlib
import datetime
import errno
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmnist.errors import UserError, warn

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

# What flock fails with where a file system has none: NFS without lockd, Lustre, some of FUSE.
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# orbax and tfds find files in their folders by patterns that begin with the folder's path, so that
# some paths match nothing, or a neighbour too; they pass it as UTF-8, and take "gs:" for a URL.
_UNSAFE = re.compile(r"[*?\\]|\[[^/]+\]|(?<=/)gs:(?:/|$)|[\ud800-\udfff]")
_URL = re.compile(r"[A-Za-z][\w+.-]+:/")


def local_path(text: str | os.PathLike, what: str, *, as_pattern: bool = True) -> Path:
    """The path that a user wrote, "~" expanded; relative ones stay relative.

    Args:
      text: the path.
      what: the flag or the field that it is the value of, for the error.
      as_pattern: whether orbax or tfds will look for files there.

    Raises:
      UserError: the path is empty or a URL, its home folder does not exist or, with `as_pattern`,
        orbax or tfds would not find their own files in it.
    """
    text = os.fspath(text)
    if not text:
        raise UserError(f"{what} is empty: give it a path.")
    if _URL.match(text):
        raise UserError(f"{what}={text} is a URL, or looks like one: it must be a local path.")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            f"{what}={text}: there is no such home folder; write the path out."
        ) from None
    unsafe = _UNSAFE.search(path.absolute().as_posix()) if as_pattern else None
    if unsafe:
        raise UserError(
            f"{what}={text} is not allowed: {unsafe[0]!r} in {path.absolute()} would keep "
            "checkpoints or data from being found again. Choose another path, or a symbolic link "
            "to it."
        )
    return path


@contextlib.contextmanager
def lock(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock file, which names this process; deletes it at the end if it was not there.

    Where the file system has no flock, the file's existence is the lock. There the file of a killed
    process is not taken over, since nobody can tell whether that process has ended.

    Args:
      path: the file, in a folder that exists.
      busy: what another process does while it holds the lock, for the error, such as "another
        process is training in DIR".
      wait: whether to wait for that process.

    Raises:
      UserError: another process holds it. The message says which, since when, and what to do.
      OSError: the file cannot be written.
    """
    told = False
    while True:
        try:
            fd, is_new = _try_lock(path)
            break
        except BlockingIOError:
            held, todo = busy + _owner(path), "wait for it, or choose another"
        except FileExistsError:
            held = f"{busy}{_owner(path)}, or was killed there"
            todo = f"wait for it or, if it has ended, delete {path}"
        if not wait:
            raise UserError(f"{held}: {todo}.")
        if not told:
            warn(f"{held}: {todo}. Waiting.")
            told = True
        time.sleep(0.2)
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    try:
        with contextlib.suppress(OSError):  # The lock holds without these words.
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps(owner).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            if not is_new:
                os.ftruncate(fd, 0)
            elif fcntl is not None:  # Before it is released, and might be another process'.
                path.unlink(missing_ok=True)
        os.close(fd)
        if fcntl is None:  # Windows deletes no open file.
            path.unlink(missing_ok=True)


def _try_lock(path: Path) -> tuple[int, bool]:
    """Locks a file, made if need be; returns its descriptor, and whether it is new.

    Raises:
      BlockingIOError: another process holds it.
      FileExistsError: it is there, where there is no flock.
    """
    while True:
        try:
            fd, is_new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if fcntl is None:
                raise
            try:
                fd, is_new = os.open(path, os.O_RDWR), False
            except FileNotFoundError:
                continue
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # Else its owner has deleted it meanwhile.
                return fd, is_new
        except OSError as e:
            if e.errno in _NO_FLOCK:
                if is_new:
                    return fd, is_new
                e = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            elif e.errno in (errno.EAGAIN, errno.EACCES):
                e = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
            os.close(fd)
            raise e from None
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; one that was killed counts where there is no flock."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except OSError:
        pass
    finally:
        os.close(fd)
    return True


def _owner(path: Path) -> str:
    """What a lock file says of the process that holds it, for a message."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
