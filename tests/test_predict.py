"""The predict command, as its users run it."""

import contextlib
import copy
import io
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxmnist
from jaxmnist import predict
from jaxmnist.data import datasets, pictures, png
from jaxmnist.trained import inference
from tests.trained.test_inference import boxes_of, doubt, side_by_side


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
    placed = {"box": 20, "centre": "mass"}
    emnist.preparation = datasets.preparation("emnist/letters") | placed
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


@pytest.fixture
def two(tmp_path, model, test_split):
    """The path of a picture of two digits, what they are, and their boxes."""
    images = [i for i in test_split.images[:20] if model.predict(i).probabilities.max() > 0.99][:2]
    side_by_side(*images).save(tmp_path / "two.png")
    return tmp_path / "two.png", model.predict(images).classes.tolist(), boxes_of(*images)


def test_several_digits_are_answered_in_one_line(trained, two, model, capsys):
    path, (first, second), boxes = two
    a, b = model.detect(path)
    p, q = a.probabilities[first], b.probabilities[second]
    assert predict.main([f"--workdir={trained}", str(path)]) == 0
    assert capsys.readouterr().out == (
        f"{path}: {first}{second}: {first} ({p:.4f}), {second} ({q:.4f})\n"
    )
    assert predict.main([f"--workdir={trained}", "--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"file", "detections"}
    assert found["file"] == str(path)
    for each, detection, box in zip(found["detections"], (a, b), boxes, strict=True):
        assert each.keys() == {"box", "classes", "probabilities", "class_name"}
        assert each["box"] == list(detection.box)
        np.testing.assert_allclose(each["box"], box, atol=0.1 * (box[3] - box[1]))
        assert each["class_name"] == str(each["classes"]) == str(detection.classes)
        np.testing.assert_allclose(each["probabilities"], detection.probabilities, atol=1e-6)


def test_what_is_unsure_is_said_with_the_reason(
    trained, folder, two, model, test_split, monkeypatch, capsys
):
    path, one = two[0], folder / "0.png"
    doubt(monkeypatch, 0)
    p = model.predict(test_split.images[0]).probabilities
    words = inference.in_words(p, model.class_names)
    reason = "it is not written as digits are"
    assert predict.main([f"--workdir={trained}", str(one)]) == 0
    assert capsys.readouterr().out == f"{one}: unsure, perhaps {words}: {reason}.\n"
    assert predict.main([f"--workdir={trained}", "--json", str(one)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"file", "classes", "probabilities", "class_name", "unsure"}
    assert found["unsure"] == reason
    assert predict.main([f"--workdir={trained}", str(path)]) == 0
    assert re.fullmatch(
        rf".*: \d\d: unsure \d \([.\d]+\) since {re.escape(reason)}, \d \([.\d]+\)\n",
        capsys.readouterr().out,
    )
    assert predict.main([f"--workdir={trained}", "--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)["detections"]
    assert [each.get("unsure") for each in found] == [reason, None]


def test_what_was_found_is_shown(trained, two, folder, model, tmp_path, monkeypatch, capsys):
    """The picture with boxes, and what the network sees; under a name of its own."""
    path, *_ = two
    Image.new("RGB", (400, 300), "white").save(tmp_path / "blank.jpg")
    (tmp_path / "no.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("a/b.png", "a_b.png"):
        (tmp_path / name).write_bytes(path.read_bytes())
    names = ["two.png", "two.png", "a/b.png", "a_b.png", "blank.jpg", "no.png"]
    assert predict.main([f"--workdir={trained}", "--show=made/here", *names]) == 1
    shown = {}
    for each in (tmp_path / "made/here").iterdir():
        with Image.open(each) as opened:
            shown[each.name] = np.asarray(opened)
    assert shown.keys() == {
        *("two.png.png", "two.png-2.png", "a_b.png.png", "a_b.png-2.png", "blank.jpg.png")
    }
    assert len(capsys.readouterr().err.splitlines()) == 2
    # 200x120 is shown at twice the size.
    pixels = shown["two.png.png"]
    blue = (pixels == (29, 95, 196)).all(-1)
    assert blue[:240].any()
    a, b = model.detect(path)
    for i, each in enumerate((a, b)):
        tile = np.asarray(pictures.to_pillow(each.image).resize((112, 112), 0))
        left = 6 + 124 * i
        np.testing.assert_array_equal(pixels[252:364, left : left + 112, 0], tile)
    blank = shown["blank.jpg.png"]
    assert blank.shape[:2] > (300, 400)
    assert (blank[:300] > 250).all()
    assert (blank[300:] == (194, 65, 12)).all(-1).any()


def test_a_number_is_read_in_order_and_a_digit_on_ruled_paper_is_one(
    trained, test_split, tmp_path, capsys
):
    digits = [test_split.images[np.flatnonzero(test_split.labels == i)[0]] for i in (4, 2, 7)]
    side_by_side(*digits[:2]).save(tmp_path / "a.png")
    ruled = np.array(side_by_side(digits[2]).resize((300, 360)))
    for first in (15, 16):
        ruled[first::40] = np.minimum(ruled[first::40], 210)
    Image.fromarray(ruled).save(tmp_path / "b.png")
    assert predict.main([f"--workdir={trained}", str(tmp_path)]) == 0
    number, digit = capsys.readouterr().out.splitlines()
    assert number.startswith(f"{tmp_path}/a.png: 42: ")
    assert digit.startswith(f"{tmp_path}/b.png: 7 (")


def test_the_first_frame_that_is_not_blank_is_read_and_told_of(
    trained, test_split, tmp_path, capsys
):
    blank, digit, other = (
        side_by_side(image) for image in (np.zeros((28, 28, 1), np.uint8), *test_split.images[:2])
    )
    digit.save(tmp_path / "one.png")
    blank.save(tmp_path / "x.gif", save_all=True, append_images=[digit, other])
    blank.save(tmp_path / "y.gif", save_all=True, append_images=[blank.rotate(1, fillcolor=254)])
    shown = tmp_path / "shown"
    names = [str(tmp_path / name) for name in ("x.gif", "one.png", "y.gif")]
    assert predict.main([f"--workdir={trained}", f"--show={shown}", *names]) == 1
    captured = capsys.readouterr()
    found, wanted = captured.out.splitlines()
    assert found.replace("x.gif", "one.png") == wanted
    assert captured.err.splitlines() == [
        f"{names[0]} has 3 frames: this is frame 2, the first that is not blank.",
        f"error: {names[2]} shows no digit: it is blank.",
    ]
    assert len(list(shown.iterdir())) == 3


def test_a_heic_picture_is_read_and_shown_whatever_is_on_it(trained, test_split, tmp_path, capsys):
    """By its name in a folder, or by its content."""
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    (tmp_path / "in").mkdir()
    digit = side_by_side(test_split.images[0]).convert("RGB")
    for name, picture in (("a.heic", digit), ("b", digit), ("c.HEIC", Image.new("RGB", (99, 50)))):
        with open(tmp_path / "in" / name, "wb") as f:
            heif.from_pillow(picture).save(f)
    assert predict.main([f"--workdir={trained}", f"--show={tmp_path}", f"{tmp_path}/in"]) == 1
    captured = capsys.readouterr()
    a, b = captured.out.splitlines()
    assert a.replace("a.heic", "b") == b
    assert captured.err == f"error: {tmp_path}/in/c.HEIC shows no digit: it is blank.\n"
    with Image.open(next(tmp_path.glob("*c.HEIC.png"))) as shown:
        # At four times the size, above words.
        assert np.asarray(shown)[:200, :396].max() < 9


def test_a_picture_on_which_nothing_is_found_is_an_error(trained, two, monkeypatch, capsys):
    empty = pictures.Page(Image.new("RGB", (9, 9)), (9, 9), [])
    monkeypatch.setattr(pictures, "find", lambda *_: empty)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert predict.main([f"--workdir={trained}", str(two[0]), "-"]) == 1
    assert capsys.readouterr().err == (
        f"error: {two[0]} shows no digit.\nerror: standard input shows no digit.\n"
    )


def test_names_of_shown_pictures_are_safe_and_unlike(tmp_path):
    used = set()
    for name, wanted in [
        ("-", "stdin.png"),
        ("/a/../b/photo.jpg", "b_photo.jpg.png"),
        ("../b/Photo.jpg", "b_Photo.jpg-2.png"),
        (".hidden", "hidden.png"),
        ('a:"b"?', "a_b_.png"),
    ]:
        assert predict._file_name(name, used, tmp_path) == wanted
    assert len(predict._file_name("ü" * 300, used, tmp_path)) < 250


def test_only_what_an_earlier_run_showed_is_replaced(trained, two, tmp_path, monkeypatch, capsys):
    path, *_ = two
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "a.png.png"):
        (tmp_path / "photos" / name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path / "photos")
    Path("a.png-2.png").symlink_to(path)
    Path("a.png-3.png").mkdir()
    flags, lines, original = [f"--workdir={trained}", "--show=.", "."], [], path.read_bytes()
    for _ in range(2):
        assert predict.main(flags) == 0
        lines.append(capsys.readouterr().out)
        assert Path("a.png.png").read_bytes() == Path("a.png-2.png").read_bytes() == original
        assert sorted(each.name for each in Path().iterdir()) == [
            *("a.png", "a.png-2.png", "a.png-2.png.png", "a.png-3.png", "a.png-4.png"),
            *("a.png.png", "a.png.png.png"),
        ]
    assert lines[0] == lines[1]
    assert lines[0].count("\n") == 3


def test_what_cannot_be_shown_is_told_of_and_all_are_answered(
    trained, two, tmp_path, monkeypatch, capsys
):
    save = Image.Image.save

    def full(self, file, **options):
        if "first" in str(file):
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, file, **options)

    for name in ("first.png", "second.png"):
        (tmp_path / name).write_bytes(two[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "save", full)
    names = ["first.png", "second.png"]
    assert predict.main([f"--workdir={trained}", "--show=shown", *names]) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert told.err == ("error: cannot write shown/first.png.png (No space left on device).\n")
    assert [each.name for each in Path("shown").iterdir()] == ["second.png.png"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.png", ""], "IMAGE is empty: name a picture or a folder."),
        (["-", "a.png", "-"], "- is named twice: standard input has one picture."),
    ],
)
def test_names_that_are_mistakes_are_told_of_first(names, words, trained, capsys):
    assert predict.main([f"--workdir={trained}", *names]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"error: {words}\n")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("file", "--show={}/file is a file: name a folder."),
        ("file/in", "--show={}/file/in: cannot write there (Not a directory)."),
        ("closed", "--show={}/closed: cannot write there (it is not writable)."),
    ],
)
def test_where_nothing_can_be_shown_is_told_of_first(where, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o500)
    if where == "closed":
        monkeypatch.setattr("os.access", lambda *_: False)  # Root may write everywhere.
    assert predict.main(["--workdir=gone", f"--show={tmp_path}/{where}", "x.png"]) == 1
    assert capsys.readouterr().err == f"error: {words.format(tmp_path)}\n"


def test_pictures_are_read_a_few_in_advance_and_kept_only_to_be_shown(
    trained, folder, model, monkeypatch
):
    begun, find = [], pictures.find
    monkeypatch.setattr(pictures, "find", lambda *args: begun.append(args) or find(*args))
    names = (str(folder / "0.png") for _ in range(10_000))
    with contextlib.closing(predict._read_all(names, model.preparation, False)) as read:
        each = next(read)
        assert each.page.picture.size == (1, 1)
        assert len(each.page.regions) == 1
        assert len(begun) < 20
    names = iter([str(folder / "0.png")])
    with contextlib.closing(predict._read_all(names, model.preparation, True)) as read:
        assert next(read).page.picture.size == (28, 28)
