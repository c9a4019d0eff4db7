"""The newest or best checkpoint of a run, or of each of its seeds, evaluated without training."""

from pathlib import Path

from ml_collections import ConfigDict

from jaxmnist import checks
from jaxmnist.compile import compiled_steps
from jaxmnist.config import changed_training
from jaxmnist.data.input_pipeline import Data, OrderedBatches
from jaxmnist.devices import tuning
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import UserError
from jaxmnist.evaluate import evaluate
from jaxmnist.files import local_path
from jaxmnist.record.journal import check_evaluation
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.seeds import each_seed
from jaxmnist.trained.inference import newest_state


def evaluate_checkpoints(
    config: ConfigDict, workdir: str | Path, screen: Screen | None = None
) -> list[tuple[int, int, dict[str, float]]]:
    """Evaluates the newest checkpoint of each seed: (seed, step, mean loss and accuracy).

    Of a run with keep_best it is the best one.

    Args:
      config: the config of the run, with what is to be evaluated.
      workdir: the folder of the run.
      screen: where it says what it does; by default nowhere.

    Raises:
      UserError: what a user can mend.
    """
    screen, path = screen or Screen(quiet=True), local_path(workdir, "workdir")
    tuning.check()
    checks.check(config, training=False)
    saved = Workdir(path).load_config() or config
    # What is fitted to the data is read from the checkpoint, so changing how is no evaluation.
    changed = changed_training(saved, config, ("dataset", "dtype", "seed"))
    if changed:
        raise UserError(f"evaluation uses what was trained, so this cannot be set: {changed[0]}.")
    config = config.copy_and_resolve_references()
    config.allow_sample = False  # It is a part of what a run on MNIST was trained on.
    layout, data = Layout.create(), Data()
    with screen.phase("reading data"):
        dataset, (_, examples) = data.load(config, layout)
    runs = each_seed(Run(config, Workdir(path)))
    if config.dataset == saved.dataset:
        for each in runs:
            dataset.info.check_classes(each.workdir.dataset_info(each.config).class_names)
    batches = OrderedBatches(examples, config.eval_batch_size, layout)
    compiled, found = compiled_steps(config, dataset.info, layout), []
    for each in runs:
        with screen.phase("reading the checkpoint"):
            state = newest_state(*each, compiled)
        with screen.phase("evaluating"):
            metrics = evaluate(compiled, state, batches).metrics
        step = int(fetch(state.step))
        check_evaluation(step, metrics)
        found.append((each.config.seed, step, {k: float(v) for k, v in metrics.items()}))
    return found
