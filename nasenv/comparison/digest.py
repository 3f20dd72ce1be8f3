"""What the statistics need of a run: its incumbents and its totals, a few numbers where the run has hundreds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nasenv.comparison.findings import Metric
from nasenv.comparison.run import Run

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Digest:
    """A run, without what did not become its incumbent.

    Args:
        problem, agent, seed, wall_seconds, proposals, charged_seconds: the run's.
        fault: what was wrong with it; None where it came to its end.
        early: why it ended before a limit of its budget; None where it did not, or has a fault.
        evaluations: number of its distinct evaluations.
        evaluation: (k,), the number, from 1, of each evaluation that became the incumbent.
        seconds, reward, val_accuracy, final_val_accuracy, test_accuracy: (k,), the run's at these.
    """

    problem: str
    agent: str
    seed: int
    fault: str | None
    wall_seconds: float
    proposals: int
    charged_seconds: float
    evaluations: int
    evaluation: NDArray[np.int64]
    seconds: _Floats
    reward: _Floats
    val_accuracy: _Floats
    final_val_accuracy: _Floats
    test_accuracy: _Floats
    early: str | None = None

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return the digest of a run."""
        rises = np.unique(run.incumbents)
        evaluations = len(run.reward)
        return cls(
            problem=run.problem,
            agent=run.agent,
            seed=run.seed,
            fault=run.error if run.error is not None or evaluations else "it ended without an evaluation",
            wall_seconds=run.wall_seconds,
            proposals=run.proposals,
            charged_seconds=run.charged_seconds,
            evaluations=evaluations,
            evaluation=rises + 1,
            seconds=run.seconds[rises],
            reward=run.reward[rises],
            val_accuracy=run.val_accuracy[rises],
            final_val_accuracy=run.final_val_accuracy[rises],
            test_accuracy=run.test_accuracy[rises],
            early=run.ended if run.early and run.error is None and evaluations else None,
        )

    def values(self, metric: Metric, final: bool) -> _Floats:
        """Return the incumbents' metric, (k,), nan where unknown; ``final``: validation after the final training."""
        values: _Floats = getattr(self, "final_val_accuracy" if metric == "val_accuracy" and final else metric)
        return values

    def met(self, optimum: float) -> int | None:
        """Return the number of the evaluation that met the best reward of the space; None where none did."""
        there = self.evaluation[self.reward >= optimum - 1e-12 * max(1.0, abs(optimum))]
        return int(there[0]) if len(there) else None


def digested(runs: Iterable[Run | Digest]) -> list[Digest]:
    """Return the digest of each run; of a stream of runs, each can be forgotten before the next is read."""
    return [run if isinstance(run, Digest) else Digest.of(run) for run in runs]


def final_known(digests: Iterable[Digest], incumbents: slice = slice(None)) -> bool:
    """Return whether these incumbents' validation accuracy after the final training is known in every run.

    Incumbents whose evaluation failed have none and do not matter.
    """
    return all(
        bool(np.isfinite(d.final_val_accuracy[incumbents][np.isfinite(d.val_accuracy[incumbents])]).all())
        for d in digests
    )
