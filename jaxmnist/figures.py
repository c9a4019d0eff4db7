"""The report's figures, drawn by matplotlib: each a function of analyses, in a theme's colours."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from jaxmnist import config as config_lib
from jaxmnist.analysis import Analysis, interval
from jaxmnist.themes import Theme

_DPI = 160


def _png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    return data.getvalue()


def draw(runs: Sequence[Analysis], theme: Theme) -> dict[str, bytes]:
    """Every figure by its name, as PNG; those of a single run are of the first."""
    with rc_context(theme.rc()):
        return {
            "loss": _png(_curves(runs, theme, "loss", "step")),
            "accuracy": _png(_curves(runs, theme, "accuracy", "step")),
            "loss-by-time": _png(_curves(runs, theme, "loss", "seconds")),
            "accuracy-by-time": _png(_curves(runs, theme, "accuracy", "seconds")),
            "confusion": _png(_confusion(runs[0], theme)),
            "classes": _png(_classes(runs, theme)),
            "calibration": _png(_calibration(runs, theme)),
            "filters": _png(_filters(runs[0], theme)),
        }


def _curves(runs: Sequence[Analysis], theme: Theme, metric: str, against: str) -> Figure:
    figure = Figure((5.6, 3.5), layout="constrained")
    axes = figure.subplots()
    lowest, several = 0.999, len(runs) > 1
    for i, run in enumerate(runs):
        color = theme.of_run(i)
        x, y = _series(run, "train", against, metric)
        smooth = _smooth(y)
        axes.plot(x, y, color=color, alpha=0.18, linewidth=0.8)
        axes.plot(x, smooth, color=color, alpha=0.55, label=None if several else "train (smoothed)")
        evaluated = config_lib.eval_name(run.config)
        x, y = _series(run, evaluated, against, metric)
        marker = "o" if len(x) < 30 else None
        label = _short(run.name) if several else evaluated
        axes.plot(x, y, color=color, marker=marker, markersize=4, label=label, zorder=3)
        lowest = min([lowest, *y.tolist(), *smooth[len(smooth) // 10 :].tolist()])
    axes.set_xlabel("step" if against == "step" else "training time (s)")
    axes.set_title(f"{metric}: {evaluated}, and faintly train (smoothed)" if several else metric)
    if metric == "loss":
        axes.set_yscale("log")
        axes.set_ylabel("cross-entropy (nats)")
    else:
        # The climb from 10 % would hide what comes after it.
        axes.set_ylim(max(0, lowest - 0.15 * (1 - lowest)), 1 + 0.05 * (1 - lowest))
    axes.set_xlim(left=0)
    axes.legend()
    return figure


def _series(
    run: Analysis, split: str, x: str, y: str
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    found = [(r[x], r[y]) for r in run.records if r["split"] == split]
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


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"


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
    _name_ticks(axes.set_xticks, run, rotation=90 if _is_wordy(run) else 0)
    _name_ticks(axes.set_yticks, run)
    axes.grid(False)
    axes.set(xlabel="prediction", ylabel="label", title="confusion matrix")
    return figure


def _is_wordy(run: Analysis) -> bool:
    return max(map(len, run.class_names)) > 2


def _name_ticks(set_ticks: Any, run: Analysis, **kwargs: Any) -> None:
    size = len(run.class_names)
    set_ticks(range(size), run.class_names, fontsize=9.5 if size <= 12 else 7, **kwargs)


def _classes(runs: Sequence[Analysis], theme: Theme) -> Figure:
    size = len(runs[0].class_names)
    figure = Figure((5.6, max(4.4, 0.2 * size)), layout="constrained")
    axes = figure.subplots()
    for i, run in enumerate(runs):
        total, right = run.confusion.sum(1), np.diag(run.confusion)
        some = np.flatnonzero(total)
        y = some + 0.6 * ((i + 0.5) / len(runs) - 0.5)
        x = right[some] / total[some]
        axes.errorbar(
            *(x, y, None, interval(right[some], total[some])),
            fmt="o",
            markersize=5,
            capsize=2,
            linewidth=1.2,
            color=theme.of_run(i),
            label=_short(run.name),
        )
        axes.axvline(run.accuracy, color=theme.of_run(i), alpha=0.35, linewidth=1)
    _name_ticks(axes.set_yticks, runs[0])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="accuracy, with its 95 % interval; line: all", title="accuracy per class")
    if len(runs) > 1:
        axes.legend()
    return figure


def _calibration(runs: Sequence[Analysis], theme: Theme) -> Figure:
    figure = Figure((5.6, 4.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=theme.soft, linewidth=0.9, linestyle="--")
    for i, run in enumerate(runs):
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
            label=f"{_short(run.name)}: {error}" if len(runs) > 1 else error,
        )
        edges = np.linspace(0, 1, len(bins.count) + 1)
        below.stairs(bins.count, edges, color=color, fill=len(runs) == 1, alpha=0.8)
    axes.set(ylabel="accuracy", title="calibration", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.legend(title="expected calibration error", alignment="left", title_fontsize=8.5)
    below.set_yscale("log")
    below.set(ylabel="examples", xlabel="confidence")
    return figure


def _filters(run: Analysis, theme: Theme) -> Figure:
    kernel = run.kernel[:, :, 0]
    columns = 8
    rows = -(-kernel.shape[-1] // columns)
    figure = Figure((5.6, 0.62 * rows + 0.75), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(kernel).max())
    for i, axes in enumerate(grid.ravel()):
        axes.axis("off")
        if i < kernel.shape[-1]:
            image = axes.imshow(kernel[..., i], "RdBu_r", vmin=-limit, vmax=limit)
    figure.suptitle("filters of the first layer", x=0.01, ha="left", fontsize=11)
    figure.colorbar(image, ax=grid, shrink=0.8).outline.set_visible(False)
    return figure
