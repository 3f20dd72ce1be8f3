"""The values that travel: a `Trial` is asked for, a `Measurement` comes out, an agent receives an `Outcome`."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np

Architecture: TypeAlias = tuple[int, ...]
"""The index of the choice taken at each decision of a space, in order; its length is T."""

Purpose: TypeAlias = Literal["search", "check", "confirm", "test"]
"""The purpose of a trial.

search: the agent asks. check: a second look at a search's trial, such as one at a higher fidelity. confirm: the final,
longer training, scored on validation data. test: the final training on training and validation data, scored on test
data.
"""

DIVERGED = "diverged"  # how the error of a training that came to a loss of nan or infinity begins
_PURPOSES = get_args(Purpose)
_NUMBERS, _TEXTS = {int, float}, {str}


@dataclass(frozen=True, slots=True)
class Trial:
    """Identifies an evaluation that an evaluator is asked for; it is the key of every store.

    Args:
        architecture: the architecture to measure.
        fidelity: share in (0, 1] of the search's full training, rounded to what the evaluator can do
            (`Evaluator.fidelity`).
        purpose: search, check, confirm or test.
        seed: seed of a final training; 0 in a search.

    Raises:
        ValueError: a fidelity outside (0, 1], or a purpose that there is not.
    """

    architecture: Architecture
    fidelity: float = 1.0
    purpose: Purpose = "search"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.fidelity <= 1.0:
            raise ValueError(f"fidelity must be in (0, 1], got {self.fidelity}")
        if self.purpose not in _PURPOSES:
            raise ValueError(f"purpose must be one of {', '.join(_PURPOSES)}, got {self.purpose!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the trial as JSON values."""
        return {
            "architecture": list(self.architecture),
            "fidelity": self.fidelity,
            "purpose": self.purpose,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the trial that ``to_json`` wrote; raise ValueError, TypeError or KeyError for other values."""
        architecture, fidelity, seed = values["architecture"], values["fidelity"], values["seed"]
        if type(architecture) is not list or not all(type(choice) is int for choice in architecture):
            raise TypeError(f"an architecture is a list of integers, got {architecture!r}")
        if type(fidelity) not in _NUMBERS or type(seed) is not int:
            raise TypeError(f"fidelity and seed are numbers, got {fidelity!r} and {seed!r}")
        return cls(tuple(architecture), float(fidelity), values["purpose"], seed)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Holds the result of a trial: a score, or the reason why it failed.

    Numbers may be NumPy's or torch's too, of no dimension; they become Python's own, of which an int stays one.

    Args:
        score: the task's metric, such as accuracy in [0, 1]; higher is better. None where the trial failed.
        error: why it failed, one line; None where it did not.
        train_seconds: duration of the training in seconds.
        metrics: other figures, such as params and flops.
        curve: mean training loss of each epoch.

    Raises:
        TypeError: something that is not a number, or an error that is not a text.
        ValueError: a number that is not finite or out of its range; neither a score nor an error, or both.
    """

    score: float | None
    error: str | None = None
    train_seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Convert numbers to Python's own types, and check them; plain values take no time."""
        score, error, metrics, curve = self.score, self.error, self.metrics, self.curve
        if (score is None) == (error is None):
            raise ValueError(f"a Measurement has either a score or an error, got {score} and {error!r}")
        if error is not None and not isinstance(error, str):
            raise TypeError(f"error must be a text, got {error!r}")
        if score is not None:
            if type(score) is not float:
                score = _plain("score", score)
                object.__setattr__(self, "score", score)
            if not math.isfinite(score):
                raise ValueError(f"score must be finite, got {score}")
        if type(self.train_seconds) is not float:
            object.__setattr__(self, "train_seconds", _plain("train_seconds", self.train_seconds))
        if not 0.0 <= self.train_seconds < math.inf:
            raise ValueError(f"train_seconds must be finite and not negative, got {self.train_seconds}")
        if type(metrics) is not dict or (metrics and not _are_plain(metrics)):
            object.__setattr__(self, "metrics", _plain_metrics(metrics))
        if type(curve) is not tuple or (curve and not set(map(type, curve)) <= _NUMBERS):
            object.__setattr__(self, "curve", _plain_curve(curve))

    @property
    def repeatable(self) -> bool:
        """Return whether the same trial would end the same way: not after a timeout or out of memory."""
        return self.error is None or self.error.startswith(DIVERGED)

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return {
            "score": self.score,
            "error": self.error,
            "train_seconds": self.train_seconds,
            "metrics": dict(self.metrics),
            "curve": list(self.curve),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the measurement in a mapping; raise ValueError, TypeError or KeyError for other values."""
        arguments = {name: values[name] for name in ("score", "error", "train_seconds", "metrics", "curve")}
        if type(arguments["metrics"]) is not dict or type(arguments["curve"]) is not list:
            raise TypeError("metrics are names with numbers, a curve is a list of numbers")
        return cls(**{**arguments, "curve": tuple(arguments["curve"])})


Status: TypeAlias = Literal["failed", "infeasible", "feasible"]
"""What came of a proposal, the worst first: it failed, breaks a constraint and was not trained, or has a score."""

_STATUSES = get_args(Status)


class Finding(NamedTuple):
    """Holds the result of a proposal that is new to the search: measurement, reward, whether it cost no training.

    For a look, an architecture that is not evaluated as it breaks constraints, ``violation`` says how far; see
    `Outcome`.
    """

    measurement: Measurement
    reward: float
    cached: bool = False
    violation: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Holds what an agent is told about one architecture that it proposed.

    Args:
        architecture: the proposal.
        measurement: the result of its trial.
        reward: the objective's reward for that.
        evaluation: number, from 1, of the distinct evaluation that measured this architecture in this search; looks
            are counted along.
        proposal: number, from 1, of the proposal; repeats count.
        repeat: whether this search had been told of this very trial before.
        cached: whether the measurement was there already (in the cache, or of an equivalent architecture) and cost no
            training.
        fidelity: share in (0, 1] of the search's full training.
        cost: charge for the first proposal of this trial, in full trainings.
        violation: by how much it breaks constraints, the sum of relative excesses; then it was looked at and not
            evaluated, and cost nothing. 0 where its costs could not be found; None where it was evaluated.
    """

    architecture: Architecture
    measurement: Measurement
    reward: float
    evaluation: int
    proposal: int
    repeat: bool = False
    cached: bool = False
    fidelity: float = 1.0
    cost: float = 1.0
    violation: float | None = None

    @property
    def status(self) -> Status:
        """Return whether it failed, is infeasible, or feasible."""
        if self.measurement.error is None:
            return "feasible"
        return "infeasible" if self.violation else "failed"

    @property
    def order(self) -> tuple[int, float]:
        """Return what outcomes are compared by: the status first, then the reward."""
        return _STATUSES.index(self.status), self.reward


def _are_plain(metrics: Mapping[str, float]) -> bool:
    return set(map(type, metrics)) <= _TEXTS and set(map(type, metrics.values())) <= _NUMBERS


def _plain(name: str, value: Any) -> float:
    """Return a number as a Python int or float; an int stays an int. Raise TypeError for other values.

    Raises:
        ValueError: an int that is too large for a float.
    """
    number = value.item() if _is_array(value) and value.ndim == 0 else value
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        decimal = float(number)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold") from None
    return int(number) if isinstance(number, numbers.Integral) else decimal


def _plain_metrics(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise TypeError(f"metrics must be numbers by name, got {metrics!r}")
    return {name: _plain(f"metrics[{name!r}]", value) for name, value in metrics.items()}


def _plain_curve(curve: Any) -> tuple[float, ...]:
    if not isinstance(curve, Sequence) and not _is_array(curve):
        raise TypeError(f"curve must be numbers, got {curve!r}")
    return tuple(_plain("curve", value) for value in curve)


def _is_array(value: Any) -> bool:
    """Return whether a value is an array or a tensor; torch, which takes seconds, is not imported for that."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", np.ndarray)
    return isinstance(value, np.ndarray | tensor)
