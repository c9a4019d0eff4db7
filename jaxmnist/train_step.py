"""The pure training and evaluation steps, and the state that they read and change."""

import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int, Integer, Key, Shaped
from ml_collections import ConfigDict

from jaxmnist.augment import NO_AUGMENT, Augment, create_augment
from jaxmnist.models import IMAGE_SHAPE, create_model
from jaxmnist.optimizers import Optimizer, create_optimizer

Batch = dict[str, Shaped[Array, "batch ..."]]
Metrics = dict[str, Float[Array, ""]]
Answers = dict[str, Shaped[Array, " batch"]]


# Not checked: JAX puts shapes and shardings in these fields too.
@typing.no_type_check
class TrainState(struct.PyTreeNode):
    """All that a step reads and changes, a pytree.

    Attributes:
      step: how many steps were taken, int32.
      params: the network's parameters.
      opt_state: the optimizer's state.
      dropout_key: the mask of step s is drawn from fold_in(dropout_key, s).
      model: the network; no array, so part of the tree's structure.
      optimizer: the optimizer, likewise.
      model_state: the network's mutable collections, such as batch_stats; {} if it has none.
      augment_key: how the images of step s are varied is drawn from fold_in(augment_key, s).
      augment: varies the images; no array, as label_smoothing.
      label_smoothing: share of each label that the loss spreads over all classes.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    opt_state: optax.OptState
    dropout_key: Key[Array, ""]
    model: nn.Module = struct.field(pytree_node=False)
    optimizer: Optimizer = struct.field(pytree_node=False)
    model_state: dict[str, Any] = struct.field(default_factory=dict)
    augment_key: Key[Array, ""] = struct.field(default=None)
    augment: Augment = struct.field(pytree_node=False, default=NO_AUGMENT)
    label_smoothing: float = struct.field(pytree_node=False, default=0.0)

    @property
    def apply_fn(self) -> Callable:
        """The network's apply."""
        return self.model.apply

    @property
    def eval_params(self):
        """The parameters to evaluate and to predict with: see Optimizer.eval_params."""
        return self.optimizer.eval_params(self.opt_state, self.params)

    @property
    def eval_variables(self):
        """What `apply_fn` takes to evaluate and to predict with."""
        return {"params": self.eval_params, **self.model_state}

    def saved_part(self):
        """What a checkpoint holds, a dict; the rest follows from the config."""
        saved = {"step": self.step, "params": self.params, "opt_state": self.opt_state}
        return saved | ({"model_state": self.model_state} if self.model_state else {})


def create_train_state(
    config: ConfigDict, num_classes: int = 10, image_shape: Sequence[int] = IMAGE_SHAPE
) -> TrainState:
    """The state before the first step, a function of the config and of the data's shape alone."""
    return init_state(
        create_model(config, num_classes),
        create_optimizer(config),
        config.seed,
        image_shape,
        create_augment(config.augment),
        config.label_smoothing,
    )


def init_state(
    model: nn.Module,
    optimizer: Optimizer,
    seed: int | Integer[Array, ""],
    image_shape: Sequence[int] = IMAGE_SHAPE,
    augment: Augment = NO_AUGMENT,
    label_smoothing: float = 0.0,
) -> TrainState:
    """The state before the first step of a network of one's own."""
    keys = split_seed(seed)
    variables = dict(model.init(keys["init"], jnp.zeros((1, *image_shape)), train=False))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.tx.init(params),
        dropout_key=keys["dropout"],
        model=model,
        optimizer=optimizer,
        model_state=variables,
        augment_key=keys["augment"],
        augment=augment,
        label_smoothing=label_smoothing,
    )


def split_seed(seed: int | Integer[Array, ""]) -> dict[str, Key[Array, ""]]:
    """Independent keys for "init", "data", "dropout" and "augment"."""
    root = jax.random.key(seed)
    purposes = ("init", "data", "dropout", "augment")
    return {purpose: jax.random.fold_in(root, i) for i, purpose in enumerate(purposes)}


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update on one batch: "image" float32 (batch, h, w, c), "label" int32 (batch,).

    Returns the next state, and metrics from before the update: the batch's mean loss and accuracy,
    both with augmentation and dropout, and the learning rate.
    """
    images, labels = batch["image"], batch["label"]
    dropout_key = jax.random.fold_in(state.dropout_key, state.step)
    if state.augment:
        images = state.augment(jax.random.fold_in(state.augment_key, state.step), images)

    def loss_fn(params):
        logits, model_state = state.apply_fn(
            {"params": params, **state.model_state},
            images,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=list(state.model_state),
        )
        loss = cross_entropy(logits, labels, state.label_smoothing)
        return loss.mean(), (logits, model_state)

    (loss, (logits, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = state.optimizer.tx.update(
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
        "accuracy": jnp.mean(is_correct(logits, labels)),
        "learning_rate": jnp.asarray(state.optimizer.schedule(state.step), jnp.float32),
    }
    params = optax.apply_updates(state.params, updates)
    changed = {"params": params, "opt_state": opt_state, "model_state": model_state}
    return state.replace(step=state.step + 1, **changed), metrics


def eval_step(state: TrainState, batch: Batch) -> tuple[Metrics, Answers]:
    """Sums of loss and correct answers over the examples whose "mask" is True, and the answers.

    These are "classes" int32 (batch,), the most probable ones, and "confidence" float32 (batch,),
    their probabilities.
    """
    logits = state.apply_fn(state.eval_variables, batch["image"], train=False)
    loss = cross_entropy(logits, batch["label"])
    sums = {
        "loss": jnp.sum(loss, where=batch["mask"]),
        "accuracy": jnp.sum(is_correct(logits, batch["label"]), where=batch["mask"]),
    }
    return sums, {"classes": logits.argmax(-1), "confidence": nn.softmax(logits).max(-1)}


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Softmax cross-entropy of each example, in nats.

    With `smoothing` s the label is no longer 1 for one class and 0 for the others, but 1 - s and
    then s / classes more for each (Szegedy et al. 2016, section 7).
    """
    if smoothing:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def is_correct(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """1.0 where the largest logit is the label's, else 0.0."""
    return (logits.argmax(-1) == labels).astype(jnp.float32)
