"""The command that lists the runs below a folder."""

import json
import shutil
import sys
import textwrap
from pathlib import Path

from jaxmnist.cli import Parser, run
from jaxmnist.errors import STDOUT, UserError


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(verb, "listing", description="List the runs below a folder.")
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="default: runs")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one object per line, with the fields that differ from the default config",
    )
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _list(args.folder, args.json))


def _list(text: str, as_json: bool) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist.files import local_path
    from jaxmnist.record import find_runs

    folder = local_path(text, "DIR", as_pattern=False)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name the one that holds your runs.")
    rows = [find_runs.describe(path) for path in find_runs.find(folder)]
    if not rows:
        raise UserError(f"{folder} holds no runs: name the folder that does.")
    rows.sort(key=lambda row: row["date"] or "")
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    lines = []
    for row in rows:
        path = Path(row["workdir"])
        name = path if path == folder else path.relative_to(folder)
        lines.append([str(name), *find_runs.in_words(row)])
    _print_table(lines)


def _print_table(lines: list[list[str]]) -> None:
    """Prints a line for each run; what a terminal has no room for comes below, indented."""
    lines = [["run", "started", "state", "accuracy", "time", "differs from the default in"], *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    width = shutil.get_terminal_size().columns if STDOUT.isatty() else sys.maxsize
    beside = 6 if sum(widths) + 10 <= width else 5 if sum(widths[:5]) + 8 <= width else 1
    for line in lines[beside == 1 :]:
        cells = [cell.ljust(n) for cell, n in zip(line[:beside], widths, strict=False)]
        print("  ".join(cells).rstrip())
        below = "  ".join(cell for cell in line[beside:] if cell)
        if below:
            wrapper = textwrap.TextWrapper(width, " " * 4, " " * 4, break_long_words=False)
            print(wrapper.fill(below))


if __name__ == "__main__":
    sys.exit(main())
