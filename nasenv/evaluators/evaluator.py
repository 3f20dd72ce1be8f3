"""The contract of an evaluator, which measures what architectures are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from nasenv.configuration import Configurable
from nasenv.data.dataset import Dataset
from nasenv.errors import InputError
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Measurement, Trial


def never() -> bool:
    """Return False: the default of arguments that ask whether to stop."""
    return False


class Evaluator(Configurable, ABC):
    """Measures what architectures of one space are worth.

    A subclass implements `fingerprint` and `measure`. If its trials end one by one, it implements `submit` and
    `completed` instead of `measure`, and `slots` if it measures several at once. A trial that fails is a measurement
    with its error, never an exception.

    Args:
        space: the space whose architectures it measures; of a part, the whole one.

    Attributes:
        dataset: the data that it trains on; None where it does not train.
        trains: whether a measurement costs a training; if not (a table, say), measuring again is free, and searches do
            not cache it.
        eager: number of trainings on a GPU that used no CUDA graph, by reason.

    >>> class Smallest(Evaluator):
    ...     '''Prefers first choices.'''
    ...     trains = False
    ...     def fingerprint(self):
    ...         return "smallest-1"
    ...     def measure(self, trials):
    ...         return [Measurement(-float(sum(trial.architecture))) for trial in trials]
    """

    dataset: Dataset | None = None
    trains: bool = True
    eager: Mapping[str, int] = MappingProxyType({})

    def __init__(self, space: SearchSpace) -> None:
        self.space = space.whole
        self._submitted: deque[Trial] = deque()

    @property
    def slots(self) -> int:
        """Return the number of trials that run at once; an asynchronous search has so many in flight."""
        return 1

    @property
    def worker_seconds(self) -> Mapping[str, float]:
        """Return the wall seconds that trainings took so far, by part, summed over all workers."""
        return {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash of everything that changes a measurement: data, settings, seed, version."""

    def fidelity(self, wanted: float) -> float:
        """Return the fidelity in (0, 1] nearest to ``wanted`` that can be measured; the default is 1, full training."""
        return 1.0

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return what is known of an architecture without training, such as params and flops, by name."""
        return {}

    def further_costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """Return functions for costs that take longer, by name; they are called where a constraint is on them.

        A function returns a finite number, or nan where it cannot tell.
        """
        return {}

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the measurement of each trial, in order."""
        if type(self).completed is Evaluator.completed:
            raise NotImplementedError(f"{type(self).__name__} writes neither measure nor submit and completed")
        measured = dict(self.results(dict.fromkeys(trials)))
        return [measured[trial] for trial in trials]

    def submit(self, trial: Trial, *, start: Path | None = None, keep: Path | None = None) -> None:
        """Submit a trial, which `completed` will yield; it may start now or then.

        Args:
            trial: the trial; submit each only once until it is completed.
            start: a safetensors file of the weights that the training begins with; None for fresh ones.
            keep: safetensors file for the trained weights; an evaluator without a network writes none.

        Raises:
            InputError: it has no weights to begin with.
        """
        if start is not None:
            raise InputError(f"{type(self).__name__} trains no network; it has no use for the weights in {start}")
        self._submitted.append(trial)

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Yield the submitted trials with their measurements as they end; more may be submitted meanwhile.

        It ends when nothing that was submitted is left. What is left where it is closed is given up. Here all that
        were submitted by then are measured together.

        Args:
            stopped: no further trial is begun once it returns True; those in flight are still yielded.
        """
        try:
            while self._submitted and not stopped():
                trials = list(self._submitted)
                self._submitted.clear()
                yield from zip(trials, self.measure(trials), strict=True)
        finally:
            self._submitted.clear()

    def results(
        self, trials: Iterable[Trial], stopped: Callable[[], bool] = never
    ) -> Iterator[tuple[Trial, Measurement]]:
        """Submit trials, no two of them equal, and yield them as they are `completed`."""
        for trial in trials:
            self.submit(trial)
        yield from self.completed(stopped)

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture that is measured and cached for this one: its canonical form."""
        return self.space.canonical(architecture)

    def all_measurements(self) -> Sequence[Measurement] | None:
        """Return the measurements of all architectures if they are known without training, else None."""
        return None

    def best_score(self) -> float | None:
        """Return the highest score of the space if it is known without listing all measurements, else None."""
        return None

    def start(self) -> None:
        """Start workers, so that the first trial takes no longer than the others."""

    def close(self) -> None:
        """Close workers and free memory; the evaluator can be started again."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
