"""The report: one page without anything from elsewhere, its figures, and runs laid side by side."""

import base64
import copy
import dataclasses
import html
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxmnist
from jaxmnist import report
from jaxmnist.data import datasets
from jaxmnist.trained import inference
from tests.trained.test_figures import made_up

pytest.importorskip("jinja2", reason="needs the extra report")
figures = pytest.importorskip("jaxmnist.trained.figures", reason="needs the extra report")

SHOWN = {"loss", "accuracy", "classes", "calibration", "filters"}  # As pictures, of one run.
OVER_TIME = {"loss-by-time", "accuracy-by-time"}  # Of several.
BESIDE = {"confusion", "mistakes"}  # As files alone.
COMMAND = "python -m jaxmnist.main --workdir=runs/<a>"


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


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """The report of a run, and of that run beside one of other settings that has not finished."""
    other = tmp_path_factory.mktemp("other") / "unfinished"
    shutil.copytree(trained, other)
    (other / "results.json").unlink()
    (other / "run.json").unlink()  # As in older workdirs.
    change(other / "config.json", learning_rate=0.01)
    start = {"step": 0, "num_steps": 120, "time": "2026-02-03T04:05:06+00:00", "command": COMMAND}
    change(trained / "run.json", starts=[start])
    (trained / "report-loss-by-time.png").write_bytes(b"of an earlier report")
    page = tmp_path_factory.mktemp("compared") / "both.html"
    assert report.main([f"--workdir={trained}"]) == 0
    assert report.main([f"--workdir={trained}", f"--output={page}", "--compare", str(other)]) == 0
    return trained, page


def test_the_page_is_whole_by_itself(written):
    page = Page(written[0] / "report.html")
    assert len(page.light) == len(page.dark) == len(SHOWN)
    assert all(url.startswith("data:") for url in page.loads)
    assert "@import" not in page.text
    assert page.text.count("url(") == page.text.count("url(data:image/png;base64,") == 1
    for light, dark in zip(page.light, page.dark, strict=True):
        assert light.shape == dark.shape
        assert light[0, 0] > 200 > 50 > dark[0, 0]
        assert light.std() > 5  # Something is on it.


def test_the_figures_lie_beside_it_and_no_others_of_an_earlier_report(written):
    found = {path.name for path in written[0].glob("*.png")}
    assert found == {f"report-{name}.png" for name in SHOWN | BESIDE}
    for name in found:
        Image.open(written[0] / name).verify()


def test_the_page_tells_of_the_run(written, model):
    page = Page(written[0] / "report.html")
    results = json.loads((written[0] / "results.json").read_text())
    assert f"{100 * results['test']['accuracy']:.2f} %" in page.text
    assert f"{results['test']['loss']:.4f}" in page.text
    assert "after 120 training steps of 100; started 2026-02-03 04:05 UTC." in page.text
    assert "Trained on 4,000 sample digits, not on MNIST." in page.text
    rows = {cells[0]: cells[1:] for cells in page.cells if cells}
    assert rows["learning_rate"] == ["0.05"]
    assert rows["jax"] == [results["versions"]["jax"]]
    assert rows["params_sha256"] == [results["params_sha256"]]
    assert " ".join(rows["started"]).split() == ["2026-02-03", "04:05", "UTC", *COMMAND.split()]
    assert rows["Conv_1"] == ["7x7x64", "51,264"]
    assert rows["all"] == ["3,274,634"]
    changed = re.findall(
        r'class="changed"><th scope="row">(\w+)<', (written[0] / "report.html").read_text()
    )
    assert set(changed) == {"dataset", "num_steps", "log_every", "eval_every"}


def test_runs_are_compared(written):
    page = Page(written[1])
    rows = {cells[0]: cells[1:] for cells in reversed(page.cells) if cells}  # The first table's.
    assert rows["learning_rate"] == ["0.05", "0.01"]
    assert len(rows["accuracy"]) == 2
    assert rows["parameters (SHA-256)"][1] == "not finished"
    assert rows["started"] == ["2026-02-03 04:05 UTC", "not recorded"]
    assert len(page.light) == len(SHOWN | OVER_TIME)
    assert {path.name for path in written[1].parent.glob("*.png")} == {
        f"both-{name}.png" for name in SHOWN | OVER_TIME | BESIDE
    }


@pytest.fixture
def no_figures(monkeypatch):
    """Leaves the figures of a page empty, so that it is written at once."""
    monkeypatch.setattr(figures, "draw", lambda *_: dict.fromkeys(SHOWN, b""))


