"""What the report's figures show: each number that they draw, in the colours of both themes."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from jaxmnist.config import get_config
from jaxmnist.data.datasets import Split
from jaxmnist.trained.analysis import Analysis, interval

colors = pytest.importorskip("matplotlib.colors", reason="needs the extra report")
figures = pytest.importorskip("jaxmnist.trained.figures")

BOTH = pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK], ids=["light", "dark"])


def made_up(classes=10, wrong=0, name="a", records=(), image_shape=(28, 28, 1)):
    """An analysis of a model that takes the first `wrong` of 2,000 examples for any class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes - 1, size=2000)  # Of the last class there are none.
    said = np.where(np.arange(2000) < wrong, rng.integers(classes, size=2000), labels)
    confidence = rng.uniform(0.5, 1, (2000, 1))
    chosen = np.eye(classes)[said]
    return Analysis(
        name=name,
        config=get_config(),
        dataset="made up",
        step=0,
        starts=[],
        records=list(records),
        results=None,
        class_names=[f"class {i}" for i in range(classes)],
        split=Split(np.zeros((2000, *image_shape), np.uint8), labels),
        probabilities=chosen * confidence + (1 - chosen) * (1 - confidence) / (classes - 1),
        kernel=rng.normal(size=(5, 5, image_shape[2], 32)).astype(np.float32),
        layers=[],
    )


def records(split, count, seed=1, **fields):
    """Records of metrics.jsonl: of one split, at every third step, every half second."""
    rng = np.random.default_rng(seed)
    return [
        {"step": 3 * i, "seconds": i / 2, "split": split, "loss": loss, "accuracy": 1 - loss / 2}
        | {name: value(i) for name, value in fields.items()}
        for i, loss in enumerate(rng.uniform(0.1, 1, count), 1)
    ]


def of(split, key, run):
    """The values that a curve is to show."""
    return [r[key] for r in run.records if r["split"] == split]


def labelled(axes):
    """The lines that a legend names, by their names, and those that it does not, in a list."""
    lines = axes.get_lines()
    named = {line.get_label(): line for line in lines if not line.get_label().startswith("_")}
    return named, [line for line in lines if line.get_label().startswith("_")]


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


@BOTH
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize("against", ["step", "seconds"])
def test_curves_are_those_of_the_records(metric, against, theme):
    run = made_up(records=records("train", 6) + records("test", 4, seed=2))
    figure = figures.curves([run], metric, against, theme)
    (axes,) = figure.axes
    lines, unnamed = labelled(axes)
    assert (list(lines), unnamed) == (["train", "test"], [])
    for split, line in lines.items():
        assert line.get_xdata().tolist() == of(split, against, run)
        assert line.get_ydata().tolist() == of(split, metric, run)
        assert line.get_color() == theme.runs[0]
        assert line.get_marker() == "o"
    assert lines["train"].get_alpha() < 1
    assert texts(axes.get_legend()) == ["train", "test"]
    assert axes.get_title() == metric
    assert axes.get_xlabel() == {"step": "step", "seconds": "training time (s)"}[against]
    assert axes.get_yscale() == {"loss": "log", "accuracy": "linear"}[metric]


def test_a_curve_of_many_points_is_smoothed_and_faintly_as_it_is():
    run = made_up(records=records("train", 100) + records("test", 6))
    lines, (raw,) = labelled(figures.curves([run], "loss", "step", figures.LIGHT).axes[0])
    assert list(lines) == ["train (smoothed)", "test"]
    loss = of("train", "loss", run)
    assert raw.get_ydata().tolist() == loss
    assert raw.get_alpha() < lines["train (smoothed)"].get_alpha()
    smooth = lines["train (smoothed)"].get_ydata()
    for i in (0, 1, 50, 99):  # Weighted means of what was before, as wide as ten points.
        weights = 0.8 ** np.arange(i, -1, -1)
        assert smooth[i] == pytest.approx(np.average(loss[: i + 1], weights=weights))
    assert lines["train (smoothed)"].get_marker() == "None"


