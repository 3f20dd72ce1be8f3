"""What a measurement is kept by, and what is said of a server that does not answer."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from nasenv.errors import InputError
from nasenv.trial import Trial


class ProblemKey(NamedTuple):
    """Within which measurements mean the same: the fingerprints of a space and of an evaluator."""

    space: str
    evaluator: str


Key: TypeAlias = tuple[ProblemKey, Trial]


class ServerUnavailable(InputError):
    """The server does not answer, but may do so later; never said of a file."""
