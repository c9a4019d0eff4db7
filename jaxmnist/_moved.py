"""The names that modules had before they moved into folders: importing one gives the module."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

_MOVED = {
    **dict.fromkeys(("datasets", "idx", "input_pipeline", "png"), "data"),
    **dict.fromkeys(("cpu_layers", "distributed", "rendezvous", "sharding", "watch"), "devices"),
    **dict.fromkeys(("checkpoints", "events", "results", "screen", "workdir"), "record"),
    **dict.fromkeys(("analysis", "figures", "inference", "mistakes", "pictures"), "trained"),
    "builders": "data.tfds_builders",
    "device": "devices.machine",
    "logs": "record.metrics",
    "records": "record.journal",
    "runs": "train",
    "themes": "trained",
    "train_state": "train_step",
}


def where(name: str) -> str | None:
    """The full name of a module of ours today, by its old one; None if it had no other."""
    package, _, module = name.partition(".")
    if package != "jaxmnist" or module not in _MOVED:
        return None
    to = _MOVED[module]
    is_folder = to in ("data", "devices", "record", "trained")
    return f"jaxmnist.{to}.{module}" if is_folder else f"jaxmnist.{to}"


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its old name, after all others have not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if where(name) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Moved(ModuleType):
    """A module under its old name: what is asked of it, the module of today answers."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return getattr(importlib.import_module(str(where(self.__name__))), name)


sys.meta_path.append(Finder())
