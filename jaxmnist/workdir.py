"""The folder that is the record of a run: its lock, its config and its results."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from ml_collections import ConfigDict

from jaxmnist.config import changed_training, get_config
from jaxmnist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Where each part of the record lies."""

    path: Path

    config = property(lambda self: self.path / "config.json")
    results = property(lambda self: self.path / "results.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    checkpoints = property(lambda self: self.path / "checkpoints")
    tensorboard = property(lambda self: self.path / "tensorboard")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and keeps other processes from training in it.

        Raises:
          UserError: it cannot be written, or another process trains in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", blocking=False)
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"another process is training in {self.path}: wait for it, or choose another."
            ) from None
        except OSError as e:
            raise UserError(
                f"the workdir {self.path} cannot be written ({e.strerror}): choose another."
            ) from None
        with lock:
            yield

    def load_config(self) -> ConfigDict | None:
        """The config of the run that this is the record of; None before there is one."""
        saved = _read_json(self.config)
        if saved is None:
            return None
        config = get_config()
        config.update(saved)
        return config

    def save_config(self, config: ConfigDict) -> None:
        """Records the config; raises UserError if there are checkpoints of another training."""
        started = self.checkpoint_steps() or any(self.path.glob("seed-*/checkpoints/*"))
        saved = self.load_config() if started else None
        if saved and (changed := changed_training(saved, config)):
            raise UserError(
                f"{self.path} holds a run that was trained differently: {'; '.join(changed)}. "
                "Choose another workdir, or repeat that run's settings."
            )
        write_json(self.config, config.to_dict())

    def checkpoint_steps(self) -> set[int]:
        """The steps after which there is a checkpoint, whole or not."""
        return {int(path.name) for path in self.checkpoints.glob("*") if path.name.isdecimal()}

    def finished(self, config: ConfigDict) -> dict[str, Any] | None:
        """The results, if this is the record of a finished run of that config."""
        results, saved = self.load_results(), self.load_config()
        if not (results and saved) or changed_training(saved, config):
            return None
        same_split = saved.eval_split == config.eval_split
        return results if results["step"] == config.num_steps and same_split else None

    def load_results(self) -> dict[str, Any] | None:
        """The results of the finished run; None before it has finished."""
        return _read_json(self.results)


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): choose another workdir.") from None
