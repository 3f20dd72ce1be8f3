"""Rows of panels: curves of the agents with their bands, and the agents' names at the ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from nasenv.comparison.drawing import INK, SMALL, Looks, dress, new_figure, one_line, set_limits, settled
from nasenv.comparison.lines import Line

_LABEL_LINE = 10.5  # points from one label at the lines' ends to the next


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a line an agent, with words for the axes and what sets the limits of y."""

    lines: Mapping[str, Line]
    x_label: str
    y_label: str
    limit: Callable[[Axes, Mapping[str, Line]], None]


def panels(rows: Sequence[Sequence[Panel]], looks: Looks, title: str, note: str) -> Figure | None:
    """Return a figure of rows of panels, the agents' names at the ends of their lines; None without any panel."""
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
    return settled(figure)


def _name_ends(axes: Axes, lines: Mapping[str, Line], looks: Looks, points: float) -> None:
    """Write each agent's name to the right of the axes, level with its line's end as far as room allows."""
    agents = list(lines)
    last = {agent: lines[agent].y[lines[agent].after(1.0)] for agent in agents}
    bottom, top = axes.get_ylim()
    ends = axes.transAxes.inverted().transform(
        axes.transData.transform([(0, np.clip(last[agent], bottom, top)) for agent in agents])
    )[:, 1]
    order = np.lexsort((np.array([np.nanmean(line.y) for line in lines.values()]), ends))  # of equals, the quick on top
    gap = _LABEL_LINE / points
    steps = gap * np.arange(len(agents))
    spread = isotonic_regression(ends[order] - steps).x
    places = np.clip(spread, 0, max(0, 1 - steps[-1])) + steps
    for k, place in zip(order, places, strict=True):
        look = looks[agents[k]]
        away = " ↓" if last[agents[k]] < bottom else ""
        if not away:
            end = lines[agents[k]].x[lines[agents[k]].after(1.0)]
            axes.plot(end, last[agents[k]], "o", ms=2.5, color=look["color"], clip_on=False)
        axes.plot([1.0, 1.06], [ends[k], place], transform=axes.transAxes, clip_on=False, color=look["color"], lw=0.6)
        axes.plot([1.06, 1.15], [place] * 2, transform=axes.transAxes, clip_on=False, **look)
        name = one_line(agents[k], 24) + away
        axes.text(1.17, place, name, transform=axes.transAxes, va="center", size=SMALL, color=INK, parse_math=False)


def focus(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Show the lines after a tenth of the budget, without agents that end below where the median agent begins."""
    begin = np.median([line.y[line.after(0.0)] for line in lines.values()])
    shown = [line for line in lines.values() if line.y[line.after(1.0)] >= begin] or list(lines.values())
    low = min(min(float(line.low[line.after(1.0)]), float(line.y[line.after(0.1)])) for line in shown)
    set_limits(axes.set_ylim, low, max(float(np.nanmax(line.high)) for line in shown))


def log(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Make y logarithmic, from half the smallest regret above nought to above the largest."""
    positive = np.concatenate([line.y[line.y > 0] for line in lines.values()])
    axes.set_ylim(positive.min() / 2, 1.5 * positive.max())
    axes.set_yscale("log", nonpositive="clip")


def shares(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Show all of nought to 100 percent."""
    axes.set_ylim(-2, 102)
