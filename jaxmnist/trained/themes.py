"""The colours of the report's figures, on light pages and on dark ones."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a page, and those of the runs on it."""

    paper: str
    ink: str
    soft: str
    grid: str
    counts: str  # Of the largest; that of the smallest is the grid's.
    runs: tuple[str, ...]

    def of_run(self, i: int) -> str:
        """The i-th run's colour; there are few, and then they repeat."""
        return self.runs[i % len(self.runs)]

    def rc(self) -> dict[Any, Any]:
        """matplotlib's settings."""
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
    *("#ffffff", "#1d1d1b", "#5f5f5a", "#dcdcd7", "#7fa8e6"),
    ("#2a66c4", "#d1620a", "#1d8a63", "#a3479b", "#7a6a00", "#4a4a4a"),
)
DARK = Theme(
    *("#202224", "#ececea", "#a8a8a3", "#3d4043", "#3f72bd"),
    ("#7aa8f0", "#f2a154", "#63cfa5", "#e29ad9", "#d9c75a", "#bdbdbd"),
)
