"""Objectives turn measurements into rewards; `Rewards` also pays trials that failed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from nasenv.configuration import Configurable
from nasenv.errors import InputError
from nasenv.trial import Measurement


class Objective(Configurable, ABC):
    """Maps a measurement to a reward, which a search maximises; the mapping is a pure function.

    Args:
        failure_reward: the reward of a trial that failed; by default one that is below all others, see `Rewards`.
    """

    def __init__(self, failure_reward: float | None = None) -> None:
        if failure_reward is not None and not math.isfinite(failure_reward):
            raise InputError(f"failure_reward must be null or a finite number, got {failure_reward}")
        self.failure_reward = failure_reward

    def reward(self, measurement: Measurement) -> float:
        """Return the reward of a measurement that has a score.

        Raises:
            InputError: it is not a finite number.
        """
        given = self.value(measurement)
        try:
            value = float(given)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # torch raises RuntimeError of several numbers
            value = math.nan
        if not math.isfinite(value):
            name = type(self).__name__
            raise InputError(f"objective {name}: expected a finite reward, a number, got {given!r} of {measurement}")
        return value

    @abstractmethod
    def value(self, measurement: Measurement) -> float:
        """Return the reward of a successful measurement, a finite number."""

    def lowest(self, lowest_score: float | None) -> float | None:
        """Return the lowest possible reward; None if it is unknown or there is none.

        Args:
            lowest_score: the lowest value of the task's metric, 0 for an accuracy; None where it has none.
        """
        return None


class Score(Objective):
    """Objective whose reward is the score itself: the task's metric on validation data, such as accuracy in [0, 1].

    >>> Score().reward(Measurement(0.9))
    0.9
    """

    def value(self, measurement: Measurement) -> float:
        """Return the score."""
        return score_of(measurement)

    def lowest(self, lowest_score: float | None) -> float | None:
        """Return the metric's lowest value."""
        return lowest_score


def is_score(objective: Objective) -> bool:
    """Return whether what an objective pays is the score as it is, in the unit of the task's metric."""
    return type(objective) is Score


class ScoreWithinCost(Objective):
    """Objective whose reward is the score, times (metric / target)^exponent if the metric exceeds its target.

    The objective of MnasNet with a hard target (Tan et al. 2019, https://arxiv.org/abs/1807.11626, equation 2 with
    alpha = 0): an architecture within the target is paid its score, one above it less and less.

    Args:
        metric: a metric of the evaluator: params or flops with `TrainingEvaluator`.
        target: the value of the metric that is still paid in full, positive.
        exponent: how fast the reward falls above the target, negative.
        failure_reward: the reward of a trial that failed; by default one that is below all others.

    >>> ScoreWithinCost("params", target=1000).reward(Measurement(0.9, metrics={"params": 4000}))
    0.225
    """

    def __init__(self, metric: str, target: float, exponent: float = -1.0, failure_reward: float | None = None) -> None:
        super().__init__(failure_reward)
        if not (target > 0 and math.isfinite(target)):
            raise InputError(f"target must be a positive number, got {target}")
        if not (exponent < 0 and math.isfinite(exponent)):
            raise InputError(f"exponent must be a negative number, got {exponent}")
        self.metric, self.target, self.exponent = metric, target, exponent

    def value(self, measurement: Measurement) -> float:
        """Return the score, reduced if the metric exceeds its target."""
        if self.metric not in measurement.metrics:
            known = ", ".join(measurement.metrics) or "none"
            raise InputError(f"objective: the evaluator reports no metric {self.metric!r}; it reports {known}")
        excess = max(1.0, measurement.metrics[self.metric] / self.target)
        score, factor = score_of(measurement), float(excess**self.exponent)
        return score * factor if score >= 0.0 else score / factor  # a negative score is lowered, too

    def lowest(self, lowest_score: float | None) -> float | None:
        """Return the lowest score if it is not negative; None otherwise, since there is no lowest reward then."""
        return lowest_score if lowest_score is not None and lowest_score >= 0.0 else None


def score_of(measurement: Measurement) -> float:
    """Return the score of a successful measurement."""
    assert measurement.score is not None  # a measurement without an error has one
    return measurement.score


class Rewards:
    """Computes the rewards of one search's measurements, in order; a failure gets less than any success before it.

    A failed trial gets ``failure_reward`` if that is given. Otherwise it gets the lowest possible reward minus 1; if
    there is no lowest, the worst reward so far minus the spread of those so far, or minus 1 while all are equal, and
    -1 before any. An infeasible architecture, of violation v, gets v / (1 + v) of that way down: less than any success
    before it, more than a failure, in the order of how far it is off (Deb 2000,
    https://doi.org/10.1016/S0045-7825(99)00389-8). A reward never changes later.

    Args:
        objective: maps successful measurements to rewards.
        lowest_score: the lowest value of the task's metric; None where it has none.

    >>> rewards = Rewards(Score(), lowest_score=None)
    >>> [rewards.pay(m) for m in (Measurement(-3.0), Measurement(-1.0), Measurement(None, "diverged"))]
    [-3.0, -1.0, -5.0]
    """

    def __init__(self, objective: Objective, lowest_score: float | None) -> None:
        self._objective, self._lowest = objective, objective.lowest(lowest_score)
        self._worst, self._best = math.inf, -math.inf

    def pay(self, measurement: Measurement, violation: float | None = None) -> float:
        """Return the reward of the next measurement, or of an architecture of this violation that has none."""
        if measurement.error is None:
            reward = self._objective.reward(measurement)
            if self._lowest is None:
                self._worst, self._best = min(self._worst, reward), max(self._best, reward)
            return reward
        lowest, spread = self._lowest_and_spread()
        if violation:
            return lowest - spread * (violation / (1.0 + violation))
        failure = self._objective.failure_reward
        return lowest - spread if failure is None else failure

    def _lowest_and_spread(self) -> tuple[float, float]:
        if self._lowest is not None:
            return self._lowest, 1.0
        if self._worst > self._best:  # nothing has succeeded
            return 0.0, 1.0
        return self._worst, self._best - self._worst or 1.0
