"""The paper's convolutional network and its variants, a Flax linen module."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxmnist.config import PAPERS_FIELDS

IMAGE_SHAPE = (28, 28, 1)
Normalize = Callable[[Array], Array]  # Of (..., features), over all axes but the last.


def max_pool(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h//2 w//2 c"]:
    """2x2 max-pooling with stride 2; an odd last row or column is dropped.

    The maximum of strided slices has the values of `nn.max_pool`, whose gradient
    (select-and-scatter) is 30 times slower on a CPU. Where pixels of a window tie, the
    gradient is shared between them instead of going to the first one.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


def conv_pool(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k channels features"],
    bias: Float[Array, " features"],
    dtype: DTypeLike | None = None,
    normalize: Normalize | None = None,
) -> Float[Array, "batch height//2 width//2 features"]:
    """relu(max_pool(normalize(conv(x) + bias))), with SAME padding, computed in `dtype`.

    On a CPU, compile.py puts that of devices/cpu_layers.py in its place, which has the same values
    in a faster form, or in bfloat16 that of devices/bfloat16_layers.py: what is changed here has to
    be changed there too.
    """
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=dtype)
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    y = y + bias.reshape(1, 1, 1, -1)
    y = normalize(y) if normalize else y
    # relu(pool(y)) equals pool(relu(y)) and touches a quarter of the elements.
    return nn.relu(max_pool(y))


class ConvPool(nn.Module):
    """A convolution, batch normalization if asked for, pooling and ReLU.

    It has the parameters of `nn.Conv`, and within it those of `nn.BatchNorm`.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel, in pixels.
      dtype: the type to compute in, as far as `function` heeds it; None: the inputs' and
        parameters'.
      function: computes the layer from (x, kernel, bias, dtype, normalize): `conv_pool`, or one
        with the same values.
      batch_norm: whether the convolution's outputs are normalized: in training by the mean and the
        variance of the batch, elsewhere by their running averages.
    """

    features: int
    kernel_size: int = 5
    dtype: DTypeLike | None = None
    function: Callable[..., Array] = conv_pool
    batch_norm: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height//2 width//2 features"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        normalize = None
        if self.batch_norm:  # Averages of some 10 steps, so that a short run has them too.
            normalize = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)
        # Parameters that were fetched are NumPy arrays.
        return self.function(x, jnp.asarray(kernel), jnp.asarray(bias), self.dtype, normalize)


class CNN(nn.Module):
    """Convolutions with pooling and two dense layers; the defaults are the paper's.

    3,274,634 parameters with 28x28x1 inputs: Glorot-uniform kernels and zero biases.

    Attributes:
      features: number of output channels of each SAME convolution, which a pooling follows.
      kernel_size: height and width of the convolutions' kernels, in pixels.
      hidden: number of units of the dense layer.
      dropout_rate: fraction of the dense layer's units that are dropped in training.
      num_classes: number of logits, which are float32 whatever `dtype` is.
      dtype: the type of the layers' products, such as jnp.bfloat16; None: the inputs' and
        parameters'.
      conv_pool: the function of its `ConvPool` layers.
      dot_general: the function of its hidden layer's product, in a type of its own; None: Flax's,
        in `dtype`.
      batch_norm: whether these normalize.
    """

    features: tuple[int, ...] = (32, 64)
    kernel_size: int = 5
    hidden: int = 1024
    dropout_rate: float = 0.4
    num_classes: int = 10
    dtype: DTypeLike | None = None
    conv_pool: Callable[..., Array] = conv_pool
    batch_norm: bool = False
    dot_general: Callable[..., Array] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits of images in [0, 1]; `train` needs a "dropout" rng."""
        init = nn.initializers.glorot_uniform()
        for i, features in enumerate(self.features):
            kind = (features, self.kernel_size, self.dtype, self.conv_pool, self.batch_norm)
            x = ConvPool(*kind, name=f"Conv_{i}")(x, train=train)
        x = x.reshape(x.shape[0], -1)  # Not len(x): an export has a batch of any size.
        # A function of its own rounds within, so that the gradients of parameters stay float32.
        dtype = jnp.float32 if self.dot_general else self.dtype
        hidden = nn.Dense(self.hidden, dtype=dtype, kernel_init=init, dot_general=self.dot_general)
        x = nn.relu(hidden(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        dtype = None if self.dtype is None else jnp.float32
        return nn.Dense(self.num_classes, kernel_init=init, dtype=dtype)(x)


class Functions(NamedTuple):
    """What a network's layers are computed with; the defaults are the plain layers.

    Attributes:
      conv_pool: the function of its `ConvPool` layers.
      dot_general: that of its hidden layer's product; None: Flax's.
      dtype: "float32" or "bfloat16"; None: the config's.
    """

    conv_pool: Callable[..., Array] = conv_pool
    dot_general: Callable[..., Array] | None = None
    dtype: str | None = None


def create_model(
    config: ConfigDict, num_classes: int = 10, functions: Functions | None = None
) -> nn.Module:
    """The network that a config trains.

    A network of one's own gets `num_classes`, `dtype` and `conv_pool` too, where it has fields of
    these names. Raises UserError as own_model.create.
    """
    functions = functions or Functions()
    dtype = functions.dtype or config.dtype
    given: dict[str, Any] = {
        "num_classes": num_classes,
        "dtype": None if dtype == "float32" else dtype,
        "conv_pool": functions.conv_pool,
    }
    if config.model:
        from jaxmnist import own_model  # Here, since most networks need none of it.

        return own_model.create(config.model, **given)
    own = {field: config[field] for field in PAPERS_FIELDS}
    return CNN(**own, **given, dot_general=functions.dot_general)


def num_parameters(params) -> int:
    """The number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
