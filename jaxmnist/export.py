"""The command that writes a trained model as ONNX or StableHLO, for programs without jaxmnist."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError, first_line
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8

    from jaxmnist.trained.inference import Model

    Logits = Callable[[UInt8[np.ndarray, "n h w c"]], Float[np.ndarray, "n classes"]]

PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-4  # The largest difference between our logits and those of the file.
_READ_WITH = {
    "onnx": 'onnxruntime.InferenceSession(file).run(["logits"], {"image": image})',
    "stablehlo": 'jax.export.deserialize(bytearray(open(file, "rb").read())).call(image)',
}
_OPSET, _IR_VERSION = 17, 8  # What onnxruntime reads since 1.12.


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
    from jaxmnist.files import local_path

    output = local_path(workdir, "--workdir") / f"model.{kind}"
    if output_file is not None:
        output = local_path(output_file, "--output", as_pattern=False)
    with Screen() as screen, screen.phase("exporting"):
        said = _write(workdir, kind, output, data_dir)
    print(said)


def _write(workdir: str, kind: str, output: Path, data_dir: str | None) -> str:
    """Writes the model, if it answers as ours, and a description of it; returns what to print."""
    import jax
    import numpy as np

    from jaxmnist.data import pictures
    from jaxmnist.data.datasets import to_uint8
    from jaxmnist.devices import tuning
    from jaxmnist.files import write_bytes, write_json
    from jaxmnist.record.checkpoints import fingerprint
    from jaxmnist.trained import inference

    build, load = {
        "onnx": (to_onnx, _load_onnx),
        "stablehlo": (to_stablehlo, _load_stablehlo),
    }[kind]
    tuning.cache_compilations()
    model = inference.load(workdir, dtype="float32")
    dataset = inference.load_evaluation(model.config, data_dir, model.class_names)
    (split,) = dataset.splits
    # The file computes in float32, whatever the run and the device do by default.
    with jax.default_matmul_precision("highest"):
        data = build(model)
        run_file = load(data)
        images = to_uint8(split.images)
        parts = [run_file(images[i : i + 1000]) for i in range(0, len(split), 1000)]
        ours, theirs = model.logits(images), np.concatenate(parts)
    difference = float(np.abs(ours - theirs).max())
    changed = int((ours.argmax(-1) != theirs.argmax(-1)).sum())
    if not difference <= _TOLERANCE or changed:
        raise UserError(
            f"the {kind} of {workdir} answers differently from the model on {len(split):,} "
            f"examples: logits differ by up to {difference:.1e}, and {changed} predicted classes; "
            "nothing was written."
        )
    levels = "grey levels from 0 to 255, light on dark"
    if model.preparation["method"] == "resize":
        levels = "levels from 0 to 255"
    accuracy = float(np.mean(theirs.argmax(-1) == split.labels))
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
            "name": "logits",
            "shape": ["batch", len(model.class_names)],
            "dtype": "float32",
            "scaling": "softmax gives the probabilities",
        },
        "labels": model.class_names,
        "accuracy": accuracy,
        "evaluated_on": {
            "dataset": dataset.name,
            "split": model.config.eval_split,
            "num_examples": len(split),
        },
        "largest_difference_of_logits": difference,
        "step": model.step,
        "params_sha256": fingerprint(model.trained_params),
        "read_with": _READ_WITH[kind],
        **({"platforms": PLATFORMS} if kind == "stablehlo" else {}),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, data)
    write_json(output.with_name(f"{output.name}.json"), about)
    return (
        f"{output} ({len(data) / 1e6:.1f} MB), and {output.name}.json beside it: {dataset.name} "
        f"{model.config.eval_split} accuracy {accuracy:.4f}; over {len(split):,} examples the same "
        f"classes as the model, logits within {difference:.1e}"
    )


def to_onnx(model: "Model") -> bytes:
    """The network as ONNX: "image" uint8 (batch, height, width, channels) -> "logits" float32.

    ONNX has channels first, and JAX has them last. So flattening gives another order, and the rows
    of the first dense layer are reordered. Batch normalization is folded into the convolutions.

    Raises:
      UserError: it is another network than the paper's in any widths, or the extra "onnx" is not
        installed.
    """
    import numpy as np

    from jaxmnist.record.network import layer_table

    known = _known_layers(model.network)
    for layer in layer_table(model.network, model.image_shape):
        if (layer.name, layer.kind) not in known:
            raise UserError(
                f"--format=onnx knows only the paper's network, in any widths, and {layer.name} "
                f"({layer.kind}) is no layer of it: take --format=stablehlo."
            )
    onnx = _import("onnx")
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(name: str, value: Any) -> str:
        weights.append(to_tensor(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{kind}_{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    x = node("Cast", "image", to=onnx.TensorProto.FLOAT)
    x = node("Div", x, weight("largest", np.array(255, np.float32)))
    height, width, channels = model.image_shape
    if channels == 1:  # The same as a transpose, and more programs know it.
        x = node("Reshape", x, weight("channels_first", np.array([-1, 1, height, width])))
    else:
        x = node("Transpose", x, perm=[0, 3, 1, 2])
    for i in range(len(model.network.features)):
        conv, shift = _folded(model.variables, f"Conv_{i}")
        kernel = weight(f"conv{i}_kernel", conv.transpose(3, 2, 0, 1))
        bias = weight(f"conv{i}_bias", shift)
        # OpenCV 4, ncnn and burn do not take the shape from the kernel.
        shape = conv.shape[:2]
        x = node("Conv", x, kernel, bias, kernel_shape=shape, auto_pad="SAME_UPPER")
        x = node("Relu", node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
        height, width, channels = height // 2, width // 2, len(shift)
    x = node("Flatten", x)
    first, last = model.params["Dense_0"], model.params["Dense_1"]
    rows = np.arange(len(first["kernel"])).reshape(height, width, channels).transpose(2, 0, 1)
    x = node(
        "Gemm",
        x,
        weight("dense0", first["kernel"][rows.ravel()]),
        weight("dense0_bias", first["bias"]),
    )
    x = node("Relu", x)
    x = node("Gemm", x, weight("dense1", last["kernel"]), weight("dense1_bias", last["bias"]))
    nodes[-1].output[0] = "logits"
    info, types = helper.make_tensor_value_info, onnx.TensorProto
    graph = helper.make_graph(
        nodes,
        "jaxmnist",
        [info("image", types.UINT8, ["batch", *model.image_shape])],
        [info("logits", types.FLOAT, ["batch", len(last["bias"])])],
        weights,
    )
    proto = helper.make_model(
        graph,
        producer_name="jaxmnist",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


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


def _load_onnx(data: bytes) -> "Logits":
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"image": images})[0]


def _load_stablehlo(data: bytes) -> "Logits":
    import jax
    import numpy as np

    call = jax.jit(jax.export.deserialize(bytearray(data)).call)
    return lambda images: np.asarray(call(images))


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"the format onnx needs {name}: pip install 'jaxmnist[onnx]'.") from None


if __name__ == "__main__":
    sys.exit(main())
