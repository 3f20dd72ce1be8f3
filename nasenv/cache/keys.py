"""The key of a cached measurement, and the error of a server that does not answer."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from nasenv.errors import InputError
from nasenv.trial import Trial


class ProblemKey(NamedTuple):
    """Identifies the problem that measurements belong to, by the fingerprints of a space and of an evaluator."""

    space: str
    evaluator: str


Key: TypeAlias = tuple[ProblemKey, Trial]


class ServerUnavailable(InputError):
    """The server of a cache does not answer, but may do so later."""
