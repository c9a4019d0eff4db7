"""The report's figures, drawn by matplotlib, and their colours on light pages and on dark ones."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxmnist.data.datasets import eval_name
from jaxmnist.trained import mistakes
from jaxmnist.trained.analysis import Analysis, interval

_DPI = 160
_WIDTH = 4.4  # Inches: as wide as a telephone shows it, so that its words are legible there.
_MANY_POINTS = 40  # From here on a curve is smoothed, and its points are not marked.
_MANY_CLASSES = 12  # Beyond these, classes are written smaller.
_MANY_FILTERS = 64  # Beyond these, filters are not shown.

Curve = tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a page.

    Attributes:
      paper: the background.
      ink: titles, and what must be seen.
      soft: other words.
      grid: lines, and the smallest count of the confusion matrix.
      counts: its largest count.
      runs: the runs' colours.
    """

    paper: str
    ink: str
    soft: str
    grid: str
    counts: str
    runs: tuple[str, ...]

    def of_run(self, i: int) -> str:
        """The colour of the i-th run; after the last colour comes the first again."""
        return self.runs[i % len(self.runs)]

    def rc(self) -> dict[Any, Any]:
        """The theme as matplotlib's settings."""
        return {
            "figure.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "axes.edgecolor": self.grid,
            "axes.labelcolor": self.soft,
            "axes.titlecolor": self.ink,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "text.color": self.ink,
            "xtick.color": self.grid,
            "ytick.color": self.grid,
            "xtick.labelcolor": self.soft,
            "ytick.labelcolor": self.soft,
            "legend.facecolor": self.paper,
            "legend.edgecolor": "none",
            "legend.fontsize": 9,
            "font.size": 10,
            "lines.linewidth": 1.6,
        }


# The runs' colours differ in lightness too, for those who see no difference in hue.
LIGHT = Theme(
    paper="#ffffff",
    ink="#1d1d1b",
    soft="#5f5f5a",
    grid="#dcdcd7",
    counts="#7fa8e6",
    runs=("#2a66c4", "#d1620a", "#1d8a63", "#a3479b", "#7a6a00", "#4a4a4a"),
)
DARK = Theme(
    paper="#202224",
    ink="#ececea",
    soft="#a8a8a3",
    grid="#3d4043",
    counts="#3f72bd",
    runs=("#7aa8f0", "#f2a154", "#63cfa5", "#e29ad9", "#d9c75a", "#bdbdbd"),
)

# The figures that compare runs by training time; a single run's tell no more than those by step.
BY_TIME = {f"{metric}-by-time": metric for metric in ("loss", "accuracy")}
# Those that not every report has.
OPTIONAL = {*BY_TIME, "filters"}


def png(theme: Theme, function: Callable[..., Figure], *args: Any) -> bytes:
    """The figure that one of the functions below draws of `args`, in a theme, as a PNG file."""
    data = io.BytesIO()
    with rc_context(theme.rc()):  # matplotlib draws some parts only as it saves.
        function(*args, theme).savefig(data, format="png", dpi=_DPI)
    return data.getvalue()


def draw(runs: Sequence[Analysis], theme: Theme) -> dict[str, bytes]:
    """The page's figures by their names, as PNG files; the filters are those of the first run."""
    by_time = BY_TIME if len(runs) > 1 else {}
    has_filters = runs[0].kernel is not None
    return {
        **{metric: png(theme, curves, runs, metric, "step") for metric in ("loss", "accuracy")},
        **{name: png(theme, curves, runs, metric, "seconds") for name, metric in by_time.items()},
        "classes": png(theme, classes, runs),
        "calibration": png(theme, calibration, runs),
        **({"filters": png(theme, filters, runs[0].kernel)} if has_filters else {}),
    }


def curves(runs: Sequence[Analysis], metric: str, against: str, theme: Theme) -> Figure:
    """A metric of the evaluations, and faintly that of training.

    Args:
      runs: one run, or several that are compared.
      metric: "loss" or "accuracy".
      against: "step" or "seconds". Against the step the learning rate lies below the loss.
      theme: the colours.
    """
    several = len(runs) > 1
    evaluated = eval_name(runs[0].config)
    rates = [_series(run, "train", against, "learning_rate") for run in runs]
    has_rates = (metric, against) == ("loss", "step") and any(len(x) for x, _ in rates)
    ratios = [3, 1] if has_rates else [1]
    figure = Figure((_WIDTH, 3.5 + _legend_height(runs)), layout="constrained")
    panels = figure.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)
    top, bottom = panels[0, 0], panels[-1, 0]
    smoothed = ""
    for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
        color = theme.of_run(i)
        x, y = _series(run, "train", against, metric)
        label = "train"
        if len(y) >= _MANY_POINTS:
            top.plot(x, y, color=color, alpha=0.18, linewidth=0.8)
            smoothed = " (smoothed)"
            label += smoothed
        _plot(top, x, _smooth(y), None if several else label, color=color, alpha=0.55)
        x, y = _series(run, evaluated, against, metric)
        _plot(top, x, y, name if several else evaluated, color=color, zorder=3)
        if has_rates:
            x, y = rates[i]
            bottom.plot(x, y, marker="D" if len(x) == 1 else None, color=color)
    top.set_title(f"{metric}: {evaluated}, and faintly train{smoothed}" if several else metric)
    if metric == "loss":
        top.set_yscale("log")
        top.set_ylabel("cross-entropy (nats)")
    else:
        lowest = lowest_accuracy(runs)
        top.set_ylim(lowest, 1 + 0.05 * (1 - lowest))
    if has_rates:
        bottom.set_ylabel("learning\nrate")
        bottom.set_ylim(bottom=0)
        bottom.yaxis.set_major_locator(MaxNLocator(3))
        bottom.yaxis.set_major_formatter("{x:g}")
    bottom.set_xlabel("step" if against == "step" else "training time (s)")
    bottom.set_xlim(left=0)
    bottom.xaxis.set_major_locator(MaxNLocator(5))
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels()
    _legend(figure, top, runs)
    return figure


