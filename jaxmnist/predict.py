"""The command that classifies pictures."""

import io
import itertools
import json
import mimetypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError, warn
from jaxmnist.files import local_path

_AT_ONCE = 200  # How many pictures are read before they are classified.
_STDIN = "-"


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "predict",
        description="Tell what is on pictures: a digit, or another class of the run's data set.",
    )
    parser.add_workdir()
    parser.add_argument(
        "--json",
        action="store_true",
        help='print one object per line: "file", "classes" (the number of the most probable), '
        '"class_name" and the "probabilities" of all',
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a picture, a folder of them, or - for stdin"
    )
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status: 1 if a picture could not be read."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _predict(args.workdir, args.images, args.json))


def _predict(workdir: str, images: list[str], as_json: bool) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist.devices import tuning
    from jaxmnist.trained import inference

    tuning.cache_compilations()
    model = inference.load(workdir)
    names, status = _names(images), 0
    while group := list(itertools.islice(names, _AT_ONCE)):
        readable = []
        for name in group:
            try:
                readable.append((name, _read(name, model.preparation)))
            except UserError as e:
                warn(f"error: {e}")
                status = 1
        if not readable:
            continue
        found = model.predict([image for _, image in readable])
        for (name, _), chosen, probabilities in zip(readable, *found, strict=True):
            if as_json:
                rounded = [float(f"{p:.6g}") for p in probabilities]
                answer = {"file": name, "classes": int(chosen), "probabilities": rounded}
                answer["class_name"] = model.class_names[chosen]
                print(json.dumps(answer))
            else:
                print(f"{name}: {inference.in_words(probabilities, model.class_names)}")
        sys.stdout.flush()
    sys.exit(status)


def _names(images: Iterable[str]) -> Iterator[str]:
    """The files to read: those that are named, and the pictures in folders, except hidden ones."""
    for text in images:
        name = os.path.expanduser(text)
        folder = Path(name)
        if name == _STDIN or not folder.is_dir():
            yield name
            continue
        within = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(p[0] == "." for p in path.relative_to(folder).parts)
        ]
        others = [path for path in within if not _looks_like_picture(path)]
        if others:
            some = ", ".join(str(path.relative_to(folder)) for path in others[:3])
            more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
            what = "a file that is no picture" if len(others) == 1 else "files that are no pictures"
            warn(f"{name}: skipped {what} ({some}{more}).")
        yield from [str(path) for path in within if path not in set(others)] or [name]


def _looks_like_picture(path: Path) -> bool:
    """Whether a file is a picture, by its name or by its content."""
    from PIL import Image, UnidentifiedImageError

    kind, _ = mimetypes.guess_type(path.name)
    if kind is not None and kind.startswith("image/"):
        return True
    try:
        with Image.open(path):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # A damaged picture: the error is reported when it is read.
        return True


def _read(name: str, preparation: dict[str, Any]) -> Any:
    """The input that a picture becomes, upright."""
    from jaxmnist.data import pictures

    if name == _STDIN:
        return pictures.read(io.BytesIO(sys.stdin.buffer.read()), "standard input", preparation)
    local_path(name, "IMAGE", as_pattern=False)  # Refuses URLs, for example.
    if Path(name).is_dir():
        raise UserError(f"{name} is a folder without pictures: name another.")
    return pictures.read(name, name, preparation)


if __name__ == "__main__":
    sys.exit(main())
