"""The folder that is the record of a run: its lock, its config and its results."""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxmnist import own_model
from jaxmnist.checks import check_types
from jaxmnist.config import changed_training, get_config
from jaxmnist.data import arrays, datasets
from jaxmnist.devices import machine
from jaxmnist.errors import UserError, first_line
from jaxmnist.files import lock, write_json, write_text
from jaxmnist.record.checkpoints import Checkpoints
from jaxmnist.record.network import first_difference


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Where each part of the record lies."""

    path: Path

    config = property(lambda self: self.path / "config.json")
    run = property(lambda self: self.path / "run.json")
    results = property(lambda self: self.path / "results.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    checkpoints = property(lambda self: self.path / "checkpoints")
    best = property(lambda self: self.path / "best")
    tensorboard = property(lambda self: self.path / "tensorboard")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and keeps other processes from training in it.

        A folder that is empty in the end, since the run was refused, is removed if it was new.

        Raises:
          UserError: it cannot be written, or another process trains in it.
        """
        is_new = not self.path.exists()
        try:
            with contextlib.ExitStack() as cleanup:
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    busy = f"another process is training in {self.path}"
                    cleanup.enter_context(lock(self.path / ".lock", busy))
                except OSError as e:
                    raise UserError(
                        f"the workdir {self.path} cannot be written ({e.strerror}): choose another."
                    ) from None
                yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def load_config(self) -> ConfigDict | None:
        """The config of the run that this is the record of; None before there is one."""
        saved = _read_json(self.config)
        if saved is None:
            return None
        config = get_config()
        if others := sorted(set(saved) - set(config)):
            raise UserError(
                f"{self.config} has fields that this version does not know ({', '.join(others)}): "
                "use the version that wrote it, or choose another workdir."
            )
        try:
            config.update(saved)
            check_types(config)
        except (TypeError, ValueError, AttributeError, UserError) as e:
            raise UserError(
                f"{self.config} is damaged ({first_line(e).rstrip('.')}): choose another workdir."
            ) from None
        own_model.load_from(self.path, config.model)
        if config.dataset.startswith(arrays.PREFIX):  # Wherever the workdir is now.
            config.data_dir = str(arrays.find(self.path, config.dataset))
        return config

    def same_model(self, model: str) -> str:
        """What a config has of a network of one's own, or here of the same one.

        The same is one in whose file only comments or blank lines have changed.
        """
        saved = self.load_config()
        return saved.model if saved and own_model.same(saved.model, model) else model

    def check(self, config: ConfigDict, but: Sequence[str] = ()) -> None:
        """Raises UserError if this is the record of another training, or is beyond its end.

        Args:
          config: of the run that is to go on here.
          but: fields that may differ.
        """
        steps = self.checkpoint_steps()
        of_seeds = any(self.path.glob("seed-*/checkpoints/*"))
        if not (steps or of_seeds or self.results.exists()):
            return
        saved = self.load_config()
        if saved is None:
            if not steps:
                return
            raise UserError(
                f"{self.path} holds checkpoints, but no config.json that says how they were "
                "trained: put it back, or choose another workdir."
            )
        if saved.dataset != config.dataset and "dataset" not in but:
            self._check_dataset(saved, config)
        if own_model.is_changed(saved.model, config.model):
            name = own_model.file_name(saved.model)
            raise UserError(
                f"{name} has changed since {self.path} was trained, which keeps it as it was: "
                "choose another workdir, or undo the change."
            )
        if changed := changed_training(saved, config, but):
            raise UserError(
                f"{self.path} holds a run that was trained differently: {'; '.join(changed)}. "
                "Choose another workdir, or repeat that run's settings."
            )
        if (
            steps
            and saved.eval_split != config.eval_split
            and (config.keep_best or config.patience)
        ):
            raise UserError(
                f"{self.path} was evaluated on eval_split={saved.eval_split!r}, and keep_best and "
                "patience compare evaluations of one split: repeat it, or choose another workdir."
            )
        if steps and max(steps) > config.num_steps:
            raise UserError(
                f"{self.path} is at step {max(steps)}, beyond num_steps={config.num_steps}: choose "
                "another workdir, or more steps."
            )

    def _check_dataset(self, saved: ConfigDict, config: ConfigDict) -> None:
        if (saved.dataset, config.dataset) == (datasets.SAMPLE, "mnist"):
            raise UserError(
                f"{self.path} holds a run on {datasets.SAMPLE}: train on mnist in another workdir, "
                f"or go on with --config.dataset={datasets.SAMPLE}."
            )
        if saved.dataset.startswith(arrays.PREFIX) and config.dataset.startswith(arrays.PREFIX):
            raise UserError(
                f"{self.path} holds a run on other arrays than these: choose another workdir, or "
                f"go on with its own, which {arrays.FILE} there has."
            )

    def check_network(self, network: dict[str, Any]) -> None:
        """Raises UserError if what was trained here is another network.

        Args:
          network: today's, as network.describe_network gives it.
        """
        if not self.checkpoint_steps():
            return
        there = self.load_run().get("network")
        if there is None:  # From before there was a run.json.
            checkpoints = Checkpoints(self.checkpoints, read_only=True)
            there = {"params": checkpoints.params()}
            checkpoints.close()
        for part in ("params", "model_state", "fields"):
            was, now = there.get(part) or {}, network.get(part) or {}
            # A field that came or went changes nothing if the parameters are the same.
            both = set(was) & set(now) if part == "fields" else set(was) | set(now)
            was, now = ({k: v for k, v in each.items() if k in both} for each in (was, now))
            if was and (changed := first_difference(was, now)):
                raise UserError(
                    f"{self.path} holds a run of another network: {changed}. Choose another "
                    "workdir, or undo that change; nothing was changed here."
                )

    def check_data(self, info: datasets.DatasetInfo) -> None:
        """Raises UserError if what was trained here was trained on other data of the same name.

        Args:
          info: of the dataset today; its examples are compared once they are read.
        """
        about = self.load_run().get("dataset", {})
        for what, now in (("class_names", info.class_names), ("sha256", info.sha256)):
            if self.checkpoint_steps() and now and about.get(what, now) != now:
                changed = "classes" if what == "class_names" else "training examples"
                raise UserError(
                    f"{self.path} holds a run on {info.name} as it was before: its {changed} have "
                    "changed. Choose another workdir, or put them back as they were."
                )

    def save(self, config: ConfigDict) -> None:
        """Writes config.json, which makes the folder the workdir of a run.

        And, before it, the file of a network of one's own.
        """
        if config.model:
            write_text(self.path / own_model.file_name(config.model), own_model.code(config.model))
        write_json(self.config, config.to_dict())

    def load_run(self) -> dict[str, Any]:
        """What run.json tells of the run; {} where there is none, as in older workdirs.

        Its "network" is what network.describe_network gives, its "preparation" how a
        picture becomes an input, its "starts" as `save_start` says.
        """
        run = _read_json(self.run) or {}
        try:
            for described in ({}, run.get("preparation", {}), *run.get("network", {}).values()):
                described.keys()
            if "dataset" in run:
                about, _ = run["dataset"], run["preparation"]
                about["num_examples"].keys(), len(about["class_names"]), len(about["image_shape"])
            for start in run.get("starts", []):
                range(start["step"], start["num_steps"])
        except (TypeError, KeyError, AttributeError):
            raise UserError(
                f"{self.run} is damaged: delete it, and it is made again from the checkpoints."
            ) from None
        return run

    def dataset_info(self, config: ConfigDict) -> datasets.DatasetInfo:
        """What run.json says of the dataset, which may be missing now.

        Older ones tell of the preparation alone, or of nothing: the rest is what is known today.

        Raises:
          UserError: that is not recorded, and the dataset is not there.
        """
        run = self.load_run()
        about = run.get("dataset")
        if about is None:
            info = datasets.describe(config)
            return dataclasses.replace(info, preparation=run.get("preparation", info.preparation))
        return datasets.DatasetInfo(
            config.dataset,
            about["num_examples"],
            about["class_names"],
            tuple(about["image_shape"]),
            run["preparation"],
            about.get("sha256", ""),
        )

    def save_start(
        self,
        step: int,
        config: ConfigDict,
        network: dict[str, Any],
        info: datasets.DatasetInfo,
        before: ConfigDict | None,
    ) -> list[dict[str, Any]]:
        """Records that a process goes on from a step, for as many as the config says.

        Args:
          step: it starts from; 0 forgets what was before.
          config: of the run.
          network: its network, as for `check_network`.
          info: of its dataset.
          before: the config that the workdir had; None if none.

        Returns the starts that led to where the run is: "step", "num_steps", which schedules
        depend on, "time" in UTC, the "command" that was typed, if any, and the "options" of JAX
        that changed numbers from there on.
        """
        first = [{"step": 0, "num_steps": before.num_steps}] if before else []
        starts = self.load_run().get("starts", first)
        starts = [start for start in starts if start["step"] < step]
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        start = {"step": step, "num_steps": config.num_steps, "time": now}
        typed = machine.command_line()
        start |= {"command": typed} if typed else {}
        starts.append(start | {"options": machine.options()})
        about = {
            "num_examples": info.num_examples,
            "class_names": info.class_names,
            "image_shape": info.image_shape,
        }
        about |= {"sha256": info.sha256} if info.sha256 else {}
        described = {"dataset": about, "preparation": info.preparation}
        write_json(self.run, {"network": network, **described, "starts": starts})
        return starts

    def checkpoint_steps(self) -> set[int]:
        """The steps after which there is a checkpoint, whole or not."""
        return {int(path.name) for path in self.checkpoints.glob("*") if path.name.isdecimal()}

    def finished(self, config: ConfigDict) -> dict[str, Any] | None:
        """The results, if this is the record of a finished run of that config."""
        results, saved = self.load_results(), self.load_config()
        if not (results and saved) or changed_training(saved, config):
            return None
        same_split = results["config"]["eval_split"] == config.eval_split
        return results if is_end(results, config) and same_split else None

    def load_results(self) -> dict[str, Any] | None:
        """The results of the finished run; None before it has finished."""
        results = _read_json(self.results)
        if results is None:
            return None
        kinds = {"step": int, "config": dict, "dataset": dict, "device": dict, "versions": dict}
        for name, kind in kinds.items():
            if not isinstance(results.get(name), kind):
                raise UserError(
                    f"{self.results} is damaged (it lacks {name!r}): delete it, and the run is "
                    "evaluated again."
                )
        return results


