"""The plain way and ours train the same designs, pair after pair."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nasenv import Architecture, InputError, Measurement, TrainingEvaluator
from scripts.benchmarks.bench import cores
from scripts.benchmarks.bench_plain import PlainLoop, Way
from scripts.benchmarks.bench_problems import Problem

_WARM_UP = 2  # designs
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plainly:
    """What the plain way took and came to: wall seconds of all designs, accuracy of each."""

    seconds: float
    accuracies: list[float]


@dataclass(frozen=True)
class Ours:
    """What the evaluator took and came to: wall seconds of all designs, and their measurements."""

    seconds: float
    measurements: list[Measurement]

    @property
    def accuracies(self) -> list[float]:
        """Of each design."""
        return [m.val_accuracy for m in self.measurements if m.val_accuracy is not None]


class Contest:
    """Both ways, ready to train designs of one problem.

    Args:
        problem: what is trained.
        evaluator: ours; its seed is set to that of each pair.
    """

    def __init__(self, problem: Problem, evaluator: TrainingEvaluator) -> None:
        self._evaluator, self._loop = evaluator, PlainLoop(problem, evaluator)
        self._way = Way(threads=cores())

    def pairs(self, designs: Sequence[Architecture], n: int) -> list[tuple[Plainly, Ours]]:
        """Train the designs n times both ways, from the seeds 0 to n - 1; before that a few, so that all is warm."""
        self._pair(designs[:_WARM_UP], n)
        return [self._pair(designs, seed) for seed in range(n)]

    def _pair(self, designs: Sequence[Architecture], seed: int) -> tuple[Plainly, Ours]:
        if seed % 2:
            ours = self.train(designs, seed)
            return self._train_plainly(designs, seed), ours
        return self._train_plainly(designs, seed), self.train(designs, seed)

    def _train_plainly(self, designs: Sequence[Architecture], seed: int) -> Plainly:
        return Plainly(*timed(lambda: [self._loop((a, seed, self._way)) for a in designs]))

    def train(self, designs: Sequence[Architecture], seed: int) -> Ours:
        """Train the designs by the evaluator.

        Raises:
            InputError: a training failed.
        """
        self._evaluator.seed = seed
        seconds, measurements = timed(lambda: self._evaluator.evaluate(designs))
        for failed in (m for m in measurements if m.val_accuracy is None):
            raise InputError(f"a training failed after {failed.train_seconds:.0f} s: {failed.error}")
        return Ours(seconds, measurements)


def timed(act: Callable[[], Result]) -> tuple[float, Result]:
    """Return the wall seconds that a function took, and what it returned."""
    started = time.perf_counter()
    result = act()
    return time.perf_counter() - started, result
