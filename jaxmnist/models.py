"""The paper's convolutional network, a Flax linen module."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class MaxPool(nn.Module):
    """2x2 max-pooling with stride 2; an odd last row or column is dropped.

    The maximum of four strided slices has the values of `nn.max_pool`, whose gradient
    (select-and-scatter) is 30 times slower on a CPU. Where pixels of a window tie, the
    gradient is shared between them instead of going to the first one.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h//2 w//2 c"]:
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
        return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


class CNN(nn.Module):
    """Two convolutions, two poolings and two dense layers; the defaults are the paper's.

    3,274,634 parameters with 28x28x1 inputs: Glorot-uniform kernels and zero biases.

    Attributes:
      features: output channels of each SAME convolution.
      kernel_size: height and width of the convolutions' kernels, in pixels.
      hidden: units of the dense layer.
      dropout_rate: fraction of the dense layer's units dropped in training.
      num_classes: number of logits, which are float32 whatever `dtype` is.
      dtype: of the layers' products, such as jnp.bfloat16, but not of conv_pool's; None: the
        inputs' and parameters'.
      conv_pool: what computes a convolution, its pooling and its ReLU from (x, kernel, bias)
        in place of the layers written here, which are its reference.
    """

    features: tuple[int, ...] = (32, 64)
    kernel_size: int = 5
    hidden: int = 1024
    dropout_rate: float = 0.4
    num_classes: int = 10
    dtype: DTypeLike | None = None
    conv_pool: Callable[[Array, Array, Array], Array] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits of images in [0, 1]; `train` needs a "dropout" rng."""
        init = nn.initializers.glorot_uniform()
        for features in self.features:
            size = (self.kernel_size, self.kernel_size)
            conv = nn.Conv(features, size, kernel_init=init, dtype=self.dtype)
            if self.conv_pool is None or self.is_initializing():
                # relu(pool(x)) equals pool(relu(x)) and touches a quarter of the elements. On a CPU
                # cpu_layers.py computes these three: change them there too.
                x = nn.relu(MaxPool()(conv(x)))
            else:
                params = conv.variables["params"]
                x = self.conv_pool(x, params["kernel"], params["bias"])
        x = x.reshape(x.shape[0], -1)  # len() of a free batch dimension is no number.
        x = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype)(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=init)(x)


def num_parameters(params) -> int:
    """The number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def describe_arrays(tree) -> dict[str, str]:
    """Type and shape of each array of a tree: {"params/Conv_0/bias": "float32 (32,)"}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype} {tuple(x.shape)}"
        for path, x in leaves
        if hasattr(x, "shape")
    }


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
      name: its place among the parameters, such as "Conv_0".
      kind: its class, such as "Conv".
      shape: of its output, without the batch.
      parameters: how many it has.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def layer_table(module: nn.Module, image_shape: tuple[int, ...] = (28, 28, 1)) -> list[Layer]:
    """The layers of a network, in the order in which they are called.

    A module that calls others is told of by those. A layer that is called again has its parameters
    in its first row.
    """
    rows: list[Layer] = []

    def add(call, args, kwargs, context):
        before = len(rows)
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and len(rows) == before:
            layer = context.module
            name, params = "/".join(layer.path), layer.variables.get("params", {})
            is_new = name not in (row.name for row in rows)
            count = num_parameters(params) if is_new else 0
            rows.append(Layer(name, type(layer).__name__, output.shape[1:], count))
        return output

    with nn.intercept_methods(add):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return rows
