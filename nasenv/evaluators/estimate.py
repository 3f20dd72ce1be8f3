"""The base class of evaluators that estimate in a search and leave final trainings to another evaluator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator, never
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Measurement, Trial


class EstimateEvaluator(Evaluator):
    """Estimates architectures during a search; an inner evaluator measures those that are checked or final.

    A subclass implements `estimate`. Its scores may be in any unit, higher is better: they rank, and are never shown
    beside those of the inner evaluator.

    Args:
        space: the space whose architectures are estimated.
        inner: the evaluator that trains, made for this space: it answers trials that check, confirm and test.

    Raises:
        InputError: an inner evaluator of another space.
    """

    def __init__(self, space: SearchSpace, inner: Evaluator) -> None:
        super().__init__(space)
        if inner.space is not space and inner.space.fingerprint() != space.fingerprint():
            raise InputError("the inner evaluator was made for another space; make both with the same one")
        self.inner, self.dataset = inner, inner.dataset

    @abstractmethod
    def estimate(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return the estimate of each architecture, in order."""

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return the costs that the inner evaluator knows without training, such as params and flops."""
        return self.inner.costs(architecture)

    def further_costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """Return the inner evaluator's functions for costs that take longer."""
        return self.inner.further_costs()

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the estimates of search trials and the measurements of the others, in order."""
        searched = [trial for trial in trials if trial.purpose == "search"]
        others = [trial for trial in trials if trial.purpose != "search"]
        estimates = self.estimate([trial.architecture for trial in searched]) if searched else []
        found = dict(zip(searched, estimates, strict=True))
        found |= dict(zip(others, self.inner.measure(others), strict=True)) if others else {}
        return [found[trial] for trial in trials]

    def submit(self, trial: Trial, *, start: Path | None = None, keep: Path | None = None) -> None:
        """Submit a trial: a search trial to be estimated, any other to the inner evaluator."""
        if trial.purpose == "search":
            super().submit(trial, start=start, keep=keep)
        else:
            self.inner.submit(trial, start=start, keep=keep)

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Yield the estimates, then what the inner evaluator has completed; see `Evaluator.completed`."""
        yield from super().completed(stopped)
        yield from self.inner.completed(stopped)

    def start(self) -> None:
        """Prepare to estimate; the inner evaluator starts when it is first used."""

    def close(self) -> None:
        """Close the inner evaluator too."""
        self.inner.close()
