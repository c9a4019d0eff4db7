"""The report's figures, drawn by matplotlib: each a function of analyses, in a theme's colours."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxmnist import config as config_lib
from jaxmnist.trained.analysis import Analysis, interval
from jaxmnist.trained.themes import Theme

_DPI = 160
_WIDTH = 4.4  # Inches: as wide as a telephone shows it, so that its words are legible there.
_MANY = 40  # Points of a curve: from here on it is smoothed, and its points are not marked.
_SUFFIX = {"step": "", "seconds": "-by-time"}
OVER_TIME = [metric + _SUFFIX["seconds"] for metric in ("loss", "accuracy")]


def _png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    return data.getvalue()


def draw(runs: Sequence[Analysis], theme: Theme) -> dict[str, bytes]:
    """The page's figures by their names, as PNG; those of a single run are of the first.

    Over training time, which says what steps do unless runs differ in speed, only of several.
    """
    axes = ("step", "seconds") if len(runs) > 1 else ("step",)
    with rc_context(theme.rc()):
        return {
            **{
                metric + _SUFFIX[against]: _png(_curves(runs, theme, metric, against))
                for against in axes
                for metric in ("loss", "accuracy")
            },
            "classes": _png(_classes(runs, theme)),
            "calibration": _png(_calibration(runs, theme)),
            "filters": _png(_filters(runs[0], theme)),
        }


def confusion(run: Analysis, theme: Theme) -> bytes:
    """The confusion matrix, as PNG."""
    with rc_context(theme.rc()):
        return _png(_confusion(run, theme))


def _curves(runs: Sequence[Analysis], theme: Theme, metric: str, against: str) -> Figure:
    # The learning rate, which is a function of the step, lies below the loss.
    rates = [_series(run, "train", against, "learning_rate") for run in runs]
    has_rates = metric == "loss" and against == "step" and any(len(x) for x, _ in rates)
    several = len(runs) > 1
    figure = Figure((_WIDTH, 3.5 + _legend_height(runs)), layout="constrained")
    axes = figure.subplots(
        1 + has_rates, 1, sharex=True, squeeze=False, height_ratios=[3, 1][: 1 + has_rates]
    )
    top, bottom = axes[0, 0], axes[-1, 0]
    is_smooth = False
    for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
        color = theme.of_run(i)
        x, y = _series(run, "train", against, metric)
        shown = y
        if len(y) >= _MANY:
            is_smooth, shown = True, _smooth(y)
            top.plot(x, y, color=color, alpha=0.18, linewidth=0.8)
        label = "train (smoothed)" if len(y) >= _MANY else "train"
        _plot(top, x, shown, None if several else label, color=color, alpha=0.55)
        evaluated = config_lib.eval_name(run.config)
        x, y = _series(run, evaluated, against, metric)
        _plot(top, x, y, name if several else evaluated, color=color, zorder=3)
        if has_rates:
            x, y = rates[i]
            bottom.plot(x, y, marker="D" if len(x) == 1 else None, color=color)
    smoothed = " (smoothed)" if is_smooth else ""
    top.set_title(f"{metric}: {evaluated}, and faintly train{smoothed}" if several else metric)
    if metric == "loss":
        top.set_yscale("log")
        top.set_ylabel("cross-entropy (nats)")
    else:
        bottom_of_axis = lowest_accuracy(runs)
        top.set_ylim(bottom_of_axis, 1 + 0.05 * (1 - bottom_of_axis))
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
        _, y = _series(run, config_lib.eval_name(run.config), "step", "accuracy")
        _, train = _series(run, "train", "step", "accuracy")
        shown = _smooth(train) if len(train) >= _MANY else train
        lowest = min([lowest, *y.tolist(), *shown[len(shown) // 10 :].tolist()])
    return max(0.0, lowest - 0.15 * (1 - lowest))


def _plot(
    axes: Axes,
    x: Float[np.ndarray, " k"],
    y: Float[np.ndarray, " k"],
    label: str | None,
    **kwargs: Any,
) -> None:
    """A curve, its points marked where they are few; one value is a point, and no curve."""
    if len(x) == 1:
        label = f"{label}: {y[0]:.4f}" if label else None
        axes.plot(x, y, "D", markersize=7, label=label, **kwargs)
        return
    axes.plot(x, y, marker="o" if len(x) < _MANY else None, markersize=4, label=label, **kwargs)


def names(runs: Sequence[Analysis]) -> list[str]:
    """What to call each run: short, and no two the same."""
    short = [run.name if len(run.name) <= 40 else f"…{run.name[-39:]}" for run in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{i}: {name}" for i, name in enumerate(short, 1)]


def _legend(figure: Figure, axes: Axes, runs: Sequence[Analysis], title: str | None = None) -> None:
    """Within the axes; that of several runs below, where it hides nothing."""
    style: dict[str, Any] = {"title": title, "alignment": "left", "title_fontsize": "small"}
    if len(runs) == 1:
        axes.legend(**style)
        return
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", **style)


def _legend_height(runs: Sequence[Analysis]) -> float:
    return 0.2 * len(runs) if len(runs) > 1 else 0.0


def _series(
    run: Analysis, split: str, x: str, y: str
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    found = [(r[x], r[y]) for r in run.records if r["split"] == split and y in r]
    pairs = np.array(found, float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _smooth(y: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """An exponential moving average, as wide as a tenth of the run."""
    keep = 1 - 1 / max(1, len(y) / 20)
    smooth, total, weight = np.empty_like(y), 0.0, 0.0
    for i, value in enumerate(y):
        total, weight = keep * total + value, keep * weight + 1
        smooth[i] = total / weight
    return smooth


def _confusion(run: Analysis, theme: Theme) -> Figure:
    counts = run.confusion
    size = len(counts)
    side = max(4.6, 0.2 * size)
    figure = Figure((side, side), layout="constrained")
    axes = figure.subplots()
    mistakes = counts * (1 - np.eye(size, dtype=int))
    shown = np.ma.masked_equal(mistakes, 0)
    shades = LinearSegmentedColormap.from_list("counts", [theme.grid, theme.counts])
    axes.imshow(shown, shades, norm=LogNorm(1, max(2, mistakes.max())))
    for (label, said), count in np.ndenumerate(counts):
        if count:
            right = label == said
            axes.text(
                *(said, label, f"{count}"),
                ha="center",
                va="center",
                fontsize=8.5 if size <= 12 else 5,
                color=theme.soft if right else theme.ink,
                fontweight="normal" if right else "bold",
            )
    ticks, is_wordy = range(size), max(map(len, run.class_names)) > 2
    axes.set_xticks(
        ticks, run.class_names, fontsize=_tick_size(run), rotation=90 if is_wordy else 0
    )
    axes.set_yticks(ticks, run.class_names, fontsize=_tick_size(run))
    axes.grid(False)
    axes.set(xlabel="prediction", ylabel="label", title="confusion matrix")
    return figure


def _tick_size(run: Analysis) -> float:
    return 10.0 if len(run.class_names) <= 12 else 7.5


def _classes(runs: Sequence[Analysis], theme: Theme) -> Figure:
    size = len(runs[0].class_names)
    parts = np.array_split(np.arange(size), 1 if size <= 12 else 2)
    figure = Figure((_WIDTH, _height(runs)), layout="constrained")
    panels = figure.subplots(1, len(parts), sharex=True, squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
            total, right = run.confusion.sum(1), np.diag(run.confusion)
            some = part[total[part] > 0]
            y = some + 0.6 * ((i + 0.5) / len(runs) - 0.5)
            x = right[some] / total[some]
            axes.errorbar(
                *(x, y, None, interval(right[some], total[some])),
                fmt="o",
                markersize=5 if len(runs) < 4 else 3,
                capsize=2 if len(runs) < 4 else 0,
                linewidth=1.2,
                color=theme.of_run(i),
                label=name,
            )
            axes.axvline(run.accuracy, color=theme.of_run(i), alpha=0.35, linewidth=1)
        axes.set_yticks(part, [runs[0].class_names[k] for k in part], fontsize=_tick_size(runs[0]))
        axes.set_ylim(part[-1] + 0.6, part[0] - 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5 if len(parts) == 1 else 3))
        axes.grid(axis="y", visible=False)
    panels[0].set_title("accuracy per class, with its 95 % interval")
    if len(runs) > 1:
        _legend(figure, panels[0], runs)
    return figure


def _height(runs: Sequence[Analysis]) -> float:
    """Of the figures of classes and of calibration, in inches: they lie side by side."""
    size = len(runs[0].class_names)
    rows = size if size <= 12 else -(-size // 2)
    return max(3.6, 0.9 + 0.17 * rows) + _legend_height(runs)


def _calibration(runs: Sequence[Analysis], theme: Theme) -> Figure:
    figure = Figure((_WIDTH, _height(runs)), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=theme.soft, linewidth=0.9, linestyle="--")
    for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
        color, bins = theme.of_run(i), run.bins
        some = bins.count > 0
        x, y, count = bins.confidence[some], bins.accuracy[some], bins.count[some]
        error = f"{bins.expected_calibration_error:.4f}"
        axes.errorbar(
            *(x, y, interval(np.round(y * count).astype(int), count)),
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


def _filters(run: Analysis, theme: Theme) -> Figure:
    kernel = run.kernel[:, :, 0]
    columns = 8
    rows = -(-kernel.shape[-1] // columns)
    figure = Figure((_WIDTH, 0.5 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(kernel).max())
    for i, axes in enumerate(grid.ravel()):
        axes.axis("off")
        if i < kernel.shape[-1]:
            image = axes.imshow(kernel[..., i], "RdBu_r", vmin=-limit, vmax=limit)
    figure.suptitle("filters of the first layer", x=0.01, ha="left", fontsize=11)
    figure.colorbar(image, ax=grid, shrink=0.8).outline.set_visible(False)
    return figure
