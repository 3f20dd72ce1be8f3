"""What agents propose, checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import AgentError, InputError
from nasenv.search.history import History
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture

Designs: TypeAlias = Sequence[Architecture] | NDArray[np.integer[Any]]
"""n designs: a sequence of tuples, or an integer array (n, T)."""


def checked(
    space: SearchSpace, history: History, architectures: Designs
) -> tuple[Sequence[Architecture], Sequence[Architecture]]:
    """Return the designs as tuples of ints, and those of them that are new to the search, checked, each once.

    Raises:
        AgentError: something that is not a design of the space was proposed, or nothing.
    """
    if not isinstance(architectures, Sequence | np.ndarray) or not len(architectures):
        raise AgentError(f"proposed {architectures!r:.80}, expected one or more designs of the space")
    try:
        if isinstance(architectures, np.ndarray):
            proposals = history.propose(architectures, space.check_all)
            if proposals is not None:
                return proposals, proposals.new
            architectures = architectures.tolist()
        given = list(map(tuple, architectures))
        new = history.unknown(given)
        if not new:
            return given, new
        known = dict(zip(new, space.check_all(new), strict=True))
        return [known.get(design, design) for design in given], list(known.values())
    except InputError as error:
        raise AgentError(f"proposed a design that is not one of the space: {error}") from error
    except (TypeError, ValueError) as error:
        raise AgentError(f"proposed something that is not a design: {error}") from error
