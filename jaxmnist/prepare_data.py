"""The command that builds a tfds data set from local archives, with no network."""

import argparse
import sys

from jaxmnist import builders
from jaxmnist.errors import UserError
from jaxmnist.files import local_path
from jaxmnist.main import run


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxmnist.prepare_data", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--source_dir", required=True, help="the folder with the four IDX archives, gzipped or not"
    )
    parser.add_argument("--dataset", default="mnist", choices=builders.names())
    parser.add_argument("--data_dir", help="tfds's folder; default: ~/tensorflow_datasets")
    args = parser.parse_args(argv)
    return run(lambda: _prepare(args))


def _prepare(args: argparse.Namespace) -> None:
    source = local_path(args.source_dir, "--source_dir", as_pattern=False)
    if not source.is_dir():
        raise UserError(f"--source_dir={source}: there is no such folder.")
    data_dir = None if args.data_dir is None else str(local_path(args.data_dir, "--data_dir"))
    builder = builders.create(args.dataset, data_dir)
    is_new = not builders.is_prepared(builder)
    builders.prepare(builder, source)
    print(f"{args.dataset} {'is' if is_new else 'was already'} prepared in {builder.data_dir}")


if __name__ == "__main__":
    sys.exit(main())
