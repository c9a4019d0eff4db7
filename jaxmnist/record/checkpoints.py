"""Checkpoints in a workdir: written without stalling the loop, checked when they are read."""

import contextlib
import functools
import importlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.errors import UserError, first_line, warn
from jaxmnist.record.network import describe_arrays, fingerprint, first_difference

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

KEEP = 3
_OPEN = "make it a folder that can be read and written"
_SUMMED = ("params", "model_state")  # Parts of a tree that can be checked, and so read, alone.
# What tensorstore says of the machine, not of the file.
_OF_THE_MACHINE = re.compile(
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|Input/output error|Stale file handle"
)


class Damaged(Exception):
    """A checkpoint's files can be read, but are not what was written."""


class Checkpoints:
    """The newest KEEP checkpoints of a run, each with a fingerprint that a restore checks."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder = folder
        self._read_only, self._was_read_back = read_only, False
        with self._explained("open", _OPEN):
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            is_empty = folder.is_dir() and not any(folder.iterdir())
        if not is_empty:
            _ = self._manager

    @functools.cached_property
    def _manager(self) -> "ocp.CheckpointManager":
        """orbax's; for a folder that is empty not before the first save.

        To import orbax takes a third of a second, which no run waits for before its first step.
        """
        ocp = _orbax()

        # Process 0 alone writes and reads, so nobody waits for the others.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
        )
        with self._explained("open", _OPEN), _quiet():
            return ocp.CheckpointManager(
                self.folder.absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=KEEP,
                    create=False,
                    read_only=self._read_only,
                    multiprocessing_options=alone,
                ),
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
                    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
                },
            )

    @property
    def _is_open(self) -> bool:
        return "_manager" in vars(self)

    def steps(self) -> list[int]:
        """The steps after which there is one."""
        return list(self._manager.all_steps()) if self._is_open else []

    def save(self, step: int, tree: dict[str, Any]) -> None:
        """Starts to write NumPy arrays, of which nobody else changes the memory.

        The first one is read back, so that no run ends with checkpoints that cannot be read.

        Raises:
          UserError: this one, or the one before, cannot be written or read back. Older ones are
            whole.
        """
        ocp = _orbax()

        if step in self.steps():
            return
        sums = {"sha256": fingerprint(tree)}
        sums |= {f"{part}_sha256": fingerprint(tree[part]) for part in _SUMMED if part in tree}
        args = _composite(state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(sums))
        with self._explained("write"):
            self._manager.check_for_errors()
            # By force, since otherwise orbax leaves out, without a word, what is not the newest.
            self._manager.save(step, args=args, force=True)
        if self._was_read_back:
            return
        self.wait()
        try:
            self.read(step, tree)
        except Damaged as e:
            raise UserError(
                f"the checkpoint of step {step} in {self.folder} was written, but cannot be read "
                f"back ({e}): choose another workdir."
            ) from e
        self._was_read_back = True

    def read(
        self, step: int, target: dict[str, Any], parts: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The checkpoint of a step, in the shape of `target`.

        Args:
          step: of the checkpoint.
          target: the whole tree, NumPy arrays of the right shapes and types.
          parts: the keys of `target` that are needed; by default all. The others may differ.

        Raises:
          Damaged: its files are not what was written.
          UserError: they cannot be read, or hold a tree of other names, shapes or types.
        """
        ocp = _orbax()

        folder = self.folder / str(step)
        with _quiet(), _read_errors_explained(folder):
            there = describe_arrays(self._manager.item_metadata(step)["state"])
            sums = self._manager.restore(step, args=_composite(meta=ocp.args.JsonRestore())).meta
            if not there:
                raise ValueError("it does not say what it holds")
            if "sha256" not in sums:
                raise ValueError("its checksum is missing")
        if "params_sha256" not in sums and not first_difference(there, describe_arrays(target)):
            parts = None  # An older checkpoint has a sum of the whole alone, so read the whole.
        wanted = {part: target[part] for part in parts or target}
        there = {name: kind for name, kind in there.items() if name.split("/")[0] in wanted}
        if changed := first_difference(there, describe_arrays(wanted)):
            raise UserError(
                f"{folder} was written for another network, optimizer or version of optax: "
                f"{changed}. Undo that change, or choose another workdir; nothing was changed."
            )
        with _quiet(), _read_errors_explained(folder):
            args = _composite(state=ocp.args.PyTreeRestore(wanted, partial_restore=True))
            tree = self._manager.restore(step, args=args).state
        wanted = {"sha256": tree}
        if parts:
            wanted = {f"{part}_sha256": tree[part] for part in _SUMMED if part in parts}
        if any(fingerprint(part) != sums.get(name) for name, part in wanted.items()):
            raise Damaged("its values are not those that were written")
        return tree

    def params(self) -> dict[str, str]:
        """The newest checkpoint's parameters, as `describe_arrays` has them; {} if none tells."""
        for step in sorted(self.steps(), reverse=True):
            with contextlib.suppress(Exception), _quiet():  # `read` tells what is wrong.
                return describe_arrays(self._manager.item_metadata(step)["state"]["params"])
        return {}

    def set_aside(self, step: int, why: str) -> None:
        """Renames a checkpoint to WHY-STEP, so that its step can be written again."""
        aside, count = self.folder / f"{why}-{step}", 1
        while aside.exists():
            count += 1
            aside = self.folder / f"{why}-{step}-{count}"
        (self.folder / str(step)).rename(aside)
        self._manager.reload()

    def wait(self) -> None:
        """Returns once everything is on disk; raises UserError if something could not be."""
        if not self._is_open:
            return
        with self._explained("write"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Releases the threads; a write that is under way is finished."""
        if self._is_open:
            with contextlib.suppress(Exception):  # Told of by `wait`, or by what made us stop.
                self._manager.close()

    @contextlib.contextmanager
    def _explained(self, verb: str, todo: str = "make room") -> Iterator[None]:
        try:
            yield
        except Exception as e:
            raise UserError(
                f"cannot {verb} checkpoints in {self.folder} ({_reason(e)}): {todo}, or choose "
                "another workdir; what was there before is whole."
            ) from e


def import_in_background() -> None:
    """Has a thread import orbax, so that the first save does not wait for it."""
    _thread_that_imports()


@functools.cache
def _thread_that_imports() -> threading.Thread:
    thread = threading.Thread(
        target=importlib.import_module, args=("orbax.checkpoint",), daemon=True
    )
    thread.start()
    return thread


def _orbax() -> Any:
    if _thread_that_imports.cache_info().currsize:
        _thread_that_imports().join()
    return importlib.import_module("orbax.checkpoint")


def restore(
    runs: Sequence[Checkpoints], target: dict[str, Any], parts: Sequence[str] | None = None
) -> tuple[list[dict[str, Any]], list[tuple[Checkpoints, int]]]:
    """The newest step of which every run has a whole checkpoint.

    Args:
      runs: the checkpoints of each run.
      target: as for `Checkpoints.read`.
      parts: likewise.

    Returns:
      The tree of each run, none where there are no checkpoints; and what is damaged among the
      newer ones, of which a warning tells.

    Raises:
      UserError: as `Checkpoints.read` does, or there are checkpoints, but none is whole.
    """
    damaged: dict[tuple[Checkpoints, int], str] = {}
    for step in sorted(set.intersection(*(set(each.steps()) for each in runs)), reverse=True):
        trees = []
        for each in runs:
            try:
                trees.append(each.read(step, target, parts))
            except Damaged as e:
                damaged[each, step] = str(e)
        if len(trees) == len(runs):
            for (each, newer), reason in damaged.items():
                warn(
                    f"WARNING: the checkpoint of step {newer} in {each.folder} is damaged "
                    f"({reason}); using that of step {step}."
                )
            return trees, list(damaged)
    if not any(each.steps() for each in runs):
        return [], []
    if len(runs) > 1:
        reasons = [
            f"{each.folder / str(step)}: {reason}" for (each, step), reason in damaged.items()
        ]
        raise UserError(
            "the seeds have no whole checkpoint of the same step "
            f"({'; '.join(reasons) or 'they stand at different ones'}). Nothing was changed: "
            "--config.seeds_per_call=1 lets each go on by itself."
        )
    reasons = [f"step {step}: {reason}" for (_, step), reason in damaged.items()]
    raise UserError(
        f"{runs[0].folder} holds checkpoints, but none is whole ({'; '.join(reasons)}). Nothing "
        "was changed: put back a copy of one, or choose another workdir."
    )


def _composite(**args: Any) -> "ocp.args.Composite":
    ocp = _orbax()

    return ocp.args.Composite(**args)


@contextlib.contextmanager
def _read_errors_explained(folder: Path) -> Iterator[None]:
    """Tells what the machine cannot read (UserError) from what was damaged (Damaged)."""
    try:
        yield
    except Exception as e:
        problem: Exception | None = e if isinstance(e, MemoryError) else None
        if _OF_THE_MACHINE.search(str(e)):
            problem = e
        try:
            for parent, _, names in os.walk(folder, onerror=_raise):
                for name in names:
                    Path(parent, name).read_bytes()
        except FileNotFoundError:  # That is damage.
            pass
        except (OSError, MemoryError) as of_machine:
            problem = of_machine
        if problem is not None:
            raise UserError(
                f"{folder} cannot be read now ({_reason(problem)}): see to that, and try again; "
                "nothing was changed."
            ) from e
        raise Damaged(_reason(e)) from e


def _raise(e: Exception) -> None:
    raise e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that orbax gives of every folder that is only read."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(e: Exception) -> str:
    """What an error of orbax's or tensorstore's says to a person."""
    if isinstance(e, OSError) and e.strerror:
        return e.strerror
    if isinstance(e, json.JSONDecodeError):
        return "a JSON file is cut off or damaged"
    if isinstance(e, KeyError | FileNotFoundError):
        return "a file is missing"
    # What the system said is the last part of the first line, before tensorstore's own details.
    return first_line(e).split(" [", 1)[0].rsplit(": ", 1)[-1][:200]
