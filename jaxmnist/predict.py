"""The command that classifies pictures."""

import collections
import contextlib
import io
import itertools
import json
import mimetypes
import os
import re
import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError, warn
from jaxmnist.files import local_path

if TYPE_CHECKING:
    from jaxmnist.data.pictures import Page
    from jaxmnist.trained.inference import Model
    from jaxmnist.trained.reading import Detection

# How many pictures are answered at once: always as many, for the last digits of probabilities
# depend on it, and few, since one waits for them, and pictures to be shown take 3 MB each.
_AT_ONCE = 20
_MOST_THREADS = 4  # A picture of 12 megapixels takes 0.1 GB while it is read.
_STDIN = "-"
_NEW_SUFFIXES = (".avif", ".heic", ".heif")  # `mimetypes` may not know them.


class _Read(NamedTuple):
    """A picture that was read: of one that could not be, `page` is empty and `error` says why."""

    name: str
    page: "Page"
    error: str = ""


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "predict",
        description="Tell what is on pictures: a digit, or several, or another class of the run's "
        "data set. An answer of low probability, or to what looks like no digit, is called unsure.",
    )
    parser.add_workdir()
    parser.add_argument(
        "--json",
        action="store_true",
        help='print one object per line: "file", "classes" (the number of the most probable), '
        '"class_name", the "probabilities" of all and, if the answer is unsure, "unsure", the '
        'reason; of a picture that shows several, "file" and "detections": a list of such objects '
        'in reading order, each with its "box" (left, top, right and bottom, in pixels of the '
        'upright picture) in place of "file"',
    )
    parser.add_argument(
        "--show",
        metavar="DIR",
        help="write for each picture a PNG file into this folder, which is made if need be: the "
        "picture with a box around each digit, and what the network sees of it",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a picture, a folder of them, or - for stdin"
    )
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status: 1 if a picture could not be read."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _predict(args.workdir, args.images, args.json, args.show))


def _predict(workdir: str, images: list[str], as_json: bool, show: str | None) -> None:
    if "" in images:
        raise UserError("IMAGE is empty: name a picture or a folder.")
    if images.count(_STDIN) > 1:
        raise UserError("- is named twice: standard input has one picture.")
    folder = _writable(show) if show is not None else None
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist.devices import tuning
    from jaxmnist.trained import annotate, inference, reading

    tuning.cache_compilations()
    model = inference.load(workdir)
    shows, names = model.preparation["shows"], model.class_names
    status, used = 0, set[str]()
    names_read = _names(images, folder)
    with contextlib.closing(_read_all(names_read, model.preparation, bool(folder))) as all_read:
        while group := list(itertools.islice(all_read, _AT_ONCE)):
            found = reading.detect(model, [each.page for each in group])
            for (name, page, error), detections in zip(group, found, strict=True):
                if page.note:
                    warn(page.note)
                if not detections:
                    warn(f"error: {error or f'{_called(name)} shows no {shows}.'}")
                    status = 1
                elif as_json:
                    print(json.dumps(_as_json(name, detections, model)))
                else:
                    print(f"{name}: {inference.detections_in_words(detections, names)}")
                if folder and page.size != (0, 0):
                    path = folder / _file_name(name, used, folder)
                    try:
                        annotate.save(page, detections, names, shows, path)
                    except OSError as e:
                        warn(f"error: cannot write {path} ({e.strerror or e}).")
                        status = 1
            sys.stdout.flush()
    sys.exit(status)


def _writable(text: str) -> Path:
    """The folder to write into, made if it is not there."""
    folder = local_path(text, "--show", as_pattern=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "it is not writable")
    except FileExistsError:
        raise UserError(f"--show={text} is a file: name a folder.") from None
    except OSError as e:
        raise UserError(f"--show={text}: cannot write there ({e.strerror}).") from None
    return folder


