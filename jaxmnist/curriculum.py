"""A curriculum: all training examples first, then only the hardest, which a small network finds.

Most digits are learned from the first thousands, and steps on them teach little afterwards. Which
are hard can be known before the training: a network of few parameters, 6,634 for MNIST, finds them
well enough (selection via proxy, Coleman et al. 2020, https://arxiv.org/abs/1906.11829).
"""

import dataclasses
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from jaxmnist.calls import parse_call
from jaxmnist.data.input_pipeline import Batch, Examples, ShuffledBatches, to_float
from jaxmnist.devices import tuning
from jaxmnist.devices.sharding import Layout
from jaxmnist.errors import UserError

# Of the small network's training.
_HIDDEN, _STEPS, _BATCH_SIZE, _RATE = 32, 480, 250, 0.01


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """From which step on a run trains on which share of its examples.

    Attributes:
      share: of the training examples, the hardest.
      after: how many steps are on all examples before.
    """

    share: float
    after: int


def create_curriculum(text: str) -> Curriculum | None:
    """The curriculum of a config, such as "hardest(share=0.3, after=60)"; None for "".

    Raises UserError if it is none.
    """
    if not text.strip():
        return None
    where = f"curriculum={text!r} is not allowed"
    try:
        name, kwargs = parse_call(text)
    except ValueError:
        name, kwargs = "", {}
    if name != "hardest" or set(kwargs) != set(inspect.signature(Curriculum).parameters):
        raise UserError(f"{where}: it must be such as 'hardest(share=0.3, after=60)'.")
    share, after = kwargs["share"], kwargs["after"]
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise UserError(f"{where}: share must be a number above 0 and at most 1.")
    if type(after) is not int or not 0 <= after < 2**31:
        raise UserError(f"{where}: after must be a whole number of at least 0, of steps.")
    return Curriculum(float(share), after)


def training_batches(
    config: ConfigDict,
    examples: Examples,
    num_classes: int,
    key: Key[Array, "..."],
    layout: Layout,
) -> "ShuffledBatches | CurriculumBatches":
    """The batches that a config trains on, as a function of the step: see ShuffledBatches."""
    all_examples = ShuffledBatches(examples, key, config.batch_size, layout)
    curriculum = create_curriculum(config.curriculum)
    if curriculum is None:
        return all_examples
    return CurriculumBatches(curriculum, all_examples, num_classes)


class CurriculumBatches:
    """Shuffled batches of all examples, and from a step on of the hardest alone.

    As with ShuffledBatches, a batch is a pure function of the key and the step.
    """

    def __init__(self, curriculum: Curriculum, batches: ShuffledBatches, num_classes: int):
        """Raises ValueError for batches that are larger than the share."""
        self._after, self._all, layout = curriculum.after, batches, batches.layout
        count = num_hardest(curriculum, len(batches.examples))
        if batches.batch_size > count:
            raise ValueError(f"batch_size={batches.batch_size} of {count} examples")

        def find(key, examples):
            # No epoch has this number, so no permutation is drawn from the same key.
            for_ranking, for_order = jax.random.split(jax.random.fold_in(key, 2**31))
            return hardest(for_ranking, examples, num_classes, count), for_order

        # Compiled as a step is, it takes twice as long to compile and runs no faster.
        options = tuning.options_to_compile_fast(1)
        self._find = layout.jit(find, layout.state, in_axes=(0, None), compiler_options=options)
        self._stack = layout.jit(
            lambda *batches: jax.tree.map(lambda *x: jnp.stack(x), *batches),
            layout.batches(stacked=True),
        )
        self._compiled: Callable | None = None
        self._hardest: ShuffledBatches | None = None

    def compile(self) -> None:
        """Compiles what finds the hardest examples, before they are wanted."""
        if not jax.config.values["jax_disable_jit"] and self._compiled is None:
            self._compiled = self._find.lower(self._all.key, self._all.examples).compile()

    def __call__(self, step: int, count: int = 1) -> Batch:
        """Batch `step`, or those of `count` steps, as ShuffledBatches gives them."""
        if step + count <= self._after:
            return self._all(step, count)
        if step < self._after:  # At most one call of a run.
            return self._stack(*(self(each) for each in range(step, step + count)))
        if self._hardest is None:
            find = self._compiled or self._find
            index, key = find(self._all.key, self._all.examples)
            batch_size, layout = self._all.batch_size, self._all.layout
            self._hardest = ShuffledBatches(self._all.examples, key, batch_size, layout, index)
        return self._hardest(step - self._after, count)


def num_hardest(curriculum: Curriculum, num_examples: int) -> int:
    """How many of so many training examples are the hardest."""
    return round(curriculum.share * num_examples)


def hardest(
    key: Key[Array, ""], examples: Examples, num_classes: int, count: int
) -> Int[Array, " count"]:
    """The places of the `count` examples on which a small network's loss is the greatest.

    The network sees images of half the height and width and has one hidden layer of 32 units. It
    takes 480 steps of 250 examples, two passes over MNIST, by Adam at a rate from 0.01 to 0.

    Args:
      key: of its initial parameters and of the order of its batches.
      examples: to choose from.
      num_classes: how many classes their labels are of.
      count: how many to choose.
    """
    batch_size = min(_BATCH_SIZE, len(examples))
    passes = -(-_STEPS * batch_size // len(examples))
    for_params, for_order = jax.random.split(key)
    network, tx = _Small(num_classes), optax.adam(optax.linear_schedule(_RATE, 0.0, _STEPS))
    params = network.init(for_params, _batch(examples, jnp.arange(1))[0])

    def losses(params, index):
        images, labels = _batch(examples, index)
        logits = network.apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def step(carry, index):
        params, opt_state = carry
        grads = jax.grad(lambda params: losses(params, index).mean())(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    each_pass = jax.random.split(for_order, passes)
    order = jax.vmap(lambda each: jax.random.permutation(each, len(examples)))(each_pass)
    index = order.ravel()[: _STEPS * batch_size].reshape(_STEPS, batch_size)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), index)
    found = jax.lax.map(
        lambda i: losses(params, i[None])[0], jnp.arange(len(examples)), batch_size=batch_size
    )
    return jax.lax.top_k(found, count)[1]


class _Small(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch pixels"]) -> Float[Array, "batch classes"]:
        return nn.Dense(self.num_classes)(nn.relu(nn.Dense(_HIDDEN)(x)))


def _batch(
    examples: Examples, index: Int[Array, " batch"]
) -> tuple[Float[Array, "batch pixels"], Int[Array, " batch"]]:
    """Images as float32 in [0, 1], each 2x2 pixels their mean; and labels."""
    images = to_float(examples.images[index])
    n, height, width, channels = images.shape
    rows, columns = -(-height // 2), -(-width // 2)  # An odd last row has black below it.
    odd = (0, 2 * rows - height), (0, 2 * columns - width)
    windows = jnp.pad(images, ((0, 0), *odd, (0, 0))).reshape(n, rows, 2, columns, 2, channels)
    return windows.mean((2, 4)).reshape(n, -1), examples.labels[index]
