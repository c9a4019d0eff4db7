"""Convolution, pooling and ReLU as matrix products: the same function, faster on a CPU.

Values and gradients are those of nn.Conv, MaxPool and nn.relu, to float32's rounding: where maxima
of a window are equal but for that, as in the black part of a digit, any of them gets the gradient.
Of what is not finite the outputs are NaN, of a whole example or feature where the plain layers' are
in a part of it.
Inside, height and width come before batch and channels, so that every product is one of plain
matrices.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxmnist import models
from jaxmnist.devices import bfloat16_layers, machine
from jaxmnist.devices.sharding import Layout, PerExample

_SIZES = (3, 5, 7)  # Kernels of other sizes are slower here, or take minutes to compile.


def fastest_functions(layout: Layout, config: ConfigDict | None = None) -> models.Functions:
    """What a config's network is computed with to be fastest on a layout's devices.

    Accelerators have units for convolutions. A CPU is faster with the same in another form; in
    bfloat16 only where the products reach units for it, and else all is computed in float32.
    """
    if jax.default_backend() != "cpu":
        return models.Functions()
    if layout.mesh.size > 1:
        function = PerExample(conv_pool, models.conv_pool, layout.mesh)
        return models.Functions(function, dtype="float32")
    if config is not None and layout.num_runs == 1 and _suits_bfloat16(config):
        return models.Functions(conv_pool, bfloat16_layers.dot_general)
    return models.Functions(conv_pool, dtype="float32")


def _suits_bfloat16(config: ConfigDict) -> bool:
    is_known = not config.model and config.kernel_size in _SIZES
    return config.dtype == "bfloat16" and is_known and machine.has_bfloat16_units()


def is_used(model: nn.Module) -> bool:
    """Whether a network's convolutions are computed here, and not by models.conv_pool."""
    function = getattr(model, "conv_pool", models.conv_pool)
    if getattr(model, "kernel_size", _SIZES[0]) not in _SIZES:
        return False
    if isinstance(function, PerExample):
        return not getattr(model, "batch_norm", False)
    return function is conv_pool


def conv_pool(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k channels features"],
    bias: Float[Array, " features"],
    dtype: DTypeLike | None = None,
    normalize: models.Normalize | None = None,
) -> Float[Array, "batch height//2 width//2 features"]:
    """models.conv_pool in another form; with a `dtype` of bfloat16 in that of bfloat16_layers."""
    if len(kernel) not in _SIZES:
        return models.conv_pool(x, kernel, bias, dtype, normalize)
    is_even = not (x.shape[1] % 2 or x.shape[2] % 2)
    is_rounded = dtype is not None and jnp.dtype(dtype) == jnp.bfloat16
    if is_rounded and (is_even or not normalize):  # What pooling drops, if odd, counts.
        return bfloat16_layers.conv_pool(x, kernel, bias, normalize)
    x, bias = x.transpose(1, 2, 0, 3), bias.reshape(1, 1, 1, -1)
    if normalize:  # The bias comes before it, and what pooling drops counts too.

        def shifted(y: Array) -> Array:
            return normalize(y + bias.reshape((1,) * (y.ndim - 1) + (-1,)))

        pool = _patches_pool if x.shape[3] < 8 and is_even else _fourier_pool
        y = jax.nn.relu(pool(x, kernel, shifted))
    elif x.shape[3] < 8:
        y = jax.nn.relu(_patches_pool(x, kernel) + bias)
    else:
        pooled = _fourier_pool(x, kernel)
        # What would be exactly zero is a rounding error here. It must not open the ReLU: at the
        # first step, when biases are zero, that is the black part of every digit. What is not
        # finite stays so: an error that is NaN or infinite, times 0, is NaN.
        error = 4 * jnp.finfo(pooled.dtype).eps * jnp.abs(pooled).max((0, 1, 3), keepdims=True)
        error = jax.lax.stop_gradient(error)
        y = pooled + bias
        y = jnp.where(y <= error, 0 * error, y)
    return y.transpose(2, 0, 1, 3)


def _patches_pool(
    x: Float[Array, "height width batch channels"],
    kernel: Float[Array, "k k channels features"],
    normalize: models.Normalize | None = None,
) -> Float[Array, "height//2 width//2 batch features"]:
    """One product with patches of pixels, for inputs of few channels.

    The four outputs of a pooling window see the same (k + 1)**2 pixels, so each of these is a
    patch, and the kernel is laid into it at four places: more arithmetic than with k**2 pixels
    for each output, but a quarter of the patches, and the maximum is over neighbours in memory.
    """
    height, width, batch, channels = x.shape
    k, rows, columns = len(kernel), height // 2, width // 2
    pad = ((k - 1) // 2, k // 2)
    x = jnp.pad(x, (pad, pad, (0, 0), (0, 0))).transpose(3, 0, 1, 2)
    places = [(i, j) for i in range(k + 1) for j in range(k + 1)]
    patches = jnp.stack([x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i, j in places])
    outputs = [(i, j) for i in (0, 1) for j in (0, 1)]
    placed = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i, j in outputs]
    kernels = jnp.stack(placed, axis=3).reshape(len(places) * channels, -1)
    windows = patches.reshape(len(kernels), -1).T @ kernels
    windows = windows.reshape(rows, columns, batch, 4, -1)
    if normalize is None:
        return windows.max(3)
    windows = normalize(windows).reshape(rows, columns, batch, 2, 2, -1)
    return _max_of_pairs(windows, 3, 3)


