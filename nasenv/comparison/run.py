"""A run of a comparison is one search, by one agent on one problem from one seed; its incumbents are its trajectory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError, printable
from nasenv.files import open_file, parse_json, read_whole, spare_memory, write_whole

Quantity = Literal["reward", "val_score", "test_score"]
"""A quantity of incumbents. `val_score` is the one after the final training where that is known of every run,
else the one measured in the search."""

_Floats = NDArray[np.float64]
_FIRST_LINE = 1000  # characters, at most
_SHARE = 16  # a file may be this part of the spare memory: its values take some ten times as much


@dataclass(frozen=True)
class Run:
    """Holds the distinct evaluations of one search, in order, and how it ended.

    Args:
        problem: name of the problem in the comparison.
        agent: name of the agent in the comparison.
        seed: the search's seed.
        ended: why the search was over.
        error: the error if the agent raised, stalled, or proposed something invalid; else None.
        wall_seconds: wall time of the run on its machine.
        proposals: number of architectures proposed, repeats too.
        charged_seconds: training time that the search was charged.
        architectures: (n,), the architectures in the space's words.
        proposal: (n,), the number, from 1, of the proposal that led to each evaluation.
        seconds: (n,), charged up to and with each evaluation.
        reward: (n,), what the agent was paid.
        val_score: (n,), of the task's metric, what was measured; nan where the evaluation failed.
        final_val_score: (n,), after the final training; nan where unknown.
        test_score: (n,), after the final training; nan where unknown. Where finding it out costs a training, only the
            last incumbent's is known.
        early: whether it ended before a limit of its budget: the agent stopped by itself, or only repeated itself.

    Raises:
        ValueError: values of other types, of unequal numbers, or out of their range.
    """

    problem: str
    agent: str
    seed: int
    ended: str
    error: str | None
    wall_seconds: float
    proposals: int
    charged_seconds: float
    architectures: tuple[str, ...]
    proposal: NDArray[np.int64]
    seconds: _Floats
    reward: _Floats
    val_score: _Floats
    final_val_score: _Floats
    test_score: _Floats
    early: bool = False

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is {getattr(self, name)!r:.40}")
        if not all(isinstance(text, str) for text in self.architectures):
            raise ValueError("architectures are no texts")
        for name in _PER_EVALUATION:
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.shape != (len(self.architectures),):
                raise ValueError(f"{name} is not of {len(self.architectures)} evaluations")
            if not (np.isfinite(values) if name in ("seconds", "reward") else ~np.isinf(values)).all():
                raise ValueError(f"{name} is not finite")
        if not 0.0 <= self.charged_seconds < math.inf or not 0.0 <= self.wall_seconds < math.inf:
            raise ValueError(f"{self.charged_seconds} s were charged in {self.wall_seconds} s")

    @property
    def fault(self) -> str | None:
        """Return the error that invalidates the run; None if it ended as it should."""
        return self.error if self.error is not None or len(self.reward) else "it ended without an evaluation"

    @property
    def incumbents(self) -> NDArray[np.int64]:
        """Return, for each evaluation (n,), the index of the best one so far by reward; the earliest of equals."""
        best = np.maximum.accumulate(self.reward)
        risen = np.concatenate([[True], best[1:] > best[:-1]])[: len(best)]
        return np.maximum.accumulate(np.where(risen, np.arange(len(best)), 0))

    def write(self, path: Path, identity: str) -> None:
        """Write the run as two lines of JSON, atomically; the file marks it as done.

        Args:
            path: the file.
            identity: hash of everything that the run follows from, for ``matches``.
        """
        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        lines = [json.dumps(line, separators=(",", ":")) for line in ({"identity": identity}, values)]
        write_whole(path, "\n".join(lines) + "\n")

    @staticmethod
    def matches(path: Path, identity: str) -> bool:
        """Return True if the file has this identity; raise InputError if it has another, or is damaged."""
        try:
            with open_file(path) as file:
                theirs = parse_json(file.readline(_FIRST_LINE))["identity"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, error) from error
        if theirs != identity:
            raise InputError(
                f"{path} is of another configuration than the one now asked for; give another folder, or another name "
                "to the agent or problem that has changed"
            )
        return True

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the run that ``write`` wrote; raise InputError if the file is damaged."""
        try:
            values = parse_json(read_whole(path, spare_memory() // _SHARE).partition(b"\n")[2])
            return cls(**{f.name: _value(f.name, values[f.name]) for f in fields(cls)})
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise _damaged(path, error) from error


_PER_EVALUATION = ("proposal", "seconds", "reward", "val_score", "final_val_score", "test_score")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("problem", "agent", "ended"), str),
    **dict.fromkeys(("seed", "proposals"), int),
    **dict.fromkeys(("wall_seconds", "charged_seconds"), int | float),
    "error": str | None,
    "architectures": tuple,
    "early": bool,
}


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}); delete it to have this run again")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return [None if v != v else v for v in value.tolist()]  # JSON has no nan
    return value.tolist() if isinstance(value, np.ndarray) else value


