"""What an evaluator says of an architecture, and the contract that every evaluator keeps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self

from torch import nn

from nasenv.configuration import Configurable
from nasenv.datasets import Dataset
from nasenv.spaces.space import Architecture, SearchSpace

_NUMBER = (int, float)
DIVERGED = "diverged"  # how the error of a training that came to a loss of nan or infinity begins


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found out about one architecture; either an accuracy or the reason why there is none.

    Args:
        val_accuracy: validation accuracy in [0, 1], None where the evaluation failed.
        error: why it failed, one line; None where it did not.
        train_seconds: what the training cost, in seconds.
        fidelity: the share in (0, 1] of the search's full training.
        metrics: other figures, such as params, flops.
        curve: mean training loss of each epoch.
    """

    val_accuracy: float | None
    error: str | None = None
    train_seconds: float = 0.0
    fidelity: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.val_accuracy is None) == (self.error is None):
            raise ValueError("a measurement has either a val_accuracy or an error")
        if self.val_accuracy is not None and not 0.0 <= self.val_accuracy <= 1.0:
            raise ValueError(f"val_accuracy must be in [0, 1], got {self.val_accuracy}")
        if not 0.0 < self.fidelity <= 1.0:
            raise ValueError(f"fidelity must be in (0, 1], got {self.fidelity}")
        if not (math.isfinite(self.train_seconds) and self.train_seconds >= 0.0):
            raise ValueError(f"train_seconds must be finite and not negative, got {self.train_seconds}")

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
        _check_types(values, values["val_accuracy"])
        return cls(**{**values, "curve": tuple(values["curve"])})


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
    """

    __test__ = False  # not a test of pytest's

    test_accuracy: float | None
    error: str | None = None
    train_seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    model: nn.Module | None = None

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
        _check_types(values, values["test_accuracy"])
        result = cls(**{**values, "curve": tuple(values["curve"])})
        if (result.test_accuracy is None) == (result.error is None):
            raise ValueError("a test result has either a test_accuracy or an error")
        if result.test_accuracy is not None and not 0.0 <= result.test_accuracy <= 1.0:
            raise ValueError(f"test_accuracy must be in [0, 1], got {result.test_accuracy}")
        return result


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


def _check_types(values: Mapping[str, Any], accuracy: Any) -> None:
    """Raise TypeError where what a file says of a training has other types than it was written with."""
    if (accuracy is not None and type(accuracy) not in _NUMBER) or type(values["train_seconds"]) not in _NUMBER:
        raise TypeError("an accuracy and train_seconds are numbers")
    if values["error"] is not None and type(values["error"]) is not str:
        raise TypeError("an error is a text")
    metrics, curve = values["metrics"], values["curve"]
    if type(metrics) is not dict or type(curve) is not list:
        raise TypeError("metrics are names with numbers, a curve is a list of numbers")
    if not all(type(value) in _NUMBER for value in (*metrics.values(), *curve)):
        raise TypeError("metrics and curves hold numbers")
