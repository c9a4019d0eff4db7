"""The command that writes a trained model as ONNX or StableHLO, for programs without jaxmnist."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError, first_line
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8

    from jaxmnist.data.datasets import Dataset
    from jaxmnist.trained.inference import Model

    Answers = Callable[[UInt8[np.ndarray, "n h w c"]], Float[np.ndarray, "n classes"]]

PLATFORMS = ("cpu", "cuda", "tpu")
# The largest difference between our answers and those of the file.
_TOLERANCES = {"logits": 1e-4, "probabilities": 1e-5}
_READ_WITH = {
    "onnx": 'onnxruntime.InferenceSession(file).run(["%s"], {"image": image})',
    "stablehlo": 'jax.export.deserialize(bytearray(open(file, "rb").read())).call(image)',
}
_OPSET, _IR_VERSION = 17, 8  # What onnxruntime reads since 1.12.
_MOST_BYTES = 2_000_000_000  # Of parameters: a file of ONNX has less than 2 GiB, as protobuf's.


class NotInOnnx(UserError):
    """An ONNX file of these models cannot be written, or not here."""


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "export",
        description="Write a trained model as ONNX or StableHLO, for programs without jaxmnist.",
    )
    parser.add_workdir()
    parser.add_argument("--format", required=True, choices=_READ_WITH)
    parser.add_argument("--output", help="the file to write; default: model.FORMAT in the workdir")
    parser.add_argument("--data_dir", help="tfds's folder; default: the run's")
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _export(args.workdir, args.format, args.output, args.data_dir))


def _export(workdir: str, kind: str, output_file: str | None, data_dir: str | None) -> None:
    # Imported here, so that a mistyped flag is told of at once.
    from jaxmnist.devices import tuning
    from jaxmnist.files import local_path
    from jaxmnist.trained import inference

    output = local_path(workdir, "--workdir") / f"model.{kind}"
    if output_file is not None:
        output = local_path(output_file, "--output", as_pattern=False)
    with Screen() as screen, screen.phase("exporting"):
        tuning.cache_compilations()
        model = inference.load(workdir, dtype="float32")
        dataset = inference.load_evaluation(model.config, data_dir, model.class_names)
        said = write([model], kind, output, dataset)
    print(said)


def write(models: "Sequence[Model]", kind: str, output: Path, dataset: "Dataset") -> str:
    """Writes a model, or the average of several, if the file answers as ours, and a description.

    Args:
      models: with products in float32; several, of one network and recipe, as ONNX only.
      kind: "onnx" or "stablehlo".
      output: the file; the description is beside it.
      dataset: the split to compare the answers on.

    Returns what to print. Raises UserError, and writes nothing, if it answers otherwise.
    """
    import jax
    import numpy as np

    from jaxmnist.data import pictures
    from jaxmnist.data.datasets import to_uint8
    from jaxmnist.files import write_bytes, write_json
    from jaxmnist.record.checkpoints import fingerprint
    from jaxmnist.trained import ensemble

    model, is_one, (split,) = models[0], len(models) == 1, dataset.splits
    name, of = ("logits", "the model") if is_one else ("probabilities", "the models' average")
    images = to_uint8(split.images)
    # The file computes in float32, whatever the run and the device do by default.
    with jax.default_matmul_precision("highest"):
        data = to_onnx(*models) if kind == "onnx" else to_stablehlo(model)
        run_file = _load_onnx(data) if kind == "onnx" else _load_stablehlo(data)
        parts = [run_file(images[i : i + 1000]) for i in range(0, len(split), 1000)]
        ours = model.logits(images) if is_one else ensemble.probabilities(models, images)
    theirs = np.concatenate(parts)
    difference = float(np.abs(ours - theirs).max())
    changed = int((ours.argmax(-1) != theirs.argmax(-1)).sum())
    if not difference <= _TOLERANCES[name] or changed:
        raise UserError(
            f"the {kind} for {output} answers differently from {of} on {len(split):,} "
            f"examples: {name} differ by up to {difference:.1e}, and {changed} predicted classes; "
            "nothing was written."
        )
    levels = "grey levels from 0 to 255, light on dark"
    if model.preparation["method"] == "resize":
        levels = "levels from 0 to 255"
    accuracy = float(np.mean(theirs.argmax(-1) == split.labels))
    steps, digests = [x.step for x in models], [fingerprint(x.trained_params) for x in models]
    about = {
        "file": output.name,
        "format": kind,
        "input": {
            "name": "image",
            "shape": ["batch", *model.image_shape],
            "dtype": "uint8",
            "scaling": f"none: {levels}; the model divides by 255",
            "preparation": model.preparation,
            "steps": pictures.steps(model.preparation),
        },
        "output": {
            "name": name,
            "shape": ["batch", len(model.class_names)],
            "dtype": "float32",
            "scaling": "softmax gives the probabilities"
            if is_one
            else f"none: the mean of the {len(models)} models' probabilities",
        },
        "labels": model.class_names,
        "accuracy": accuracy,
        "evaluated_on": {
            "dataset": dataset.name,
            "split": model.config.eval_split,
            "num_examples": len(split),
        },
        f"largest_difference_of_{name}": difference,
        **({} if is_one else {"seeds": [x.config.seed for x in models]}),
        "step": steps[0] if is_one else steps,
        "params_sha256": digests[0] if is_one else digests,
        "read_with": _READ_WITH[kind].replace("%s", name),
        **({"platforms": PLATFORMS} if kind == "stablehlo" else {}),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, data)
    write_json(output.with_name(f"{output.name}.json"), about)
    return (
        f"{output} ({len(data) / 1e6:.1f} MB), and {output.name}.json beside it: {dataset.name} "
        f"{model.config.eval_split} accuracy {accuracy:.4f}; over {len(split):,} examples the same "
        f"classes as {of}, {name} within {difference:.1e}"
    )


def to_onnx(*models: "Model") -> bytes:
    """Networks as ONNX: "image" uint8 (batch, height, width, channels) -> float32 (batch, classes).

    That is "logits" of one network, and of several "probabilities", the mean of theirs.

    Raises:
      NotInOnnx: one is another network than the paper's in any widths, all are too large for a
        file, or the extra "onnx" is not installed.
    """
    import numpy as np

    from jaxmnist.models import num_parameters

    for model in models:
        _check_known(model, is_one=len(models) == 1)
    size = sum(4 * num_parameters(model.params) for model in models)
    if size > _MOST_BYTES:
        raise NotInOnnx(f"the parameters have {size / 1e9:.1f} GB, and an ONNX file at most 2.")
    onnx, image_shape = _import("onnx"), models[0].image_shape
    helper, types, graph = onnx.helper, onnx.TensorProto, _Graph(onnx)
    x = graph.node("Cast", "image", to=types.FLOAT)
    x = graph.node("Div", x, graph.weight("largest", np.array(255, np.float32)))
    height, width, channels = image_shape
    if channels == 1:  # The same as a transpose, and more programs know it.
        shape = graph.weight("channels_first", np.array([-1, 1, height, width]))
        x = graph.node("Reshape", x, shape)
    else:
        x = graph.node("Transpose", x, perm=[0, 3, 1, 2])
    output = "logits"
    if len(models) == 1:
        _add_network(graph, x, models[0], "")
    else:
        output = "probabilities"
        each = [_add_network(graph, x, model, f"model{i}_") for i, model in enumerate(models)]
        graph.node("Mean", *[graph.node("Softmax", logits, axis=-1) for logits in each])
    graph.nodes[-1].output[0] = output
    info = helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "jaxmnist",
            [info("image", types.UINT8, ["batch", *image_shape])],
            [info(output, types.FLOAT, ["batch", len(models[0].class_names)])],
            graph.weights,
        ),
        producer_name="jaxmnist",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


class _Graph:
    """The nodes and weights of a graph of ONNX, in their order; each returns its name."""

    def __init__(self, onnx: Any):
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: Any) -> str:
        import numpy as np

        self.weights.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output


def _add_network(graph: _Graph, x: str, model: "Model", prefix: str) -> str:
    """Adds a network, whose weights' names begin with a prefix; returns its logits' name.

    ONNX has channels first, and JAX has them last. So flattening gives another order, and the rows
    of the first dense layer are reordered. Batch normalization is folded into the convolutions.
    """
    import numpy as np

    def weight(name: str, value: Any) -> str:
        return graph.weight(prefix + name, value)

    height, width, channels = model.image_shape
    for i in range(len(model.network.features)):
        conv, shift = _folded(model.variables, f"Conv_{i}")
        kernel = weight(f"conv{i}_kernel", conv.transpose(3, 2, 0, 1))
        bias = weight(f"conv{i}_bias", shift)
        # OpenCV 4, ncnn and burn do not take the shape from the kernel.
        shape = conv.shape[:2]
        x = graph.node("Conv", x, kernel, bias, kernel_shape=shape, auto_pad="SAME_UPPER")
        x = graph.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = graph.node("Relu", x)
        height, width, channels = height // 2, width // 2, len(shift)
    x = graph.node("Flatten", x)
    first, last = model.params["Dense_0"], model.params["Dense_1"]
    rows = np.arange(len(first["kernel"])).reshape(height, width, channels).transpose(2, 0, 1)
    kernel = weight("dense0", first["kernel"][rows.ravel()])
    x = graph.node("Gemm", x, kernel, weight("dense0_bias", first["bias"]))
    x = graph.node("Relu", x)
    kernel = weight("dense1", last["kernel"])
    return graph.node("Gemm", x, kernel, weight("dense1_bias", last["bias"]))


def _check_known(model: "Model", is_one: bool) -> None:
    from jaxmnist.record.network import layer_table

    known = _known_layers(model.network)
    todo = ": take --format=stablehlo of jaxmnist export." if is_one else "."
    for layer in layer_table(model.network, model.image_shape):
        if (layer.name, layer.kind) not in known:
            raise NotInOnnx(
                f"onnx knows only the paper's network, in any widths, and {layer.name} "
                f"({layer.kind}) is no layer of it{todo}"
            )


def _known_layers(network: Any) -> set[tuple[str, str]]:
    """The names and kinds of the layers that the paper's network may have."""
    from jaxmnist.models import CNN

    if not isinstance(network, CNN):
        return set()
    known = {("Dense_0", "Dense"), ("Dropout_0", "Dropout"), ("Dense_1", "Dense")}
    for i in range(len(network.features)):
        known |= {(f"Conv_{i}", "ConvPool"), (f"Conv_{i}/BatchNorm_0", "BatchNorm")}
    return known


