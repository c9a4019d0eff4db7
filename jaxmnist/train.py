"""The pure training and evaluation steps, and the explicit loop around them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from jaxmnist import config as config_lib
from jaxmnist import datasets, device, hooks
from jaxmnist import results as results_lib
from jaxmnist.checkpoints import Checkpoints
from jaxmnist.errors import UserError
from jaxmnist.input_pipeline import (
    Batch,
    Examples,
    ShuffledBatches,
    ordered_batches,
    put_on_device,
)
from jaxmnist.logs import MetricWriter, Screen, Stopwatch
from jaxmnist.train_state import IMAGE_SHAPE, TrainState, create_train_state, split_seed
from jaxmnist.workdir import Workdir, write_json


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, hooks.Metrics]:
    """One update on one batch: "image" float32 (batch, h, w, c), "label" int32 (batch,).

    Returns the next state, and the batch's mean loss and its accuracy before the update.
    """
    dropout_key = jax.random.fold_in(state.dropout_key, state.step)

    def loss_fn(params):
        logits = state.apply_fn(
            {"params": params}, batch["image"], train=True, rngs={"dropout": dropout_key}
        )
        return cross_entropy(logits, batch["label"]).mean(), logits

    (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = state.tx.update(
        grads,
        state.opt_state,
        state.params,
        # For the few optimizers that look at the loss; the others ignore it.
        value=loss,
        grad=grads,
        value_fn=lambda params: loss_fn(params)[0],
    )
    metrics = {
        "loss": loss,
        "accuracy": jnp.mean(is_correct(logits, batch["label"])),
        "learning_rate": jnp.asarray(state.schedule(state.step), jnp.float32),
    }
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def train_steps(state: TrainState, batches: Batch) -> tuple[TrainState, hooks.Metrics]:
    """As many updates as `batches` has batches, along its first axis; so have the metrics.

    One call instead of many: on an accelerator a call may cost more than a step.
    """
    return jax.lax.scan(train_step, state, batches)


def eval_step(state: TrainState, batch: Batch) -> hooks.Metrics:
    """Sums of loss and correct answers over the examples whose "mask" is True."""
    logits = state.apply_fn({"params": state.params}, batch["image"])
    loss = cross_entropy(logits, batch["label"])
    return {
        "loss": jnp.sum(loss, where=batch["mask"]),
        "accuracy": jnp.sum(is_correct(logits, batch["label"]), where=batch["mask"]),
    }


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Softmax cross-entropy of each example, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def is_correct(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """1.0 where the largest logit is the label's, else 0.0."""
    return (logits.argmax(-1) == labels).astype(jnp.float32)


def jit_train_step(count: int = 1):
    """train_step, or train_steps for more, jitted; the state's memory goes to the next state."""
    step = train_step if count == 1 else train_steps
    return jax.jit(step, donate_argnums=0, compiler_options=device.compiler_options())


def jit_eval_step():
    """eval_step, jitted for the device."""
    return jax.jit(eval_step, compiler_options=device.compiler_options())


