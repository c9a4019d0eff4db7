"""A network in words: its layers, its arrays, its fields, its fingerprint."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from jaxmnist.models import CNN
from jaxmnist.record.network import describe_network, fingerprint, layer_table


def test_the_layers_are_told_in_the_order_of_their_calls():
    rows = layer_table(CNN(), (28, 28, 1))
    assert [tuple(row) for row in rows] == [
        ("Conv_0", "ConvPool", (14, 14, 32), 832),
        ("Conv_1", "ConvPool", (7, 7, 64), 51_264),
        ("Dense_0", "Dense", (1024,), 3_212_288),
        ("Dropout_0", "Dropout", (1024,), 0),
        ("Dense_1", "Dense", (10,), 10_250),
    ]
    assert sum(row.parameters for row in rows) == 3_274_634


def test_parameters_of_blocks_and_of_layers_called_twice_count_once():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(x.shape[-1])
            return nn.relu(layer(layer(x)))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(2)(Block()(x.reshape(len(x), -1)[:, :3]))

    rows = [(row.name, row.parameters) for row in layer_table(Net(), (28, 28, 1))]
    assert rows == [("Block_0/Dense_0", 12), ("Block_0/Dense_0", 0), ("Dense_0", 8)]


def test_a_network_with_a_function_is_the_same_in_every_process():
    class Net(CNN):
        activation: Callable = nn.gelu

    network = describe_network(Net(), (28, 28, 1), ("dropout_rate",))
    assert network["fields"]["activation"] == "gelu"
    assert network["fields"]["features"] == [32, 64]
    assert "dropout_rate" not in network["fields"]
    assert network["params"]["Conv_0/bias"] == "float32 (32,)"


def test_fingerprint_tells_values_names_and_types_apart():
    tree = {"a": np.arange(4, dtype=np.float32)}
    others = [
        {"b": np.arange(4, dtype=np.float32)},
        {"a": np.arange(4, dtype=np.int32)},
        {"a": np.arange(4, dtype=np.float32).reshape(2, 2)},
        {"a": np.array([0, 1, 2, np.nextafter(3, 4, dtype=np.float32)], np.float32)},
    ]
    assert len({fingerprint(t) for t in (tree, *others)}) == 5
    assert fingerprint(tree) == fingerprint(jax.device_put(tree))
