"""What a trained model gets right and wrong on its evaluation split, in numbers."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer
from ml_collections import ConfigDict

from jaxmnist.data import datasets
from jaxmnist.data.datasets import Split
from jaxmnist.record.results import wilson_interval

NUM_BINS = 15  # Of confidence, as Guo et al. 2017 have them.


@dataclasses.dataclass(frozen=True)
class Bins:
    """Examples by the probability of their most probable class, in bins of equal width.

    Attributes:
      count: of each bin.
      confidence: the mean of that probability; of an empty bin NaN.
      accuracy: of the bin; of an empty one NaN.
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
    """A run, and what its model says of each example of its evaluation split.

    Attributes:
      name: of the run.
      config: the run's.
      dataset: its name.
      step: of the checkpoint.
      starts: of its run.json: Workdir.save_start says of what.
      records: of its metrics.jsonl.
      results: of its results.json; None before it has finished.
      class_names: what each class stands for.
      split: the examples, upright.
      probabilities: of each example and class.
      kernel: of the first layer.
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
    kernel: Float[np.ndarray, "height width 1 filters"]

    @functools.cached_property
    def classes(self) -> Integer[np.ndarray, " n"]:
        """The most probable class of each example."""
        return self.probabilities.argmax(-1)

    @functools.cached_property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """Its probability."""
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
        """Where an example lies in the whole split that it is of, in tfds's order: "test[247]"."""
        for base, first, end in datasets.slice_of(self.config.dataset, self.config.eval_split):
            if i < end - first:
                return f"{base}[{first + i}]"
            i -= end - first
        raise IndexError(i)

    @functools.cached_property
    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """How many examples of each label (row) are taken for each class (column)."""
        counts = np.zeros((len(self.class_names),) * 2, int)
        np.add.at(counts, (self.split.labels, self.classes), 1)
        return counts

    @functools.cached_property
    def bins(self) -> Bins:
        """The examples by confidence."""
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
    """How far 95 % confidence reaches below and above the proportions (Wilson 1927)."""
    p = right / of
    low, high = wilson_interval(p, of)
    return np.maximum([p - low, high - p], 0)  # At 0 and 1 rounding would make it less.
