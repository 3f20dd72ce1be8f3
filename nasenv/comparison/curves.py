"""Anytime curves show how good an agent's incumbents are, over its runs, as the search goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nasenv.comparison.run import Quantity, Run, Trajectory, final_known, trajectories
from nasenv.comparison.statistics import interquartile_interval, interquartile_mean, step_function_at
from nasenv.errors import InputError

Against = Literal["evaluations", "seconds"]
"""The unit of spent budget: distinct evaluations, or charged seconds."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Holds the incumbents of one agent on one problem over its runs, at each of g points.

    A run that has ended keeps its last incumbent. A run counts from its first evaluation on; for scores, from
    its first that did not fail. Where the incumbent of a run that counts is not known (of a search that trains, only
    the last one is tested), everything is nan: a mean of the known ones alone would favour the quick.

    Args:
        grid: (g,), distinct evaluations or charged seconds.
        mean, iqm: (g,), mean and interquartile mean; nan where no run counts.
        low, high: (g,), 95 % bootstrap interval of the interquartile mean, for each point by itself.
        runs: (g,), number of runs that count.
    """

    grid: _Floats
    mean: _Floats
    iqm: _Floats
    low: _Floats
    high: _Floats
    runs: NDArray[np.int64]


def curve(runs: Iterable[Run], quantity: Quantity, against: Against, points: int = 300, seed: int = 0) -> Curve:
    """Return the curve of one agent's runs on one problem; failed runs are left out.

    Args:
        runs: the runs, or their trajectories.
        quantity: quantity of the incumbent; `val_score` is the one after the final training if that is known of every
            incumbent, else the one measured in the search.
        against: unit of the grid.
        points: at most so many points of the grid, evenly spaced.
        seed: the bootstrap's.

    Raises:
        InputError: no run that came to its end, another quantity or axis, fewer than 2 points.
    """
    if quantity not in get_args(Quantity) or against not in get_args(Against) or points < 2:
        raise InputError(
            f"a curve takes one of {', '.join(get_args(Quantity))} against one of {', '.join(get_args(Against))} at 2 "
            f"or more points, got {quantity!r} against {against!r} at {points!r}"
        )
    sound = [run for run in trajectories(runs) if run.fault is None]
    if not sound:
        raise InputError("a curve needs one or more runs that came to their end, got none")
    grid = _grid(sound, against, points)
    table, counts = _table(sound, quantity, against, grid)
    mean, iqm, low, high = (np.full(len(grid), np.nan) for _ in range(4))
    for n in np.unique(counts[counts > 0]):
        columns = counts == n
        values = table[:n, columns]
        mean[columns], iqm[columns] = values.mean(axis=0), interquartile_mean(values)
        low[columns], high[columns] = interquartile_interval(values, seed)
    return Curve(grid, mean, iqm, low, high, counts)


def _grid(sound: Sequence[Trajectory], against: Against, points: int) -> _Floats:
    if against == "seconds":
        first, last = min(run.seconds[0] for run in sound), max(run.charged_seconds for run in sound)
        return np.unique(np.linspace(first, last, points))  # one point where nothing was charged
    most = max(run.evaluations for run in sound)
    return np.unique(np.rint(np.linspace(1, most, min(points, most))))


def _table(
    sound: Sequence[Trajectory], quantity: Quantity, against: Against, grid: _Floats
) -> tuple[_Floats, NDArray[np.int64]]:
    """Return the incumbents' values (runs, g), each column ascending, and how many of them count, (g,)."""
    final = final_known(sound)
    table = np.full((len(sound), len(grid)), np.nan)
    started = np.zeros(table.shape, dtype=bool)
    for i, run in enumerate(sound):
        counts = np.isfinite(run.reward if quantity == "reward" else run.val_score)
        x = (run.seconds if against == "seconds" else run.evaluation)[counts].astype(np.float64)
        table[i] = step_function_at(x, run.values(quantity, final)[counts], grid)
        started[i] = np.isfinite(step_function_at(x, x, grid))
    unknown = (started & np.isnan(table)).any(axis=0)
    return np.sort(table, axis=0), np.where(unknown, 0, started.sum(axis=0))  # nan is sorted to the end
