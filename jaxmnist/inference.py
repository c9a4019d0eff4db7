"""A trained model: its newest checkpoint, loaded from a workdir and asked about images."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Integer, Shaped
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from jaxmnist import checkpoints, datasets, device, distributed, pictures
from jaxmnist.checkpoints import Checkpoints, saved_part
from jaxmnist.errors import UserError
from jaxmnist.files import local_path
from jaxmnist.input_pipeline import to_float
from jaxmnist.sharding import Layout, fetch
from jaxmnist.train_state import (
    IMAGE_SHAPE,
    TrainState,
    create_train_state,
    describe_network,
)
from jaxmnist.workdir import Workdir

_LARGEST_BATCH = 200


class Predictions(NamedTuple):
    """What a model says of images, or of one image: then without the axis "n"."""

    classes: Integer[np.ndarray, "*n"]
    probabilities: Float[np.ndarray, "*n classes"]


class Model:
    """A trained network.

    Attributes:
      config: of its training.
      step: of the training step after which it is.
      params: the network's, those to predict with, NumPy arrays.
      trained_params: those that were trained, of which results.json has the fingerprint.
      class_names: what each class stands for.
      preparation: how a picture becomes an input: `datasets.preparation` of its dataset.
    """

    def __init__(
        self,
        config: ConfigDict,
        state: TrainState,
        layout: Layout,
        preparation: pictures.Preparation,
    ):
        self.config = config
        self.step = int(fetch(state.step))
        params = state.eval_params
        self.params: dict[str, Any] = fetch(params)
        self.trained_params: dict[str, Any] = fetch(state.params)
        self.class_names = datasets.class_names(config.dataset)
        self.preparation = preparation
        self._layout, self._params = layout, params
        self._apply = _jit_apply(state.apply_fn, layout)

    def predict(self, images: ArrayLike) -> Predictions:
        """The most probable class of each image, and the probabilities of all (float32).

        Args:
          images: one image or many, (28, 28), (28, 28, 1), (n, 28, 28) or (n, 28, 28, 1), light
            on dark, as a person sees them: uint8, or floating-point in [0, 1].

        Raises:
          ValueError: images of another shape, type or range.
        """
        images = np.asarray(images)
        logits = self.logits(pictures.swap(_as_batch(images), self.preparation))
        found = Predictions(logits.argmax(-1), _softmax(logits))
        is_one = images.ndim == 2 or images.shape == IMAGE_SHAPE
        return Predictions(*(x[0] for x in found)) if is_one else found

    def probabilities(
        self, inputs: Shaped[np.ndarray, "n 28 28 1"]
    ) -> Float[np.ndarray, "n classes"]:
        """The probabilities of all classes, of inputs as the network's data set has them."""
        return _softmax(self.logits(inputs))

    def logits(self, inputs: Shaped[np.ndarray, "n 28 28 1"]) -> Float[np.ndarray, "n classes"]:
        """The logits of uint8 inputs, or of float32 ones in [0, 1], as the data set has them."""
        # Few sizes, each of which is compiled once: one image, or a batch that needs little memory
        # and is the evaluation's by default, so that its classes come out to the bit.
        most = min(self.config.eval_batch_size, _LARGEST_BATCH)
        size = self._layout.round_up(1 if len(inputs) == 1 else most)
        found = [np.empty((0, len(self.class_names)), np.float32)]
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            batch = self._layout.put(padded, self._layout.examples)
            found.append(fetch(self._apply(self._params, batch))[: len(part)])
        return np.concatenate(found)


def load(workdir: str | Path, dtype: str | None = None) -> Model:
    """The model of a workdir's newest checkpoint.

    Args:
      workdir: of the run.
      dtype: of the products, in place of the run's.

    Raises:
      UserError: the workdir holds no run, several, no whole checkpoint, or another network.
    """
    record = Workdir(local_path(workdir, "workdir"))
    config = record.load_config()
    if config is None:
        raise UserError(f"{workdir} holds no run: train there first.")
    if config.num_seeds > 1:
        seeds = sorted(record.path.glob("seed-*/config.json"))
        first = f", such as {seeds[0].parent}" if seeds else ""
        raise UserError(f"{workdir} holds the runs of several seeds: name one of them{first}.")
    config.dtype = dtype or config.dtype
    layout = Layout.create()
    # A workdir from before this was recorded has it from its dataset.
    preparation = record.load_run().get("preparation") or datasets.preparation(config.dataset)
    return Model(config, newest_state(config, record, layout), layout, preparation)


def load_evaluation(config: ConfigDict, data_dir: str | None = None) -> datasets.Dataset:
    """The split that a run was evaluated on; raises UserError as datasets.load does.

    The sample never stands in for MNIST: it is a part of what a run on MNIST was trained on.

    Args:
      config: the run's.
      data_dir: tfds's folder, in place of the run's.
    """
    where = config.data_dir if data_dir is None else str(local_path(data_dir, "data_dir"))
    return datasets.load(config.dataset, [config.eval_split], where, allow_sample=False)


def newest_state(config: ConfigDict, record: Workdir, layout: Layout) -> TrainState:
    """The state of a run's newest whole checkpoint, of which only what evaluation needs is read.

    All processes call it, and process 0 reads.

    Raises:
      UserError: there is none, or it is of another network than today's.
    """
    num_classes = datasets.num_classes(config.dataset)
    network = describe_network(config, num_classes)
    distributed.from_first(lambda: record.check_network(network))
    state = create_train_state(config, num_classes, layout)
    parts = None if state.optimizer.averages else ("step", "params")
    tree = distributed.from_first(lambda: _newest(record, saved_part(state), parts))
    return state.replace(**layout.put(tree, layout.state))


def _newest(
    record: Workdir, shapes: dict[str, Any], parts: tuple[str, ...] | None
) -> dict[str, Any]:
    trees: list[dict[str, Any]] = []
    if record.checkpoints.is_dir():
        with contextlib.closing(Checkpoints(record.checkpoints, read_only=True)) as opened:
            trees, _ = checkpoints.restore([opened], jax.device_get(shapes), parts)
    if not trees:
        raise UserError(f"{record.checkpoints} holds no whole checkpoint: train there first.")
    return trees[0]


@functools.cache
def _jit_apply(apply_fn: Callable, layout: Layout) -> jax.stages.Wrapped:
    def apply(
        params: dict[str, Any], images: Shaped[Array, "n 28 28 1"]
    ) -> Float[Array, "n classes"]:
        x = to_float(images) if images.dtype == np.uint8 else images
        return apply_fn({"params": params}, x)

    return jax.jit(
        apply, out_shardings=layout.everywhere, compiler_options=device.compiler_options()
    )


def _softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def _as_batch(images: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n 28 28 1"]:
    pixels = images[..., 0] if images.shape[-1:] == (1,) else images
    if pixels.ndim not in (2, 3) or pixels.shape[-2:] != IMAGE_SHAPE[:2]:
        raise ValueError(
            f"images have the shape {images.shape}: it must be (28, 28), (28, 28, 1), "
            "(n, 28, 28) or (n, 28, 28, 1)."
        )
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"images are {images.dtype}: they must be uint8 or floating-point.")
        if not ((images >= 0) & (images <= 1)).all():
            raise ValueError("floating-point images must be in [0, 1]; uint8 ones in 0 to 255.")
        images = images.astype(np.float32)
    return images.reshape(-1, *IMAGE_SHAPE)
