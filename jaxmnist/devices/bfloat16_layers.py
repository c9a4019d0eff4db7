"""The layers as products in bfloat16, for a processor that has units for them.

A product multiplies bfloat16 and sums in float32. XLA gives the units only products of plain
matrices, contracting the last axis of the first with the first or the last of the second. So the
batch is innermost, and a convolution is one product with patches, as in cpu_layers._patches_pool:
there the convolution theorem takes less arithmetic, here arithmetic costs less than memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, BFloat16, Float, Shaped

Normalize = Callable[[Array], Array]


def conv_pool(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k channels features"],
    bias: Float[Array, " features"],
    normalize: Normalize | None = None,
) -> Float[Array, "batch height//2 width//2 features"]:
    """models.conv_pool for a kernel of odd size; its outputs are float32."""
    windows = _windows(x.transpose(3, 1, 2, 0), kernel)
    bias = bias.reshape(-1, 1, 1, 1)
    if normalize:
        windows = normalize(jnp.moveaxis(windows + bias[None], 1, -1)).astype(jnp.float32)
        windows = jnp.moveaxis(windows, -1, 1)
        y = _max(windows)
    else:
        y = _max(windows) + bias
    return jax.nn.relu(y).transpose(3, 1, 2, 0)


def dot_general(x: Array, kernel: Array, *unused: Any, **options: Any) -> Float[Array, "batch n"]:
    """What nn.Dense calls, for inputs of two axes: x @ kernel, in float32."""
    return _matmul(x, kernel)


@jax.custom_vjp
def _matmul(x: Float[Array, "batch m"], kernel: Float[Array, "m n"]) -> Float[Array, "batch n"]:
    return _matmul_fwd(x, kernel)[0]


def _matmul_fwd(x, kernel):
    x_type, x, kernel = x[:0], x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _dot(x, kernel), (x, kernel, x_type)


def _matmul_bwd(saved, gradient):
    x, kernel, x_type = saved
    gradient = gradient.astype(jnp.bfloat16)
    of_x = _dot(gradient, kernel, transposed=True).astype(x_type.dtype)
    return of_x, _dot(_transpose(x), gradient)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


@jax.custom_vjp
def _windows(
    x: Float[Array, "channels height width batch"], kernel: Float[Array, "k k channels features"]
) -> Float[Array, "4 features height//2 width//2 batch"]:
    """The convolution's four outputs in each window of pooling."""
    return _windows_fwd(x, kernel)[0]


def _windows_fwd(x, kernel):
    k, features = len(kernel), kernel.shape[3]
    patches = _patches(x.astype(jnp.bfloat16), k)
    y = _dot(_placed(kernel.astype(jnp.bfloat16)), patches.reshape(len(patches), -1))
    return y.reshape(4, features, *patches.shape[1:]), (patches, kernel, x[:, :, :, :0])


def _windows_bwd(saved, gradient):
    patches, kernel, like = saved
    k, _, channels, features = kernel.shape
    gradient = gradient.astype(jnp.bfloat16).reshape(4 * features, -1)
    placed = _dot(gradient, patches.reshape(len(patches), -1), transposed=True)
    placed = placed.reshape(4, features, k + 1, k + 1, channels)
    places = [(i, j) for i in (0, 1) for j in (0, 1)]
    of_kernel = functools.reduce(
        jnp.add, [placed[2 * i + j, :, i : i + k, j : j + k] for i, j in places]
    )
    # XLA leaves this out where nobody asks for it, as for images.
    of_patches = _dot(_transpose(_placed(kernel.astype(jnp.bfloat16))), gradient)
    of_x = _unfold(of_patches.reshape(k + 1, -1, *patches.shape[1:]), 1)
    of_x = _unfold(of_x.reshape(k + 1, channels, *of_x.shape[1:]), 2)
    for axis in (1, 2):
        size, before = like.shape[axis], (k - 1) // 2
        after = max(0, before + size - of_x.shape[axis])
        of_x = jnp.pad(of_x, [(0, after * (axis == i)) for i in range(4)])
        of_x = jax.lax.slice_in_dim(of_x, before, before + size, axis=axis)
    return of_x.astype(like.dtype), of_kernel.transpose(1, 2, 3, 0)


