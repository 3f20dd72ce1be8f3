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
_LONGEST = 1 << 26  # bytes


@dataclass(frozen=True)
class Contender:
    """Holds the final scores of an architecture, the winner or one that it is compared with.

    Args:
        role: winner, or why the architecture is compared with it.
        architecture: the architecture.
        text: text of the architecture by the space.
        validation_scores: a score for each seed, after the final training on the training split.
        test_scores: a score for each seed, after the final training on training and validation data.
        params: number of trainable parameters; None if the evaluator does not count them.
    """

    role: str
    architecture: Architecture
    text: str
    validation_scores: tuple[float, ...]
    test_scores: tuple[float, ...]
    params: int | None = None


@dataclass(frozen=True)
class Result:
    """Holds the result of a search.

    Args:
        winner: finalist with the best mean reward after the final trainings.
        others: architectures that it is compared with: the space's reference, the best of the first evaluations.
        test_score: test score of the exported network, the winner's first seed.
        metric: metric of the scores, such as accuracy.
        ended: why the search was over.
        evaluations: number of distinct architectures evaluated.
        repeats: number of proposals of known architectures.
        train_seconds: time of the search's trainings, without the final ones.
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
        """Write the result as JSON, whole or not at all: the file marks the run as finished."""
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the result in a file; raise InputError if the file is damaged."""
        try:
            values = parse_json(read_whole(path, _LONGEST))
            winner, *others = (_contender(v) for v in [values["winner"], *values["others"]])
            return cls(**{**values, "winner": winner, "others": tuple(others)})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it to repeat the end of the search") from error


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of a table of the networks, with mean ± standard deviation over seeds."""
    share = is_share(result.metric)
    scores = (f"{split} {result.metric}{' (%)' if share else ''}" for split in ("validation", "test"))
    heads = ["network", *scores, "parameters"]
    rows = [
        [
            *(
                _shown_role(c.role),
                _mean_and_deviation(c.validation_scores, share),
                _mean_and_deviation(c.test_scores, share),
            ),
            f"{c.params:,}" if c.params else "",
        ]
        for c in (result.winner, *result.others)
    ]
    return heads, rows


def _contender(values: Mapping[str, Any]) -> Contender:
    numbers = ("architecture", "validation_scores", "test_scores")
    return Contender(**{**values, **{k: tuple(values[k]) for k in numbers}})


def mean(scores: Sequence[float]) -> float:
    """Return the mean of scores; nan if there are none."""
    return statistics.fmean(scores) if scores else math.nan


def _shown_role(role: str) -> str:
    """Return a role as text for people.

    >>> _shown_role("best of the first 16"), _shown_role("winner")
    ('best of the first 16 evaluations', 'winner')
    """
    return re.sub(r"(?<=^best of the first )\d+$", lambda n: counted(int(n[0]), "evaluation"), role)


def _mean_and_deviation(scores: Sequence[float], share: bool) -> str:
    if not scores:
        return "failed"
    factor, digits = (100, 2) if share else (1, 4)
    deviation = f" ± {factor * statistics.stdev(scores):.{digits}f}" if len(scores) > 1 else ""
    return f"{factor * mean(scores):.{digits}f}{deviation}"
