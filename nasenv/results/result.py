"""`Result` holds the winner of a search and the architectures that it is compared with, in `result.json`."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from nasenv.errors import InputError, counted
from nasenv.files import parse_json, read_whole, write_whole
from nasenv.task import is_share
from nasenv.trial import Architecture

RESULT = "result.json"
WINNER, SEARCHED, REFERENCE, EARLY = "winner", "best of the search", "hand-made reference", "best of the first "
"""The roles of contenders; after the last stands the number of evaluations."""
_LONGEST = 1 << 26  # bytes
_SEQUENCES = ("architecture", "validation_scores", "test_scores", "seeds", "test_seeds")
_REWARDS = ("validation_rewards", "test_rewards")
_OPTIONAL = (*_REWARDS, "infeasible", "constraints", "looks")  # left out of the file where they are empty


@dataclass(frozen=True)
class Contender:
    """Holds the final scores of an architecture that was trained in full.

    Args:
        role: winner, finalist, or why the winner is compared with it.
        architecture: the architecture.
        text: text of the architecture by the space.
        validation_scores: a score for each seed, after the final training on the training split.
        test_scores: a score for each seed, after the final training on training and validation data; empty for a
            finalist that was not tested.
        params: number of trainable parameters; None if the evaluator does not count them.
        flops: FLOPs of one forward pass of one input; None if the evaluator does not count them.
        seeds: seed of each validation score; a training that failed has none.
        test_seeds: seed of each test score.
        validation_rewards: reward of each validation score; empty where rewards are the scores.
        test_rewards: reward of each test score; empty where rewards are the scores.
        infeasible: which constraints of the search it breaks, so that it cannot win; empty if none.
    """

    role: str
    architecture: Architecture
    text: str
    validation_scores: tuple[float, ...]
    test_scores: tuple[float, ...]
    params: int | None = None
    flops: int | None = None
    seeds: tuple[int, ...] = ()
    test_seeds: tuple[int, ...] = ()
    validation_rewards: tuple[float, ...] = ()
    test_rewards: tuple[float, ...] = ()
    infeasible: str = ""

    @property
    def name(self) -> str:
        """Return the role as text for people.

        >>> Contender("best of the first 16", (0,), "", (), ()).name
        'best of the first 16 evaluations'
        """
        return re.sub(rf"(?<=^{EARLY})\d+$", lambda n: counted(int(n[0]), "evaluation"), self.role)


@dataclass(frozen=True)
class Result:
    """Holds the result of a search.

    Args:
        winner: architecture with the best mean reward on validation data after the final trainings.
        others: architectures that it is compared with: the best of the search where the winner is none of it, the
            space's reference, the best of the first evaluations.
        finalists: all architectures that were trained in full, the best mean reward first.
        test_score: test score of the exported network, the winner's first seed.
        metric: metric of the scores, such as accuracy.
        ended: why the search was over.
        evaluations: number of distinct architectures evaluated.
        repeats: number of proposals of known architectures.
        train_seconds: time of the search's trainings, without the final ones.
        constraints: the limits on what a network might cost.
        looks: number of distinct architectures that broke them and were not evaluated.
    """

    winner: Contender
    others: tuple[Contender, ...]
    finalists: tuple[Contender, ...]
    test_score: float
    metric: str
    ended: str
    evaluations: int
    repeats: int
    train_seconds: float
    constraints: tuple[str, ...] = ()
    looks: int = 0

    def write(self, path: Path) -> None:
        """Write the result as JSON, whole or not at all: the file marks the run as finished."""
        write_whole(path, json.dumps(asdict(self, dict_factory=_without_empty), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the result in a file; raise InputError if the file is damaged."""
        try:
            values = parse_json(read_whole(path, _LONGEST))
            lists = {name: tuple(map(_contender, values[name])) for name in ("others", "finalists")}
            lists["constraints"] = tuple(values.get("constraints", ()))
            return cls(**{**values, **lists, "winner": _contender(values["winner"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it to repeat the end of the search") from error


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of a table of the networks, with mean ± standard deviation over seeds."""
    share = is_share(result.metric)
    scores = [f"{split} {result.metric}{' (%)' if share else ''}" for split in ("validation", "test")]
    columns = {scores[0]: ("validation_scores", share), scores[1]: ("test_scores", share)}
    if result.winner.validation_rewards:
        rewards = {f"{split} reward": (f"{split}_rewards", False) for split in ("validation", "test")}
        columns = {**rewards, scores[1]: columns[scores[1]]}
    rows = [
        [
            c.name + (", over the limit" if c.infeasible else ""),
            *(_mean_and_deviation(getattr(c, column), percent) for column, percent in columns.values()),
            f"{c.params:,}" if c.params else "",
        ]
        for c in (result.winner, *result.others)
    ]
    return ["network", *columns, "parameters"], rows


def _contender(values: Mapping[str, Any]) -> Contender:
    sequences = (*_SEQUENCES, *(name for name in _REWARDS if name in values))
    return Contender(**{**values, **{name: tuple(values[name]) for name in sequences}})


def _without_empty(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value or name not in _OPTIONAL}


def mean(scores: Sequence[float]) -> float:
    """Return the mean of scores; nan if there are none."""
    return statistics.fmean(scores) if scores else math.nan


def _mean_and_deviation(scores: Sequence[float], share: bool) -> str:
    if not scores:
        return "failed"
    factor, digits = (100, 2) if share else (1, 4)
    deviation = f" ± {factor * statistics.stdev(scores):.{digits}f}" if len(scores) > 1 else ""
    return f"{factor * mean(scores):.{digits}f}{deviation}"
