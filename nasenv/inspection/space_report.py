"""Finds out what a search space is before it is searched: its size, what its networks cost, and how they score."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import integer, positive
from nasenv.evaluators.evaluator import Evaluator
from nasenv.inspection.counting import Count, count_architectures, count_networks
from nasenv.spaces.space import SearchSpace
from nasenv.task import Task
from nasenv.trial import Architecture, Trial

_SAMPLED, _TIMED = 500, 8
_SIZE_SHARE, _COUNT_SHARE = 0.15, 0.3  # of the seconds, after which size and networks are estimated by what there is
_COST_SHARE, _TIMING_SHARE = 0.6, 0.9  # after which no more costs and trainings are asked for
_BY_CHANCE = 2.0  # standard errors above the chance level that a score at chance may have

Said = Callable[[str, int, int], None]


def silent(what: str, done: int, of: int) -> None:
    """Say nothing of the progress."""


@dataclass(frozen=True)
class TrainedSample:
    """Holds the scores of architectures drawn at random, each trained with two seeds.

    Args:
        scores: the first score of each; None where the training failed.
        again: the score with another seed.
        errors: why trainings failed, with how many did.
        at_chance: up to which score a network is taken to have learned nothing; None without such a level.
    """

    scores: Sequence[float | None]
    again: Sequence[float | None]
    errors: Mapping[str, int]
    at_chance: float | None

    @property
    def pairs(self) -> NDArray[np.float64]:
        """Return the scores of the architectures of which both trainings succeeded, (n, 2)."""
        both = [(a, b) for a, b in zip(self.scores, self.again, strict=True) if a is not None and b is not None]
        return np.array(both, dtype=np.float64).reshape(-1, 2)

    @property
    def share_at_chance(self) -> float | None:
        """Return the share of the successful first trainings that learned nothing."""
        found = [score for score in self.scores if score is not None]
        if self.at_chance is None or not found:
            return None
        return sum(score <= self.at_chance for score in found) / len(found)

    @property
    def share_failed(self) -> float:
        """Return the share of the trainings that failed."""
        return sum(self.errors.values()) / max(1, 2 * len(self.scores))

    @property
    def rank_correlation(self) -> float | None:
        """Return Spearman's correlation of the two seeds' scores; None where it is not defined."""
        pairs = self.pairs
        if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
            return None
        from scipy.stats import spearmanr  # which takes a second to import

        return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)

    @property
    def seed_noise(self) -> float | None:
        """Return the standard deviation of a score over seeds, pooled; None for fewer than three pairs."""
        pairs = self.pairs
        return None if len(pairs) < 3 else float(np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2) / 2))

    @property
    def spread_of_best(self) -> float | None:
        """Return by how much the best score is above the 90 % quantile; None for fewer than ten scores."""
        found = [score for score in self.scores if score is not None]
        return None if len(found) < 10 else float(max(found) - np.quantile(found, 0.9))

    def best_of(self, n: int, resamples: int = 2_000) -> tuple[float, float, float]:
        """Return (mean, low, high) of the best score of n architectures drawn at random, for n up to the sample's size.

        The mean is that of the empirical distribution (Dodge et al. 2019, https://arxiv.org/abs/1909.03004); a failed
        training counts as the lowest score. The interval is a 95 % percentile bootstrap over the sample.
        """
        known = [score for score in self.scores if score is not None]
        ascending = np.sort(np.array([min(known) if score is None else score for score in self.scores]))
        drawn = np.random.default_rng(0).integers(len(ascending), size=(resamples, len(ascending)))
        powers = (np.arange(len(ascending) + 1) / len(ascending)) ** n
        weights = np.diff(powers)
        means = np.sort(ascending[drawn], axis=1) @ weights
        low, high = np.quantile(means, (0.025, 0.975))
        return float(ascending @ weights), float(low), float(high)


@dataclass(frozen=True)
class SpaceReport:
    """Holds what was found out about a space.

    Args:
        space: name of its class.
        task: the task, in words.
        evaluations: full trainings that a search of it is to have.
        slots: trainings that run at once.
        architectures: number of architectures.
        networks: number of different networks.
        costs: metric -> its values for architectures drawn at random.
        broken: why networks could not be built, with how many could not.
        timed: (FLOPs, seconds) of trainings.
        seconds_per_flop: (seconds, seconds per FLOP) of the least squares fit to them; None for fewer than three.
        trained: scores of architectures that were trained; None where none were asked for.
        metric: name of the score.
    """

    space: str
    task: str
    evaluations: int
    slots: int
    architectures: Count
    networks: Count
    costs: Mapping[str, Sequence[float]]
    broken: Mapping[str, int] = field(default_factory=dict)
    timed: Sequence[tuple[float, float]] = ()
    seconds_per_flop: tuple[float, float] | None = None
    trained: TrainedSample | None = None
    metric: str = "accuracy"

    @property
    def budget_share(self) -> float:
        """Return the share that a search sees: of the different networks if they are counted, else of architectures."""
        of = self.networks if self.networks.is_exact else self.architectures
        return min(1.0, self.evaluations / of.value)

    @property
    def training_seconds(self) -> float | None:
        """Return the mean seconds of a training, by the fit and the FLOPs of the sample if they are known."""
        if not self.timed:
            return None
        if self.seconds_per_flop is not None and self.costs.get("flops"):
            fixed, each = self.seconds_per_flop
            return float(fixed + each * np.mean(self.costs["flops"]))
        return float(np.mean([seconds for _, seconds in self.timed]))

    @property
    def search_seconds(self) -> float | None:
        """Return the wall seconds of a search's trainings, if its agent draws at random; None without timed ones."""
        return None if self.training_seconds is None else self.evaluations * self.training_seconds / self.slots

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; what is infinite or unknown becomes null."""
        found: dict[str, Any] = asdict(self)
        for count in (found["architectures"], found["networks"]):
            count |= {name: None if math.isinf(value) else value for name, value in count.items()}
        found["timed"] = [[None if math.isnan(flops) else flops, seconds] for flops, seconds in self.timed]
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the report of `to_json`; raise KeyError, TypeError or ValueError for anything else."""
        fit, sample = values["seconds_per_flop"], values["trained"]
        return cls(
            str(values["space"]),
            str(values["task"]),
            int(values["evaluations"]),
            int(values["slots"]),
            _count(values["architectures"]),
            _count(values["networks"]),
            {str(name): [float(value) for value in found] for name, found in dict(values["costs"]).items()},
            {str(why): int(times) for why, times in dict(values["broken"]).items()},
            [(math.nan if flops is None else float(flops), float(seconds)) for flops, seconds in values["timed"]],
            None if fit is None else (float(fit[0]), float(fit[1])),
            None if sample is None else _sample(sample),
            str(values["metric"]),
        )


def _count(values: Mapping[str, Any]) -> Count:
    return Count(*(math.inf if values[name] is None else float(values[name]) for name in ("value", "low", "high")))


def _sample(values: Mapping[str, Any]) -> TrainedSample:
    scores, again = ([None if s is None else float(s) for s in values[name]] for name in ("scores", "again"))
    errors = {str(why): int(times) for why, times in dict(values["errors"]).items()}
    return TrainedSample(scores, again, errors, None if values["at_chance"] is None else float(values["at_chance"]))


def inspect_space(
    space: SearchSpace,
    evaluator: Evaluator,
    evaluations: int = 200,
    trained: int = 0,
    seconds: float = 60.0,
    seed: int = 0,
    say: Said = silent,
) -> SpaceReport:
    """Return what is found out about a space.

    Args:
        space: the space.
        evaluator: knows what its networks cost, and trains some.
        evaluations: full trainings that a search of it is to have.
        trained: how many architectures to train with two seeds each, however long that takes.
        seconds: limit of everything else; what cannot be done in time is left out.
        seed: seeds the architectures drawn.
        say: called with what is being done, how much of it is done, and of how much.
    """
    began, limit = time.monotonic(), positive("seconds", seconds)
    integer("evaluations", evaluations), integer("trained", trained, least=0)
    counting, drawing, training = (np.random.default_rng([seed, part]) for part in range(3))
    say("counting", 0, 1)
    architectures = count_architectures(space, counting, began + _SIZE_SHARE * limit)
    networks = count_networks(space, counting, began + _COUNT_SHARE * limit)
    costs, broken = _costs(space, evaluator, drawing, say, began + _COST_SHARE * limit)
    timed: list[tuple[float, float]] = []
    if evaluator.trains:
        timed = _timed(space, evaluator, drawing, say, began + _TIMING_SHARE * limit)
    return SpaceReport(
        type(space).__name__,
        evaluator.dataset.summary() if evaluator.dataset is not None else "nothing is trained",
        evaluations,
        evaluator.slots,
        architectures,
        networks,
        costs,
        broken,
        timed,
        _fit(timed),
        _trained(space, evaluator, training, trained, say) if trained else None,
        space.task.metric,
    )


def _costs(
    space: SearchSpace, evaluator: Evaluator, rng: np.random.Generator, say: Said, until: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the costs of architectures drawn at random by name, and why some could not be built, until a time."""
    costs: dict[str, list[float]] = {}
    broken: Counter[str] = Counter()
    for number, architecture in enumerate(space.sample(_SAMPLED, rng)):
        if time.monotonic() > until:
            break
        say("costs", number, _SAMPLED)
        try:
            found = evaluator.costs(architecture)
        except Exception as error:  # of a user's space; a search would count it as a failure, too
            broken[" ".join(f"{type(error).__name__}: {error}".split())] += 1
            continue
        for name, value in found.items():
            costs.setdefault(name, []).append(float(value))
    return costs, dict(broken)


def _timed(
    space: SearchSpace, evaluator: Evaluator, rng: np.random.Generator, say: Said, until: float
) -> list[tuple[float, float]]:
    """Return (FLOPs, seconds) of trainings of architectures drawn at random, until a time."""
    evaluator.start()
    found: list[tuple[float, float]] = []
    for number, architecture in enumerate(_distinct(space, rng, _TIMED)):
        if time.monotonic() > until:
            break
        say("timing trainings", number, _TIMED)
        (measurement,) = evaluator.measure([Trial(architecture)])
        if measurement.error is None:
            found.append((measurement.metrics.get("flops", math.nan), measurement.train_seconds))
    return found


def _trained(space: SearchSpace, evaluator: Evaluator, rng: np.random.Generator, n: int, say: Said) -> TrainedSample:
    """Return the scores of n architectures drawn at random, each trained with two seeds."""
    drawn = [evaluator.representative(architecture) for architecture in space.sample(n, rng)]
    trials = [Trial(architecture, seed=seed) for seed in (0, 1) for architecture in drawn]
    say("training", 0, len(wanted := dict.fromkeys(trials)))
    measured = {}
    for trial, measurement in evaluator.results(wanted):
        measured[trial] = measurement
        say("training", len(measured), len(wanted))
    results = [measured[trial] for trial in trials]
    errors = Counter(m.error for m in results if m.error is not None)
    scores = [m.score for m in results]
    return TrainedSample(scores[:n], scores[n:], dict(errors), _chance_level(space.task, evaluator))


def _distinct(space: SearchSpace, rng: np.random.Generator, n: int) -> list[Architecture]:
    return list(dict.fromkeys(space.canonical(architecture) for architecture in space.sample(n, rng)))


def _chance_level(task: Task, evaluator: Evaluator) -> float | None:
    """Return up to which score a network has learned nothing: two standard errors above the most frequent class."""
    if task.kind == "regression":
        return 0.0 if task.metric == "r2" else None
    if task.metric != "accuracy":
        return None
    if evaluator.dataset is None:
        return None
    targets = evaluator.dataset.validation.targets.numpy()
    most = float(np.bincount(targets.astype(np.int64)).max()) / len(targets)
    return most + _BY_CHANCE * math.sqrt(most * (1 - most) / len(targets))


def _fit(timed: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return (seconds, seconds per FLOP) that fit the timed trainings best with neither negative; None for too few."""
    known = np.array([pair for pair in timed if math.isfinite(pair[0])]).reshape(-1, 2)
    if len(known) < 3 or np.ptp(known[:, 0]) == 0:
        return None
    slope, fixed = np.polyfit(known[:, 0], known[:, 1], 1)
    if slope < 0:
        return float(known[:, 1].mean()), 0.0
    if fixed < 0:
        return 0.0, float((known[:, 0] @ known[:, 1]) / (known[:, 0] @ known[:, 0]))
    return float(fixed), float(slope)
