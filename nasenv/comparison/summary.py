"""What the runs of a comparison say: one summary a problem, made of plain values for tables, figures and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nasenv.comparison.run import Run

Metric = Literal["reward", "val_accuracy", "test_accuracy"]
"""What agents are ranked by: of the incumbent when the budget is used up. `val_accuracy` is the one after the final
training where that is known."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Values over the seeds: mean, standard deviation (ddof 1), median, interquartile mean with bootstrap interval."""

    mean: float
    std: float
    median: float
    iqm: Estimate
    n: int


@dataclass(frozen=True)
class Success:
    """How many distinct evaluations it took to meet the best reward of the space; unsuccessful runs are censored.

    Args:
        rate: share of the runs that met it, with a 95 % interval (Wilson).
        mean_evaluations: mean over all runs, an unsuccessful one counted with its number of evaluations: a lower bound
            of the mean where the rate is below 1.
        median_evaluations: Kaplan-Meier estimate; None where fewer than half of the runs met it.
        limit: the most evaluations of a run.
    """

    rate: Estimate
    mean_evaluations: Estimate
    median_evaluations: float | None
    limit: int


@dataclass(frozen=True)
class Standing:
    """One agent on one problem.

    Args:
        agent: its name.
        seeds: number of its runs that count.
        faults: what was wrong, by seed, with the runs that did not come to their end; they count nowhere else.
        reward, val_accuracy, test_accuracy: of the incumbents at the end; None where unknown for a run.
        regret: best reward of the space minus the incumbent's, None where the best is not known.
        success: None where the best is not known.
        mean_rank: of the chosen metric over the seeds that all agents have, 1 is best; ties share.
        evaluations, proposals, charged_seconds: means a run.
        evaluations_per_second: of wall time, mean.
    """

    agent: str
    seeds: int
    faults: dict[int, str]
    reward: Spread | None
    val_accuracy: Spread | None
    test_accuracy: Spread | None
    regret: Spread | None
    success: Success | None
    mean_rank: float | None
    evaluations: float
    proposals: float
    charged_seconds: float
    evaluations_per_second: float


@dataclass(frozen=True)
class Pair:
    """Two agents on one problem, by the chosen metric, paired by seed.

    Args:
        better, worse: their names; better has the higher mean.
        improvement: probability that a run of better ends above one of worse (ties count half), bootstrap interval.
        p_value: two-sided Wilcoxon signed-rank test over the seeds both have; 1.0 where all differences are nought.
        p_holm: the same with Holm's correction for all pairs of the problem.
        separated: whether p_holm is below 0.05.
        seeds_needed: number of seeds at which this difference would be seen with a power of 80 % (at the level that
            the correction demands); None where it is separated, or where there is no difference to be seen.
    """

    better: str
    worse: str
    improvement: Estimate
    p_value: float
    p_holm: float
    separated: bool
    seeds_needed: int | None


@dataclass(frozen=True)
class Summary:
    """One problem of a comparison.

    Args:
        problem: its name.
        metric: what agents are ranked by.
        optimum: the best reward of the space, None where not known.
        standings: by mean rank, the best first.
        pairs: every two agents.
        verdicts: what may and what may not be concluded, sentences.
    """

    problem: str
    metric: Metric
    optimum: float | None
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    verdicts: tuple[str, ...]


def summarise(
    problem: str, runs: Sequence[Run], optimum: float | None, metric: Metric = "reward", seed: int = 0
) -> Summary:
    """Return what the runs of one problem say; ``seed`` is the bootstrap's."""
    raise NotImplementedError
