"""The command that prepares a data set from local archives, without a network."""

import argparse
import shlex
import sys

from jaxmnist import config
from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError
from jaxmnist.files import local_path


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "prepare_data",
        description="Prepare a data set from local archives, without internet.",
    )
    parser.add_argument(
        "--source_dir", required=True, help="the folder with the four IDX archives, gzipped or not"
    )
    parser.add_argument("--dataset", default="mnist", choices=config.DATASETS[:-1])
    parser.add_argument("--data_dir", help="tfds's folder; default: ~/tensorflow_datasets")
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _prepare(args))


def _prepare(args: argparse.Namespace) -> None:
    from jaxmnist.data import tfds_builders

    source = local_path(args.source_dir, "--source_dir", as_pattern=False)
    if not source.is_dir():
        raise UserError(f"--source_dir={source}: there is no such folder.")
    data_dir = None if args.data_dir is None else str(local_path(args.data_dir, "--data_dir"))
    builder = tfds_builders.create(args.dataset, data_dir)
    is_new = not tfds_builders.is_prepared(builder)
    tfds_builders.prepare(builder, source)
    print(f"{args.dataset} {'is' if is_new else 'was already'} prepared in {builder.data_dir}")
    if data_dir is not None:
        print(f"runs find it with --config.data_dir={shlex.quote(data_dir)}")


if __name__ == "__main__":
    sys.exit(main())
