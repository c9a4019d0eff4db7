"""What a trained model gets right and wrong on its evaluation split."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer
from ml_collections import ConfigDict

from jaxmnist.data import datasets
from jaxmnist.data.datasets import Split
from jaxmnist.record.network import Layer
from jaxmnist.record.results import wilson_interval

NUM_BINS = 15  # As in Guo et al. 2017.
MOST_CLASSES = 100  # How many are shown: each takes a row and a column of the confusion matrix.


@dataclasses.dataclass(frozen=True)
class Bins:
    """Examples in bins of equal width, by confidence: the probability of the most probable class.

    Attributes:
      count: the number of examples in each bin.
      confidence: the mean confidence in each bin; NaN where it is empty.
      accuracy: the accuracy in each bin; NaN where it is empty.
    """

    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @property
    def expected_calibration_error(self) -> float:
        """The mean distance of accuracy from confidence (Guo et al. 2017, equation 3)."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gap * self.count) / self.count.sum())


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A run, and what its model answers to each example of its evaluation split.

    Attributes:
      name: the name of the run.
      config: the run's config.
      dataset: the name of the data set.
      step: the step of the checkpoint.
      starts: when the run was started and continued; see Workdir.save_start.
      records: the records of its metrics.jsonl.
      results: its results.json; None before it has finished.
      class_names: the names of the classes.
      split: the examples, upright.
      probabilities: the probability of each class, for each example.
      kernel: the kernel of the first layer; None where that is no convolution of grey levels or of
        RGB with a name as the paper's network has it.
      layers: of the network.
    """

    name: str
    config: ConfigDict
    dataset: str
    step: int
    starts: list[dict[str, Any]]
    records: list[dict[str, Any]]
    results: dict[str, Any] | None
    class_names: list[str]
    split: Split
    probabilities: Float[np.ndarray, "n classes"]
    kernel: Float[np.ndarray, "height width channels filters"] | None
    layers: list[Layer]

    @functools.cached_property
    def classes(self) -> Integer[np.ndarray, " n"]:
        """The most probable class of each example."""
        return self.probabilities.argmax(-1)

    @functools.cached_property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """The probability of that class."""
        return self.probabilities.max(-1)

    @property
    def num_mistakes(self) -> int:
        return int(np.sum(self.classes != self.split.labels))

    @property
    def accuracy(self) -> float:
        return 1 - self.num_mistakes / len(self.split)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        of_label = self.probabilities[np.arange(len(self.split)), self.split.labels]
        return float(-np.log(np.maximum(of_label.astype(np.float64), 1e-38)).mean())

    def place(self, i: int) -> str:
        """Where the i-th example lies in the data set, in tfds's order: "test[247]"."""
        for base, first, end in self._parts:
            if i < end - first:
                return f"{base}[{first + i}]"
            i -= end - first
        raise IndexError(i)

    @functools.cached_property
    def _parts(self) -> list[tuple[str, int, int]]:
        return datasets.slice_of(datasets.describe(self.config), self.config.eval_split)

    @functools.cached_property
    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """The number of examples of each label (row) that are taken for each class (column)."""
        counts = np.zeros((len(self.class_names),) * 2, int)
        np.add.at(counts, (self.split.labels, self.classes), 1)
        return counts

    @functools.cached_property
    def shown_classes(self) -> Int[np.ndarray, " k"]:
        """The classes that a page has room for: all, or MOST_CLASSES with the most mistakes."""
        wrong = self.confusion * (1 - np.eye(len(self.class_names), dtype=int))
        most = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:MOST_CLASSES]
        return np.sort(most)

    @functools.cached_property
    def bins(self) -> Bins:
        """The examples, binned by confidence."""
        bin_of = np.minimum((self.confidence * NUM_BINS).astype(int), NUM_BINS - 1)
        correct = (self.classes == self.split.labels).astype(float)
        count, confidence, right = (
            np.bincount(bin_of, weights, NUM_BINS) for weights in (None, self.confidence, correct)
        )
        some = np.where(count > 0, count, np.nan)
        return Bins(count, confidence / some, right / some)


def interval(
    right: Integer[np.ndarray, " k"], of: Integer[np.ndarray, " k"]
) -> Float[np.ndarray, "2 k"]:
    """How far the 95 % intervals of proportions reach below and above them (Wilson 1927)."""
    p = right / of
    low, high = wilson_interval(p, of)
    return np.maximum([p - low, high - p], 0)  # Rounding makes them negative at 0 and 1.