@pytest.mark.parametrize(("trained", "evaluated"), [(6, 1), (1, 1)])
def test_one_value_is_a_point_and_is_told(trained, evaluated):
    run = made_up(records=records("train", trained) + records("test", evaluated, seed=2))
    lines, _ = labelled(figures.curves([run], "loss", "step", figures.LIGHT).axes[0])
    for (label, line), split in zip(lines.items(), ("train", "test"), strict=True):
        loss = of(split, "loss", run)
        is_point = len(loss) == 1
        assert label == (f"{split}: {loss[0]:.4f}" if is_point else split)
        assert ((line.get_linestyle(), line.get_marker()) == ("None", "D")) is is_point


def test_the_learning_rate_lies_below_the_loss():
    run = made_up(records=records("train", 5, learning_rate=lambda i: 1 / i) + records("test", 5))
    loss, rate = figures.curves([run], "loss", "step", figures.LIGHT).axes
    (line,) = rate.get_lines()
    assert line.get_xdata().tolist() == of("train", "step", run)
    assert line.get_ydata().tolist() == of("train", "learning_rate", run)
    assert loss.get_xlim() == rate.get_xlim()
    for metric, against in (("accuracy", "step"), ("loss", "seconds")):
        assert len(figures.curves([run], metric, against, figures.LIGHT).axes) == 1


@BOTH
def test_runs_that_are_compared_have_their_names_and_colours(theme):
    runs = [
        made_up(name=name, wrong=20 * i, records=records("train", 6) + records("test", 3, seed=i))
        for i, name in enumerate(["runs/a", "runs/b"])
    ]
    curves = figures.curves(runs, "accuracy", "step", theme)
    lines, of_training = labelled(curves.axes[0])
    assert list(lines) == ["runs/a", "runs/b"]
    for line, train, run, color in zip(lines.values(), of_training, runs, theme.runs, strict=False):
        assert line.get_ydata().tolist() == of("test", "accuracy", run)
        assert train.get_ydata().tolist() == of("train", "accuracy", run)
        assert line.get_color() == train.get_color() == color
    errors = [run.bins.expected_calibration_error for run in runs]
    told = [f"{run.name}: {error:.4f}" for run, error in zip(runs, errors, strict=True)]
    for figure, names in (
        (curves, ["runs/a", "runs/b"]),
        (figures.classes(runs, theme), ["runs/a", "runs/b"]),
        (figures.calibration(runs, theme), told),
    ):
        (legend,) = figure.legends
        assert texts(legend) == names


def test_the_axis_of_accuracy_leaves_out_the_climb_at_the_start():
    train = records("train", 20, accuracy=lambda i: 0.1 if i < 3 else 0.95)
    run = made_up(records=train + records("test", 2, accuracy=lambda i: 0.9))
    assert figures.lowest_accuracy([run]) == pytest.approx(0.9 - 0.15 * 0.1)
    other = made_up(records=records("test", 2, accuracy=lambda i: 0.5))
    assert figures.lowest_accuracy([run, other]) == pytest.approx(0.5 - 0.15 * 0.5)
    (axes,) = figures.curves([run], "accuracy", "step", figures.LIGHT).axes
    assert axes.get_ylim()[0] == figures.lowest_accuracy([run])
    assert figures.lowest_accuracy([made_up(records=records("test", 1, accuracy=lambda i: 0))]) == 0


def test_runs_with_the_same_end_have_names_of_their_own():
    same = "/a-long-name" * 5
    assert figures.names([made_up(name="b"), made_up(name="c")]) == ["b", "c"]
    found = figures.names([made_up(name="x" + same), made_up(name="y" + same)])
    assert [name[:2] for name in found] == ["1:", "2:"]


