"""What is exported answers as the model does, where there is no jaxmnist."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxmnist
from jaxmnist import export

# What a program needs of a StableHLO file, in a process that cannot import us.
CALL = """
import sys
sys.modules["jaxmnist"] = sys.modules["flax"] = None
import jax, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([exported.call(images[:1]), exported.call(images[1:])]))
"""


LINEAR = """
import flax.linen as nn


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(10)(x.reshape(x.shape[0], -1))
"""


def run_onnx(path, images):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = images[:1], images[1:]
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])


def run_opencv(path, images):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    net = cv2.dnn.readNetFromONNX(str(path))
    found = []
    for part in (images[:1], images[1:]):
        net.setInput(part)
        found.append(net.forward())
    return np.concatenate(found)


def run_stablehlo(path, images):
    given, taken = path.with_name("images.npy"), path.with_name("logits.npy")
    np.save(given, images)
    command = [sys.executable, "-c", CALL, path, given, taken]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return np.load(taken)


@pytest.mark.parametrize(
    ("kind", "call"),
    [("onnx", run_onnx), ("onnx", run_opencv), ("stablehlo", run_stablehlo)],
)
def test_a_file_answers_as_the_model(kind, call, trained, model, test_split, tmp_path, capsys):
    if kind == "onnx":
        pytest.importorskip("onnx", reason="needs the extra onnx")
    output = tmp_path / f"model.{kind}"
    assert export.main([f"--workdir={trained}", f"--format={kind}", f"--output={output}"]) == 0
    assert "1,000 examples the same classes" in capsys.readouterr().out

    ours, theirs = model.logits(test_split.images), call(output, test_split.images)
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(theirs.argmax(-1), ours.argmax(-1))

    results = json.loads((trained / "results.json").read_text())
    about = json.loads((tmp_path / f"model.{kind}.json").read_text())
    assert about["accuracy"] == pytest.approx(results["test"]["accuracy"])
    assert about["params_sha256"] == results["params_sha256"]
    assert about["labels"] == [str(digit) for digit in range(10)]
    assert about["input"]["name"] == "image"
    assert about["input"]["dtype"] == "uint8"
    assert about["output"]["shape"] == ["batch", 10]
    assert about["input"]["preparation"] == model.preparation
    assert "longer side is 20 pixels" in " ".join(about["input"]["steps"])
    assert {"onnx": "onnxruntime", "stablehlo": "jax.export.deserialize"}[kind] in about[
        "read_with"
    ]


def test_readers_that_do_not_look_at_the_kernel_are_told_its_shape(model):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    graph = onnx.load_from_string(export.to_onnx(model)).graph
    shapes = [
        list(attribute.ints)
        for node in graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "kernel_shape"
    ]
    assert shapes == [[5, 5], [5, 5]]


def test_the_names_in_a_file_stay_as_they_were(model):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    graph = onnx.load_from_string(export.to_onnx(model)).graph
    assert [node.output[0] for node in graph.node] == [
        *("Cast_0", "Div_1", "Reshape_2", "Conv_3", "MaxPool_4", "Relu_5", "Conv_6", "MaxPool_7"),
        *("Relu_8", "Flatten_9", "Gemm_10", "Relu_11", "logits"),
    ]
    assert [weight.name for weight in graph.initializer] == [
        *("largest", "channels_first", "conv0_kernel", "conv0_bias", "conv1_kernel", "conv1_bias"),
        *("dense0", "dense0_bias", "dense1", "dense1_bias"),
    ]


def test_several_models_share_one_graph(model):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    graph = onnx.load_from_string(export.to_onnx(model, model)).graph
    kinds = [node.op_type for node in graph.node]
    assert [kinds.count(kind) for kind in ("Cast", "Div", "Conv", "Softmax")] == [1, 1, 4, 2]
    assert graph.node[-1].op_type == "Mean"
    assert [output.name for output in graph.output] == ["probabilities"]
    names = [weight.name for weight in graph.initializer]
    assert len(set(names)) == len(names) == 2 + 2 * 8
    assert {"model0_dense1", "model1_dense1"} < set(names)


def test_what_is_too_large_for_a_file_is_refused(model, monkeypatch):
    monkeypatch.setattr(export, "_MOST_BYTES", 26_000_000)
    with pytest.raises(export.NotInOnnx, match=r"have 0\.0 GB, and an ONNX file at most 2"):
        export.to_onnx(model, model)


@pytest.fixture(scope="module")
def normalized(once):
    """A workdir of another network: other widths, batch normalization, averages that count."""

    def fill(folder):
        config = jaxmnist.get_config()
        config.update({"dataset": "mnist_sample", "batch_norm": True, "features": (4, 8, 12)})
        config.update({"hidden": 16, "kernel_size": 3, "num_steps": 30, "log_every": 10})
        config.eval_split = "test[:200]"
        jaxmnist.train_and_evaluate(config, folder)

    return once("normalized", fill)


@pytest.mark.parametrize(
    ("kind", "call"),
    [("onnx", run_onnx), ("onnx", run_opencv), ("stablehlo", run_stablehlo)],
)
def test_batch_normalization_is_folded(kind, call, normalized, test_split, tmp_path):
    if kind == "onnx":
        onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    output = tmp_path / f"model.{kind}"
    assert export.main([f"--workdir={normalized}", f"--format={kind}", f"--output={output}"]) == 0
    ours = jaxmnist.load(normalized).logits(test_split.images)
    np.testing.assert_allclose(call(output, test_split.images), ours, rtol=0, atol=1e-4)
    if kind == "onnx":
        nodes = [node.op_type for node in onnx.load(output).graph.node]
        assert nodes.count("Conv") == 3
        assert "BatchNormalization" not in nodes


def test_another_network_is_no_onnx(run, capsys, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    (tmp_path / "net.py").write_text(LINEAR)
    run.config.update({"model": f"{tmp_path}/net.py:Linear", "num_steps": 2})
    jaxmnist.train_and_evaluate(run.config, run.workdir.path)
    args = [f"--workdir={run.workdir.path}"]
    assert export.main([*args, "--format=onnx"]) == 1
    said = "the paper's network, in any widths, and Dense_0 (Dense) is no layer of it: take --form"
    assert said in capsys.readouterr().err
    assert export.main([*args, "--format=stablehlo"]) == 0


def test_stablehlo_is_for_every_platform(model):
    exported = jax.export.deserialize(bytearray(export.to_stablehlo(model)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0]) == "uint8[batch,28,28,1]"


def test_a_file_that_answers_otherwise_is_not_written(trained, tmp_path, monkeypatch, capsys):
    def wrong(model):
        kernel = model.params["Dense_1"]["kernel"].copy()
        kernel[0, 0] += 0.1
        model.params["Dense_1"] = model.params["Dense_1"] | {"kernel": kernel}
        return right(model)

    right = export.to_stablehlo
    monkeypatch.setattr(export, "to_stablehlo", wrong)
    output = tmp_path / "model.stablehlo"
    args = [f"--workdir={trained}", "--format=stablehlo", f"--output={output}"]
    assert export.main(args) == 1
    assert "answers differently from the model on 1,000 examples" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_extra_that_is_missing_is_named(trained, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export.main([f"--workdir={trained}", "--format=onnx"]) == 1
    assert "pip install 'jaxmnist[onnx]'" in capsys.readouterr().err
    assert not (trained / "model.onnx").exists()


def test_products_in_bfloat16_are_exported_in_float32(trained, tmp_path, capsys):
    """The weights are float32 whatever the products were."""
    config = json.loads((trained / "config.json").read_text())
    for name in ("checkpoints", "results.json"):
        (tmp_path / name).symlink_to(trained / name)
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert export.main([f"--workdir={tmp_path}", "--format=stablehlo"]) == 0
    assert jaxmnist.load(tmp_path).config.dtype == "bfloat16"
