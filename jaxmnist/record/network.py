"""A network in words, for its record: its layers, its arrays, and how it differs from another."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmnist.models import conv_pool, num_parameters


def describe_arrays(tree: Any) -> dict[str, str]:
    """The type and shape of each array of a tree: {"params/Conv_0/bias": "float32 (32,)"}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype} {tuple(x.shape)}"
        for path, x in leaves
        if hasattr(x, "shape")
    }


def describe_network(
    model: nn.Module, image_shape: Sequence[int], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """What run.json says of a network.

    Args:
      model: the network.
      image_shape: height, width and channels of its inputs.
      left_out: the fields of the module that the record of its config has already.

    Returns "fields", those of the module; "params", the type and shape of each parameter; and, if
    it has any, "model_state", those of its other collections.
    """
    variables = dict(_shapes(model, image_shape))
    described = {"params": describe_arrays(variables.pop("params", {}))}
    described |= {"model_state": describe_arrays(variables)} if variables else {}
    # How it is computed is no part of what it is.
    left_out = ("parent", "name", "conv_pool", "dot_general", *left_out)
    names = (field.name for field in dataclasses.fields(model) if field.name not in left_out)
    fields = {name: getattr(model, name) for name in names}
    network = {"fields": fields, **described}
    # As it is read back: a tuple is a list, and a function its name, not where it lies in memory.
    return json.loads(json.dumps(network, default=_name))


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def first_difference(there: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first difference between a saved description and today's, in words; None if equal."""
    # An optimizer's state follows the parameters, so these say what was changed.
    for name in sorted([*now, *there], key=lambda name: name.startswith("opt_state")):
        if there.get(name) != now.get(name):
            was, is_now = (each.get(name, "missing") for each in (there, now))
            return f"{name} ({was} there, {is_now} now)"
    return None


def fingerprint(tree: Any) -> str:
    """SHA-256 over the names, types, shapes and values of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        # As bytes, since a buffer of bfloat16 has no name in Python.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
      name: its path among the parameters, such as "Conv_0".
      kind: the name of its class, such as "ConvPool".
      shape: the shape of its output, without the batch.
      parameters: how many parameters it has.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def layer_table(model: nn.Module, image_shape: Sequence[int]) -> list[Layer]:
    """The layers of a network for images of a shape, in the order in which they are called.

    A module that only calls others has no row of its own. A layer that is called again has
    its parameters in its first row.
    """
    rows: list[Layer] = []
    if hasattr(model, "conv_pool"):  # Other forms of it have other shapes inside.
        model = model.clone(conv_pool=conv_pool)

    def add(call, args, kwargs, context):
        before = len(rows)
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            layer = context.module
            name, params = "/".join(layer.path), layer.variables.get("params", {})
            is_new = name not in (row.name for row in rows)
            count = num_parameters(params) if is_new else 0
            count -= sum(row.parameters for row in rows[before:] if is_new)
            if len(rows) == before or count:
                rows.insert(before, Layer(name, type(layer).__name__, output.shape[1:], count))
        return output

    with nn.intercept_methods(add):
        _shapes(model, image_shape)
    return rows


def _shapes(model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
