"""The command that writes a trained model for programs that have no jaxmnist: ONNX or StableHLO."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError
from jaxmnist.record.screen import Screen

if TYPE_CHECKING:
    from jaxmnist.trained.inference import Model

SUFFIXES = {"onnx": ".onnx", "stablehlo": ".stablehlo"}
PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-4  # Between logits.
_READ_WITH = {
    "onnx": 'onnxruntime.InferenceSession(file).run(["logits"], {"image": image})',
    "stablehlo": 'jax.export.deserialize(bytearray(open(file, "rb").read())).call(image)',
}
_OPSET, _IR_VERSION = 17, 8  # What onnxruntime reads since 1.12.

Logits = Callable[[UInt8[np.ndarray, "n 28 28 1"]], Float[np.ndarray, "n classes"]]


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "export",
        description="Write a trained model as ONNX or StableHLO, for programs without jaxmnist.",
    )
    parser.add_workdir()
    parser.add_argument("--format", required=True, choices=SUFFIXES)
    parser.add_argument("--output", help="the file to write; default: model.FORMAT in the workdir")
    parser.add_argument("--data_dir", help="tfds's folder; default: the run's")
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _export(args.workdir, args.format, args.output, args.data_dir))


def _export(workdir: str, kind: str, output_file: str | None, data_dir: str | None) -> None:
    with Screen() as screen, screen.phase("exporting"):
        print(_write(workdir, kind, output_file, data_dir))


def _write(workdir: str, kind: str, output_file: str | None, data_dir: str | None) -> str:
    """Writes the model and what there is to know of it; returns what to say of them."""
    # Imported here, so that a mistyped flag is told of at once.
    import jax

    from jaxmnist.devices import tuning
    from jaxmnist.files import local_path, write_bytes, write_json
    from jaxmnist.record.checkpoints import fingerprint
    from jaxmnist.trained import inference, pictures

    output = local_path(workdir, "--workdir") / f"model{SUFFIXES[kind]}"
    if output_file is not None:
        output = local_path(output_file, "--output", as_pattern=False)
    build, check = {"onnx": (to_onnx, _run_onnx), "stablehlo": (to_stablehlo, _run_stablehlo)}[kind]
    tuning.cache_compilations()
    model = inference.load(workdir, dtype="float32")
    dataset = inference.load_evaluation(model.config, data_dir)
    (test,) = dataset.splits
    # A file's products are float32, whatever a run's were and a device's are by default.
    with jax.default_matmul_precision("highest"):
        data = build(model)
        ours, theirs = model.logits(test.images), check(data)(test.images)
    difference = float(np.abs(ours - theirs).max())
    changed = int((ours.argmax(-1) != theirs.argmax(-1)).sum())
    if not difference <= _TOLERANCE or changed:
        raise UserError(
            f"the {kind} of {workdir} answers otherwise on {len(test):,} examples: logits differ "
            f"by up to {difference:.1e}, {changed} classes do; nothing was written."
        )
    accuracy = float(np.mean(theirs.argmax(-1) == test.labels))
    about = {
        "file": output.name,
        "format": kind,
        "input": {
            "name": "image",
            "shape": ["batch", 28, 28, 1],
            "dtype": "uint8",
            "scaling": "none: grey levels from 0 to 255, light on dark; the model divides by 255",
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
            "num_examples": len(test),
        },
        "largest_difference_of_logits": difference,
        "step": model.step,
        "params_sha256": fingerprint(model.trained_params),
    }
    about["read_with"] = _READ_WITH[kind]
    if kind == "stablehlo":
        about["platforms"] = PLATFORMS
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, data)
    write_json(output.with_name(f"{output.name}.json"), about)
    return (
        f"{output} ({len(data) / 1e6:.1f} MB), and {output.name}.json beside it: {dataset.name} "
        f"{model.config.eval_split} accuracy {accuracy:.4f}; over {len(test):,} examples the same "
        f"classes as the model, logits within {difference:.1e}"
    )


def to_onnx(model: "Model") -> bytes:
    """The network as ONNX: "image" uint8 (batch, 28, 28, 1) -> "logits" float32.

    The flatten before the first dense layer takes channels first here, and last in JAX: that
    layer's inputs are put in another order instead.

    Raises:
      UserError: the extra "onnx" is not installed.
    """
    onnx = _import("onnx")
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(name: str, value: np.ndarray) -> str:
        weights.append(to_tensor(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        # Named by what it makes; the last one makes the output.
        nodes.append(helper.make_node(kind, inputs, [f"{kind}_{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    x = node("Cast", "image", to=onnx.TensorProto.FLOAT)
    x = node("Div", x, weight("largest", np.array(255, np.float32)))
    x = node("Reshape", x, weight("channels_first", np.array([-1, 1, 28, 28])))
    size = 28
    convs = [layer for name, layer in sorted(model.params.items()) if name.startswith("Conv")]
    for i, conv in enumerate(convs):
        kernel = weight(f"conv{i}_kernel", conv["kernel"].transpose(3, 2, 0, 1))
        bias = weight(f"conv{i}_bias", conv["bias"])
        # Some readers do not take the shape from the kernel: OpenCV 4, ncnn and burn.
        shape = conv["kernel"].shape[:2]
        x = node("Conv", x, kernel, bias, kernel_shape=shape, auto_pad="SAME_UPPER")
        x = node("Relu", node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
        size //= 2
    x = node("Flatten", x)
    first, last = model.params["Dense_0"], model.params["Dense_1"]
    channels = len(convs[-1]["bias"])
    rows = np.arange(len(first["kernel"])).reshape(size, size, channels).transpose(2, 0, 1).ravel()
    x = node(
        "Gemm", x, weight("dense0", first["kernel"][rows]), weight("dense0_bias", first["bias"])
    )
    x = node("Relu", x)
    x = node("Gemm", x, weight("dense1", last["kernel"]), weight("dense1_bias", last["bias"]))
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "jaxmnist",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 28, 28, 1])],
        [
            helper.make_tensor_value_info(
                "logits", onnx.TensorProto.FLOAT, ["batch", len(last["bias"])]
            )
        ],
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


def to_stablehlo(model: "Model") -> bytes:
    """The network as jax.export's bytes: uint8 (batch, 28, 28, 1) -> float32 logits.

    jax.export.deserialize reads it, for every one of PLATFORMS.
    """
    import jax

    from jaxmnist.data.input_pipeline import to_float
    from jaxmnist.models import CNN

    network = CNN(num_classes=len(model.class_names))

    @jax.jit
    def logits(image):
        return network.apply({"params": model.params}, to_float(image))

    shape = jax.export.symbolic_shape("batch, 28, 28, 1")
    image = jax.ShapeDtypeStruct(shape, np.uint8)
    return bytes(jax.export.export(logits, platforms=PLATFORMS)(image).serialize())


def _run_onnx(data: bytes) -> Logits:
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images: np.concatenate(
        [
            session.run(["logits"], {"image": images[i : i + 1000]})[0]
            for i in range(0, len(images), 1000)
        ]
    )


def _run_stablehlo(data: bytes) -> Logits:
    import jax

    call = jax.jit(jax.export.deserialize(bytearray(data)).call)
    return lambda images: np.concatenate(
        [np.asarray(call(images[i : i + 1000])) for i in range(0, len(images), 1000)]
    )


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"the format onnx needs {name}: pip install 'jaxmnist[onnx]'.") from None


if __name__ == "__main__":
    sys.exit(main())