def _fourier_pool(
    x: Float[Array, "height width batch channels"],
    kernel: Float[Array, "k k channels features"],
    normalize: models.Normalize | None = None,
) -> Float[Array, "height//2 width//2 batch features"]:
    """A product for each frequency (the convolution theorem): a thirteenth of the arithmetic."""
    if normalize:
        return _max_of_pairs(_in_pairs(normalize(_fourier_convs([x], kernel, 1)[0])), 1, 2)
    return _fourier_max(x, kernel)


# Such a product is so small that XLA gives it one core. Several parts of the batch are computed
# at once instead, and the frequencies in groups, so that what lies between stays in the cache.
# What is best with the gradient is not what is best without.
@jax.custom_vjp
def _fourier_max(
    x: Float[Array, "height width batch channels"], kernel: Float[Array, "k k channels features"]
) -> Float[Array, "height//2 width//2 batch features"]:
    return _fourier_max_of_parts(x, kernel, 10, 1)


def _fourier_max_of_parts(x: Array, kernel: Array, num_parts: int, num_groups: int) -> Array:
    parts = [x[:, :, part] for part in _slices(x.shape[2], num_parts)]
    pooled = [_in_pairs(y).max((1, 3)) for y in _fourier_convs(parts, kernel, num_groups)]
    return jnp.concatenate(pooled, 2)


_fourier_max.defvjp(
    lambda x, kernel: jax.vjp(lambda x, kernel: _fourier_max_of_parts(x, kernel, 2, 4), x, kernel),
    lambda pull_back, gradient: pull_back(gradient),
)


def _slices(size: int, most: int) -> list[slice]:
    """At most so many slices of about the same length."""
    ends = np.linspace(0, size, min(size, most) + 1).astype(int).tolist()
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def _fourier_convs(parts: list[Array], kernel: Array, num_groups: int) -> list[Array]:
    """The convolutions of parts of a batch, the vertical frequencies in groups."""
    height, width, _, channels = parts[0].shape
    image_h, image_w, kernel_hw, back_w, back_h = (
        jnp.asarray(matrix, kernel.dtype) for matrix in _fourier(height, width, len(kernel))
    )
    n, features = len(image_w), kernel.shape[3]
    groups = _slices(n, num_groups)
    kernel = (kernel_hw @ kernel.reshape(kernel_hw.shape[1], -1)).reshape(n, -1)
    kernels = [kernel[group].reshape(-1, channels, features) for group in groups]
    convolved = []
    for part in parts:
        batch, groups_of_y = part.shape[2], []
        x = (image_h @ part.reshape(height, -1)).reshape(n, 2 * width, -1)
        for group, weights in zip(groups, kernels, strict=True):
            frequencies = (image_w[group] @ x[group]).reshape(-1, batch, channels)
            products = (frequencies @ weights).reshape(-1, back_w.shape[2], batch * features)
            groups_of_y.append(back_w[group] @ products)
        y = back_h @ jnp.concatenate(groups_of_y).reshape(2 * n, -1)
        convolved.append(y.reshape(height, width, batch, features))
    return convolved


def _in_pairs(
    y: Float[Array, "height width batch features"],
) -> Float[Array, "height//2 2 width//2 2 batch features"]:
    """Rows and columns two by two; an odd last one is dropped."""
    rows, columns = y.shape[0] // 2, y.shape[1] // 2
    return y[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, *y.shape[2:])


def _max_of_pairs(x: Array, *axes: int) -> Array:
    """The maximum over axes of two, one after the other.

    The gradient of `max` goes to what equals the maximum. XLA may compute `x` twice, in two
    roundings, if it is not the output of a product; then nothing does.
    """
    for axis in axes:
        first, second = (jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in (0, 1))
        x = jnp.maximum(first, second)
    return x


def _fourier(height: int, width: int, k: int) -> tuple[np.ndarray, ...]:
    """The matrices of the discrete Fourier transforms, in real numbers.

    A length of size + k // 2 keeps the two ends of an image apart where the transform wraps
    around. The vertical frequencies are the odd multiples of half the lowest: then each is
    complex, and none of the conjugates is needed. A complex product takes three real ones
    (Gauss): with (a, b, a + b) of both factors, its parts are p - q and r - p - q.
    """
    taps = np.arange(k) - (k - 1) // 2
    n, m = (height + k // 2 + 1) // 2, width + k // 2
    angles_h, angles_w = np.pi * (np.arange(n) + 0.5) / n, 2 * np.pi * np.arange(m) / m
    waves_h, waves_w = (
        np.exp(-1j * np.outer(angles, np.arange(size)))
        for angles, size in ((angles_h, height), (angles_w, width))
    )
    kernel_hw = np.einsum(
        "pi,qj->pqij", np.exp(1j * np.outer(angles_h, taps)), np.exp(1j * np.outer(angles_w, taps))
    )
    kernel_hw = np.stack([kernel_hw.real, kernel_hw.imag, kernel_hw.real + kernel_hw.imag], 1)
    image_h = np.stack([waves_h.real, waves_h.imag], 1).reshape(2 * n, height)
    image_w = np.kron([[1, 0], [0, 1], [1, 1]], np.eye(m)) @ _real(waves_w)
    back_w = _real(waves_w.conj().T) @ np.kron([[1, -1, 0], [-1, -1, 1]], np.eye(m))
    image_w, back_w = (np.broadcast_to(matrix, (n, *matrix.shape)) for matrix in (image_w, back_w))
    return image_h, image_w, kernel_hw.reshape(-1, k * k), back_w, image_h.T / (n * m)


def _real(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix as the real one that maps real parts over imaginary ones to the same."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
