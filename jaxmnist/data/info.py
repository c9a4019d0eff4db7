"""What is known of a dataset before its images are read."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxmnist.errors import UserError

Preparation = dict[str, Any]  # pictures.py says what it holds.
MNIST_SHAPE = (28, 28, 1)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before its images are read.

    Attributes:
      name: its name, as a config has it.
      num_examples: of each split, such as {"train": 60000, "test": 10000}.
      class_names: what each class stands for.
      image_shape: height, width and channels of its images.
      preparation: how a picture becomes an input; see pictures.py.
      sha256: of the examples that a run trains on, where a dataset of this name may change; ""
        before they are read, and for those of MNIST's family.
    """

    name: str
    num_examples: dict[str, int]
    class_names: list[str]
    image_shape: tuple[int, ...]
    preparation: Preparation
    sha256: str = ""

    def check_classes(self, trained: Sequence[str]) -> None:
        """Raises UserError if a model was trained on other classes than the dataset has now."""
        if list(trained) != list(self.class_names):
            raise UserError(
                f"{self.name} has other classes now ({some(self.class_names)}) than the model was "
                f"trained on ({some(trained)}): put them back as they were, or train anew in "
                "another workdir."
            )


def some(names: Sequence[str], count: int = 5) -> str:
    """The first of many names, in words."""
    return ", ".join([*names[:count], *(["..."] if len(names) > count else [])])


def preparation(
    config: ConfigDict, class_names: list[str], image_shape: tuple[int, ...]
) -> Preparation:
    """How pictures become inputs of a shape, as `config.prepare` says.

    What has colours, or any other number of channels than one, is only resized.
    """
    shape = {} if image_shape == MNIST_SHAPE else {"shape": list(image_shape)}
    if config.prepare == "resize" or image_shape[2] != 1:
        return {"shows": "picture", "method": "resize", "swap_axes": False, **shape}
    shows = "digit" if all(name.isdecimal() for name in class_names) else "character"
    box = max(1, round(min(image_shape[:2]) * 20 / 28))
    strokes = {"method": "strokes", "box": box, "centre": "mass", "swap_axes": False}
    return {"shows": shows, **strokes, **shape}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as people do: "2" before "10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
