"""A trained model: the newest or best checkpoint of a run, asked about pictures."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Integer, Shaped
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from PIL import Image

from jaxmnist import own_model
from jaxmnist.compile import CompiledSteps, compiled_steps
from jaxmnist.data import datasets, pictures
from jaxmnist.data.input_pipeline import to_float
from jaxmnist.devices import distributed, tuning
from jaxmnist.devices.sharding import Layout, fetch
from jaxmnist.errors import NothingShown, UserError
from jaxmnist.files import local_path
from jaxmnist.models import num_parameters
from jaxmnist.record import checkpoints, find_runs
from jaxmnist.record.checkpoints import Checkpoints
from jaxmnist.record.metrics import read_metrics
from jaxmnist.record.network import describe_network
from jaxmnist.record.workdir import Run, Workdir
from jaxmnist.train_step import TrainState
from jaxmnist.trained import reading
from jaxmnist.trained.reading import Detection

Picture = str | os.PathLike | Image.Image | ArrayLike

_LARGEST_BATCH = 200
_SHOWN = 8  # How many of many answers are printed.
_NO_PICTURE = Image.new("RGB", (1, 1))


class _Answers(NamedTuple):
    classes: Integer[np.ndarray, "*n"]
    probabilities: Float[np.ndarray, "*n classes"]


class Predictions(_Answers):
    """A model's answers to pictures, or to one picture, which has no axis "n".

    It is a pair: `classes, probabilities = model.predict(picture)`.

    Attributes:
      classes: the most probable class of each picture.
      probabilities: the probabilities of all classes, float32.
      class_names: the names of the classes.
    """

    class_names: Sequence[str] = ()

    def __repr__(self) -> str:
        if self.classes.ndim == 0:
            return f"Predictions({in_words(self.probabilities, self.class_names)})"
        count = len(self.classes)
        each = [in_words(p, self.class_names, 1) for p in self.probabilities[:_SHOWN]]
        more = ["..."] if count > _SHOWN else []
        what = "1 picture" if count == 1 else f"{count:,} pictures"
        return f"Predictions({what}{': ' if count else ''}{', '.join([*each, *more])})"


def in_words(
    probabilities: Float[np.ndarray, " classes"], class_names: Sequence[str], count: int = 2
) -> str:
    """The most probable classes of a picture, such as "7 (0.9981), then 1 (0.0012)"."""
    names = class_names or range(len(probabilities))
    chosen = np.argsort(-probabilities, kind="stable")[:count]
    return ", then ".join(f"{names[i]} ({probabilities[i]:.4f})" for i in chosen)


class Detections(list[Detection]):
    """A model's answers to all that one picture shows, in reading order: a list of `Detection`s.

    Attributes:
      class_names: the names of the classes.
    """

    def __init__(self, detections: Iterable[Detection], class_names: Sequence[str]):
        super().__init__(detections)
        self.class_names = class_names

    def __repr__(self) -> str:
        return f"Detections({detections_in_words(self, self.class_names)})"


def detections_in_words(detections: Sequence[Detection], class_names: Sequence[str]) -> str:
    """What a picture shows, such as "42: 4 (0.9981), 2 (0.9902)"; of one object, as `in_words`."""
    if len(detections) == 1:
        words = in_words(detections[0].probabilities, class_names)
        doubt = detections[0].doubt
        return f"unsure, perhaps {words}: {doubt}." if doubt else words
    each = [
        f"unsure {words} since {d.doubt}" if d.doubt else words
        for d in detections
        for words in [in_words(d.probabilities, class_names, 1)]
    ]
    return ": ".join([text_of(detections, class_names)] * bool(each) + [", ".join(each)])


def text_of(detections: Sequence[Detection], class_names: Sequence[str]) -> str:
    """The classes in reading order, such as "42", or "cat dog"; rows are apart by " / "."""
    gap = " " if any(len(name) > 1 for name in class_names) else ""
    text = class_names[detections[0].classes] if detections else ""
    for before, each in itertools.pairwise(detections):
        text += " / " if each.row != before.row else gap
        text += class_names[each.classes]
    return text


class Model:
    """A trained network.

    Attributes:
      config: of its training.
      network: the linen module.
      step: of the training step after which it is.
      variables: the network's, those to predict with, NumPy arrays: "params", and its mutable
        collections.
      trained_params: those that were trained, of which results.json has the fingerprint.
      class_names: what each class stands for.
      image_shape: height, width and channels of an input.
      preparation: how a picture becomes an input: see pictures.py.
      workdir: of its run.
      metrics: of the evaluation after that step, by split, such as {"test": {"loss": 0.03,
        "accuracy": 0.99}}; {} where there was none.
    """

    def __init__(self, run: Run, info: datasets.DatasetInfo, state: TrainState, layout: Layout):
        self.config, self.workdir = run.config, run.workdir.path
        self.step = int(fetch(state.step))
        self.metrics = _metrics_after(self.step, run.workdir)
        variables = state.eval_variables
        self.variables: dict[str, Any] = fetch(variables)
        self.trained_params: dict[str, Any] = fetch(state.params)
        self.class_names, self.image_shape = info.class_names, info.image_shape
        self.preparation = info.preparation
        self.network = state.model
        self._layout, self._variables = layout, variables

        def apply(
            variables: dict[str, Any], images: Shaped[Array, "n h w c"]
        ) -> Float[Array, "n classes"]:
            x = to_float(images) if images.dtype == np.uint8 else images
            return state.apply_fn(variables, x, train=False)

        options = tuning.compiler_options(getattr(state.model, "dtype", None))
        self._apply = jax.jit(apply, out_shardings=layout.everywhere, compiler_options=options)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters to predict with."""
        return self.variables["params"]

    def __repr__(self) -> str:
        of = f" of {self.workdir}" if self.workdir else ""
        found = [f"accuracy {m['accuracy']:.4f} on {split}" for split, m in self.metrics.items()]
        facts = ", ".join([*found, f"{num_parameters(self.params):,} parameters"])
        return f"Model({self.config.dataset}, step {self.step}{of}: {facts})"

    def predict(self, images: Picture | Sequence[Picture]) -> Predictions:
        """The most probable class of a picture, or of each of several, and all probabilities.

        Pictures may have any size, grey levels or colours, dark on light or light on dark: they are
        prepared as `jaxmnist predict` does it. A path, the Pillow image of that file and the array
        of that image's pixels have the same answer.

        Only arrays of the model's `image_shape` are used as they are, where that has 1 channel also
        without this axis: they must be like the data set's, MNIST's light on dark, but upright as a
        person sees them (EMNIST's own arrays have swapped axes).

        Args:
          images: a picture or several. A picture is a path, a Pillow image or an array of the shape
            (height, width), or (height, width, channels) with 1 to 4 channels: grey, grey and
            opacity, RGB, RGBA. Several are a list, or an array with one more axis, the first.
            Levels are integers from 0 to 255 or floating-point numbers in [0, 1]; True is white;
            an array of uint16 with levels above 255 has 16 bits.

        Raises:
          UserError: a file or an image is no picture, is damaged, or shows nothing, or several:
            `detect` answers these.
          ValueError: an array has another shape, type or range.
        """
        given, names, is_one = self._given(images)
        is_page = np.array([isinstance(each, pictures.Page) for each in given], bool)
        inputs = _stacked([x for x in given if not isinstance(x, pictures.Page)], self.image_shape)
        probabilities = np.empty((len(given), len(self.class_names)), np.float32)
        probabilities[~is_page] = self.probabilities(pictures.swap(inputs, self.preparation))
        pages = [each for each in given if isinstance(each, pictures.Page)]
        for i, found in zip(np.flatnonzero(is_page), reading.detect(self, pages), strict=True):
            if len(found) != 1:
                raise UserError(_not_one(names[i], len(found), self.preparation["shows"]))
            probabilities[i] = found[0].probabilities
        answers = probabilities.argmax(-1), probabilities
        predictions = Predictions(*(x[0] for x in answers) if is_one else answers)
        predictions.class_names = self.class_names
        return predictions

    def detect(self, images: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """All that a picture shows, such as the digits of a number, with the answer to each.

        Args:
          images: a picture or several, as `predict` takes them. Arrays of the model's `image_shape`
            are one object each; floating-point levels are rounded to uint8.

        Returns:
          Of one picture a list of detections, in reading order, which is empty if nothing is on it;
          of several a list of these lists.

        Raises:
          UserError: a file or an image is no picture, or is damaged.
          ValueError: an array has another shape, type or range.
        """
        given, _, is_one = self._given(images, may_be_blank=True)
        pages = [x if isinstance(x, pictures.Page) else _page(x) for x in given]
        found = [Detections(each, self.class_names) for each in reading.detect(self, pages)]
        return found[0] if is_one else found

    def _given(
        self, images: Picture | Sequence[Picture], may_be_blank: bool = False
    ) -> tuple[Sequence[pictures.Page | np.ndarray] | np.ndarray, list[str], bool]:
        """What pictures show, or inputs that are used as they are, with names for errors.

        The last is whether it is one picture only.
        """
        listed: Any
        if isinstance(images, list | tuple) and all(_is_picture(each) for each in images):
            listed, is_one = images, False
        elif _is_file(images):
            listed, is_one = [images], True
        else:
            listed, is_one = _as_many(np.asarray(images), "the picture", self.image_shape)
        names = [
            str(each) if _is_path(each) else "the picture" if is_one else f"images[{i}]"
            for i, each in enumerate(listed)
        ]
        if isinstance(listed, np.ndarray) and listed.shape[1:] == self.image_shape:
            return listed, names, is_one
        given: list[pictures.Page | np.ndarray] = []
        for x, name in zip(listed, names, strict=True):
            try:
                given.append(_page_or_input(x, name, self.preparation, self.image_shape))
            except NothingShown:
                if not may_be_blank:
                    raise
                given.append(pictures.Page(_NO_PICTURE, (0, 0), []))
        return given, names, is_one

    def probabilities(
        self, inputs: Shaped[np.ndarray, "n h w c"]
    ) -> Float[np.ndarray, "n classes"]:
        """The probabilities of all classes for inputs as the data set has them."""
        return _softmax(self.logits(inputs))

    def logits(self, inputs: Shaped[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n classes"]:
        """The logits for inputs as the data set has them: uint8, or float32 in [0, 1]."""
        # Two sizes of batches are compiled: one image, and a batch that needs little memory. By
        # default that is the evaluation's, so that its answers come out to the bit.
        most = min(self.config.eval_batch_size, _LARGEST_BATCH)
        size = self._layout.round_up(1 if len(inputs) == 1 else most)
        found = [np.empty((0, len(self.class_names)), np.float32)]
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            batch = self._layout.put(padded, self._layout.batch())
            found.append(fetch(self._apply(self._variables, batch))[: len(part)])
        return np.concatenate(found)


def load(workdir: str | Path, dtype: str | None = None, *, trust_code: bool = False) -> Model:
    """The model of a workdir's newest checkpoint; with keep_best, of its best.

    Args:
      workdir: of the run.
      dtype: of the products, in place of the run's.
      trust_code: whether the code of a network that the workdir holds may be run, now and later,
        though it was not trained with here.

    Raises:
      UserError: the workdir holds no run, several, no whole checkpoint, or another network.
    """
    record = Workdir(local_path(workdir, "workdir"))
    if not record.path.exists():
        raise UserError(f"{workdir}: there is no such folder.")
    config = record.load_config()
    if config is None or config.num_seeds > 1:
        there = find_runs.several(record.path)
        raise UserError(
            f"{there}. Name one of them."
            if there
            else f"{workdir} holds no run: train there first."
        )
    if trust_code:
        own_model.trust(config.model)
    config.dtype = dtype or config.dtype
    info, layout = record.dataset_info(config), Layout.create()
    compiled = compiled_steps(config, info, layout)
    return Model(Run(config, record), info, newest_state(config, record, compiled), layout)


def load_evaluation(
    config: ConfigDict, data_dir: str | None = None, class_names: Sequence[str] | None = None
) -> datasets.Dataset:
    """The split that a run was evaluated on.

    The sample never stands in for MNIST here: a run on MNIST was trained on it.

    Args:
      config: the config of the run.
      data_dir: tfds's folder, if not the run's own.
      class_names: those that the model knows.

    Raises:
      UserError: as datasets.read does, or the dataset has other classes.
    """
    config = config.copy_and_resolve_references()
    config.allow_sample = False
    if data_dir is not None:
        config.data_dir = str(local_path(data_dir, "data_dir"))
    found = datasets.read(config, [config.eval_split])
    if class_names is not None:
        found.info.check_classes(class_names)
    return found


def newest_state(config: ConfigDict, record: Workdir, compiled: CompiledSteps) -> TrainState:
    """The state of a run's newest whole checkpoint, or of its best where its config keeps that.

    Only what evaluation needs is read of it.
    The rest has shapes and no values. All processes call it, and process 0 reads.

    Raises:
      UserError: there is none, or it is of another network than today's.
    """
    network = describe_network(compiled.state.model, compiled.image_shape, tuple(config))
    distributed.from_first(lambda: record.check_network(network))
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), compiled.state.saved_part())
    needed = {"step", "params", "model_state"} & set(shapes)
    parts = None if compiled.state.optimizer.averages else tuple(needed)
    tree = distributed.from_first(lambda: _newest(record, config, shapes, parts))
    return compiled.state.replace(**compiled.layout.put(tree, compiled.layout.state))


def _newest(
    record: Workdir, config: ConfigDict, shapes: dict[str, Any], parts: tuple[str, ...] | None
) -> dict[str, Any]:
    for folder in (*[record.best] * config.keep_best, record.checkpoints):
        if folder.is_dir():
            with contextlib.closing(Checkpoints(folder, read_only=True)) as opened:
                trees, _ = checkpoints.restore([opened], shapes, parts)
            if trees:
                return trees[0]
    raise UserError(f"{record.checkpoints} holds no whole checkpoint: train there first.")


def _metrics_after(step: int, record: Workdir) -> dict[str, dict[str, float]]:
    """The newest evaluation of a step, by split."""
    evaluated = [r for r in read_metrics(record) if r["step"] == step and r["split"] != "train"]
    return {r["split"]: {name: r[name] for name in ("loss", "accuracy")} for r in evaluated}


def _softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def _is_path(picture: Any) -> bool:
    return isinstance(picture, str | os.PathLike)


def _is_file(picture: Any) -> bool:
    return _is_path(picture) or isinstance(picture, Image.Image)


def _is_picture(picture: Any) -> bool:
    """Whether it is a picture by itself, in a list, and not a row or an axis of an array."""
    return _is_file(picture) or getattr(picture, "ndim", 0) >= 2


def _not_one(name: str, count: int, shows: str) -> str:
    if not count:
        return f"{name} shows no {shows}."
    # Only strokes are several: digits, letters or characters.
    return f"{name} shows {count} {shows}s: `model.detect` answers each of them."


def _stacked(
    inputs: Sequence[np.ndarray], image_shape: tuple[int, ...]
) -> Shaped[np.ndarray, "n h w c"]:
    """Inputs as one array: uint8, or float32 if any of them is."""
    if any(each.dtype != np.uint8 for each in inputs):
        inputs = [x / np.float32(255) if x.dtype == np.uint8 else x for x in inputs]
    return np.stack(inputs) if inputs else np.empty((0, *image_shape), np.uint8)


def _page(levels: Shaped[np.ndarray, "h w c"]) -> pictures.Page:
    """An input, used as it is, as a page that shows nothing else."""
    if levels.dtype != np.uint8:
        levels = np.round(levels * 255).astype(np.uint8)
    height, width, _ = levels.shape
    region = pictures.Region((0, 0, width, height), levels)
    return pictures.Page(pictures.to_pillow(levels), (width, height), [region])


def _page_or_input(
    picture: Picture, name: str, preparation: pictures.Preparation, image_shape: tuple[int, ...]
) -> pictures.Page | Shaped[np.ndarray, "h w c"]:
    """What a picture shows, or the input that an array of the shape is."""
    if isinstance(picture, str | os.PathLike):
        picture = local_path(name, "the picture", as_pattern=False)
        if picture.is_dir():
            raise UserError(f"{name} is a folder: name the pictures in it.")
    elif not isinstance(picture, Image.Image):
        many, is_one = _as_many(np.asarray(picture), name, image_shape)
        if not is_one:
            raise ValueError(
                f"{name}: an array of the shape {np.shape(picture)} holds several pictures: list "
                "each of them."
            )
        levels = many[0]
        if levels.shape == image_shape:
            return levels
        if levels.dtype != np.uint8:
            levels = np.round(levels * 255).astype(np.uint8)
        picture = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    page = pictures.find(picture, name, preparation)
    return page._replace(picture=_NO_PICTURE)  # Many would take much memory.


def _as_many(
    images: np.ndarray, name: str, image_shape: tuple[int, ...]
) -> tuple[Shaped[np.ndarray, "n h w channels"], bool]:
    """An array's pictures, uint8 or float32 in [0, 1], and whether it is one picture only."""
    images, shape, channels = _levels(images, name), images.shape, (1, 2, 3, 4, image_shape[2])
    # A width of up to 4 pixels looks like channels, unless it is the inputs'.
    are_inputs = (*shape[-2:], 1) == image_shape
    if images.ndim == 2 or (images.ndim == 3 and (are_inputs or shape[-1] not in channels)):
        images = images[..., None]
    is_one = images.ndim == 3
    images = images[None] if is_one else images
    if images.ndim != 4 or images.shape[-1] not in channels or 0 in images.shape[1:]:
        raise ValueError(
            f"{name}: the array has the shape {shape}, which is no picture's: that is (height, "
            "width) or (height, width, 1 to 4 channels), and of many one more axis, the first."
        )
    return images, is_one


def _levels(images: np.ndarray, name: str) -> np.ndarray:
    """Grey levels or colours as uint8, or as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images
    if images.dtype == bool:
        return images * np.uint8(255)
    if np.issubdtype(images.dtype, np.floating):
        if not ((images >= 0) & (images <= 1)).all():
            raise ValueError(
                f"{name}: floating-point levels must be in [0, 1], and integers in 0 to 255."
            )
        return images.astype(np.float32)
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(
            f"{name} is no path, no Pillow image and no array of numbers, but {images.dtype}: give "
            "one of these, or a list."
        )
    if ((images >= 0) & (images <= 255)).all():
        return images.astype(np.uint8)
    if images.dtype == np.uint16:
        return (images >> 8).astype(np.uint8)
    raise ValueError(f"{name}: levels of type {images.dtype} must be in 0 to 255.")
