"""Arrays that took long to make, kept in a file until what they were made from changes."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
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
    for path in paths:
        # It may be damaged in any way; np.load(path) would leave it open then.
        with contextlib.suppress(Exception), path.open("rb") as f, np.load(f) as cache:
            if json.loads(str(cache["made_from"])) == made_from:
                return {name: cache[name] for name in cache.files if name != "made_from"}
    arrays = make()
    data = io.BytesIO()
    np.savez(data, **arrays, made_from=json.dumps(made_from))  # type: ignore[arg-type]
    for path in paths:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data.getvalue())
            break
    return arrays
