"""What is left of one search in a comparison: one agent, one problem, one seed."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """The distinct evaluations of one search, in order, and how it ended.

    Args:
        problem: name of the problem in the comparison.
        agent: name of the agent in the comparison.
        seed: the search's seed.
        ended: why the search was over.
        error: what was wrong where the agent raised, stalled, or proposed nonsense; None where it did not.
        wall_seconds: what the run took on this machine.
        proposals: number of designs proposed, repeats too.
        charged_seconds: what the search was charged in all.
        architectures: (n,), the designs in the space's words.
        proposal: (n,), the number, from 1, of the proposal that led to each evaluation.
        seconds: (n,), charged up to and with each evaluation.
        reward: (n,), what the agent was paid.
        val_accuracy: (n,), in [0, 1], what was measured; nan where the evaluation failed.
        final_val_accuracy: (n,), in [0, 1], after the final training; nan where unknown.
        test_accuracy: (n,), in [0, 1], after the final training; nan where unknown. Where finding it out costs a
            training, only the last incumbent's is known.
        early: whether it ended before a limit of its budget: the agent stopped by itself, or only repeated itself.
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
    val_accuracy: _Floats
    final_val_accuracy: _Floats
    test_accuracy: _Floats
    early: bool = False

    @property
    def incumbents(self) -> NDArray[np.int64]:
        """Index, (n,), of the evaluation with the highest reward up to and with each; the earliest among equals."""
        best = np.maximum.accumulate(self.reward)
        risen = np.concatenate([[True], best[1:] > best[:-1]])[: len(best)]
        return np.maximum.accumulate(np.where(risen, np.arange(len(best)), 0))

    def write(self, path: Path, identity: str) -> None:
        """Write two lines of JSON, whole or not at all: the file says that this run is done.

        Args:
            path: the file.
            identity: hash of everything that the run follows from, for ``is_of``.
        """
        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        unfinished = path.with_name(f"{path.name}.tmp")
        lines = [json.dumps(line, separators=(",", ":")) for line in ({"identity": identity}, values)]
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @staticmethod
    def is_of(path: Path, identity: str) -> bool:
        """Return True where the file is of this identity; raise InputError where it is of another, or damaged."""
        try:
            with path.open(encoding="utf-8") as file:
                theirs = json.loads(file.readline())["identity"]
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
        """Return what ``write`` wrote; raise InputError where the file is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8").partition("\n")[2])
            return cls(**{f.name: _array(f.name, values[f.name]) for f in fields(cls)})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}); delete it to have this run again")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return [None if v != v else v for v in value.tolist()]  # JSON has no nan
    return value.tolist() if isinstance(value, np.ndarray) else value


def _array(name: str, value: Any) -> Any:
    if name == "architectures":
        return tuple(value)
    if isinstance(value, list):
        return np.array(value, dtype=np.int64 if name == "proposal" else np.float64)
    return value
