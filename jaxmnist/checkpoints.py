"""Checkpoints in a workdir: written without stalling the loop, checked when they are read."""

import contextlib
import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxmnist.errors import UserError
from jaxmnist.train_state import TrainState

KEEP = 3


def fingerprint(tree: Any) -> str:
    """SHA-256 over the names, types, shapes and values of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Checkpoints:
    """The newest KEEP checkpoints of a run, each with a fingerprint that a restore checks."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        self._folder = folder
        self._read_only = read_only
        with self._explained("open"), _quiet():
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEEP,
                create=False,
                read_only=read_only,
                # Process 0 alone writes and reads, so nobody waits for the others.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
                ),
            )
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def steps(self) -> list[int]:
        """The steps after which there is one."""
        return list(self._manager.all_steps())

    def save(self, step: int, tree: dict[str, Any]) -> None:
        """Starts to write NumPy arrays, of which nobody else changes the memory.

        Raises:
          UserError: this one, or the one before, cannot be written, or a parameter is not
            finite. Older ones are whole.
        """
        if step in self._manager.all_steps():
            return
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree["params"])):
            raise UserError(
                f"the parameters are not finite after step {step}: lower the learning rate; the "
                "last checkpoint is from before."
            )
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave({"sha256": fingerprint(tree)})
        )
        with self._explained("write"):
            self._manager.check_for_errors()
            self._manager.save(step, args=args)

    def read(self, step: int, target: dict[str, Any]) -> dict[str, Any] | None:
        """The checkpoint of a step, in the shape of `target`; None if it is damaged.

        A damaged one is told of and, unless read-only, renamed, so that its step can be written
        again.
        """
        try:
            return self._read(step, target)
        except Exception as e:
            print(
                f"WARNING: the checkpoint of step {step} in {self._folder} is damaged "
                f"({_reason(e)}); trying the one before it.",
                file=sys.stderr,
                flush=True,
            )
        if not self._read_only:
            self._set_aside(step)
        return None

    def restore(self, target: dict[str, Any]) -> dict[str, Any] | None:
        """The newest whole checkpoint, in the shape of `target`; None if there is none."""
        for step in sorted(self.steps(), reverse=True):
            tree = self.read(step, target)
            if tree is not None:
                return tree
        return None

    def wait(self) -> None:
        """Returns once everything is on disk; raises UserError if something could not be."""
        with self._explained("write"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Releases the threads; a write that is under way is finished."""
        with contextlib.suppress(Exception):  # Told of by `wait`, or by what made us stop.
            self._manager.close()

    def _set_aside(self, step: int) -> None:
        aside = self._folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._folder / str(step)).rename(aside)
        self._manager.reload()

    def _read(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
        )
        read = self._manager.restore(step, args=args)
        if fingerprint(read.state) != read.meta["sha256"]:
            raise ValueError("its values are not those that were written")
        return read.state

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except Exception as e:
            raise UserError(
                f"cannot {verb} checkpoints in {self._folder} ({_reason(e)}): make room or choose "
                "another workdir; what was there before is whole."
            ) from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that orbax gives of every folder that is only read."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(e: Exception) -> str:
    """The last part of an error's first line: tensorstore puts what the system said there."""
    first_line = (str(e).splitlines() or [type(e).__name__])[0]
    return first_line.rsplit(": ", 1)[-1][:200]


def saved_part(state: TrainState) -> dict[str, Any]:
    """What of a state is saved; the rest follows from the config."""
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}