def lowest_accuracy(runs: Sequence[Analysis]) -> float:
    """Where the axis of accuracy begins: the climb from 10 % would hide what comes after it."""
    lowest = 0.999
    for run in runs:
        _, y = _series(run, eval_name(run.config), "step", "accuracy")
        train = _smooth(_series(run, "train", "step", "accuracy")[1])
        lowest = min([lowest, *y.tolist(), *train[len(train) // 10 :].tolist()])
    return max(0.0, lowest - 0.15 * (1 - lowest))


def names(runs: Sequence[Analysis]) -> list[str]:
    """The runs' names in the legends: short, and no two the same."""
    short = [run.name if len(run.name) <= 40 else f"…{run.name[-39:]}" for run in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{i}: {name}" for i, name in enumerate(short, 1)]


def confusion(run: Analysis, theme: Theme) -> Figure:
    """The confusion matrix of the shown classes: counts, and a shade for each that is a mistake."""
    shown = run.shown_classes
    counts = run.confusion[np.ix_(shown, shown)]
    size = len(counts)
    side = max(4.6, 0.2 * size)
    figure = Figure((side, side), layout="constrained")
    axes = figure.subplots()
    mistakes = counts * (1 - np.eye(size, dtype=int))
    shades = LinearSegmentedColormap.from_list("counts", [theme.grid, theme.counts])
    norm = LogNorm(1, max(2, mistakes.max()))
    axes.imshow(np.ma.masked_equal(mistakes, 0), shades, norm=norm)
    for label, said in np.argwhere(counts):
        right = label == said
        axes.text(
            said,
            label,
            str(counts[label, said]),
            ha="center",
            va="center",
            fontsize=8.5 if size <= _MANY_CLASSES else 5,
            color=theme.soft if right else theme.ink,
            fontweight="normal" if right else "bold",
        )
    labels = _labels(run, shown)
    turned = 90 if max(map(len, labels)) > 2 else 0
    style: dict[str, Any] = {"fontsize": _tick_size(run), "parse_math": False}
    axes.set_xticks(range(size), labels, rotation=turned, **style)
    axes.set_yticks(range(size), labels, **style)
    axes.grid(False)
    title = f"confusion matrix{_of_shown(run)}"
    axes.set(xlabel="prediction", ylabel="label", title=title)
    return figure


def classes(runs: Sequence[Analysis], theme: Theme) -> Figure:
    """The accuracy of each class with its confidence interval, and a line for that of all."""
    shown = runs[0].shown_classes
    parts = np.array_split(np.arange(len(shown)), 1 if len(shown) <= _MANY_CLASSES else 2)
    figure = Figure((_WIDTH, _height(runs)), layout="constrained")
    panels = figure.subplots(1, len(parts), sharex=True, squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
            total, right = run.confusion.sum(1)[shown], np.diag(run.confusion)[shown]
            some = part[total[part] > 0]
            axes.errorbar(
                right[some] / total[some],
                some + 0.6 * ((i + 0.5) / len(runs) - 0.5),
                xerr=interval(right[some], total[some]),
                fmt="o",
                markersize=5 if len(runs) < 4 else 3,
                capsize=2 if len(runs) < 4 else 0,
                linewidth=1.2,
                color=theme.of_run(i),
                label=name,
            )
            axes.axvline(run.accuracy, color=theme.of_run(i), alpha=0.35, linewidth=1)
        style: dict[str, Any] = {"fontsize": _tick_size(runs[0]), "parse_math": False}
        axes.set_yticks(part, _labels(runs[0], shown[part]), **style)
        axes.set_ylim(part[-1] + 0.6, part[0] - 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5 if len(parts) == 1 else 3))
        axes.grid(axis="y", visible=False)
    # Over all: long names leave the panels little width.
    title = f"accuracy per class, with its 95 % interval{_of_shown(runs[0])}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    if len(runs) > 1:
        _legend(figure, panels[0], runs)
    return figure


def calibration(runs: Sequence[Analysis], theme: Theme) -> Figure:
    """Accuracy against confidence, and below it how many examples have that confidence."""
    figure = Figure((_WIDTH, _height(runs)), layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=theme.soft, linewidth=0.9, linestyle="--")
    for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
        color, bins = theme.of_run(i), run.bins
        some = bins.count > 0
        x, y, count = bins.confidence[some], bins.accuracy[some], bins.count[some]
        error = f"{bins.expected_calibration_error:.4f}"
        axes.errorbar(
            x,
            y,
            yerr=interval(np.round(y * count).astype(int), count),
            fmt="o-",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            color=color,
            label=f"{name}: {error}",
        )
        edges = np.linspace(0, 1, len(bins.count) + 1)
        below.stairs(bins.count, edges, color=color, fill=len(runs) == 1, alpha=0.8)
    title = "calibration" if len(runs) > 1 else f"calibration: expected error {error}"
    axes.set(ylabel="accuracy", title=title, xlim=(0, 1), ylim=(-0.02, 1.02))
    below.set_yscale("log")
    below.set(ylabel="examples", xlabel="confidence")
    figure.align_ylabels()
    if len(runs) > 1:
        _legend(figure, axes, runs, "expected calibration error")
    return figure


def filters(kernel: Float[np.ndarray, "height width channels filters"], theme: Theme) -> Figure:
    """The filters of the first layer, on one scale: of grey levels in red and blue, of RGB in RGB.

    Of many, the first are shown.
    """
    columns, count = 8, kernel.shape[-1]
    shown = min(count, _MANY_FILTERS)
    rows = -(-shown // columns)
    figure = Figure((_WIDTH, 0.5 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(kernel).max())
    for i, axes in enumerate(grid.ravel()):
        axes.axis("off")
        if i >= shown:
            continue
        if kernel.shape[2] == 1:
            image = axes.imshow(kernel[:, :, 0, i], "RdBu_r", vmin=-limit, vmax=limit)
        else:
            axes.imshow(0.5 + kernel[..., i] / (2 * limit or 1))
    of = f" (the first {shown} of {count:,})" if shown < count else ""
    figure.suptitle(f"filters of the first layer{of}", x=0.01, ha="left", fontsize=11)
    if kernel.shape[2] == 1:
        figure.colorbar(image, ax=grid, shrink=0.8).outline.set_visible(False)
    return figure


def _plot(axes: Axes, x: Any, y: Any, label: str | None, **kwargs: Any) -> None:
    """Draws a curve, with its points where they are few; of one value a point alone."""
    if len(x) == 1:
        label = f"{label}: {y[0]:.4f}" if label else None
        axes.plot(x, y, "D", markersize=7, label=label, **kwargs)
        return
    marker = "o" if len(x) < _MANY_POINTS else None
    axes.plot(x, y, marker=marker, markersize=4, label=label, **kwargs)


def _series(run: Analysis, split: str, x: str, y: str) -> Curve:
    """Two values of a run's records, of those that have them."""
    found = [(r[x], r[y]) for r in run.records if r["split"] == split and y in r]
    pairs = np.array(found, float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _smooth(y: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Of many points an exponential moving average, as wide as a tenth of the run."""
    if len(y) < _MANY_POINTS:
        return y
    keep = 1 - 20 / len(y)
    smooth, total, weight = np.empty_like(y), 0.0, 0.0
    for i, value in enumerate(y):
        total, weight = keep * total + value, keep * weight + 1
        smooth[i] = total / weight
    return smooth


def _legend(figure: Figure, axes: Axes, runs: Sequence[Analysis], title: str | None = None) -> None:
    """Adds a legend: within the axes; that of several runs below, where it hides nothing."""
    style: dict[str, Any] = {"title": title, "alignment": "left", "title_fontsize": "small"}
    if len(runs) == 1:
        axes.legend(**style)
    else:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", **style)


def _legend_height(runs: Sequence[Analysis]) -> float:
    """How much higher a figure is for the legend of several runs, in inches."""
    return 0.2 * len(runs) if len(runs) > 1 else 0.0


def _height(runs: Sequence[Analysis]) -> float:
    """The height of the figures of classes and of calibration, which lie side by side."""
    size = len(runs[0].shown_classes)
    rows = size if size <= _MANY_CLASSES else -(-size // 2)
    return max(3.6, 0.9 + 0.17 * rows) + _legend_height(runs)


def _tick_size(run: Analysis) -> float:
    return 10.0 if len(run.class_names) <= _MANY_CLASSES else 7.5


def _labels(run: Analysis, classes: Int[np.ndarray, " k"]) -> list[str]:
    """The names of classes, short enough for an axis."""
    return [mistakes.short(run.class_names[i]) for i in classes]


def _of_shown(run: Analysis) -> str:
    """What a title says where classes are left out."""
    shown, size = len(run.shown_classes), len(run.class_names)
    return f"\n({shown} of {size:,} classes)" if shown < size else ""
