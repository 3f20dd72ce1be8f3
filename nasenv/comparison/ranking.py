"""Gives every run the value by which the agents of a problem are ranked and tested; higher is better.

Where agents are ranked by their speed, and at least half of the runs of one of them met the best reward of the space,
the value is minus the evaluations until then. A run that did not meet it has the worst rank, as in
https://pmc.ncbi.nlm.nih.gov/articles/PMC5393279: it counts as one evaluation more than the longest run of the problem,
and as one minus its area more, which orders such runs among themselves. Where the best is not known or not met, the
value is that area, under the curve of the best reward so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from nasenv.comparison.run import Trajectory
from nasenv.comparison.summary import Criterion

AgentRuns: TypeAlias = Mapping[str, Sequence[Trajectory]]
"""The sound runs of one problem, by agent."""

Values: TypeAlias = Mapping[str, Mapping[int, float]]
"""A number of each run, by agent and seed."""


def speed_criterion(sound: AgentRuns, optimum: float | None) -> Criterion:
    """Return the unit of speed: evaluations where at least half of the runs of any agent met the optimum, else area."""
    if optimum is None:
        return "area"
    met = [[run.evaluation_of_optimum(optimum) is not None for run in runs] for runs in sound.values()]
    return "evaluations_to_best" if any(2 * sum(hits) >= len(hits) > 0 for hits in met) else "area"


def values_of(
    sound: AgentRuns, criterion: Criterion, optimum: float | None, areas: Values, final: bool
) -> dict[str, dict[int, float]]:
    """Return the value of each run; nan where it is not known."""
    most = longest(sound)

    def value(run: Trajectory) -> float:
        area = areas[run.agent][run.seed]
        if criterion == "area":
            return area
        if criterion == "evaluations_to_best":
            hit = None if optimum is None else run.evaluation_of_optimum(optimum)
            return -float(hit) if hit is not None else area - most - 2
        return float(run.values(criterion, final)[-1])

    return {agent: {run.seed: value(run) for run in runs} for agent, runs in sound.items()}


def areas_of(sound: AgentRuns, optimum: float | None) -> dict[str, dict[int, float]]:
    """Return the normalised area under each run's curve, in [0, 1]; see ``Standing``."""
    most = longest(sound)
    worst = min((run.reward[0] for runs in sound.values() for run in runs), default=0.0)
    best = max((run.reward[-1] for runs in sound.values() for run in runs), default=0.0)
    top = float(best if optimum is None else max(best, optimum))
    return {a: {run.seed: run.area(most, float(worst), top) for run in runs} for a, runs in sound.items()}


def longest(sound: AgentRuns) -> int:
    """Return the most evaluations that a run made."""
    return max((run.evaluations for runs in sound.values() for run in runs), default=0)
