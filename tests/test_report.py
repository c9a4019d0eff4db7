"""The report: one page without anything from elsewhere, its figures, and runs laid side by side."""

import base64
import copy
import dataclasses
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxmnist
from jaxmnist import datasets, inference, report, themes
from jaxmnist.analysis import Analysis
from jaxmnist.config import get_config
from jaxmnist.datasets import Split

pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("jinja2", reason="needs the extra report")
figures = pytest.importorskip("jaxmnist.figures")

FIGURES = {
    *("loss", "accuracy", "loss-by-time", "accuracy-by-time", "confusion", "mistakes"),
    *("classes", "calibration", "filters"),
}


class Page(html.parser.HTMLParser):
    """What a page shows: its pictures, the cells of its tables, and what it would load."""

    def __init__(self, path):
        super().__init__()
        self.light, self.dark, self.loads, self.cells, self.text = [], [], [], [], ""
        self.in_cell = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            assert attrs["alt"]
            self.light.append(_picture(attrs["src"]))
        elif tag == "source":
            assert attrs["media"] == "(prefers-color-scheme: dark)"
            self.dark.append(_picture(attrs["srcset"]))
        elif tag == "tr":
            self.cells.append([])
        self.in_cell = self.in_cell or tag in ("th", "td")
        self.loads += [v for k, v in attrs.items() if k in ("src", "href", "srcset")]

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("th", "td")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.cells[-1].append(data)


def _picture(url):
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """The report of a run, and of that run beside one of other settings that has not finished."""
    other = tmp_path_factory.mktemp("other") / "unfinished"
    shutil.copytree(trained, other)
    (other / "results.json").unlink()
    config = json.loads((other / "config.json").read_text()) | {"learning_rate": 0.01}
    (other / "config.json").write_text(json.dumps(config))
    page = tmp_path_factory.mktemp("compared") / "both.html"
    assert report.main([f"--workdir={trained}"]) == 0
    assert report.main([f"--workdir={trained}", f"--output={page}", "--compare", str(other)]) == 0
    return trained, page


def test_the_page_is_whole_by_itself(written):
    page = Page(written[0] / "report.html")
    assert len(page.light) == len(page.dark) == len(FIGURES)
    assert all(url.startswith("data:") for url in page.loads)
    assert "@import" not in page.text
    assert "url(" not in page.text
    for light, dark in zip(page.light, page.dark, strict=True):
        assert light.shape == dark.shape
        assert light[0, 0] > 200 > 50 > dark[0, 0]
        assert light.std() > 5  # Something is on it.


def test_the_figures_lie_beside_it(written):
    found = {path.name for path in written[0].glob("*.png")}
    assert found == {f"report-{name}.png" for name in FIGURES}
    for name in found:
        Image.open(written[0] / name).verify()


def test_the_page_tells_of_the_run(written):
    page = Page(written[0] / "report.html")
    results = json.loads((written[0] / "results.json").read_text())
    assert f"{100 * results['test']['accuracy']:.2f} %" in page.text
    assert f"{results['test']['loss']:.4f}" in page.text
    rows = {cells[0]: cells[1:] for cells in page.cells}
    assert rows["learning_rate"] == ["0.05"]
    assert rows["jax"] == [results["versions"]["jax"]]
    assert rows["params_sha256"] == [results["params_sha256"]]


def test_runs_are_compared(written):
    page = Page(written[1])
    rows = {cells[0]: cells[1:] for cells in reversed(page.cells)}  # Those of the first table.
    assert rows["learning_rate"] == ["0.05", "0.01"]
    assert len(rows["accuracy"]) == 2
    assert rows["parameters (SHA-256)"][1] == "not finished"
    assert {path.name for path in written[1].parent.glob("*.png")} == {
        f"both-{name}.png" for name in FIGURES
    }


def test_an_analysis_is_that_of_the_model(written, test_split):
    found = report.analyse(written[0])
    model = jaxmnist.load(written[0])
    np.testing.assert_array_equal(found.classes, model.predict(test_split.images).classes)
    results = json.loads((written[0] / "results.json").read_text())
    assert found.accuracy == pytest.approx(results["test"]["accuracy"])
    assert found.loss == pytest.approx(results["test"]["loss"], rel=1e-5)


def test_examples_with_swapped_axes_are_shown_upright(written, model, test_split, monkeypatch):
    emnist = copy.copy(model)
    emnist.preparation = datasets.preparation("emnist/digits")
    monkeypatch.setattr(inference, "load", lambda workdir: emnist)
    found = report.analyse(written[0])
    np.testing.assert_array_equal(found.split.images, test_split.images.swapaxes(1, 2))
    # The network still gets its inputs as they are.
    np.testing.assert_array_equal(found.classes, model.predict(test_split.images).classes)


def test_runs_of_two_datasets_are_not_compared(written, monkeypatch, capsys):
    found = report.analyse(written[0])
    other = dataclasses.replace(found, name="other", dataset="kmnist")
    monkeypatch.setattr(report, "analyse", lambda name, _: other if name == "other" else found)
    assert report.main([f"--workdir={written[0]}", "--compare", "other"]) == 1
    assert "other was evaluated on kmnist" in capsys.readouterr().err


def test_what_cannot_be_reported_is_told_in_a_sentence(tmp_path, capsys):
    assert report.main([f"--workdir={tmp_path}"]) == 1
    assert re.fullmatch(r"error: .* holds no run: train there first\.\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(trained, command, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError(name='matplotlib')")
    run = command("report", workdir=trained, env={"PYTHONPATH": str(tmp_path)})
    assert run.wait() == 1
    assert run.err == "error: the report needs matplotlib: pip install 'jaxmnist[report]'.\n"


@pytest.mark.parametrize(("classes", "wrong"), [(10, 0), (30, 500)])
def test_figures_of_a_perfect_model_without_records_and_of_many_classes(classes, wrong):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes - 1, size=2000)  # Of the last class there are none.
    said = np.where(np.arange(2000) < wrong, rng.integers(classes, size=2000), labels)
    analysis = Analysis(
        name="runs/" + "long" * 20,
        config=get_config(),
        dataset="made up",
        step=0,
        records=[],
        results=None,
        class_names=[f"class {i}" for i in range(classes)],
        split=Split(np.zeros((2000, 28, 28, 1), np.uint8), labels),
        probabilities=np.eye(classes, dtype=np.float32)[said],
        kernel=np.zeros((5, 5, 1, 32), np.float32),
    )
    drawn = figures.draw([analysis] * 8, themes.DARK)
    assert set(drawn) | {"mistakes"} == FIGURES
    for data in drawn.values():
        Image.open(io.BytesIO(data)).verify()
