"""The predict command, as its users run it."""

import copy
import io
import json
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

import jaxmnist
from jaxmnist import predict
from jaxmnist.data import datasets, png
from jaxmnist.trained import inference


@pytest.fixture
def folder(tmp_path, test_split):
    """Ten test images as PNG, in a folder with another within."""
    (tmp_path / "pngs/more").mkdir(parents=True)
    for i in range(10):
        path = tmp_path / "pngs" / ("more" if i % 2 else ".") / f"{i}.png"
        path.write_bytes(png.encode(test_split.images[i]))
    return tmp_path / "pngs"


def test_every_file_of_a_folder_gets_the_evaluations_class(
    trained, folder, model, test_split, capsys
):
    (folder / ".hidden").write_text("no picture")
    assert predict.main([f"--workdir={trained}", "--json", str(folder)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [str(folder / f"{i}.png") for i in range(0, 10, 2)]
    names += [str(folder / f"more/{i}.png") for i in range(1, 10, 2)]
    assert [each["file"] for each in found] == names
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    classes, probabilities = model.predict(test_split.images[order])
    assert [each["classes"] for each in found] == classes.tolist()
    np.testing.assert_allclose([each["probabilities"] for each in found], probabilities, atol=1e-6)


def test_a_line_has_the_digit_and_the_runner_up(trained, folder, model, test_split, capsys):
    assert predict.main([f"--workdir={trained}", str(folder / "0.png")]) == 0
    p = model.predict(test_split.images[0]).probabilities
    first, second = np.argsort(-p)[:2]
    wanted = f"{folder}/0.png: {first} ({p[first]:.4f}), then {second} ({p[second]:.4f})\n"
    assert capsys.readouterr().out == wanted


def bomb():
    """A PNG that says that it has a billion pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 40_000, 25_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_what_cannot_be_read_is_named_and_the_others_still_done(trained, folder, tmp_path, capsys):
    whole = (folder / "0.png").read_bytes()
    bad = {"empty.png": b"", "cut.png": whole[:150], "bomb.png": bomb()}
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (tmp_path / "none").mkdir()
    (tmp_path / "notes.txt").write_text("hi")
    missing = [str(tmp_path / name) for name in ("none", "gone.png", "notes.txt")]
    assert predict.main([f"--workdir={trained}", str(folder), *missing]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 10
    errors = captured.err.splitlines()
    assert len(errors) == 6, errors
    for name in [*bad, "none", "gone.png", "notes.txt"]:
        assert sum(name in line for line in errors) == 1, errors
    assert all(re.fullmatch(r"error: .*\.", line) for line in errors)


def test_what_is_no_picture_in_a_folder_is_passed_over(
    trained, folder, model, test_split, tmp_path, capsys
):
    (folder / "notes.txt").write_text("hi")
    (folder / "photo").write_bytes((folder / "0.png").read_bytes())  # A picture by its content.
    (folder / "more/Thumbs.db").write_bytes(bytes(100))
    assert predict.main([f"--workdir={trained}", str(folder)]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 11
    assert f"{folder}/photo: " in captured.out
    assert captured.err == (
        f"{folder}: skipped files that are no pictures (more/Thumbs.db, notes.txt).\n"
    )
    (tmp_path / "texts").mkdir()
    for i in range(5):
        (tmp_path / f"texts/{i}.txt").write_text("hi")
    assert predict.main([f"--workdir={trained}", str(tmp_path / "texts")]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}/texts: skipped files that are no pictures (0.txt, 1.txt, 2.txt and 2 more).\n"
        f"error: {tmp_path}/texts is a folder without pictures: name another.\n"
    )


def test_standard_input_and_a_name_that_is_no_text(trained, folder, model, test_split):
    """The picture is read, and the name printed as it is."""
    name = bytes(folder) + b"/\xff.png"
    with open(name, "wb") as f:
        f.write((folder / "0.png").read_bytes())
    run = subprocess.run(
        [sys.executable, "-m", "jaxmnist.predict", f"--workdir={trained}", "-", name],
        input=png.encode(test_split.images[3]),
        capture_output=True,
    )
    assert run.stderr == b""
    first, second = run.stdout.splitlines(keepends=True)
    wanted = model.predict(test_split.images[3]).classes
    assert re.fullmatch(rf"-: {wanted} \(.*\n", first.decode())
    assert second.startswith(name + b": ")


def test_an_upright_letter_is_read_by_a_model_of_emnist(
    trained, model, test_split, tmp_path, monkeypatch, capsys
):
    """The model of MNIST's digits serves for one that was trained on swapped letters."""
    emnist = copy.copy(model)
    emnist.preparation = datasets.preparation("emnist/letters")
    emnist.class_names = datasets.class_names("emnist/letters")[:10]
    monkeypatch.setattr(inference, "load", lambda workdir: emnist)
    for i, image in enumerate(test_split.images[:10]):
        (tmp_path / f"{i}.png").write_bytes(png.encode(image.swapaxes(0, 1)))
    assert predict.main([f"--workdir={trained}", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = model.predict(test_split.images[:10]).classes
    for line, label in zip(lines, wanted, strict=True):
        assert f".png: {emnist.class_names[label]} (" in line


def test_a_picture_is_named_from_home_and_is_no_url(trained, folder, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(folder))
    names = ["~/0.png", "https://example.org/0.png"]
    assert predict.main([f"--workdir={trained}", *names]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{folder}/0.png: ")
    assert "IMAGE=https://example.org/0.png is a URL" in captured.err


def test_a_character_that_the_terminal_cannot_show_is_a_question_mark(trained, folder, monkeypatch):
    (folder / "ü.png").write_bytes((folder / "0.png").read_bytes())
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert predict.main([f"--workdir={trained}", str(folder / "ü.png")]) == 0
    assert written.getvalue().startswith(f"{folder}/?.png: ".encode())


def test_pictures_that_were_drawn_dark_on_light_are_recognized(
    trained, tmp_path, capsys, test_split
):
    """Real digits, as pictures of another size, colour and place."""
    labels = []
    for i in range(100):
        large = Image.fromarray(255 - test_split.images[i, ..., 0]).resize((140, 140))
        paper = Image.new("RGB", (300, 200), "white")
        paper.paste(large, (20 + i, 40))
        paper.save(tmp_path / f"{i:02}.jpg")
        labels.append(test_split.labels[i])
    assert predict.main([f"--workdir={trained}", "--json", str(tmp_path)]) == 0
    found = [json.loads(line)["classes"] for line in capsys.readouterr().out.splitlines()]
    assert np.mean(np.array(found) == labels) > 0.85


def test_a_workdir_without_a_run_is_told_of(tmp_path, capsys):
    assert predict.main([f"--workdir={tmp_path}", "x.png"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} holds no run: train there first.\n"


def test_a_workdir_that_is_not_there_is_told_of(tmp_path, capsys):
    assert predict.main([f"--workdir={tmp_path}/nope", "x.png"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/nope: there is no such folder.\n"


def test_mnists_test_images_get_the_evaluations_classes(trained, prepared_mnist, tmp_path, capsys):
    """All 10,000, by the file."""
    split = datasets.load("mnist", ["test"], str(prepared_mnist)).splits[0]
    for i, image in enumerate(split.images):
        (tmp_path / f"{i:05}.png").write_bytes(png.encode(image))
    assert predict.main([f"--workdir={trained}", "--json", str(tmp_path)]) == 0
    found = [json.loads(line)["classes"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_array_equal(found, jaxmnist.load(trained).predict(split.images).classes)


def test_a_reader_who_has_enough_ends_it_quietly(trained, command, folder):
    run = command("predict", str(folder), workdir=trained)
    run.process.stdout.close()
    assert run.process.wait() == 1
    assert run.process.stderr.read() == ""
