"""The summary of one problem of a comparison, and how its quantities are shown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nasenv.errors import counted
from nasenv.task import is_share

Criterion = Literal["evaluations_to_best", "area", "reward", "val_score", "test_score"]
"""What agents are ranked and tested by: how fast they are, in two units, or a quantity of their last incumbents."""

RankBy = Literal["speed", "reward", "val_score", "test_score"]
"""What a user may rank agents by. `speed` is the evaluations to the best reward of the space where it is met, else
the area under the curve of the best reward so far."""

POINTS = (25, 50, 100, 200)
"""The numbers of evaluations after which the best reward so far is shown."""

LEVEL = 0.05
"""The family-wise significance level of the tests over all pairs of a problem."""

_ESTIMATE = ("value", "low", "high")
_COLUMNS = (
    *("problem", "metric", "ranked_by", "optimum", "agent", "seeds", "faults", "early", "mean_rank"),
    *(
        f"{spread}_{figure}"
        for spread in ("area", "reward", "val_score", "test_score", "regret")
        for figure in ("mean", "std", "median", *(f"iqm_{e}" for e in _ESTIMATE), "n")
    ),
    *(f"best_so_far_{point}_{figure}" for point in POINTS for figure in ("mean", "std", "median")),
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
        unit: of a difference, as a noun; none where it is a plain number.
    """

    words: str
    label: str
    factor: float = 1.0
    digits: str = ".4f"
    unit: str = ""

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.factor * value:{self.digits}}{' %' * (self.factor != 1.0)}"

    def difference(self, value: float) -> str:
        """Return a difference in a sentence, those of percentages in points."""
        number = float(f"{self.factor * value:.{2 if self.unit == 'point' else 3}g}")
        return counted(number, self.unit) if self.unit else f"{number:g}"


def display(quantity: Criterion | Literal["regret"], metric: str, reward_is_score: bool = False) -> Display:
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
    if quantity == "evaluations_to_best":
        words = "evaluations to the best reward of the space"
        return Display(words, "evaluations to the best", digits=",.1f", unit="evaluation")
    if quantity == "area":
        return Display("area under the curve of the best reward so far", "area under the curve")
    split = {"val_score": "validation", "test_score": "test"}.get(quantity)
    name = metric.replace("_", " ")
    words = f"{split} {name}" if split is not None else quantity
    in_full = f"reward (validation {name} in the search)" if reward_is_score and quantity == "reward" else words
    if is_share(metric) and (split is not None or reward_is_score):
        return Display(in_full, f"{words} (%)", 100.0, ".2f", "point")
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
        area: spread of the normalised area under the curve of the best reward so far: 0 is the lowest reward that was
            the best so far in any run of the problem, 1 the best reward of the space (where it is not known: of any
            run), and the curve goes on for as long as the problem's longest run. None where no run counts.
        best_so_far: spreads of the best reward by number of evaluations, of those of ``POINTS`` that a run has made.
        mean_rank: mean rank by the criterion over the seeds that all agents have; 1 is best, ties share.
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
    area: Spread | None
    best_so_far: dict[int, Spread]
    mean_rank: float | None
    evaluations: float
    proposals: float
    charged_seconds: float
    evaluations_per_second: float
    early: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Compares two agents on one problem by the criterion, paired by seed.

    Args:
        better, worse: their names; better has the better mean over the seeds that both have.
        improvement: probability that a run of better is better than one of worse (ties count half), bootstrap interval.
        p_value: two-sided Wilcoxon signed-rank test over the seeds both have; 1.0 where all differences are nought.
        p_holm: the same with Holm's correction for all pairs of the problem.
        separated: whether p_holm is below ``LEVEL``, and the test's ranks call the same agent the better one as
            the means do.
        seeds_needed: number of seeds at which this difference would be seen with a power of 80 % (at the level that
            the correction demands: ``LEVEL`` over the number of pairs that are not separated); None where it is
            separated, or where there is no difference to be seen.
        seeds: number of seeds that both have.
        equal: number of these seeds on which they are equal.
        difference: mean, over these seeds, of how much better the better one is.
        by: the criterion that the two differ in: the summary's, or the area where that is the evaluations to the best
            and no run of either met it.
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
    by: Criterion = "reward"


@dataclass(frozen=True)
class Summary:
    """Summarises one problem of a comparison.

    Args:
        problem: its name.
        ranked_by: the criterion that ranks and tests the agents.
        optimum: the best reward of the space, None where not known.
        standings: the agents by mean rank, the best first; of equals the one with the larger area.
        pairs: every two agents that have seeds in common and whose values are known; the lowest p-values first.
        conclusions: sentences on what may and may not be concluded.
        metric: metric of the scores.
        reward_is_score: whether rewards are scores as they are.
    """

    problem: str
    ranked_by: Criterion
    optimum: float | None
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    conclusions: tuple[str, ...]
    metric: str = "accuracy"
    reward_is_score: bool = False

    def display(self, quantity: Criterion | Literal["regret"]) -> Display:
        """Return how a quantity is shown."""
        return display(quantity, self.metric, self.reward_is_score)

    def ranks(self, standing: Standing) -> bool:
        """Return whether the criterion is known of all runs of an agent that count."""
        name = "success" if self.ranked_by == "evaluations_to_best" else self.ranked_by
        return getattr(standing, name) is not None


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