def _file_name(name: str, used: set[str], folder: Path) -> str:
    """The name of the file that shows a picture, unlike those that are used, to which it is added.

    Of "a/b.jpg" that is "a_b.jpg.png". What an earlier run wrote is replaced, and no other file.
    """
    from jaxmnist.trained import annotate

    name = "stdin" if name == _STDIN else os.path.normpath(name)
    name = re.sub(r'[\x00-\x1f\\/:*?"<>|]+', "_", name).lstrip("._")
    name = os.fsdecode(os.fsencode(name)[-200:])  # File systems allow 255 bytes.
    numbers = ("" if i == 1 else f"-{i}" for i in itertools.count(1))
    each_name = (f"{name}{n}.png" for n in numbers)
    free = next(
        each
        for each in each_name
        if each.casefold() not in used and annotate.may_replace(folder / each)
    )
    used.add(free.casefold())
    return free


def _as_json(name: str, detections: "list[Detection]", model: "Model") -> dict[str, Any]:
    each: list[dict[str, Any]] = []
    for found in detections:
        rounded = [float(f"{p:.6g}") for p in found.probabilities]
        answer = {"classes": found.classes, "probabilities": rounded}
        answer["class_name"] = model.class_names[found.classes]
        each.append(answer | ({"unsure": found.doubt} if found.doubt else {}))
    if len(each) == 1:
        return {"file": name, **each[0]}
    boxes = [[int(at) for at in found.box] for found in detections]
    several = [{"box": box, **answer} for box, answer in zip(boxes, each, strict=True)]
    return {"file": name, "detections": several}


def _read_all(
    names: Iterator[str], preparation: dict[str, Any], keep_pictures: bool
) -> Generator[_Read, None, None]:
    """What each picture shows, in order; threads read a few in advance."""
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    pool = ThreadPoolExecutor(threads)
    ahead: collections.deque[Future[_Read]] = collections.deque()
    try:
        for name in names:
            ahead.append(pool.submit(_read, name, preparation, keep_pictures))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(name: str, preparation: dict[str, Any], keep_picture: bool) -> _Read:
    """What a picture shows; the picture itself is reduced to a pixel, unless it is kept."""
    from PIL import Image

    from jaxmnist.data import pictures

    nothing = Image.new("RGB", (1, 1))
    file: str | io.BytesIO = name
    try:
        if name == _STDIN:
            file = io.BytesIO(sys.stdin.buffer.read())
        else:
            local_path(name, "IMAGE", as_pattern=False)  # Refuses URLs, for example.
            if Path(name).is_dir():
                raise UserError(f"{name} is a folder without pictures: name another.")
        page, error = pictures.find(file, _called(name), preparation), ""
    except UserError as e:
        page, error = pictures.Page(nothing, (0, 0), []), str(e)
        if keep_picture:
            with contextlib.suppress(UserError):
                page = pictures.look(file, _called(name))
    return _Read(name, page if keep_picture else page._replace(picture=nothing), error)


def _called(name: str) -> str:
    return "standard input" if name == _STDIN else name


def _names(images: Iterable[str], shown: Path | None = None) -> Iterator[str]:
    """The files to read: those that are named, and the pictures in folders.

    Of folders, hidden files are left out, and what this command wrote into the folder `shown`.
    """
    from jaxmnist.trained import annotate

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
        if shown:
            within = [
                path
                for path in within
                if not (path.parent.samefile(shown) and annotate.was_saved(path))
            ]
        others = [path for path in within if not _looks_like_picture(path)]
        if others:
            some = ", ".join(str(path.relative_to(folder)) for path in others[:3])
            more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
            what = "a file that is no picture" if len(others) == 1 else "files that are no pictures"
            warn(f"{name}: skipped {what} ({some}{more}).")
        yield from [str(path) for path in within if path not in set(others)] or [name]


def _looks_like_picture(path: Path) -> bool:
    """Whether a file is a picture, perhaps a damaged one, by its name or by its content."""
    from jaxmnist.data import picture_files

    kind, _ = mimetypes.guess_type(path.name)
    is_named = (kind or "").startswith("image/") or path.suffix.lower() in _NEW_SUFFIXES
    return is_named or picture_files.begins_as_picture(path)


if __name__ == "__main__":
    sys.exit(main())
