"""Objectives: what a measurement is worth to the user."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from nasenv.configuration import Configurable
from nasenv.errors import InputError
from nasenv.trial import Measurement


class Objective(Configurable, ABC):
    """A pure function, measurement -> reward; a search maximises it.

    Args:
        failure_reward: the reward of an evaluation that failed.
    """

    def __init__(self, failure_reward: float = 0.0) -> None:
        if not math.isfinite(failure_reward):
            raise InputError(f"failure_reward must be a finite number, got {failure_reward}")
        self.failure_reward = failure_reward

    def reward(self, measurement: Measurement) -> float:
        """Return the score of a measurement, ``failure_reward`` where the evaluation failed.

        Raises:
            InputError: the score is not a finite number.
        """
        if measurement.error is not None:
            return self.failure_reward
        given = self.score(measurement)
        try:
            score = float(given)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # torch raises RuntimeError of several numbers
            score = math.nan
        if not math.isfinite(score):
            name = type(self).__name__
            raise InputError(f"objective {name}: expected a finite score, a number, got {given!r} of {measurement}")
        return score

    @abstractmethod
    def score(self, measurement: Measurement) -> float:
        """Return what a successful measurement is worth; finite."""


class Accuracy(Objective):
    """Validation accuracy, in [0, 1].

    >>> Accuracy().reward(Measurement(0.9))
    0.9
    """

    def score(self, measurement: Measurement) -> float:
        """Return the validation accuracy."""
        assert measurement.score is not None  # a measurement without an error has one
        return measurement.score


class AccuracyWithinCost(Accuracy):
    """Validation accuracy times (metric / target)^exponent where the metric is above its target.

    The objective of MnasNet with a hard target (Tan et al. 2019, https://arxiv.org/abs/1807.11626, equation 2 with
    alpha = 0): a design within the target is paid its accuracy, one above it less and less.

    Args:
        metric: a metric of the evaluator: params or flops with `TrainingEvaluator`.
        target: the value of the metric that is still paid in full, positive.
        exponent: how fast the reward falls above the target, negative.
        failure_reward: the reward of an evaluation that failed.

    >>> AccuracyWithinCost("params", target=1000).reward(Measurement(0.9, metrics={"params": 4000}))
    0.225
    """

    def __init__(self, metric: str, target: float, exponent: float = -1.0, failure_reward: float = 0.0) -> None:
        super().__init__(failure_reward)
        if not (target > 0 and math.isfinite(target)):
            raise InputError(f"target must be a positive number, got {target}")
        if not (exponent < 0 and math.isfinite(exponent)):
            raise InputError(f"exponent must be a negative number, got {exponent}")
        self.metric, self.target, self.exponent = metric, target, exponent

    def score(self, measurement: Measurement) -> float:
        """Return the accuracy, lowered where the metric is above its target."""
        if self.metric not in measurement.metrics:
            known = ", ".join(measurement.metrics) or "none"
            raise InputError(f"objective: the evaluator reports no metric {self.metric!r}; it reports {known}")
        excess = max(1.0, measurement.metrics[self.metric] / self.target)
        return super().score(measurement) * float(excess**self.exponent)