def evaluate(
    eval_fn: Callable[[TrainState, Batch], hooks.Metrics],
    state: TrainState,
    examples: Examples,
    batch_size: int,
) -> dict[str, float]:
    """Mean loss and accuracy over every example, each counted once; `eval_fn` is eval_step."""
    sums = [eval_fn(state, batch) for batch in ordered_batches(examples, batch_size)]
    totals = jax.tree.map(lambda *xs: float(np.sum(xs, dtype=np.float64)), *jax.device_get(sums))
    return {name: total / len(examples) for name, total in totals.items()}


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains in `workdir` from where it stands, and evaluates.

    Returns what it writes to results.json. Its seconds are this process's, but "train" counts
    those before a restart too; its "train" metrics are those of the last step's batch.

    Raises:
      UserError: what a user can mend.
      hooks.Interrupted: SIGTERM or Ctrl-C; the checkpoint is written.
    """
    config_lib.check(config)
    record = Workdir(Path(workdir))
    with record.locked():
        try:
            return _run(config.copy_and_resolve_references(), record)
        except OSError as e:
            raise UserError(
                f"cannot write in {workdir} ({e.strerror or e}): make room or choose another "
                "workdir; what was there before is whole."
            ) from e


def evaluate_checkpoint(config: ConfigDict, workdir: str | Path) -> tuple[int, dict[str, float]]:
    """Evaluates the newest checkpoint of `workdir`: (its step, mean loss and accuracy)."""
    config_lib.check(config)
    record = Workdir(Path(workdir))
    dataset = _load(config, [config.eval_split])
    checkpoints = Checkpoints(record.checkpoints, read_only=True)
    state = checkpoints.restore(create_train_state(config, dataset.num_classes))
    checkpoints.close()
    if state is None:
        raise UserError(f"{record.checkpoints} holds no whole checkpoint: train there first.")
    examples = put_on_device(dataset.splits[0].images, dataset.splits[0].labels)
    return int(state.step), evaluate(jit_eval_step(), state, examples, config.eval_batch_size)


def _run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    many = config_lib.steps_per_call(config, jax.default_backend())
    with ExitStack() as cleanup:
        # XLA compiles while the data are read.
        compiler = cleanup.enter_context(ThreadPoolExecutor(1))
        compiling = compiler.submit(_compile, config, many, seconds)
        with _timed(seconds, "data"):
            dataset = _load(config, [config.train_split, config.eval_split])
            config.dataset = dataset.name
            config_lib.check(config)  # Again: the sample has fewer examples.
            workdir.save_config(config)
            train, test = (put_on_device(split.images, split.labels) for split in dataset.splits)

        state, program = compiling.result()
        checkpoints = Checkpoints(workdir.checkpoints)
        cleanup.callback(checkpoints.close)
        state = checkpoints.restore(state) or state
        start = int(state.step)
        _check_start(start, config.num_steps, workdir)

        batches = ShuffledBatches(train, split_seed(config.seed)["data"], config.batch_size)
        eval_fn = jit_eval_step()

        def evaluate_test(state: TrainState) -> dict[str, float]:
            with _timed(seconds, "eval"):
                return evaluate(eval_fn, state, test, config.eval_batch_size)

        print(results_lib.introduction(dataset, state), flush=True)
        if 0 < start < config.num_steps:
            print(f"resuming from step {start}", flush=True)
        last, name = config.num_steps, config_lib.eval_name(config)
        writer = MetricWriter(workdir, start)
        cleanup.callback(writer.close)
        screen = Screen(last, start)
        cleanup.callback(screen.close)
        watch = Stopwatch(writer.seconds)
        first_step = hooks.FirstStep()
        log = hooks.Log(config.log_every, last, start, writer, screen, watch)
        evaluation = hooks.Evaluate(
            config.eval_every, last, name, evaluate_test, log, writer, screen, watch
        )
        checkpoint = hooks.Checkpoint(config.checkpoint_every, last, checkpoints, log)

        programs = {many: program}
        with checkpoint.on_signals(), jax.transfer_guard("disallow"):
            step = start
            while step < last:
                # Single steps lead up to the calls of several, and end the run.
                count = many if step % many == 0 and step + many <= last else 1
                batch = batches(step, count if count > 1 else None)
                if count not in programs:
                    programs[count] = jit_train_step(count)
                state, metrics = programs[count](state, batch)
                step += count
                for hook in (first_step, log, evaluation, checkpoint):
                    hook(step, state, metrics)
        checkpoints.wait()

        if start == last:
            screen.line(f"the run in {workdir.path} finished at step {last}; evaluating it again")
            evaluation.latest = evaluate_test(state)
            screen.line(hooks.describe(last, name, evaluation.latest))
            results = workdir.load_results()
            if results and results["step"] == last:
                results[name] = evaluation.latest
                write_json(workdir.results, results)
                return results

    results = results_lib.collect(
        config,
        dataset,
        state,
        {"train": writer.latest["train"], name: evaluation.latest},
        {"first_step": first_step.seconds, **seconds, "train": watch.seconds()},
    )
    write_json(workdir.results, results)
    return results


def _compile(
    config: ConfigDict, count: int, seconds: dict[str, float]
) -> tuple[TrainState, Callable]:
    """The state before the first step, and `count` steps, compiled for it."""
    state = create_train_state(config, datasets.num_classes(config.dataset))
    shape = (config.batch_size,) if count == 1 else (count, config.batch_size)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, *IMAGE_SHAPE), jnp.float32),
        "label": jax.ShapeDtypeStruct(shape, jnp.int32),
    }
    with _timed(seconds, "compile"):
        return state, jit_train_step(count).lower(state, batch).compile()


def _load(config: ConfigDict, splits: list[str]) -> datasets.Dataset:
    return datasets.load(config.dataset, splits, config.data_dir, config.allow_sample)


def _check_start(start: int, num_steps: int, workdir: Workdir) -> None:
    if start > num_steps:
        raise UserError(
            f"{workdir.path} is at step {start}, beyond num_steps={num_steps}: choose another "
            "workdir, or more steps."
        )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
