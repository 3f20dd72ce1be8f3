"""What an evaluator says of an architecture, and the contract that every evaluator keeps."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import nn

from nasenv.configuration import Configurable
from nasenv.data.dataset import Dataset
from nasenv.spaces.space import Architecture, SearchSpace

_NUMBERS, _TEXTS = {int, float}, {str}
DIVERGED = "diverged"  # how the error of a training that came to a loss of nan or infinity begins


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found out about one architecture; either an accuracy or the reason why there is none.

    Numbers may be NumPy's or torch's too, of no dimension; they become Python's own, of which an int stays one.

    Args:
        val_accuracy: validation accuracy in [0, 1], None where the evaluation failed.
        error: why it failed, one line; None where it did not.
        train_seconds: what the training cost, in seconds.
        fidelity: the share in (0, 1] of the search's full training.
        metrics: other figures, such as params, flops.
        curve: mean training loss of each epoch.

    Raises:
        TypeError: something that is not a number, or an error that is not a text.
        ValueError: a number out of its range; neither an accuracy nor an error, or both.
    """

    val_accuracy: float | None
    error: str | None = None
    train_seconds: float = 0.0
    fidelity: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _settle(self, "val_accuracy", self.val_accuracy)
        if type(self.fidelity) is not float:
            object.__setattr__(self, "fidelity", _plain("fidelity", self.fidelity))
        if not 0.0 < self.fidelity <= 1.0:
            raise ValueError(f"fidelity must be in (0, 1], got {self.fidelity}")

    @property
    def repeatable(self) -> bool:
        """Whether the same evaluation would end the same way: not so after a timeout or out of memory."""
        return self.error is None or self.error.startswith(DIVERGED)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "val_accuracy": self.val_accuracy,
            "error": self.error,
            "train_seconds": self.train_seconds,
            "fidelity": self.fidelity,
            "metrics": dict(self.metrics),
            "curve": list(self.curve),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the measurement that ``to_json`` wrote; raise ValueError, TypeError or KeyError where it is none."""
        return cls(**_arguments(values))


@dataclass(frozen=True)
class TestResult:
    """The final training of one architecture on training and validation data, and its test accuracy.

    Args:
        test_accuracy: in [0, 1], None where the training failed.
        error: why it failed, one line; None where it did not.
        train_seconds: what the training cost, in seconds.
        metrics: other figures, such as params, flops.
        curve: mean training loss of each epoch.
        model: the trained network on the CPU, None where the evaluator has none (a table, say).

    Numbers, and what is raised, are as with `Measurement`.
    """

    __test__ = False  # not a test of pytest's

    test_accuracy: float | None
    error: str | None = None
    train_seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    model: nn.Module | None = None

    def __post_init__(self) -> None:
        _settle(self, "test_accuracy", self.test_accuracy)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, without the model."""
        return {
            "test_accuracy": self.test_accuracy,
            "error": self.error,
            "train_seconds": self.train_seconds,
            "metrics": dict(self.metrics),
            "curve": list(self.curve),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the result that ``to_json`` wrote; raise ValueError, TypeError or KeyError where it is none."""
        return cls(**_arguments(values))


@dataclass(frozen=True)
class Trial:
    """One training that an evaluator is asked for.

    Args:
        architecture: the design.
        kind: search (``Evaluator.evaluate`` answers it), confirm or test (the methods of those names).
        seed: of a final training; 0 in a search.
        fidelity: share in (0, 1] of the search's full training.
    """

    architecture: Architecture
    kind: Literal["search", "confirm", "test"] = "search"
    seed: int = 0
    fidelity: float = 1.0


Answer = Measurement | TestResult


class Evaluator(Configurable, ABC):
    """Says what architectures of one space are worth.

    ``evaluate`` serves the search. ``confirm`` and ``test`` serve its end: test data are out of a search's reach.
    A failed evaluation is a measurement with its reason, never an exception. An evaluator whose trainings end one by
    one writes ``stream`` too, so that each is kept as soon as it is done; one that works on several, ``slots`` too.

    Args:
        space: the space whose architectures it measures.

    Attributes:
        dataset: the data that it trains on; None where it does not train.
        eager: how many trainings on a GPU were not replayed as a CUDA graph, by the reason.
        trains: whether a measurement costs a training; where it does not (a table, say) asking again is free, and no
            search caches it.
    """

    dataset: Dataset | None = None
    trains: bool = True
    eager: Mapping[str, int] = MappingProxyType({})

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @property
    def slots(self) -> int:
        """How many trials of a stream it works on at once; an asynchronous search has so many designs in flight."""
        return 1

    @property
    def worked(self) -> Mapping[str, float]:
        """Wall seconds of its trainings so far by part, such as building and training, of all workers together."""
        return {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash of everything that changes a measurement: data, settings, its own seed, version."""

    @abstractmethod
    def evaluate(self, architectures: Sequence[Architecture], fidelity: float = 1.0) -> list[Measurement]:
        """Return the measurement of each architecture, in order."""

    @abstractmethod
    def confirm(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[list[Measurement]]:
        """Return, for each architecture and seed, the validation accuracy after the final, longer training."""

    @abstractmethod
    def test(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[list[TestResult]]:
        """Return, for each architecture and seed, the final training on training + validation data and its test."""

    def stream(
        self, trials: Sequence[Trial], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Trial, Answer]]:
        """Yield each trial with its answer, in the order in which they are done.

        Here those of one kind are asked for together.

        Args:
            trials: what is asked for, each once. An evaluator of several ``slots`` is given a deque too, to which
                trials are added between two answers: it takes one from the left whenever it is free for it, and ends
                the stream when it works on none and there is none left.
            stopped: no further trial is begun when it says so; those in flight are still yielded.
        """
        searched: dict[float, list[Trial]] = {}  # by fidelity
        final: dict[tuple[Any, tuple[int, ...]], list[Architecture]] = {}  # by kind and seeds
        seeds: dict[tuple[Any, Architecture], list[int]] = {}
        for trial in trials:
            if trial.kind == "search":
                searched.setdefault(trial.fidelity, []).append(trial)
            else:
                seeds.setdefault((trial.kind, trial.architecture), []).append(trial.seed)
        for (kind, design), wanted in seeds.items():
            final.setdefault((kind, tuple(wanted)), []).append(design)
        for fidelity, group in searched.items():
            if not stopped():
                yield from zip(group, self.evaluate([t.architecture for t in group], fidelity), strict=True)
        for (kind, of), designs in final.items():
            if not stopped():
                asked: Sequence[Sequence[Answer]] = (
                    self.confirm(designs, of) if kind == "confirm" else self.test(designs, of)
                )
                for design, answers in zip(designs, asked, strict=True):
                    yield from ((Trial(design, kind, s), a) for s, a in zip(of, answers, strict=True))

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the design that is measured for this one, and by which the cache goes: the canonical one."""
        return self.space.canonical(architecture)

    def all_measurements(self) -> Sequence[Measurement] | None:
        """Return the measurements of all designs of the space where they are known without training, else None."""
        return None

    def best_accuracy(self) -> float | None:
        """Return the highest validation accuracy of the space where it is known though not all measurements are."""
        return None

    def settled(self, gpu: bool) -> Mapping[str, str]:
        """Return, by name, what of its settings is left to the machine that does the work, as it comes out on this one.

        Where measurements follow from it, machines that differ in it cannot share a search.

        Args:
            gpu: whether it has a GPU for a trial; else a processor alone.
        """
        return {}

    def single(self, settled: Mapping[str, str]) -> Self:
        """Return the evaluator as it answers one trial after the other, in this process, as is settled.

        It has to measure as this one does on a machine where ``settled`` comes out that way. It need not be able to
        measure anything here: another machine, or a ``fingerprint``, may be what it is for.
        """
        return self

    def mendable(self, answer: Answer) -> bool:
        """Return whether an answer is an error, and another try in a fresh process might give a better one."""
        return False

    def start(self) -> None:
        """Get ready (start workers, say), so that the first evaluation takes no longer than the others."""

    def close(self) -> None:
        """Let go of workers and memory; the evaluator can be started again."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _settle(answer: Measurement | TestResult, name: str, accuracy: float | None) -> None:
    """Make an answer's numbers plain, and raise where it is none; those that are plain already take no time.

    Args:
        answer: just made.
        name: of its accuracy.
        accuracy: in [0, 1], None where there is an error.
    """
    error, train_seconds, metrics, curve = answer.error, answer.train_seconds, answer.metrics, answer.curve
    if (accuracy is None) == (error is None):
        raise ValueError(f"a {type(answer).__name__} has either a {name} or an error, got {accuracy} and {error!r}")
    if error is not None and not isinstance(error, str):
        raise TypeError(f"error must be a text, got {error!r}")
    if accuracy is not None:
        if type(accuracy) is not float:
            accuracy = _plain(name, accuracy)
            object.__setattr__(answer, name, accuracy)
        if not 0.0 <= accuracy <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {accuracy}")
    if type(train_seconds) is not float:
        train_seconds = _plain("train_seconds", train_seconds)
        object.__setattr__(answer, "train_seconds", train_seconds)
    if not 0.0 <= train_seconds < math.inf:
        raise ValueError(f"train_seconds must be finite and not negative, got {train_seconds}")
    if type(metrics) is not dict or (metrics and not _are_plain(metrics)):
        object.__setattr__(answer, "metrics", _plain_metrics(metrics))
    if type(curve) is not tuple or (curve and not set(map(type, curve)) <= _NUMBERS):
        object.__setattr__(answer, "curve", _plain_curve(curve))


def _are_plain(metrics: Mapping[str, float]) -> bool:
    return set(map(type, metrics)) <= _TEXTS and set(map(type, metrics.values())) <= _NUMBERS


def _plain(name: str, value: Any) -> float:
    """Return a number as Python's own, an int as an int: it is journaled as it came; raise TypeError for what is none.

    Raises:
        ValueError: an int that is too large for a float.
    """
    number = value.item() if isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0 else value
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
    if not isinstance(curve, Sequence | np.ndarray | torch.Tensor):
        raise TypeError(f"curve must be numbers, got {curve!r}")
    return tuple(_plain("curve", value) for value in curve)


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that ``to_json`` wrote; raise KeyError where one is missing, TypeError for another shape."""
    _, _, metrics, curve = (values[name] for name in ("error", "train_seconds", "metrics", "curve"))
    if type(metrics) is not dict or type(curve) is not list:
        raise TypeError("metrics are names with numbers, a curve is a list of numbers")
    return {**values, "curve": tuple(curve)}
