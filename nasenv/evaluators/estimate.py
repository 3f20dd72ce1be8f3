"""The base of evaluators that estimate: cheap in a search, and a real evaluator for what it ends with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator, never
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Measurement, Trial


class Estimate(Evaluator):
    """Estimates what architectures are worth; another evaluator measures them when the search is over, or in a check.

    A subclass writes `estimate`. Its scores may be in any unit, higher is better: they rank, and are never shown
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
        """Return what the inner evaluator knows without training."""
        return self.inner.costs(architecture)

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the estimates of a search's trials, and the measurements of the others, in order."""
        searched = [trial for trial in trials if trial.purpose == "search"]
        others = [trial for trial in trials if trial.purpose != "search"]
        estimates = self.estimate([trial.architecture for trial in searched]) if searched else []
        found = dict(zip(searched, estimates, strict=True))
        found |= dict(zip(others, self.inner.measure(others), strict=True)) if others else {}
        return [found[trial] for trial in trials]

    def submit(self, trial: Trial, *, start: Path | None = None, keep: Path | None = None) -> None:
        """Ask for a trial: an estimate in a search, else of the inner evaluator."""
        if trial.purpose == "search":
            super().submit(trial, start=start, keep=keep)
        else:
            self.inner.submit(trial, start=start, keep=keep)

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Yield the estimates, then what the inner evaluator has completed; see `Evaluator.completed`."""
        yield from super().completed(stopped)
        yield from self.inner.completed(stopped)

    def start(self) -> None:
        """Get ready to estimate; the inner evaluator starts when it is first asked."""

    def close(self) -> None:
        """Let go of the inner evaluator's workers too."""
        self.inner.close()
