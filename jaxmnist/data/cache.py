"""Arrays that took long to make, kept in a file until what they were made from changes."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from jaxmnist.files import write_bytes

Arrays = dict[str, np.ndarray]


def own_folder(what: str) -> Path | None:
    """The folder of the user's cache for the arrays of something; None where there is no home."""
    with contextlib.suppress(RuntimeError):
        own = Path(platformdirs.user_cache_dir("jaxmnist"))
        name = hashlib.sha256(what.encode()).hexdigest()[:16]
        return own / "data" / name if own.is_absolute() else None
    return None


def kept(paths: list[Path], made_from: Any, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` returns, which are kept in one of the files.

    Args:
      paths: the files; the first that can be written is. Without any, everything still works.
      made_from: what tells of all that `make` reads, such as sizes and times of files, as JSON.
      make: called unless a file holds what was made from the same.
    """
    found = _first(paths, lambda there: there == made_from)
    if found is not None:
        return found
    arrays = make()
    data = io.BytesIO()
    np.savez(data, **arrays, made_from=json.dumps(made_from))  # type: ignore[arg-type]
    for path in paths:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data.getvalue())
            break
    return arrays


def stats(paths: Iterable[Path]) -> dict[str, list[int]]:
    """What tells whether files have changed: the size and the time of each, by its name."""
    found = {path.name: path.stat() for path in paths}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def unchanged(paths: list[Path], folder: Path, needed: str) -> Arrays | None:
    """The arrays that `kept` has kept with the `stats` of files, if these are as they were.

    None if they are not, or nothing is kept: then `kept` makes them.

    Args:
      paths: as of `kept`.
      folder: the folder of the files.
      needed: the name of one of them that says which they are.
    """
    return _first(
        paths, lambda there: needed in there and there == stats(folder / name for name in there)
    )


def _first(paths: list[Path], is_wanted: Callable[[Any], bool]) -> Arrays | None:
    """The arrays of the first whole file that was made from what is wanted."""
    for path in paths:
        # It may be damaged in any way; np.load(path) would leave it open then.
        with contextlib.suppress(Exception), path.open("rb") as f, np.load(f) as cache:
            if is_wanted(json.loads(str(cache["made_from"]))):
                return {name: cache[name] for name in cache.files if name != "made_from"}
    return None
