"""The figure of the final values: each run a dot, over a box of its agent's quartiles."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from nasenv.comparison.digest import final_known
from nasenv.comparison.drawing import INK, Looks, dress, new_figure, one_line, set_limits, settled
from nasenv.comparison.findings import Metric, Summary
from nasenv.comparison.lines import METRICS, Groups, shown_metrics

_MOST_DOTS = 3000  # of a panel drawn as shapes; more are drawn as pixels


def final_figure(groups: Groups, summary: Summary, looks: Looks, title: str, note: str) -> Figure | None:
    """Return rows of agents, the best on top, with a panel for each metric."""
    standings = [standing for standing in summary.standings if standing.agent in groups]
    values = {metric: _finals(groups, metric) for metric in shown_metrics(groups, summary.metric)}
    values = {metric: rows for metric, rows in values.items() if any(map(len, rows.values()))}
    if not values:
        return None
    figure = new_figure((1.2 + 2.9 * len(values), 1.0 + 0.27 * max(2, len(standings))), title, note)
    for column, (metric, rows) in enumerate(values.items()):
        axes = figure.add_subplot(1, len(values), column + 1)
        words, factor = METRICS[metric]
        dress(axes, words, "")
        axes.grid(visible=False, axis="y")
        low = min(_whisker(row) for row in rows.values() if len(row))
        set_limits(axes.set_xlim, low, max(float(row.max()) for row in rows.values() if len(row)))
        names = []
        for y, standing in enumerate(standings):
            row, spread = rows[standing.agent], getattr(standing, metric)
            _draw_values(axes, y, row, looks[standing.agent]["color"], pixels=sum(map(len, rows.values())) > _MOST_DOTS)
            if spread is not None:
                _draw_interval(axes, y, *(factor * v for v in (spread.iqm.value, spread.iqm.low, spread.iqm.high)))
            hidden = int((row < low).sum())
            names.append(one_line(standing.agent, 24) * (not column) + f" ({hidden} below)" * (hidden > 0))
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    return settled(figure)


def _finals(groups: Groups, metric: Metric) -> dict[str, NDArray[np.float64]]:
    """Return the metric of the runs' last incumbents by agent, (n,), those that are known."""
    final = final_known([digest for group in groups.values() for digest in group], slice(-1, None))
    values = {agent: np.array([d.values(metric, final)[-1] for d in group]) for agent, group in groups.items()}
    return {agent: METRICS[metric][1] * row[np.isfinite(row)] for agent, row in values.items()}


def _draw_values(axes: Axes, y: float, values: NDArray[np.float64], colour: str, pixels: bool) -> None:
    """Draw a run as a dot, scattered about the height y, over a box of the quartiles and the median."""
    if not len(values):
        return
    heights = y + np.random.default_rng(0).uniform(-0.24, 0.24, len(values))
    quarter, half, three = np.quantile(values, [0.25, 0.5, 0.75])
    axes.add_patch(Rectangle((quarter, y - 0.32), three - quarter, 0.64, fc=colour, ec=colour, alpha=0.25, lw=0.8))
    axes.plot([half, half], [y - 0.32, y + 0.32], color=colour, lw=1.6, solid_capstyle="butt")
    alpha = float(np.clip(20 / len(values), 0.15, 0.7))
    axes.scatter(values, heights, s=5, color=colour, alpha=alpha, lw=0, rasterized=pixels)


def _draw_interval(axes: Axes, y: float, value: float, low: float, high: float) -> None:
    axes.plot([low, high], [y, y], color=INK, lw=1.4, zorder=4)
    axes.plot([value], [y], marker="D", ms=4, mfc=INK, mec="white", mew=0.6, zorder=5)


def _whisker(values: NDArray[np.float64]) -> float:
    """Return the lowest value that is shown: none further below the box than six times its width."""
    quarter, three = np.quantile(values, [0.25, 0.75])
    return float(values[values >= quarter - 6 * (three - quarter)].min())
