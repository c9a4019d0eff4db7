"""What the help says of the config: its fields, and the experiments of this checkout."""

import ast
import contextlib
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from jaxmnist.config import ALL_FIELDS, DATASETS, FIELDS, SCHEDULES, TYPE_NAMES, get_config


def describe_fields(width: int = 100, only: Sequence[str] = ()) -> str:
    """The fields in lines of at most `width` characters: meaning, what is allowed, default.

    `only` names those to describe; by default all.
    """
    lines: list[str] = []
    names = max(map(len, ALL_FIELDS)) + 1
    for group, fields in FIELDS.items():
        shown = {name: field for name, field in fields.items() if name in only or not only}
        lines += [f"{group}:"] if shown else []
        for name, field in shown.items():
            is_text = field.default is None or isinstance(field.default, str)
            allowed = field.allowed or ("" if is_text else TYPE_NAMES[type(field.default)])
            allowed = f"; {allowed}" if allowed else ""
            text = f"{field.meaning}{allowed} (default: {field.default!r})"
            start = f"  {name:{names}}"
            lines += textwrap.wrap(
                start + text, width, subsequent_indent=" " * len(start), break_on_hyphens=False
            )
    return "\n".join(lines)


def choices(name: str) -> list[str]:
    """The values that a field may have, where they can be listed; for a shell's completion."""
    if isinstance(ALL_FIELDS[name].default, bool):
        return ["True", "False"]
    if name == "dataset":
        return [*DATASETS]
    if name == "schedule":
        return [*SCHEDULES]  # optax's own have long names, and take a second to look up.
    allowed = ALL_FIELDS[name].allowed
    return allowed.removeprefix("one of ").split(", ") if allowed.startswith("one of ") else []


def experiments() -> dict[Path, str]:
    """The experiment files of this checkout, and what the first line of each says it is."""
    folder = Path(__file__).parent.parent / "experiments"
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    paths = [path for path in sorted(folder.glob("*.py")) if "def get_config(" in _text(path)]
    return {path: _docstring(path).partition("\n")[0] for path in paths}


def reported_accuracy(path: str | os.PathLike | None) -> str | None:
    """The test accuracy, such as "99.03 %", that an experiment says it has; None: the default's."""
    text = get_config.__doc__ or "" if path is None else _docstring(Path(path).expanduser())
    match = re.search(r"Test accuracy (\d+\.\d+ %)", text)
    return match[1] if match else None


def _docstring(path: Path) -> str:
    try:
        return ast.get_docstring(ast.parse(_text(path))) or ""
    except (SyntaxError, ValueError):
        return ""


def _text(path: Path) -> str:
    """What a file says; "" if it cannot be read, or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
