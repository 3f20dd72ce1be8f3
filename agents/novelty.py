"""Finds architectures that are new to a search."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from nasenv.search.layer import SearchLike
from nasenv.trial import Architecture

_STEPS = 20  # to find an architecture that is new
_REMEMBERED = 1 << 15  # networks of architectures: neighbours of good ones are looked at again and again


class Seen:
    """Holds the architectures that are not new to a search: they or equivalent ones have been evaluated.

    Args:
        search: the search; it knows which architectures are equivalent.
    """

    def __init__(self, search: SearchLike) -> None:
        self._history = search.history
        self._network = lru_cache(_REMEMBERED)(search.representative)
        self._networks: set[Architecture] = set()
        self._read = 0

    def catch_up(self) -> None:
        """Add the architectures that were evaluated since the last call."""
        self._networks.update(map(self._network, self._history.architectures[self._read :]))
        self._read = len(self._history)

    def add(self, architecture: Architecture) -> None:
        """Add an architecture that is about to be evaluated."""
        self._networks.add(self._network(architecture))

    def __contains__(self, architecture: Any) -> bool:
        return self._network(architecture) in self._networks


def unseen(
    neighbours_of: Callable[[Architecture], Sequence[Architecture]],
    architecture: Architecture,
    seen: Container[Architecture],
    rng: np.random.Generator,
) -> Architecture:
    """Return a random new neighbour of an architecture; if there is none, one of a neighbour, and so on.

    After some steps a neighbour is returned that is not new: a small space may have no new architecture left.
    """
    for _ in range(_STEPS):
        neighbours = neighbours_of(architecture)
        new = [neighbour for neighbour in neighbours if neighbour not in seen]
        if new:
            return new[rng.integers(len(new))]
        if neighbours:
            architecture = neighbours[int(rng.integers(len(neighbours)))]
    return architecture