@BOTH
@pytest.mark.parametrize("classes", [10, 30])
def test_the_confusion_matrix_shows_every_count(theme, classes):
    run = made_up(classes, wrong=900)
    (axes,) = figures.confusion(run, theme).axes
    shown = np.zeros_like(run.confusion)
    for text in axes.texts:
        said, label = text.get_position()
        shown[label, said] = int(text.get_text())
        assert text.get_color() == (theme.soft if label == said else theme.ink)
    np.testing.assert_array_equal(shown, run.confusion)
    (image,) = axes.images
    shades = image.get_array()
    mistakes = run.confusion * (1 - np.eye(classes, dtype=int))
    np.testing.assert_array_equal(shades.filled(0), mistakes)  # What is right has no shade.
    assert colors.to_hex(image.to_rgba(np.array([1.0]))[0]) == theme.grid
    assert colors.to_hex(image.to_rgba(np.array([float(mistakes.max())]))[0]) == theme.counts
    for axis in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in axis] == run.class_names


@BOTH
@pytest.mark.parametrize("classes", [10, 30])
def test_the_accuracy_of_each_class_and_its_interval(theme, classes):
    runs = [made_up(classes, wrong=n) for n in (300, 900)]
    panels = figures.classes(runs, theme).axes
    assert len(panels) == (1 if classes == 10 else 2)  # Many have two columns.
    named = [label.get_text() for axes in panels for label in axes.get_yticklabels()]
    assert named == runs[0].class_names
    for i, run in enumerate(runs):
        total, right = run.confusion.sum(1)[:-1], np.diag(run.confusion)[:-1]
        below, above = interval(right, total)
        drawn = [axes.containers[i] for axes in panels]
        x, y = np.concatenate([each.lines[0].get_xydata() for each in drawn]).T
        np.testing.assert_allclose(x, right / total)
        np.testing.assert_array_equal(np.round(y), np.arange(classes - 1))  # The last has none.
        bars = np.concatenate([each.lines[2][0].get_segments() for each in drawn])
        np.testing.assert_allclose(bars[:, 0, 0], right / total - below)
        np.testing.assert_allclose(bars[:, 1, 0], right / total + above)
        assert {each.lines[0].get_color() for each in drawn} == {theme.runs[i]}
        for axes in panels:
            of_all = [line for line in axes.get_lines() if line.get_alpha() == 0.35]
            assert set(of_all[i].get_xdata()) == {run.accuracy}


@BOTH
@pytest.mark.parametrize("count", [1, 2])
def test_calibration_shows_the_bins(theme, count):
    runs = [made_up(wrong=n) for n in (300, 900)[:count]]
    axes, below = figures.calibration(runs, theme).axes
    assert axes.get_lines()[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    for i, (run, bars, histogram) in enumerate(
        zip(runs, axes.containers, below.patches, strict=True)
    ):
        bins = run.bins
        some = bins.count > 0
        assert 3 < some.sum() < len(some)
        line, _, (intervals,) = bars.lines
        np.testing.assert_array_equal(line.get_xdata(), bins.confidence[some])
        np.testing.assert_array_equal(line.get_ydata(), bins.accuracy[some])
        right = np.round(bins.accuracy[some] * bins.count[some]).astype(int)
        low, high = interval(right, bins.count[some])
        ends = np.array(intervals.get_segments())[..., 1]
        np.testing.assert_allclose(ends[:, 0], bins.accuracy[some] - low)
        np.testing.assert_allclose(ends[:, 1], bins.accuracy[some] + high)
        counts, edges, _ = histogram.get_data()
        np.testing.assert_array_equal(counts, bins.count)
        np.testing.assert_allclose(edges, np.arange(len(some) + 1) / len(some))
        assert line.get_color() == theme.runs[i]
    if count == 1:
        error = runs[0].bins.expected_calibration_error
        assert axes.get_title() == f"calibration: expected error {error:.4f}"


@pytest.mark.parametrize("count", [32, 20])
def test_the_filters_are_on_one_scale(count):
    kernel = made_up().kernel[..., :count]
    images = [axes.images[0] for axes in figures.filters(kernel, figures.LIGHT).axes if axes.images]
    assert len(images) == count
    limit = np.abs(kernel).max()
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image.get_array(), kernel[:, :, 0, i])
        assert image.get_clim() == (-limit, limit)


