"""The pure training and evaluation steps, and the explicit loop around them."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped
from ml_collections import ConfigDict

from jaxmnist import config as config_lib
from jaxmnist import hooks, tensorboard
from jaxmnist.data import datasets
from jaxmnist.data.input_pipeline import Batch, Data, Examples, ShuffledBatches, ordered_batches
from jaxmnist.devices import machine, tuning
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import UserError
from jaxmnist.record import results as results_lib
from jaxmnist.record.journal import Records
from jaxmnist.record.metrics import Stopwatch
from jaxmnist.record.screen import Screen
from jaxmnist.record.workdir import Workdir
from jaxmnist.train_step import (
    IMAGE_SHAPE,
    TrainState,
    create_train_state,
    data_keys,
    describe_network,
)

Answers = dict[str, Shaped[Array, "*runs batch"]]


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
    updates, opt_state = state.optimizer(state.hyperparams).update(
        grads,
        state.opt_state,
        state.params,
        # For the few optimizers that look at the loss; the others ignore it.
        value=loss,
        grad=grads,
        value_fn=lambda params: loss_fn(params)[0],
    )
    schedule = state.optimizer.schedule(state.hyperparams)
    metrics = {
        "loss": loss,
        "accuracy": jnp.mean(is_correct(logits, batch["label"])),
        "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
    }
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def eval_step(state: TrainState, batch: Batch) -> tuple[hooks.Metrics, Answers]:
    """Sums of loss and correct answers over the examples whose "mask" is True; and the answers.

    Those are "classes" int32 (batch,), and "confidence" float32 (batch,), their probabilities.
    """
    logits = state.apply_fn({"params": state.eval_params}, batch["image"])
    loss = cross_entropy(logits, batch["label"])
    sums = {
        "loss": jnp.sum(loss, where=batch["mask"]),
        "accuracy": jnp.sum(is_correct(logits, batch["label"]), where=batch["mask"]),
    }
    return sums, {"classes": logits.argmax(-1), "confidence": nn.softmax(logits).max(-1)}


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


@functools.cache
def jit_train_step(count: int = 1, layout: Layout | None = None) -> jax.stages.Wrapped:
    """train_step, of each of the layout's runs, jitted; the state's memory goes to the next state.

    With a count, as many steps: batches and metrics are stacked along a first axis. One call
    instead of many, since on an accelerator a call may cost more than a step.
    """
    layout = layout or Layout.create()
    step = layout.over_runs(train_step)
    return jax.jit(
        step if count == 1 else functools.partial(jax.lax.scan, step),
        donate_argnums=0,
        out_shardings=(layout.state, layout.everywhere),
        compiler_options=tuning.compiler_options(),
    )


@functools.cache
def jit_eval_step(layout: Layout | None = None) -> jax.stages.Wrapped:
    """eval_step, of each of the layout's runs, jitted."""
    layout = layout or Layout.create()
    return jax.jit(
        layout.over_runs(eval_step, in_axes=(0, None)),
        out_shardings=(layout.everywhere, layout.batch()),
        compiler_options=tuning.compiler_options(),
    )


def evaluate(
    eval_fn: Callable[[TrainState, Batch], tuple[hooks.Metrics, Answers]],
    state: TrainState,
    examples: Examples,
    batch_size: int,
    layout: Layout | None = None,
) -> hooks.Evaluation:
    """Every example, each counted once, of each of the runs.

    `eval_fn` is eval_step, jitted. Raises UserError if a loss is not finite.
    """
    layout, count = layout or Layout.create(), len(examples)
    found = [
        layout.settle(eval_fn(state, batch))
        for batch in ordered_batches(examples, batch_size, layout)
    ]
    sums, answers = zip(*fetch(found), strict=True)
    metrics = jax.tree.map(
        lambda *x: np.asarray(np.sum(x, axis=0, dtype=np.float64) / count), *sums
    )
    if not np.isfinite(metrics["loss"]).all():
        raise UserError(
            f"the loss of the evaluation after step {fetch(state.step).max()} is "
            f"{metrics['loss'].max()}: lower the learning rate; any checkpoint is from before."
        )
    return hooks.Evaluation(
        metrics, jax.tree.map(lambda *x: np.concatenate(x, axis=-1)[..., :count], *answers)
    )