def is_end(results: dict[str, Any], config: ConfigDict) -> bool:
    """Whether results are from the last step of a config's run, which its patience may have ended.

    Args:
      results: what results.json holds.
      config: of the run now.
    """
    if results["step"] == config.num_steps:
        return True
    if "stopped_early" not in results:
        return False
    then = results["config"]
    return then["num_steps"] == config.num_steps and 0 < config.patience <= then["patience"]


class Run(NamedTuple):
    """A run: what is trained, and the folder that is its record."""

    config: ConfigDict
    workdir: Workdir


def keep_arrays(data: Any, workdir: Workdir, cleanup: contextlib.ExitStack) -> tuple[str, str]:
    """Writes arrays into the workdir of their run; returns their dataset and data_dir.

    Args:
      data: as of arrays.pack.
      workdir: of the run.
      cleanup: removes them in the end if no run has begun on them.

    Raises:
      UserError: they are no data, or the workdir is the record of a run on others.
    """
    name, packed = arrays.pack(data)
    file = workdir.path / arrays.FILE
    found = name, str(workdir.path.absolute())

    def has_run(of: str | None) -> bool:
        saved = workdir.load_config()
        return saved is not None and saved.dataset == of

    there = arrays.name_of(file)
    if there != name and has_run(there):
        raise UserError(
            f"{workdir.path} holds a run on other arrays than these: choose another workdir."
        )
    if there != name:
        is_new = not workdir.path.exists()

        @cleanup.callback
        def clean():
            if not has_run(name):
                file.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    if is_new:
                        workdir.path.rmdir()

        with workdir.locked():
            arrays.write(file, packed)
    return found


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        if not path.parent.is_file():
            return None
        raise UserError(f"{path.parent} is a file: name the folder of a run.") from None
    except OSError as e:
        raise UserError(
            f"{path} cannot be read ({e.strerror}): check its permissions and its disk."
        ) from None
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): choose another workdir.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): choose another workdir.")
    return value
