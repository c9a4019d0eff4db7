"""The names that modules had before they moved into folders: they can be imported still."""

import importlib
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_FOLDERS = {
    "data": ("datasets", "idx", "input_pipeline", "pictures", "png"),
    "devices": ("cpu_layers", "distributed", "rendezvous", "sharding", "watch"),
    "record": ("checkpoints", "events", "results", "screen", "workdir"),
    "trained": ("analysis", "figures", "inference", "mistakes"),
}
MOVED = {f"jaxmnist.{n}": f"jaxmnist.{to}.{n}" for to, names in _FOLDERS.items() for n in names} | {
    "jaxmnist.builders": "jaxmnist.data.tfds_builders",
    "jaxmnist.device": "jaxmnist.devices.machine",
    "jaxmnist.logs": "jaxmnist.record.metrics",
    "jaxmnist.records": "jaxmnist.record.journal",
    "jaxmnist.runs": "jaxmnist.train",
    "jaxmnist.themes": "jaxmnist.trained.figures",
    "jaxmnist.train_state": "jaxmnist.train_step",
    "jaxmnist.trained.pictures": "jaxmnist.data.pictures",
}


def find_spec(name: str) -> ModuleSpec | None:
    """The import system's description of a module by its old name; None for other names."""
    return ModuleSpec(name, _Loader()) if name in MOVED else None


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Moved(ModuleType):
    """A module by its old name: what it is asked for, the module of today has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(MOVED[self.__name__]), name)