def _value(name: str, value: Any) -> Any:
    if name == "architectures":
        return tuple(map(printable, value))
    if name in _PER_EVALUATION:
        return np.array(value, dtype=np.int64 if name == "proposal" else np.float64)
    return printable(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Trajectory(Run):
    """Holds a run reduced to the k evaluations that became the incumbent; totals are those of the whole run.

    Args:
        evaluation: (k,), the number, from 1, of each evaluation that became the incumbent.
        evaluations: number of the run's distinct evaluations.
    """

    evaluation: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    evaluations: int = 0

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return the trajectory of a run."""
        rises = np.unique(run.incumbents)
        kept = {name: getattr(run, name)[rises] for name in _PER_EVALUATION}
        texts = tuple(run.architectures[i] for i in rises)
        whole = {f.name: getattr(run, f.name) for f in fields(run)}
        return cls(**{**whole, **kept, "architectures": texts}, evaluation=rises + 1, evaluations=len(run.reward))

    def values(self, quantity: Quantity, final: bool) -> _Floats:
        """Return a quantity of the incumbents, (k,), nan if unknown; ``final`` selects the final validation score."""
        values: _Floats = getattr(self, "final_val_score" if quantity == "val_score" and final else quantity)
        return values

    def evaluation_of_optimum(self, optimum: float) -> int | None:
        """Return the number of the evaluation that reached the optimum; None if none did."""
        there = self.evaluation[self.reward >= optimum - 1e-12 * max(1.0, abs(optimum))]
        return int(there[0]) if len(there) else None

    def reward_after(self, evaluations: Sequence[int]) -> _Floats:
        """Return the best reward, (g,), after each number of evaluations; a run that has ended keeps its last one."""
        return self.reward[np.searchsorted(self.evaluation, evaluations, side="right") - 1]

    def area(self, evaluations: int, worst: float, best: float) -> float:
        """Return the normalised area under the curve of the best reward so far.

        It is the mean of the best reward so far over the first ``evaluations``, scaled such that ``worst`` is 0 and
        ``best`` is 1; 1 where the two are equal.
        """
        lasting = np.diff(self.evaluation, append=evaluations + 1)
        return float(lasting @ ((self.reward - worst) / (best - worst))) / evaluations if best > worst else 1.0


def trajectories(runs: Iterable[Run]) -> list[Trajectory]:
    """Return the trajectory of each run; a stream of runs is read one at a time."""
    return [run if isinstance(run, Trajectory) else Trajectory.of(run) for run in runs]


def final_known(those: Iterable[Trajectory], incumbents: slice = slice(None)) -> bool:
    """Return whether all of these incumbents have a validation score after final training, in every run.

    Incumbents whose evaluation failed have none and do not matter.
    """
    return all(np.isfinite(t.final_val_score[incumbents][np.isfinite(t.val_score[incumbents])]).all() for t in those)
