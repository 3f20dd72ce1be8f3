"""The figure of the agents in pairs: how likely it is that one ends above the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nasenv.comparison.drawing import INK, SMALL, new_figure, one_line, settled
from nasenv.comparison.findings import Summary


def improvement_figure(summary: Summary, title: str, note: str) -> Figure | None:
    """Return a matrix: rows better or worse than columns, blue where the row's agent is likely to end higher."""
    agents = [s.agent for s in summary.standings if any(s.agent in (p.better, p.worse) for p in summary.pairs)]
    if not agents:
        return None
    n, side = len(agents), 0.42
    values, separated = np.full((n, n), np.nan), np.zeros((n, n), dtype=bool)
    for pair in summary.pairs:
        i, j = agents.index(pair.better), agents.index(pair.worse)
        values[i, j], values[j, i] = pair.improvement.value, 1 - pair.improvement.value
        separated[i, j] = separated[j, i] = pair.separated
    figure = new_figure((max(4.2, 1.4 + side * n), 1.7 + side * n), title, note)
    axes = figure.add_subplot(aspect="equal", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    for i, j in np.argwhere(np.isfinite(values)):
        cell = colormaps["RdBu"](0.15 + 0.7 * values[i, j])  # blue and red, the darkest left out
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc=cell, ec="white", lw=0.8))
        dark, strong = np.dot(cell[:3], (0.3, 0.59, 0.11)) < 0.5, bool(separated[i, j])
        style: dict[str, Any] = {"color": "white" if dark else INK, "weight": "bold" if strong else "normal"}
        axes.text(j, i, f"{values[i, j]:.2f}" + "*" * strong, ha="center", va="center", size=SMALL, **style)
    names = [one_line(agent, 24) for agent in agents]
    axes.set_xticks(range(n), names, rotation=40, ha="left", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(n), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=SMALL, colors=INK)
    axes.spines[:].set_visible(False)
    return settled(figure)
