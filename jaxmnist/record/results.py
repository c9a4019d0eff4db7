"""What a run says of itself: its first line, results.json, its last line."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Integer
from ml_collections import ConfigDict

from jaxmnist.data.datasets import Dataset, eval_name
from jaxmnist.devices import cpu_layers, machine
from jaxmnist.record.network import fingerprint, layer_table


def introduction(
    config: ConfigDict, dataset: Dataset, model: nn.Module, num_runs: int, compile_seconds: float
) -> list[str]:
    """The lines that a run starts with: what is trained, how and on what.

    Args:
      config: its config.
      dataset: its training and evaluation splits.
      model: its network.
      num_runs: how many runs train at once.
      compile_seconds: how long XLA took.
    """
    found, processes = machine.describe(), jax.process_count()
    train, test = dataset.splits
    layers = layer_table(model, dataset.info.image_shape)
    shapes = [f"{x.name} {'x'.join(map(str, x.shape))}" for x in layers if x.parameters]
    warmup = f" after {config.warmup_steps:,} steps of warm-up" if config.warmup_steps else ""
    form = "convolutions as matrix products" if cpu_layers.is_used(model) else "plain layers"
    dtype = str(np.dtype(getattr(model, "dtype", None) or np.float32))
    form += f" in {dtype}" if dtype != "float32" else ""
    recipe = f", augmented by {config.augment}" if config.augment else ""
    if config.curriculum:
        recipe += f", curriculum {config.curriculum}"
    if config.ema_decay:
        recipe += f"; evaluated with the parameters' average ({config.ema_decay:g})"
    seeds = f"{num_runs} seeds at once" if num_runs > 1 else f"seed {config.seed}"
    epochs = f"{config.num_steps * config.batch_size / len(train):.3g}"
    within = f" in {processes} processes" if processes > 1 else ""
    return [
        f"{dataset.name}: {len(train):,} training and {len(test):,} evaluation examples",
        f"network: {', '.join(shapes)}; {sum(x.parameters for x in layers):,} parameters, {form}",
        f"training: {config.num_steps:,} steps of {config.batch_size} "
        f"({epochs} epoch{'s' * (epochs != '1')}), {config.optimizer}, "
        f"learning rate {config.learning_rate:g}, {config.schedule}{warmup}, {seeds}{recipe}",
        f"device: {found['count']} {found['kind']}{within} "
        f"({machine.processor_and_threads(found)}); compiled in {compile_seconds:.1f} s",
        *_not_as_asked(config, model),
    ]


def _not_as_asked(config: ConfigDict, model: nn.Module) -> list[str]:
    if jax.default_backend() != "cpu" or config.dtype != "bfloat16":
        return []
    if getattr(model, "dtype", "") is not None:  # As asked, or a network without that field.
        return []
    return [
        "dtype=bfloat16: all is computed in float32. On a CPU bfloat16 takes Intel's AMX, one "
        "device, one seed at a time, kernels of 3, 5 or 7 and no network of your own."
    ]


def collect(
    config: ConfigDict,
    dataset: Dataset,
    state: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """What results.json holds of a run.

    Args:
      config: its config.
      dataset: its training and evaluation splits.
      state: "step" and "params" at its end, NumPy arrays.
      metrics: the newest metrics, by split, and "best": those of the best evaluation.
      seconds: the seconds by what they were spent on.
    """
    counts = zip(("train", eval_name(config)), dataset.splits, strict=True)
    return {
        "dataset": {"name": dataset.name, "num_examples": {n: len(split) for n, split in counts}},
        "step": int(state["step"]),
        **metrics,
        "seconds": seconds,
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "params_sha256": fingerprint(state["params"]),
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        "device": machine.describe(),
        "versions": machine.versions(),
        "options": machine.options(),
        "config": json.loads(config.to_json()),  # As it is read back.
    }


def evaluated_again(before: dict[str, Any], now: dict[str, Any], split: str) -> dict[str, Any]:
    """The results of a finished run whose last checkpoint was evaluated again.

    Its training stays as it was recorded. What was evaluated is told by the new evaluation
    alone, with the machine that it ran on where that is another one.

    Args:
      before: of results.json.
      now: of this process.
      split: that it evaluated.
    """
    others = {"test", "validation", "best", "evaluated_with"} - {split}
    results = {key: value for key, value in before.items() if key not in others}
    results |= {key: now[key] for key in ("best",) if key in now}
    results |= {split: now[split], "dataset": now["dataset"], "config": now["config"]}
    machine = {key: now[key] for key in ("device", "versions", "options")}
    if any(before.get(key, {}) != value for key, value in machine.items()):
        results["evaluated_with"] = machine
    return results


def learned_nothing(
    metrics: dict[str, float], labels: Integer[np.ndarray, " n"], config: ConfigDict
) -> str | None:
    """What to say of a model that is no better than guessing; None of others.

    Args:
      metrics: of its last evaluation.
      labels: of the examples.
      config: of the run.
    """
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    if len(shares) == 1:  # Nobody can fail to guess it.
        return None
    guessing = -float(np.sum(shares * np.log(shares)))
    luck = 3 * float(np.sqrt(shares.max() * (1 - shares.max()) / len(labels)))
    if metrics["loss"] < guessing - 0.01 or metrics["accuracy"] > shares.max() + luck:
        return None
    return (
        f"WARNING: the model learned nothing: its loss, {metrics['loss']:.4f}, is no better than "
        f"that of guessing, {guessing:.4f}. Try another learning rate ({config.learning_rate:g} "
        "now; Adam and its kin want about 0.001), or more steps."
    )


def summary(results: dict[str, Any], name: str, workdir: str | Path) -> str:
    """The line that a run ends with; `name` is the evaluation's, such as "test"."""
    metrics, seconds = results[name], results["seconds"]
    if "seeds" in results:
        accuracy = _describe(metrics["accuracy"], with_interval=True)
        loss = _describe(metrics["loss"])
        where = f"results.json, and seed-*/ with each run, are in {workdir}"
    else:
        count = results["dataset"]["num_examples"][name]
        low, high = wilson_interval(np.array(metrics["accuracy"]), np.array(count))
        accuracy = f"{metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f})"
        loss = f"{metrics['loss']:.4f}"
        where = f"results.json, metrics.jsonl, tensorboard/ and checkpoints/ are in {workdir}"
    if best := results.get("best"):
        if "seeds" in results:
            found = f"accuracy {_describe(best['accuracy'])}"
        else:
            found = f"accuracy {best['accuracy']:.4f} after step {best['step']:,}"
        where = f"best {found}, which is kept; {where}"
    in_all = ""
    if "seeds" not in results and len(results.get("starts", [])) > 1:
        in_all = f" ({seconds['train']:.0f} s of training in all)"
    return (
        f"done: {results['dataset']['name']} {name} accuracy {accuracy}, loss {loss} after "
        f"{results['step']:,} steps in {seconds['total']:.0f} s{in_all}; {where}"
    )


def wilson_interval(
    accuracy: Float[np.ndarray, "*k"], count: Integer[np.ndarray, "*k"]
) -> Float[np.ndarray, "2 *k"]:
    """The ends of the 95 % intervals of proportions of `count` examples (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    centre = accuracy + z**2 / (2 * count)
    half = z * np.sqrt(accuracy * (1 - accuracy) / count + z**2 / (4 * count**2))
    return np.stack([centre - half, centre + half]) / (1 + z**2 / count)


def _describe(spread: dict[str, Any], *, with_interval: bool = False) -> str:
    """The mean, the standard deviation and each value; an accuracy's mean has its interval."""
    mean, std, count = spread["mean"], spread["std"], len(spread["each"])
    each = ", ".join(f"{value:.4f}" for value in spread["each"])
    if with_interval and count > 1:  # Student 1908.
        from scipy import special  # Here, since it takes a moment to load.

        half = special.stdtrit(count - 1, 0.975) * std / math.sqrt(count)
        low, high = max(mean - half, 0), min(mean + half, 1)
        each = f"95 % interval of the mean {low:.4f} to {high:.4f}; {each}"
    return f"{mean:.4f} ± {std:.4f} ({each})"