def train(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[Workdir],
    data: Data,
    screen: Screen,
    since: float = 0.0,
    begun: Callable[[], None] = lambda: None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains runs that differ in their seeds alone at once, from where their workdirs stand.

    Args:
      configs: of each.
      workdirs: of each.
      data: whose data they use.
      screen: where they say what they do.
      since: the age of this process, in seconds, when they began.
      begun: as of Records.open.
      on_metrics: as of Records.

    Returns the results of each. Their seconds are those from then on, but "train" counts those
    before a restart too; their "train" metrics are those of the last step's batch.

    Raises:
      UserError: what a user can mend.
      Interrupted: SIGTERM or Ctrl-C; the checkpoints are written.
    """
    config, seeds = configs[0], [config.seed for config in configs]
    layout = Layout.create(len(seeds))
    seconds: dict[str, float] = {}
    many = config_lib.steps_per_call(config, jax.default_backend())
    with ExitStack() as cleanup:
        # XLA compiles while the data are read.
        compiler = cleanup.enter_context(ThreadPoolExecutor(1))
        compiling = compiler.submit(_compile, config, seeds, layout, many, seconds)
        with _timed(seconds, "data"), screen.phase("reading data"):
            dataset, (training, test) = data.load(config, layout)
            for each in configs:
                each.dataset = dataset.name
                config_lib.check(each)  # Again: the sample has fewer examples.

        records = Records(list(workdirs), layout, on_metrics)
        cleanup.callback(records.close)
        with screen.phase("compiling"):
            state = compiling.result()  # Before anything is written: it may fail.
        network = describe_network(config, dataset.num_classes)
        state = records.open(list(configs), network, state, begun)
        start, last = int(fetch(state.step).max()), config.num_steps
        name = config_lib.eval_name(config)
        for line in results_lib.introduction(config, dataset, layout, seconds["compile"]):
            screen.line(line)
        if 0 < start < last:
            screen.line(f"resuming from step {start}")
        if config.profile_steps and start >= config_lib.profile_steps(config).stop:
            screen.line(f"profile_steps={config.profile_steps} are done: nothing is traced")

        eval_fn = jit_eval_step(layout)
        batches = ShuffledBatches(training, data_keys(seeds, layout), config.batch_size, layout)

        def evaluate_test(state: TrainState) -> hooks.Evaluation:
            with _timed(seconds, "eval"), screen.phase("evaluating"):
                return evaluate(eval_fn, state, test, config.eval_batch_size, layout)

        watch = Stopwatch(records.seconds)
        profile = tensorboard.Profile(config, workdirs[0].tensorboard, screen, watch)
        cleanup.callback(profile.close)
        first_step = hooks.FirstStep(since)
        show = tensorboard.Show(config, dataset.splits[1], records, layout)
        log = hooks.Log(config.log_every, last, start, seeds, records, screen, watch)
        evaluation = hooks.Evaluate(
            config.eval_every, last, name, evaluate_test, show, log, records, screen, watch
        )
        checkpoint = hooks.Checkpoint(config.checkpoint_every, last, records, log)

        with checkpoint.on_signals(), _no_hidden_transfers():
            step = start
            screen.start(last, step)
            while step < last:
                # Single steps lead up to the calls of several, and end the run.
                count = many if step % many == 0 and step + many <= last else 1
                profile.start(step, count, state)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    batch = batches(step, count if count > 1 else None)
                    state, metrics = layout.settle(jit_train_step(count, layout)(state, batch))
                step += count
                screen.take(step, metrics["loss"])
                for hook in (first_step, profile, log, evaluation, checkpoint):
                    hook(step, state, metrics)
        with screen.phase("writing a checkpoint"):
            records.wait()

        if start == last:
            was_evaluated = (workdirs[0].load_results() or {}).get("step") == last
            screen.line(
                f"the run in {workdirs[0].path} finished at step {last}; evaluating it again"
                if was_evaluated
                else f"the run in {workdirs[0].path} stopped after its last step; evaluating it"
            )
            with watch.pause():
                evaluation.latest = hooks.each_run(evaluate_test(state).metrics)
            screen.line(hooks.describe(last, name, evaluation.latest))
        else:
            seconds["first_step"] = first_step.seconds
        if warning := results_lib.learned_nothing(
            hooks.mean(evaluation.latest), dataset.splits[1].labels, config
        ):
            screen.line(warning)
        results = results_lib.collect(
            configs,
            dataset,
            fetch({"step": state.step, "params": state.params}),
            layout,
            {"train": records.latest("train"), name: evaluation.latest},
            {
                **seconds,
                "train": watch.seconds(),
                "total": machine.process_seconds() - since,
            },
        )
        return records.finish(results, name, trained=start < last)


def _compile(
    config: ConfigDict,
    seeds: Sequence[int],
    layout: Layout,
    count: int,
    seconds: dict[str, float],
) -> TrainState:
    """The state before the first step, once `count` steps are compiled for it."""
    state = create_train_state(config, datasets.num_classes(config.dataset), layout, seeds)
    stacked = () if count == 1 else (count,)
    runs = () if layout.num_runs == 1 else (layout.num_runs,)
    sharding = layout.batch(stacked=bool(stacked))

    def batch_of(shape, dtype):
        shape = (*stacked, *runs, config.batch_size, *shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    batch = {"image": batch_of(IMAGE_SHAPE, jnp.float32), "label": batch_of((), jnp.int32)}
    with _timed(seconds, "compile"):
        jit_train_step(count, layout).lower(state, batch).compile()
    return state


def _no_hidden_transfers() -> AbstractContextManager[None]:
    """Within, only what is asked for moves between host and device.

    Unless nothing is compiled (JAX_DISABLE_JIT): each operation then moves its own constants.
    """
    return jax.transfer_guard("allow" if jax.config.values["jax_disable_jit"] else "disallow")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
