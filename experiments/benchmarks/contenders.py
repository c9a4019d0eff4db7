"""The same training in JAX (ours, and as everybody writes it), PyTorch, TensorFlow and Keras.

A contender is made from a Problem, in a process of its own, and offers

- `loss_and_gradients(images, labels)`: of any batch, without dropout;
- `step()`: trains one step on the batch, with dropout, and returns when it is done;
- `evaluate(batch_size)`: mean loss and accuracy over the evaluation's images.

Weights and gradients are NumPy arrays in Flax's layout, named by layer and kind: "Conv_0/kernel".
Those in bfloat16 compute layers in it, as their framework chooses; parameters, the loss and the
optimizer stay float32.
"""

import dataclasses
import functools
import os
import types

import numpy as np

LEARNING_RATE = 0.05
DROPOUT_RATE = 0.4
LAYERS = ("Conv_0", "Conv_1", "Dense_0", "Dense_1")

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class Problem:
    """What all contenders start from: images are uint8 (n, 28, 28, 1), labels int32 (n,)."""

    weights: Arrays
    images: np.ndarray
    labels: np.ndarray
    eval_images: np.ndarray
    eval_labels: np.ndarray
    momentum: float


class Ours:
    """jaxmnist's steps, as `python -m jaxmnist.main` runs them."""

    keeps_memory = True
    dtype = "float32"

    def __init__(self, problem: Problem):
        import jax
        from flax import traverse_util

        from jaxmnist import compile, evaluate, train_step
        from jaxmnist.config import get_config
        from jaxmnist.data import datasets, input_pipeline
        from jaxmnist.devices import tuning
        from jaxmnist.devices.sharding import Layout

        self._jax, self._train_step, self._evaluate = jax, train_step, evaluate.evaluate
        self._ordered = input_pipeline.OrderedBatches
        self._flatten = functools.partial(traverse_util.flatten_dict, sep="/")
        if self.keeps_memory:
            tuning.keep_freed_memory()
        config = get_config()
        config.optimizer = f"sgd(momentum={problem.momentum or None})"
        config.learning_rate = LEARNING_RATE
        config.schedule = "constant"
        config.dropout_rate = DROPOUT_RATE
        config.dtype = self.dtype
        layout = self._layout = Layout.create()
        params = layout.put(traverse_util.unflatten_dict(problem.weights, sep="/"))
        self._steps = compile.compiled_steps(config, datasets.describe(config), layout)
        self._state = self._steps.init([0]).replace(params=params)
        batch = {"image": problem.images.astype(np.float32) / 255, "label": problem.labels}
        self._batch = layout.put(batch, layout.batches())
        images, labels = problem.eval_images, problem.eval_labels
        self._examples = input_pipeline.put_on_device(images, labels, layout)
        self._options = tuning.compiler_options(self._state.model.dtype)
        self._step = self._steps.train_step(len(problem.labels))

    def loss_and_gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        x, y = map(self._jax.numpy.asarray, (images.astype(np.float32) / 255, labels))

        def loss_fn(params):
            logits = self._state.apply_fn({"params": params}, x)
            return self._train_step.cross_entropy(logits, y).mean()

        function = self._jax.value_and_grad(loss_fn)
        loss, grads = self._jax.jit(function, compiler_options=self._options)(self._state.params)
        return float(loss), self._flatten(self._jax.device_get(grads))

    def step(self) -> None:
        self._state, _ = self._step(self._state, self._batch)
        self._jax.block_until_ready(self._state)

    def evaluate(self, batch_size: int) -> tuple[float, float]:
        batches = self._ordered(self._examples, batch_size, self._layout)
        found = self._evaluate(self._steps, self._state, batches)
        return found.metrics["loss"], found.metrics["accuracy"]


class OursBfloat16(Ours):
    """jaxmnist's steps with --config.dtype=bfloat16."""

    dtype = "bfloat16"

    def __init__(self, problem: Problem):
        super().__init__(problem)
        if self._state.model.dtype is None:
            raise RuntimeError("this processor has no AMX, so it would be float32")


class Plain(Ours):
    """The same steps on nn.Conv and nn.max_pool, under a plain jax.jit, memory as it comes."""

    keeps_memory = False

    def __init__(self, problem: Problem):
        import flax.linen as nn
        import jax

        class Network(nn.Module):
            @nn.compact
            def __call__(self, x, *, train=False):
                for features in (32, 64):
                    x = nn.relu(nn.Conv(features, (5, 5))(x))
                    x = nn.max_pool(x, (2, 2), (2, 2))
                x = nn.relu(nn.Dense(1024)(x.reshape(len(x), -1)))
                x = nn.Dropout(DROPOUT_RATE, deterministic=not train)(x)
                return nn.Dense(10)(x)

        super().__init__(problem)
        self._state = self._state.replace(model=Network())
        self._options = {}
        self._step = jax.jit(self._train_step.train_step, donate_argnums=0)
        eval_step = jax.jit(self._train_step.eval_step)
        self._steps = types.SimpleNamespace(layout=self._layout, eval_step=lambda _: eval_step)