def _folded(
    variables: dict[str, Any], name: str
) -> "tuple[Float[np.ndarray, 'k k channels features'], Float[np.ndarray, ' features']]":
    """The kernel and bias of a convolution that does its batch normalization too."""
    import flax.linen as nn
    import numpy as np

    layer = variables["params"][name]
    kernel, bias, norm = layer["kernel"], layer["bias"], layer.get("BatchNorm_0")
    if norm is None:
        return kernel, bias
    running = variables["batch_stats"][name]["BatchNorm_0"]
    factor = norm["scale"] / np.sqrt(running["var"] + np.float32(nn.BatchNorm.epsilon))
    return kernel * factor, (bias - running["mean"]) * factor + norm["bias"]


def to_stablehlo(model: "Model") -> bytes:
    """The network as bytes that jax.export.deserialize reads, for each of PLATFORMS.

    It maps uint8 (batch, height, width, channels) to float32 logits.

    Raises:
      UserError: JAX cannot export the network for batches of any size.
    """
    import jax
    import numpy as np

    from jaxmnist.data.input_pipeline import to_float
    from jaxmnist.models import create_model

    network = create_model(model.config, len(model.class_names))

    @jax.jit
    def logits(image):
        return network.apply(model.variables, to_float(image), train=False)

    shape = ", ".join(map(str, ("batch", *model.image_shape)))
    image = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), np.uint8)
    try:
        return bytes(jax.export.export(logits, platforms=PLATFORMS)(image).serialize())
    except Exception as e:
        if not model.config.model:
            raise
        raise UserError(
            f"{model.config.model} cannot be exported for batches of any size "
            f"({first_line(e)}): flatten with x.reshape(x.shape[0], -1), and never use len(x)."
        ) from e


def _load_onnx(data: bytes) -> "Answers":
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def _load_stablehlo(data: bytes) -> "Answers":
    import jax
    import numpy as np

    call = jax.jit(jax.export.deserialize(bytearray(data)).call)
    return lambda images: np.asarray(call(images))


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise NotInOnnx(f"the format onnx needs {name}: pip install 'jaxmnist[onnx]'.") from None


if __name__ == "__main__":
    sys.exit(main())