def test_filters_of_colours_are_in_colour_and_of_many_the_first_are_shown():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 100)).astype(np.float32)
    figure = figures.filters(kernel, figures.LIGHT)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 64
    assert figure.get_suptitle() == "filters of the first layer (the first 64 of 100)"
    shown = np.stack([image.get_array() for image in images], -1)
    np.testing.assert_allclose(shown, 0.5 + kernel[..., :64] / (2 * np.abs(kernel).max()))


def test_a_network_without_such_a_layer_has_no_filters(monkeypatch):
    monkeypatch.setattr(figures, "png", lambda theme, function, *_: function.__name__.encode())
    without = dataclasses.replace(made_up(), kernel=None)
    drawn = figures.draw([made_up()], figures.LIGHT)
    assert drawn.pop("filters") == b"filters"
    assert figures.draw([without], figures.LIGHT) == drawn


@pytest.mark.parametrize("classes", [2, 120])
def test_of_very_many_classes_those_with_the_most_mistakes_are_shown(classes):
    run = made_up(classes, wrong=1500)
    shown = run.shown_classes
    assert len(shown) == min(classes, 100)
    wrong = run.confusion * (1 - np.eye(classes, dtype=int))
    of_each = wrong.sum(0) + wrong.sum(1)
    assert of_each[shown].min() >= np.delete(of_each, shown).max(initial=0)
    (axes,) = figures.confusion(run, figures.LIGHT).axes
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert named == [run.class_names[i] for i in shown]
    panels = figures.classes([run], figures.LIGHT).axes
    assert [label.get_text() for axes in panels for label in axes.get_yticklabels()] == named
    told = "\n(100 of 120 classes)" if classes == 120 else ""
    assert axes.get_title() == f"confusion matrix{told}"


def test_long_names_are_cut_and_dollars_are_no_formulas():
    names = ["$\\frac$", "a golden retriever of pure breed", "_c"]
    run = dataclasses.replace(made_up(3, wrong=100), class_names=names)
    shown = ["$\\frac$", "a golden retriever of p…", "_c"]
    for axes in (
        *figures.confusion(run, figures.LIGHT).axes,
        *figures.classes([run], figures.LIGHT).axes,
    ):
        assert [label.get_text() for label in axes.get_yticklabels()] == shown
    for function, about in ((figures.confusion, run), (figures.classes, [run])):
        assert figures.png(figures.DARK, function, about)


@BOTH
def test_a_png_has_the_colours_of_its_theme(theme):
    run = made_up(records=records("train", 6) + records("test", 6))
    data = figures.png(theme, figures.curves, [run], "loss", "step")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    seen = {colors.to_hex(color / 255) for color in np.unique(pixels.reshape(-1, 3), axis=0)}
    assert colors.to_hex(pixels[0, 0] / 255) == theme.paper
    assert {theme.paper, theme.ink, theme.soft, theme.grid, theme.runs[0]} <= seen


@BOTH
def test_words_and_runs_are_told_from_the_paper(theme):
    def luminance(color):  # WCAG's.
        rgb = np.array(colors.to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    def contrast(a, b):
        low, high = sorted([luminance(a), luminance(b)])
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink, theme.paper) > 7
    assert contrast(theme.soft, theme.paper) > 4.5
    assert min(contrast(color, theme.paper) for color in theme.runs) > 3
    assert len(set(theme.runs)) == len(theme.runs)
    assert [theme.of_run(i) for i in range(len(theme.runs) + 1)] == [*theme.runs, theme.runs[0]]


@pytest.mark.parametrize(("classes", "wrong"), [(10, 0), (30, 500)])
def test_all_figures_of_a_run_without_records(classes, wrong):
    """Also where all is right, where classes are many, and where names are long and the same."""
    run = made_up(classes, wrong, "runs/" + "long" * 20)
    shown = {"loss", "accuracy", "classes", "calibration", "filters"}
    for runs, names in (([run], shown), ([run] * 3, shown | set(figures.BY_TIME))):
        drawn = figures.draw(runs, figures.DARK)
        assert set(drawn) == names
        for data in drawn.values():
            Image.open(io.BytesIO(data)).verify()
