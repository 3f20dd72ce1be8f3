"""The lines of a comparison's figures: each agent's way through the budget, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasenv.comparison.curves import Against, Curve, curve
from nasenv.comparison.digest import Digest, final_known
from nasenv.comparison.findings import Metric

Groups: TypeAlias = Mapping[str, Sequence[Digest]]
"""The sound runs of one problem, by agent."""

METRICS: dict[Metric, tuple[str, float]] = {
    "reward": ("reward", 1.0),
    "val_accuracy": ("validation accuracy (%)", 100.0),
    "test_accuracy": ("test accuracy (%)", 100.0),
}
"""Words for each, and the factor to their unit."""

_MOST_POINTS = 150  # of a line: a panel is some 170 points wide


@dataclass(frozen=True)
class Line:
    """Steps of y, (n,), each from its x, (n,), on, in a band from low to high."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def after(self, share: float) -> int:
        """Return the index of the first known point from this share, 0 to 1, of the known way on."""
        known = np.flatnonzero(np.isfinite(self.y))
        start, end = self.x[known[[0, -1]]]
        point = min(end, start + share * (end - start))  # rounding may lead beyond the end
        return int(known[np.searchsorted(self.x[known], point)])


def incumbent_lines(groups: Groups, metric: Metric, against: Against) -> dict[str, Line]:
    """Return the interquartile mean of each agent whose incumbents are known over most of its budget."""
    lines = {
        agent: _line(curve(group, metric, against, most=_MOST_POINTS), METRICS[metric][1])
        for agent, group in groups.items()
    }
    return {agent: line for agent, line in lines.items() if np.isfinite(line.y).mean() > 0.5}


def _line(values: Curve, factor: float) -> Line:
    return Line(values.grid, *(factor * part for part in (values.iqm, values.low, values.high)))


def budgets(groups: Groups) -> list[tuple[Against, str]]:
    """Return the ways to count the budget, with words for each; seconds only where some were charged."""
    seconds = any(digest.charged_seconds > 0 for group in groups.values() for digest in group)
    ways: list[tuple[Against, str]] = [("evaluations", "distinct evaluations"), ("seconds", "charged seconds")]
    return ways[: 1 + seconds]


def shown_metrics(groups: Groups, metric: Metric) -> list[Metric]:
    """Return the metrics to be drawn: both accuracies, and before them the reward where agents are ranked by it.

    A reward that is the validation accuracy has no panel of its own.
    """
    digests = [digest for group in groups.values() for digest in group]
    final = final_known(digests)
    same = all(np.array_equal(d.reward, d.values("val_accuracy", final), equal_nan=True) for d in digests)
    shown: list[Metric] = ["val_accuracy", "test_accuracy"]
    return shown if same or metric != "reward" else ["reward", *shown]
