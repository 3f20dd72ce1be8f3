"""What the statistics of a comparison find: plain values for tables, figures and words; `summary` makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Metric = Literal["reward", "val_accuracy", "test_accuracy"]
"""What agents are ranked by: of the incumbent when the budget is used up. `val_accuracy` is the one after the final
training where that is known of every run, else the one measured in the search."""


LEVEL = 0.05
"""Of the tests: how often at most agents that do not differ are called different, over all pairs of a problem."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Values over n seeds: mean, standard deviation (ddof 1), median, interquartile mean with bootstrap interval.

    The standard deviation of a single value is nan.
    """

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
        mean_evaluations: mean up to ``limit``, with bootstrap interval: the area under the Kaplan-Meier curve, a lower
            bound of the mean where the rate is below 1. Where all unsuccessful runs made as many evaluations, it is
            the plain mean with these counted in; where some ended early, that would reward ending early.
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
        evaluations, proposals, charged_seconds: means a run; nan where no run counts.
        evaluations_per_second: of the wall time of all its runs.
        early: why, by seed, those of its runs that count ended before a limit of the budget.
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
    early: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two agents on one problem, by the chosen metric, paired by seed.

    Args:
        better, worse: their names; better has the higher mean over the seeds that both have.
        improvement: probability that a run of better ends above one of worse (ties count half), bootstrap interval.
        p_value: two-sided Wilcoxon signed-rank test over the seeds both have; 1.0 where all differences are nought.
        p_holm: the same with Holm's correction for all pairs of the problem.
        separated: whether p_holm is below ``LEVEL``, and the test's ranks call the same agent the better one as
            the means do.
        seeds_needed: number of seeds at which this difference would be seen with a power of 80 % (at the level that
            the correction demands: ``LEVEL`` over the number of pairs that are not separated); None where it is
            separated, or where there is no difference to be seen.
        seeds: number of seeds that both have.
        equal: number of these seeds on which they ended at the same value.
        difference: mean of better minus that of worse over these seeds.
    """

    better: str
    worse: str
    improvement: Estimate
    p_value: float
    p_holm: float
    separated: bool
    seeds_needed: int | None
    seeds: int = 0
    equal: int = 0
    difference: float = 0.0


@dataclass(frozen=True)
class Summary:
    """One problem of a comparison.

    Args:
        problem: its name.
        metric: what agents are ranked by.
        optimum: the best reward of the space, None where not known.
        standings: by mean rank, the best first.
        pairs: every two agents that have seeds in common and whose metric is known; the lowest p-values first.
        verdicts: what may and what may not be concluded, sentences.
    """

    problem: str
    metric: Metric
    optimum: float | None
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    verdicts: tuple[str, ...]