class PyTorch:
    """PyTorch, on tensors in channels-last order.

    Attributes:
      device: where it computes, as torch names it.
      autocast: whether layers compute in bfloat16, as torch.autocast chooses.
      compile_mode: torch.compile's mode; None: eager.
    """

    device = "cpu"
    autocast = False
    compile_mode: str | None = None

    def __init__(self, problem: Problem):
        import torch
        from torch import nn

        class Flatten(nn.Module):
            def forward(self, x):
                return x.permute(0, 2, 3, 1).flatten(1)  # Flax's order of features.

        self._torch = torch
        self._model = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(DROPOUT_RATE)),
            nn.Linear(1024, 10),
        )
        layers = [layer for layer in self._model if hasattr(layer, "weight")]
        with torch.no_grad():
            for name, layer in zip(LAYERS, layers, strict=True):
                kernel = torch.tensor(problem.weights[f"{name}/kernel"])
                kernel = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
                layer.weight.copy_(kernel)
                layer.bias.copy_(torch.tensor(problem.weights[f"{name}/bias"]))
        self._layers = dict(zip(LAYERS, layers, strict=True))
        self._model.to(self.device, memory_format=torch.channels_last)
        self._network = self._model
        if self.compile_mode:
            mode = self.compile_mode
            self._network = torch.compile(self._model, mode=mode, dynamic=False)
        self._images, self._labels = self._input(problem.images), self._target(problem.labels)
        self._eval_images = self._input(problem.eval_images)
        self._eval_labels = self._target(problem.eval_labels)
        self._cross_entropy = nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), LEARNING_RATE, momentum=problem.momentum
        )

    def _input(self, images: np.ndarray):
        x = self._torch.tensor(images, dtype=self._torch.float32).div_(255).permute(0, 3, 1, 2)
        return x.to(self.device).contiguous(memory_format=self._torch.channels_last)

    def _target(self, labels: np.ndarray):
        return self._torch.tensor(labels, dtype=self._torch.int64, device=self.device)

    def _logits(self, images):
        kind, dtype = self.device.partition(":")[0], self._torch.bfloat16
        with self._torch.autocast(kind, dtype, enabled=self.autocast):
            return self._network(images).float()

    def loss_and_gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        self._model.eval()
        self._optimizer.zero_grad()
        loss = self._cross_entropy(self._logits(self._input(images)), self._target(labels))
        loss.backward()
        grads = {}
        for name, layer in self._layers.items():
            kernel = layer.weight.grad
            kernel = kernel.permute(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
            grads[f"{name}/kernel"] = kernel.cpu().numpy().copy()
            grads[f"{name}/bias"] = layer.bias.grad.cpu().numpy().copy()
        self._model.train()
        return float(loss.detach()), grads

    def step(self) -> None:
        self._optimizer.zero_grad()
        self._cross_entropy(self._logits(self._images), self._labels).backward()
        self._optimizer.step()

    def evaluate(self, batch_size: int) -> tuple[float, float]:
        self._model.eval()
        loss = correct = 0.0
        with self._torch.inference_mode():
            for start in range(0, len(self._eval_labels), batch_size):
                labels = self._eval_labels[start : start + batch_size]
                logits = self._logits(self._eval_images[start : start + batch_size])
                loss += float(self._cross_entropy(logits, labels)) * len(labels)
                correct += int((logits.argmax(1) == labels).sum())
        self._model.train()
        return loss / len(self._eval_labels), correct / len(self._eval_labels)


class PyTorchAutocast(PyTorch):
    """PyTorch whose layers compute in bfloat16."""

    autocast = True


class PyTorchCompiled(PyTorch):
    """PyTorch whose network is compiled."""

    compile_mode = "default"


class PyTorchCompiledAutocast(PyTorch):
    """PyTorch whose network is compiled, and computes in bfloat16."""

    autocast, compile_mode = True, "default"


def keras_model(problem: Problem):
    """The network in Keras with the problem's weights, their names in order, loss and optimizer."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 5, padding="same", activation="relu", name="Conv_0"),
            layers.MaxPool2D(),
            layers.Conv2D(64, 5, padding="same", activation="relu", name="Conv_1"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(1024, activation="relu", name="Dense_0"),
            layers.Dropout(DROPOUT_RATE),
            # As Keras's guide to mixed precision has it: the logits are float32.
            layers.Dense(10, name="Dense_1", dtype="float32"),
        ]
    )
    names = [f"{layer}/{kind}" for layer in LAYERS for kind in ("kernel", "bias")]
    model.set_weights([problem.weights[name] for name in names])
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=problem.momentum)
    optimizer.build(model.trainable_variables)
    return model, names, keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer


class TensorFlow:
    """TensorFlow: a Keras model trained and evaluated in a tf.function.

    Attributes:
      policy: Keras's, of the layers' types.
      jit_compile: whether XLA compiles the functions.
    """

    policy = "float32"
    jit_compile = False

    def __init__(self, problem: Problem):
        import keras
        import tensorflow as tf

        keras.config.set_dtype_policy(self.policy)
        model, self._names, loss_fn, optimizer = keras_model(problem)
        self._images, self._eval_images = (
            tf.constant(images.astype(np.float32) / 255)
            for images in (problem.images, problem.eval_images)
        )
        self._labels, self._eval_labels = (
            tf.constant(labels) for labels in (problem.labels, problem.eval_labels)
        )

        def gradients(images, labels, training):
            with tf.GradientTape() as tape:
                loss = loss_fn(labels, model(images, training=training))
            return loss, tape.gradient(loss, model.trainable_variables)

        @tf.function(jit_compile=self.jit_compile)
        def step():
            loss, grads = gradients(self._images, self._labels, training=True)
            optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
            return loss

        @tf.function(jit_compile=self.jit_compile)
        def evaluate(images, labels):
            logits = model(images, training=False)
            hits = tf.argmax(logits, 1, output_type=tf.int32) == labels
            return loss_fn(labels, logits), tf.reduce_sum(tf.cast(hits, tf.int32))

        self._gradients = tf.function(gradients, jit_compile=self.jit_compile)
        self._step, self._evaluate = step, evaluate

    def loss_and_gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        loss, grads = self._gradients(images.astype(np.float32) / 255, labels, training=False)
        return float(loss), {
            name: grad.numpy() for name, grad in zip(self._names, grads, strict=True)
        }

    def step(self) -> None:
        float(self._step())

    def evaluate(self, batch_size: int) -> tuple[float, float]:
        loss = correct = 0.0
        count = len(self._eval_labels)
        for start in range(0, count, batch_size):
            images = self._eval_images[start : start + batch_size]
            labels = self._eval_labels[start : start + batch_size]
            mean, hits = self._evaluate(images, labels)
            loss += float(mean) * len(labels)
            correct += int(hits)
        return loss / count, correct / count


class TensorFlowXLA(TensorFlow):
    """TensorFlow whose functions XLA compiles."""

    jit_compile = True


class TensorFlowBfloat16(TensorFlow):
    """TensorFlow with Keras's mixed precision."""

    policy = "mixed_bfloat16"


class KerasJAX:
    """Keras on JAX, trained by model.train_on_batch."""

    def __init__(self, problem: Problem):
        os.environ["KERAS_BACKEND"] = "jax"
        import jax
        import keras

        if keras.backend.backend() != "jax":
            raise RuntimeError("Keras was loaded before, with another backend")
        model, self._names, loss_fn, optimizer = keras_model(problem)
        model.compile(optimizer, loss_fn)
        self._model = model
        self._images, self._eval_images = (
            jax.numpy.asarray(images.astype(np.float32) / 255)
            for images in (problem.images, problem.eval_images)
        )
        self._labels, self._eval_labels = (
            jax.numpy.asarray(labels) for labels in (problem.labels, problem.eval_labels)
        )

        def logits(trainable, fixed, images):
            return model.stateless_call(trainable, fixed, images, training=False)[0]

        def loss(trainable, fixed, images, labels):
            return loss_fn(labels, logits(trainable, fixed, images))

        def evaluate(trainable, fixed, images, labels):
            found = logits(trainable, fixed, images)
            return loss_fn(labels, found), (found.argmax(1) == labels).sum()

        self._gradients = jax.jit(jax.value_and_grad(loss))
        self._evaluate = jax.jit(evaluate)

    def _variables(self) -> tuple[list, list]:
        model = self._model
        return (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )

    def loss_and_gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        x = images.astype(np.float32) / 255
        loss, grads = self._gradients(*self._variables(), x, labels)
        return float(loss), {
            name: np.asarray(grad) for name, grad in zip(self._names, grads, strict=True)
        }

    def step(self) -> None:
        self._model.train_on_batch(self._images, self._labels)

    def evaluate(self, batch_size: int) -> tuple[float, float]:
        loss = correct = 0.0
        count = len(self._eval_labels)
        for start in range(0, count, batch_size):
            images = self._eval_images[start : start + batch_size]
            labels = self._eval_labels[start : start + batch_size]
            mean, hits = self._evaluate(*self._variables(), images, labels)
            loss += float(mean) * len(labels)
            correct += int(hits)
        return loss / count, correct / count
