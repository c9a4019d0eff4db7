"""What a run says of itself: its first line, results.json, its last line."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxmnist import config as config_lib
from jaxmnist import device
from jaxmnist.checkpoints import fingerprint
from jaxmnist.datasets import Dataset
from jaxmnist.models import num_parameters
from jaxmnist.train_state import TrainState


def introduction(dataset: Dataset, state: TrainState) -> str:
    """The line that a run starts with; `dataset` has its training and evaluation splits."""
    found = device.describe()
    train, test = dataset.splits
    return (
        f"{dataset.name}: {len(train):,} training and {len(test):,} evaluation examples; "
        f"{num_parameters(state.params):,} parameters; {found['count']} {found['kind']} "
        f"({found['processor']}, {found['threads']} threads)"
    )


def collect(
    config: ConfigDict,
    dataset: Dataset,
    state: TrainState,
    metrics: dict[str, dict[str, float]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """What results.json holds of a run that ended in `state`.

    Args:
      config: the run's, whole.
      dataset: its training and evaluation splits.
      state: the last.
      metrics: the last ones by split.
      seconds: by what they were spent on.
    """
    counts = zip(("train", config_lib.eval_name(config)), dataset.splits, strict=True)
    return {
        "dataset": {
            "name": dataset.name,
            "num_examples": {name: len(split) for name, split in counts},
        },
        "step": int(state.step),
        **metrics,
        "seconds": seconds | {"total": device.process_seconds()},
        "peak_memory_bytes": device.peak_memory_bytes(),
        "params_sha256": fingerprint(state.params),
        "num_parameters": num_parameters(state.params),
        "device": device.describe(),
        "versions": device.versions(),
        "config": config.to_dict(),
    }


def summary(results: dict[str, Any], name: str, workdir: str | Path) -> str:
    """The line that a run ends with; `name` is the evaluation's, such as "test"."""
    metrics, seconds = results[name], round(results["seconds"]["total"])
    return (
        f"done: {results['dataset']['name']} {name} accuracy {metrics['accuracy']:.4f}, "
        f"loss {metrics['loss']:.4f} after {results['step']:,} steps in {seconds} s; "
        f"results.json, metrics.jsonl, tensorboard/ and checkpoints/ are in {workdir}"
    )
