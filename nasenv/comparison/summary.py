"""The summary of one problem of a comparison, and how its quantities are shown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nasenv.comparison.run import Quantity
from nasenv.errors import counted
from nasenv.task import is_share

LEVEL = 0.05
"""The family-wise significance level of the tests over all pairs of a problem."""

_ESTIMATE = ("value", "low", "high")
_COLUMNS = (
    *("problem", "metric", "ranked_by", "optimum", "agent", "seeds", "faults", "early", "mean_rank"),
    *(
        f"{spread}_{figure}"
        for spread in ("reward", "val_score", "test_score", "regret")
        for figure in ("mean", "std", "median", *(f"iqm_{e}" for e in _ESTIMATE), "n")
    ),
    *(f"success_{estimate}_{e}" for estimate in ("rate", "mean_evaluations") for e in _ESTIMATE),
    *("success_median_evaluations", "success_limit"),
    *("evaluations", "proposals", "charged_seconds", "evaluations_per_second"),
)


@dataclass(frozen=True)
class Display:
    """Defines how a quantity is shown.

    Args:
        words: its name in a sentence.
        label: the same with its unit, on an axis or over a column.
        factor: to that unit.
        digits: format of a number in that unit.
    """

    words: str
    label: str
    factor: float = 1.0
    digits: str = ".4f"

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.factor * value:{self.digits}}{' %' * (self.factor != 1.0)}"

    def difference(self, value: float) -> str:
        """Return a difference in a sentence, those of percentages in points."""
        return f"{value:.3g}" if self.factor == 1.0 else counted(float(f"{self.factor * value:.2g}"), "point")


def display(quantity: Quantity | Literal["regret"], metric: str, reward_is_score: bool = False) -> Display:
    """Return how a quantity is shown: what is an accuracy in per cent, all else as it is.

    Args:
        quantity: which one.
        metric: what the scores are.
        reward_is_score: whether rewards, and so regrets, are in the metric's unit.

    >>> display("val_score", "accuracy").label, display("test_score", "r2").label
    ('validation accuracy (%)', 'test r2')
    >>> display("regret", "accuracy").label, display("regret", "accuracy", reward_is_score=True).label
    ('regret', 'regret (%)')
    """
    split = {"val_score": "validation", "test_score": "test"}.get(quantity)
    name = metric.replace("_", " ")
    words = f"{split} {name}" if split is not None else quantity
    in_full = f"reward (validation {name} in the search)" if reward_is_score and quantity == "reward" else words
    if is_share(metric) and (split is not None or reward_is_score):
        return Display(in_full, f"{words} (%)", 100.0, ".2f")
    return Display(in_full, words)


@dataclass(frozen=True)
class IntervalEstimate:
    """Holds an estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Summarises n values, one for each seed: mean, standard deviation (ddof 1), median, interquartile mean.

    The standard deviation of a single value is nan.
    """

    mean: float
    std: float
    median: float
    iqm: IntervalEstimate
    n: int


@dataclass(frozen=True)
class Success:
    """Summarises how many distinct evaluations reached the optimum; unsuccessful runs are censored.

    Args:
        rate: share of the runs that met it, with a 95 % interval (Wilson).
        mean_evaluations: mean up to ``limit``, with bootstrap interval: the area under the Kaplan-Meier curve, a lower
            bound of the mean where the rate is below 1. Where all unsuccessful runs made as many evaluations, it is
            the plain mean with these counted in; where some ended early, that would reward ending early.
        median_evaluations: Kaplan-Meier estimate; None where fewer than half of the runs met it.
        limit: the most evaluations of a run.
    """

    rate: IntervalEstimate
    mean_evaluations: IntervalEstimate
    median_evaluations: float | None
    limit: int


@dataclass(frozen=True)
class Standing:
    """Summarises one agent on one problem.

    Args:
        agent: its name.
        seeds: number of its runs that count.
        faults: errors of the failed runs, by seed; these runs count nowhere else.
        reward, val_score, test_score: spreads of the final incumbents; None if unknown for a run.
        regret: best reward of the space minus the incumbent's, None where the best is not known.
        success: None where the best is not known.
        mean_rank: mean rank by the chosen quantity over the seeds that all agents have; 1 is best, ties share.
        evaluations, proposals, charged_seconds: means a run; nan where no run counts.
        evaluations_per_second: evaluations per wall second of all its runs.
        early: why, by seed, those of its runs that count ended before a limit of the budget.
    """

    agent: str
    seeds: int
    faults: dict[int, str]
    reward: Spread | None
    val_score: Spread | None
    test_score: Spread | None
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
    """Compares two agents on one problem by the ranking quantity, paired by seed.

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
    improvement: IntervalEstimate
    p_value: float
    p_holm: float
    separated: bool
    seeds_needed: int | None
    seeds: int = 0
    equal: int = 0
    difference: float = 0.0


@dataclass(frozen=True)
class Summary:
    """Summarises one problem of a comparison.

    Args:
        problem: its name.
        ranked_by: quantity of the incumbents by which agents are ranked.
        optimum: the best reward of the space, None where not known.
        standings: the agents by mean rank, the best first.
        pairs: every two agents that have seeds in common and whose values are known; the lowest p-values first.
        conclusions: sentences on what may and may not be concluded.
        metric: metric of the scores.
        reward_is_score: whether rewards are scores as they are.
    """

    problem: str
    ranked_by: Quantity
    optimum: float | None
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    conclusions: tuple[str, ...]
    metric: str = "accuracy"
    reward_is_score: bool = False

    def display(self, quantity: Quantity | Literal["regret"]) -> Display:
        """Return how a quantity is shown."""
        return display(quantity, self.metric, self.reward_is_score)


def write_summary(path: Path, summaries: Iterable[Summary]) -> None:
    """Write a CSV row for each problem and agent, in the order of ranks; unknown values stay empty.

    Each figure of a spread or of an estimate is a column: `reward_iqm_low`, `success_rate_high`.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for summary in summaries:
            problem = {name: getattr(summary, name) for name in ("problem", "metric", "ranked_by", "optimum")}
            for standing in summary.standings:
                values = {**asdict(standing), "faults": len(standing.faults), "early": len(standing.early)}
                writer.writerow({**problem, **dict(_flat(values))})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (column, value); columns of nested values are prefixed with the name of their parent."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}_")
        else:
            yield prefix + name, None if value != value else value
