"""The common style of a comparison's figures: colours of agents, fonts, titles, notes, axes and panels of lines.

One agent has one colour and dash in all of them, from Okabe and Ito's palette, which colour-blind readers can tell
apart (https://jfly.uni-koeln.de/color); random search is grey and dashed. As in `nasenv.plots`, no pyplot.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Looks: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The line style of each agent, as keyword arguments of matplotlib."""

INK, GREY = "#222222", "#767676"
SMALL = 7.5  # points
DPI = 200
"""The resolution of all figures; layouts depend on it, since the width of text does."""

_FONT = 8.5  # points
_LABEL_LINE = 10.5  # points from one label at the lines' ends to the next
_PALE = "#e4e4e4"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("solid", (0, (6, 1.5, 1, 1.5)), (0, (1, 1)), (0, (8, 2)))


def looks_of(agents: Sequence[str], random: str | None) -> dict[str, dict[str, Any]]:
    """Return the line style of each agent, which is the same for all problems of one comparison."""
    others = [agent for agent in agents if agent != random]
    looks = {
        agent: {"color": _COLOURS[k % len(_COLOURS)], "ls": _DASHES[k // len(_COLOURS) % len(_DASHES)], "lw": 1.5}
        for k, agent in enumerate(others)
    }
    return {agent: looks.get(agent, {"color": GREY, "ls": (0, (4, 2)), "lw": 1.5}) for agent in agents}


def new_figure(inches: tuple[float, float], title: str, note: str) -> Figure:
    """Return an empty figure of (width, height) inches, with its title above and a note below."""
    figure = Figure(figsize=inches, dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", size=1.15 * _FONT, weight="bold", color=INK, parse_math=False)
    per_line = int(inches[0] * 72 / (0.58 * SMALL))
    figure.supxlabel(
        "\n".join(textwrap.wrap(note, per_line, break_on_hyphens=False)), x=0.01, ha="left", size=SMALL, color=GREY
    )
    return figure


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes, and make frame, ticks and grid thin."""
    axes.set_xlabel(x_label, size=_FONT, color=INK)
    axes.set_ylabel(y_label, size=_FONT, color=INK)
    axes.tick_params(labelsize=SMALL, colors=INK, length=2.5, width=0.6)
    axes.grid(color=_PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=GREY, lw=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def set_limits(setter: Callable[[float, float], Any], low: float, high: float) -> None:
    """Set axis limits with a margin, around a single value too."""
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    setter(low - margin, high + margin)


def fix_layout(figure: Figure) -> Figure:
    """Return the figure with its layout computed, so that saving it does not change it."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    for _ in range(2):  # axes of equal aspect come to rest at the second
        layout.execute(figure)
    return figure


def one_line(text: str, length: int) -> str:
    """Return the text without line breaks, cut to a length in characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


@dataclass(frozen=True)
class Line:
    """Holds a step function y (n,) of x (n,), with a band from low to high."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def after(self, share: float) -> int:
        """Return the index of the first known point after this share, 0 to 1, of the known range."""
        known = np.flatnonzero(np.isfinite(self.y))
        start, end = self.x[known[[0, -1]]]
        point = min(end, start + share * (end - start))  # rounding may lead beyond the end
        return int(known[np.searchsorted(self.x[known], point)])

    def end_reached(self) -> float:
        """Return the x from which on the line has its last value."""
        last = self.after(1.0)
        other = np.flatnonzero(self.y[: last + 1] != self.y[last])
        return float(self.x[other[-1] + 1 if len(other) else 0])

    def ends_below(self, bottom: float) -> bool:
        """Return whether the line ends below a height."""
        return bool(self.y[self.after(1.0)] < bottom)

    def last_point(self, bottom: float) -> tuple[float, float]:
        """Return (x, y) of the line's end; where it ends below the bottom, of where it leaves there."""
        last = self.after(1.0)
        if not self.ends_below(bottom):
            return float(self.x[last]), float(self.y[last])
        above = np.flatnonzero(self.y[:last] >= bottom)
        return float(self.x[above[-1] + 1 if len(above) else last]), bottom


@dataclass(frozen=True)
class Panel:
    """Describes one pair of axes: a line for each agent, axis labels, and the function that sets the limits of y."""

    lines: Mapping[str, Line]
    x_label: str
    y_label: str
    limit: Callable[[Axes, Mapping[str, Line]], None]


def panels(rows: Sequence[Sequence[Panel]], looks: Looks, title: str, note: str) -> Figure | None:
    """Return a figure of rows of panels, with the agents' names at the ends of lines; None without panels."""
    rows = [kept for row in rows if (kept := [panel for panel in row if panel.lines])]
    if not rows:
        return None
    columns = max(len(row) for row in rows)
    height = max(2.3, _LABEL_LINE * len(looks) / 72)
    figure = new_figure((1.2 + 3.3 * columns, 0.7 + (height + 0.45) * len(rows)), title, note)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, i * columns + j + 1)
            dress(axes, panel.x_label, panel.y_label)
            for agent, line in panel.lines.items():
                colour = looks[agent]["color"]
                axes.fill_between(line.x, line.low, line.high, step="post", color=colour, alpha=0.13, lw=0)
                axes.plot(line.x, line.y, drawstyle="steps-post", **looks[agent])
            axes.set_xlim(0, max(line.x[-1] for line in panel.lines.values()))
            panel.limit(axes, panel.lines)
            _name_ends(axes, panel.lines, looks, height * 72)
    return fix_layout(figure)


def _name_ends(axes: Axes, lines: Mapping[str, Line], looks: Looks, points: float) -> None:
    """Write each agent's name right of the axes, close to the height of its line's end, and lead from there to it."""
    agents, bottom = list(lines), axes.get_ylim()[0]
    ends = axes.transAxes.inverted().transform(
        axes.transData.transform([lines[agent].last_point(bottom) for agent in agents])
    )
    reached = np.array([lines[agent].end_reached() for agent in agents])
    order = np.lexsort((-reached, ends[:, 1].round(6)))  # of equals, the quick on top
    gap = _LABEL_LINE / points
    steps = gap * np.arange(len(agents))
    spread = isotonic_regression(ends[order, 1] - steps).x
    places = np.clip(spread, 0, max(0, 1 - steps[-1])) + steps
    style: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for k, place in zip(order, places, strict=True):
        agent, (x, y) = agents[k], ends[k]
        colour, away = looks[agent]["color"], lines[agent].ends_below(bottom)
        axes.plot([x, 1.06], [y, place], color=colour, lw=0.6, zorder=2.6 if away else 1.9, **style)  # 2.5: the frame
        axes.plot([1.06, 1.15], [place] * 2, **looks[agent], **style)
        if not away:
            axes.plot(x, y, "o", ms=2.5, color=colour, **style)
        name = one_line(agent, 24) + " ↓" * away
        axes.text(1.17, place, name, transform=axes.transAxes, va="center", size=SMALL, color=INK, parse_math=False)


def focus(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Set the limits of y to the lines after a tenth of the budget, without agents far below the median."""
    begin = np.median([line.y[line.after(0.0)] for line in lines.values()])
    shown = [line for line in lines.values() if line.y[line.after(1.0)] >= begin] or list(lines.values())
    low = min(min(float(line.low[line.after(1.0)]), float(line.y[line.after(0.1)])) for line in shown)
    set_limits(axes.set_ylim, low, max(float(np.nanmax(line.high)) for line in shown))


def log(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Make y logarithmic, from half the smallest positive regret up."""
    positive = np.concatenate([line.y[line.y > 0] for line in lines.values()])
    axes.set_ylim(positive.min() / 2, 1.5 * positive.max())
    axes.set_yscale("log", nonpositive="clip")


def shares(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Set the limits of y to 0 to 100 per cent."""
    axes.set_ylim(-2, 102)
