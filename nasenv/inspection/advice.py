"""Says in words what a space report means for a search, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nasenv.errors import counted
from nasenv.inspection.space_report import SpaceReport, TrainedSample
from nasenv.task import is_share, shown_score

_SMALL_SHARE = 1e-3  # of a space that a search sees, below which it depends on what it draws
_BEST_SHARE, _SURE = 0.01, 0.95
_MANY_AT_CHANCE, _MANY_FAILED, _LOW_CORRELATION = 0.25, 0.1, 0.5
_SLOW = 5.0  # times the seconds of the median network
_LONG_SECONDS = 24 * 3600.0


def draws_for_best(share: float = _BEST_SHARE, sure: float = _SURE) -> int:
    """Return how many architectures drawn at random hold one of this share of the best with this probability.

    >>> draws_for_best()
    299
    """
    return math.ceil(math.log(1 - sure) / math.log(1 - share))


def advice(report: SpaceReport) -> list[str]:
    """Return warnings, each with what to do; none where nothing speaks against a search of the space."""
    sentences = [*_on_size(report), *_on_costs(report)]
    return sentences if report.trained is None else [*sentences, *_on_scores(report.trained, report.metric)]


def _on_size(report: SpaceReport) -> Iterator[str]:
    evaluations = counted(report.evaluations, "evaluation")
    if report.budget_share < _SMALL_SHARE:
        yield (
            f"{evaluations} are {_share(report)}: take a smaller space, or an agent with a model (--agent "
            f"GaussianProcess); drawing at random finds one of the best 1 % in {draws_for_best()} evaluations with a "
            "probability of 95 %"
        )
    if report.networks.is_exact and report.networks.value <= report.evaluations:
        yield (
            f"{evaluations} are enough for all {report.networks.value:,.0f} networks: no agent is needed; nasenv "
            "build_table trains them all"
        )


def _on_costs(report: SpaceReport) -> Iterator[str]:
    tried = sum(report.broken.values()) + max(map(len, report.costs.values()), default=0)
    if report.broken:
        why, times = max(report.broken.items(), key=lambda item: item[1])
        yield f"{times} of {tried} networks cannot be built: {why}; exclude them by a constraint or a mask"
    if report.seconds_per_flop is not None and report.costs.get("flops"):
        fixed, each = report.seconds_per_flop
        middle, high = (fixed + each * _quantile(report.costs["flops"], q) for q in (0.5, 0.95))
        if high > _SLOW * middle:
            yield (
                f"one network in twenty trains for {high / middle:.0f} times as long as the median one: those take "
                "most of the time; limit flops by a smaller space or by --objective ScoreWithinCost"
            )
    if report.search_seconds is not None and report.search_seconds > _LONG_SECONDS:
        yield (
            f"a search of {counted(report.evaluations, 'evaluation')} takes about {report.search_seconds / 3600:,.0f} "
            "hours here: train for fewer epochs (--evaluator.epochs), on less data, or on more machines (RayEvaluator)"
        )


def _on_scores(sample: TrainedSample, metric: str) -> Iterator[str]:
    at_chance = sample.share_at_chance
    if at_chance is not None and at_chance > _MANY_AT_CHANCE:
        yield (
            f"{at_chance:.0%} of the trained networks are at chance: train for longer (--evaluator.epochs), or leave "
            "out the choices that they have in common"
        )
    if sample.share_failed > _MANY_FAILED:
        why, times = max(sample.errors.items(), key=lambda item: item[1])
        yield f"{sample.share_failed:.0%} of the trainings fail, {times} with: {why}; exclude what they have in common"
    if sample.rank_correlation is not None and sample.rank_correlation < _LOW_CORRELATION:
        yield (
            f"two seeds hardly rank networks alike (Spearman {sample.rank_correlation:.2f}): a search would learn "
            "noise; train for longer, or take a space whose networks differ more"
        )
    noise, spread = sample.seed_noise, sample.spread_of_best
    if noise is not None and spread is not None and noise >= spread:
        yield (
            f"seed noise ({_shown(noise, metric)}) is as large as the spread of the best tenth "
            f"({_shown(spread, metric)}): the best cannot be told from the good; train finalists with more seeds "
            "(--budget.final_seeds)"
        )


def summary(report: SpaceReport) -> Mapping[str, str]:
    """Return what a report holds, as texts by name."""
    found = {
        "space": report.space,
        "architectures": str(report.architectures),
        "different networks": str(report.networks),
        f"seen by {counted(report.evaluations, 'evaluation')}": _share(report),
    }
    for name, values in report.costs.items():
        low, middle, high = (_quantile(values, q) for q in (0.05, 0.5, 0.95))
        found[f"{name} (5, 50, 95 %)"] = f"{_short(low)}, {_short(middle)}, {_short(high)}"
    if report.training_seconds is not None and report.search_seconds is not None:
        found["one training"] = f"{report.training_seconds:.2g} s on average, {counted(report.slots, 'slot')}"
        found["trainings of a search"] = _duration(report.search_seconds)
    if report.trained is not None:
        found |= _summary_of(report.trained, report.metric)
    return found


def _summary_of(sample: TrainedSample, metric: str) -> dict[str, str]:
    found = {"trained": f"{counted(len(sample.scores), 'network')}, two seeds each"}
    if sample.share_at_chance is not None:
        found["at chance"] = f"{sample.share_at_chance:.0%}"
    found["failed trainings"] = f"{sample.share_failed:.0%}"
    if sample.rank_correlation is not None:
        found["rank correlation of the seeds"] = f"{sample.rank_correlation:.2f}"
    if sample.seed_noise is not None:
        found["seed noise"] = _shown(sample.seed_noise, metric)
    if any(score is not None for score in sample.scores):
        sizes = sorted({n for n in (1, 2, 5, 10, 20, 50, 100, len(sample.scores)) if n <= len(sample.scores)})
        for n in sizes[-3:]:
            mean, low, high = sample.best_of(n)
            shown, *bounds = (shown_score(value, metric) for value in (mean, low, high))
            found[f"best of {n} drawn at random"] = f"{shown} (95 % interval {' to '.join(bounds)})"
    return found


def _share(report: SpaceReport) -> str:
    of = "different networks" if report.networks.is_exact else "architectures"
    return f"{report.budget_share:.2g} of the {of}"


def _quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(np.asarray(values, dtype=np.float64), q))


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _shown(value: float, metric: str) -> str:
    return f"{100 * value:.2f} points" if is_share(metric) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 7200 else f"about {seconds / 3600:.1f} hours"