_windows.defvjp(_windows_fwd, _windows_bwd)


@jax.custom_vjp
def _max(windows: Float[Array, "4 ..."]) -> Float[Array, "..."]:
    """The maximum over a window; the gradient goes to the first of several that are equal."""
    return _max_fwd(windows)[0]


def _max_fwd(windows):
    a, b, c, d = windows
    most = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    return most, (windows, most)


def _max_bwd(saved, gradient):
    windows, most = saved
    first = jnp.full(most.shape, 3, jnp.int8)
    for i in (2, 1, 0):
        first = jnp.where(windows[i] == most, jnp.int8(i), first)
    places = jnp.arange(4, dtype=jnp.int8).reshape(-1, *[1] * most.ndim)
    return (jnp.where(first[None] == places, gradient[None], 0),)


_max.defvjp(_max_fwd, _max_bwd)


def _placed(kernel: BFloat16[Array, "k k channels features"]) -> BFloat16[Array, "n m"]:
    """The kernel at each of the four places in a patch: (4 features, (k + 1)**2 channels)."""
    k, _, channels, features = kernel.shape
    # Barriers, since XLA would transpose anew for each place.
    kernel = jax.lax.optimization_barrier(_bits(kernel.transpose(3, 0, 1, 2)))
    places = [(i, j) for i in (0, 1) for j in (0, 1)]
    placed = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0))) for i, j in places]
    return _from_bits(jnp.stack(placed)).reshape(4 * features, (k + 1) ** 2 * channels)


def _patches(
    x: BFloat16[Array, "channels height width batch"], k: int
) -> BFloat16[Array, "patch height//2 width//2 batch"]:
    """The (k + 1)**2 pixels that the outputs of each window of pooling see."""
    _, height, width, _ = x.shape
    pad = ((k - 1) // 2, k // 2)
    x = jnp.pad(_bits(x), ((0, 0), pad, pad, (0, 0)))
    # One axis after the other: fewer and longer pieces to copy.
    x = jnp.concatenate([x[:, :, j : j + width // 2 * 2 : 2] for j in range(k + 1)])
    return _from_bits(jnp.concatenate([x[:, i : i + height // 2 * 2 : 2] for i in range(k + 1)]))


def _unfold(patches: Float[Array, "taps ..."], axis: int) -> Float[Array, "..."]:
    """The sums of patches where they overlap: the transpose of taking every second along an axis.

    Args:
      patches: an even number of taps, and then the axes of the result.
      axis: the axis of the result, which has n outputs here and 2 (n - 1) + taps there.
    """
    most = len(patches) // 2 - 1
    sums = []
    for parity in (0, 1):
        terms = []
        for shift, tap in enumerate(patches[parity::2]):
            pads = [(0, 0)] * tap.ndim
            pads[axis] = (shift, most - shift)
            terms.append(jnp.pad(tap, pads))
        sums.append(sum(terms))
    whole = jnp.stack(sums, axis + 1)
    return whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])


def _dot(
    a: BFloat16[Array, "m k"], b: BFloat16[Array, "_ _"], transposed: bool = False
) -> Float[Array, "m n"]:
    """a @ b, or a @ b.T, in float32."""
    axes = (((1,), (int(transposed),)), ((), ()))
    if 1 in a.shape + b.shape:  # XLA makes it a product with a vector, which it may not have.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _transpose(x: BFloat16[Array, "m n"]) -> BFloat16[Array, "n m"]:
    """The transpose, in memory too: XLA would make it a product's axis, which has no units."""
    return jax.lax.optimization_barrier(with_layout_constraint(x.T, Layout(major_to_minor=(0, 1))))


def _bits(x: BFloat16[Array, "..."]) -> Shaped[Array, "..."]:
    """The same as integers: XLA copies bfloat16 as float32 where a CPU has no such type."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16)


def _from_bits(x: Shaped[Array, "..."]) -> BFloat16[Array, "..."]:
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16)
