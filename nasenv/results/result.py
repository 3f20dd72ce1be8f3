"""What came out of a search: the winner, and what it is held against."""

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
_LONGEST = 1 << 26  # bytes


@dataclass(frozen=True)
class Contender:
    """One architecture at the end of a search.

    Args:
        role: what it is there for.
        architecture: the architecture.
        text: the architecture in the space's words.
        validation_scores: one a seed, after the final training on the training split.
        test_scores: one a seed, after the final training on training and validation data.
        params: number of trainable numbers of the network; None where the evaluator does not say.
    """

    role: str
    architecture: Architecture
    text: str
    validation_scores: tuple[float, ...]
    test_scores: tuple[float, ...]
    params: int | None = None


@dataclass(frozen=True)
class Result:
    """What came out of a search.

    Args:
        winner: the finalist of the best mean reward after the final training.
        others: what it is held against: the space's reference, the best of the first evaluations.
        test_score: of the network that was exported (the winner's first seed).
        metric: what the scores are, such as accuracy.
        ended: why the search was over.
        evaluations: number of distinct architectures evaluated.
        repeats: number of proposals of architectures seen before.
        train_seconds: what the search's trainings cost, without those of its end.
    """

    winner: Contender
    others: tuple[Contender, ...]
    test_score: float
    metric: str
    ended: str
    evaluations: int
    repeats: int
    train_seconds: float

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all: the file says that the run is finished."""
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what ``write`` wrote; raise InputError where the file is damaged."""
        try:
            values = parse_json(read_whole(path, _LONGEST))
            winner, *others = (_contender(v) for v in [values["winner"], *values["others"]])
            return cls(**{**values, "winner": winner, "others": tuple(others)})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it to have the end of the search again") from error


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the comparison that a user reads: mean ± standard deviation over seeds."""
    share = is_share(result.metric)
    scores = (f"{split} {result.metric}{' (%)' if share else ''}" for split in ("validation", "test"))
    heads = ["network", *scores, "parameters"]
    rows = [
        [
            *(_in_words(c.role), _spread(c.validation_scores, share), _spread(c.test_scores, share)),
            f"{c.params:,}" if c.params else "",
        ]
        for c in (result.winner, *result.others)
    ]
    return heads, rows


def _contender(values: Mapping[str, Any]) -> Contender:
    numbers = ("architecture", "validation_scores", "test_scores")
    return Contender(**{**values, **{k: tuple(values[k]) for k in numbers}})


def mean(scores: Sequence[float]) -> float:
    """Return the mean, nan of none."""
    return statistics.fmean(scores) if scores else math.nan


def _in_words(role: str) -> str:
    """Return a role as it is shown to people, who need not know what the first 16 are.

    >>> _in_words("best of the first 16"), _in_words("winner")
    ('best of the first 16 evaluations', 'winner')
    """
    return re.sub(r"(?<=^best of the first )\d+$", lambda n: counted(int(n[0]), "evaluation"), role)


def _spread(scores: Sequence[float], share: bool) -> str:
    if not scores:
        return "failed"
    factor, digits = (100, 2) if share else (1, 4)
    deviation = f" ± {factor * statistics.stdev(scores):.{digits}f}" if len(scores) > 1 else ""
    return f"{factor * mean(scores):.{digits}f}{deviation}"
