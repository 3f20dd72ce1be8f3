"""What runs of agents come to, each held against one of them: the best found so far, or how many it took.

Agents are paired by problem and seed, and told apart by Wilcoxon's signed-rank test with Holm's correction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bench import table
from numpy.typing import NDArray

from nasenv.comparison.run import Trajectory
from nasenv.comparison.statistics import at, holm, mean_interval, mean_time, signed_rank

Trajectories = Mapping[str, Sequence[Trajectory]]  # by agent
Ends = Mapping[tuple[str, int], float]  # problem and seed -> a figure of the run


def best_found(title: str, runs: Trajectories, evaluations: Sequence[int], other: str) -> list[dict[str, Any]]:
    """Print a table for each number of evaluations: the best reward by then, and what that is more than another's."""
    grid = np.array(sorted(evaluations), dtype=np.float64)
    found = {agent: {(d.problem, d.seed): _after(d, grid) for d in mine} for agent, mine in runs.items() if mine}
    tables = []
    for i, n in enumerate(grid):
        ends = {agent: {key: float(values[i]) for key, values in mine.items()} for agent, mine in found.items()}
        gaps = _gaps(ends, other, "+.4f")
        rows = [[agent, f"{len(mine)}", _mean(mine), *gaps[agent]] for agent, mine in ends.items()]
        heads = ["agent", "runs", "mean [95 %]", f"less {other}'s", "p (Holm)"]
        tables.append(table(f"{title} in {n:.0f} evaluations", heads, rows))
    return tables


def until_best(title: str, runs: Trajectories, optimum: float, most: int, other: str) -> dict[str, Any]:
    """Print each agent's evaluations until the best, at most so many, and how many more than another's these are."""
    ends = {agent: {(d.problem, d.seed): _needed(d, optimum, most) for d in mine} for agent, mine in runs.items()}
    ends = {agent: mine for agent, mine in ends.items() if mine}
    gaps = _gaps(ends, other, "+.0f")
    rows = [[agent, f"{len(mine)}", *_until(mine, most), *gaps[agent]] for agent, mine in ends.items()]
    return table(title, ["agent", "runs", "mean [95 %]", "met it", f"less {other}'s", "p (Holm)"], rows)


def _after(run: Trajectory, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the incumbent's reward after each number of evaluations, (g,)."""
    return at(run.evaluation.astype(np.float64), run.reward, grid)


def _needed(run: Trajectory, optimum: float, most: int) -> float:
    """Return the evaluations of a run until the best, one more than the most where it did not meet it."""
    return float(run.met(optimum) or most + 1)


def _mean(ends: Ends) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(*mean_interval(np.array([*ends.values()]), seed=0))


def _until(ends: Ends, most: int) -> tuple[str, str]:
    """Return the mean of evaluations until the best, runs that did not meet it censored at the most, and who met it."""
    needed = np.array([*ends.values()])
    met = needed <= most
    mean, low, high = mean_time(np.minimum(needed, most), met, seed=0)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]", f"{met.mean():.0%}"


def _gaps(ends: Mapping[str, Ends], other: str, form: str) -> dict[str, tuple[str, str]]:
    """Return, by agent, its mean difference from another's runs of the same seeds, and the signed-rank test's p."""
    theirs = ends.get(other, {})
    pairs = {a: [(mine[k], theirs[k]) for k in mine if k in theirs] for a, mine in ends.items() if a != other}
    gaps = {agent: -np.diff(np.array(both))[:, 0] for agent, both in pairs.items() if both}
    p_values = holm(np.array([signed_rank(gap)[1] for gap in gaps.values()]))
    cells = {a: (f"{gap.mean():{form}}", f"{p:.2g}") for (a, gap), p in zip(gaps.items(), p_values, strict=True)}
    return {agent: cells.get(agent, ("-", "-")) for agent in ends}