@pytest.mark.parametrize("dataset", ["mnist", "mnist_sample"])
def test_the_sample_is_told_of_where_it_was_trained_on(dataset, no_figures, tmp_path):
    report.write([dataclasses.replace(made_up(), dataset=dataset)], tmp_path / "a.html")
    told = "sample digits, not on MNIST" in (tmp_path / "a.html").read_text()
    assert told is (dataset == "mnist_sample")


def test_each_mistake_is_shown_in_its_cell_with_its_place(written, model, test_split):
    text = (written[0] / "report.html").read_text()
    kept = json.loads(re.search("KEPT = (.*), COLUMNS", text)[1])
    classes = model.predict(test_split.images).classes
    wrong = np.flatnonzero(classes != test_split.labels)
    assert {each["place"] for each in kept} == {f"test[{i}]" for i in wrong}
    sheet = _picture(re.search(r"url\((data:image/png;base64,[^)]*)\)", text)[1])
    for place, each in enumerate(kept):
        i = int(each["place"][5:-1])
        assert (each["label"], each["said"]) == (test_split.labels[i], classes[i])
        y, x = 28 * (place // 25), 28 * (place % 25)
        np.testing.assert_array_equal(sheet[y : y + 28, x : x + 28], test_split.images[i, ..., 0])


def test_a_cell_shows_its_pictures_by_mouse_and_by_keyboard(written, browser):
    browser.set_window_size(500, 900)  # As narrow as a window can be.
    browser.get((written[0] / "report.html").as_uri())
    run = browser.execute_script

    def shown():
        texts = [item.text for item in browser.find_elements("css selector", "#pictures li")]
        return [tuple(re.match("is (.), said (.)", text).groups()) for text in texts]

    assert run("return document.documentElement.scrollWidth <= innerWidth")
    assert len(shown()) == 24  # Whole rows of four and of six.
    cells = browser.find_elements("css selector", "[data-cell]")
    for cell in (cells[0], cells[-1]):
        cell.click()
        label, said = cell.get_attribute("data-cell").split()
        assert shown() == [(label, said)] * int(cell.text)
        heading = browser.find_element("css selector", "#heading")
        assert heading.text == f"{label} taken for {said}: {cell.text}"
    # Tab stops at one cell; the arrows lead on, and Enter chooses.
    assert run("return document.querySelectorAll('[data-cell][tabindex=\"0\"]').length") == 1
    active = browser.switch_to.active_element
    assert active == cells[-1]
    active.send_keys("\ue013")  # Up.
    active = browser.switch_to.active_element
    assert active != cells[-1]
    active.send_keys("\ue007")  # Enter.
    assert set(shown()) == {tuple(active.get_attribute("data-cell").split())}
    assert active.get_attribute("aria-pressed") == "true"
    browser.find_element("css selector", "#all").click()
    assert len(shown()) == 24


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


@pytest.fixture
def no_model(monkeypatch):
    """Fails if a run is looked at closer than its config."""
    monkeypatch.setattr(report, "analyse", lambda *_: pytest.fail("it was evaluated"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": "kmnist"}, "test of kmnist, {} on test of mnist_sample"),
        ({"eval_split": "train[3000:]"}, "train[3000:] of mnist_sample, {} on test of"),
    ],
)
def test_runs_that_were_evaluated_on_other_examples_are_not_compared(
    trained, tmp_path, no_model, capsys, changes, told
):
    other = shutil.copytree(trained, tmp_path / "other")
    change(other / "config.json", **changes)
    assert report.main([f"--workdir={trained}", "--compare", str(other)]) == 1
    assert f"error: {other} was evaluated on {told.format(trained)}" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_told_of_before_others_are_evaluated(
    trained, tmp_path, no_model, capsys
):
    for make in (lambda: None, lambda: shutil.copy(trained / "config.json", tmp_path)):
        make()
        assert report.main([f"--workdir={trained}", "--compare", str(tmp_path)]) == 1
        assert re.fullmatch(
            rf"error: {tmp_path}\S* holds no .*: train there first\.\n", capsys.readouterr().err
        )


def test_a_run_is_not_compared_with_itself_but_with_the_same_split_in_other_words(
    trained, tmp_path, no_figures, monkeypatch
):
    (tmp_path / "link").symlink_to(trained)
    other = shutil.copytree(trained, tmp_path / "other")
    change(other / "config.json", eval_split="test[:100%]")
    analysed = []
    monkeypatch.setattr(report, "analyse", lambda workdir, _: analysed.append(workdir) or made_up())
    page, beside = tmp_path / "a.html", [f"{trained}/", str(tmp_path / "link"), str(other)]
    assert report.main([f"--workdir={trained}", f"--output={page}", "--compare", *beside]) == 0
    assert analysed == [str(trained), str(other)]


def test_what_cannot_be_reported_is_told_in_a_sentence(tmp_path, capsys):
    assert report.main([f"--workdir={tmp_path}"]) == 1
    assert re.fullmatch(r"error: .* holds no run: train there first\.\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(trained, command, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError(name='matplotlib')")
    run = command("report", workdir=trained, env={"PYTHONPATH": str(tmp_path)})
    assert run.wait() == 1
    assert run.err == "error: the report needs matplotlib: pip install 'jaxmnist[report]'.\n"


def test_a_page_that_leaves_mistakes_out_says_so(no_figures, tmp_path):
    analysis, page = made_up(wrong=2000), tmp_path / "bad.html"
    said = report.write([analysis], page)
    assert said.startswith(f"{page} (0.")
    text = " ".join(page.read_text().split())
    assert f"The page keeps 1,000 of {analysis.num_mistakes:,} mistakes." in text
    assert len(json.loads(re.search("KEPT = (.*), COLUMNS", text)[1])) == 1000
    assert page.stat().st_size < 1e6


def test_a_page_of_few_mistakes_among_many_classes_keeps_them_all(no_figures, tmp_path):
    analysis, page = made_up(classes=30, wrong=500), tmp_path / "a.html"
    report.write([analysis], page)
    kept = json.loads(re.search("KEPT = (.*), COLUMNS", page.read_text())[1])
    assert len(kept) == analysis.num_mistakes
    assert "The page keeps" not in page.read_text()


@pytest.mark.parametrize(
    ("image_shape", "classes", "tile"),
    [((32, 32, 3), 3, (64, 64)), ((8, 8, 1), 2, (56, 56)), ((20, 40, 3), 130, (40, 20))],
)
def test_pictures_of_any_shape_are_shown_in_their_colours(
    no_figures, tmp_path, browser, image_shape, classes, tile
):
    analysis, page = made_up(classes, wrong=900, image_shape=image_shape), tmp_path / "a.html"
    images = analysis.split.images
    images[:] = np.random.default_rng(0).integers(256, size=images.shape)
    report.write([analysis], page)
    text = page.read_text()
    kept = json.loads(re.search("KEPT = (.*), COLUMNS", text)[1])
    data = re.search(r"url\(data:image/png;base64,([^)]*)\)", text)[1]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    height, width = image_shape[:2]
    for place in (0, 24, len(kept) - 1):
        y, x = height * (place // 25), width * (place % 25)
        image = images[int(kept[place]["place"][5:-1])]
        found = sheet[y : y + height, x : x + width].reshape(image.shape)
        np.testing.assert_array_equal(found, image)
    browser.get(page.as_uri())
    shown = browser.find_element("css selector", "#pictures .digit")
    assert (shown.size["width"], shown.size["height"]) == tile
    cells = browser.find_elements("css selector", "[data-cell]")
    wrong = analysis.confusion * (1 - np.eye(classes, dtype=int))
    seen = analysis.shown_classes
    assert len(cells) == np.count_nonzero(wrong[np.ix_(seen, seen)])
    cells[-1].click()
    label, said = map(int, cells[-1].get_attribute("data-cell").split())
    names = analysis.class_names
    heading = browser.find_element("css selector", "#heading").text
    assert heading.startswith(f"{names[label]} taken for {names[said]}: {wrong[label, said]}")
    told = "The 100 of 130 classes with the most mistakes are shown." in " ".join(text.split())
    assert told is (classes == 130)


def test_filters_are_shown_where_there_are_some(tmp_path, monkeypatch):
    """What their colours mean is said too; those of an earlier report are removed."""
    monkeypatch.setattr(figures, "png", lambda *_: b"")
    page, file = tmp_path / "a.html", tmp_path / "a-filters.png"
    grey, colour = made_up(), made_up(image_shape=(8, 8, 3))
    for analysis, words in (
        (grey, "Ink adds to a feature where the filter is red"),
        (colour, "what has a filter's colours adds to its feature"),
    ):
        report.write([analysis], page)
        assert words in html.unescape(page.read_text())
        assert file.exists()
    report.write([dataclasses.replace(grey, kernel=None)], page)
    assert "filters" not in page.read_text()
    assert not file.exists()


def test_only_a_first_convolution_of_grey_or_colours_can_be_shown():
    for channels, shown in ((1, True), (3, True), (4, False)):
        kernel = np.zeros((5, 5, channels, 8), np.float32)
        found = report._first_kernel({"Conv_0": {"kernel": kernel}})
        assert (found is kernel) is shown
    for params in (
        {},
        {"Conv_0": {}},
        {"Conv_0": {"Conv_0": {"kernel": kernel}}},
        {"Conv_0": kernel},
    ):
        assert report._first_kernel(params) is None
    assert report._first_kernel({"Conv_0": {"kernel": np.zeros((3, 8))}}) is None
