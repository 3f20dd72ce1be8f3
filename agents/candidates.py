"""The designs that a surrogate is asked about: all of a space, or where there are too many, those near the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.surrogates.gaussian_process import Surrogate
from nasenv.trial import Architecture

_MOST_LISTED = 1 << 16  # designs of a space
_PARENTS = 16  # of mutants


class EveryDesign:
    """All designs of a space. Equal networks are predicted once.

    Attributes:
        networks: the canonical designs.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._designs = to_architectures(space.designs())
        self._places = {design: i for i, design in enumerate(self._designs)}
        numbers: dict[Architecture, int] = {}
        self._network = np.array([numbers.setdefault(space.canonical(d), len(numbers)) for d in self._designs])
        self._is_new = np.ones(len(self._designs), dtype=np.bool_)
        self.networks = list(numbers)

    @staticmethod
    def suits(space: SearchSpace) -> bool:
        """Return whether the space is small enough."""
        return (space.size or _MOST_LISTED + 1) <= _MOST_LISTED

    def drop(self, designs: Iterable[Architecture]) -> None:
        """Offer these no more."""
        self._is_new[[self._places[design] for design in designs]] = False

    def best(self, surrogate: Surrogate, beta: float, rng: np.random.Generator) -> Architecture | None:
        """Return the design of the highest upper confidence bound, of equals any; None where all were dropped."""
        new = np.flatnonzero(self._is_new)
        return self._designs[_highest(surrogate.pool_ucb(beta)[self._network[new]], new, rng)] if len(new) else None

    def random(self, rng: np.random.Generator) -> Architecture | None:
        """Return a design that was not dropped; None where all were."""
        new = np.flatnonzero(self._is_new)
        return self._designs[rng.choice(new)] if len(new) else None


class NearTheBest:
    """Mutants of the best designs, two fifths by one decision, two fifths by two, and one fifth random designs."""

    networks: Sequence[Architecture] = ()

    def __init__(self, space: SearchSpace, number: int = 500) -> None:
        self._space, self._number = space, number
        self._dropped: set[Architecture] = set()

    def drop(self, designs: Iterable[Architecture]) -> None:
        """Offer these no more."""
        self._dropped.update(designs)

    def best(self, surrogate: Surrogate, beta: float, rng: np.random.Generator) -> Architecture | None:
        """Return the candidate of the highest upper confidence bound, of equals any; None where none is new."""
        parents = np.array(surrogate.best(_PARENTS), dtype=np.int64)
        designs = self._space.sample(self._number // 5, rng)
        if len(parents):
            rows = mutants(self._space, parents[rng.integers(len(parents), size=4 * self._number // 5)], rng)
            rows[::2] = mutants(self._space, rows[::2], rng)
            designs += to_architectures(rows)
        new = [design for design in dict.fromkeys(designs) if design not in self._dropped]
        return new[_highest(surrogate.ucb(new, beta), np.arange(len(new)), rng)] if new else None

    def random(self, rng: np.random.Generator) -> Architecture | None:
        """Return a design that was not dropped; None where none of some random ones is."""
        return next((design for design in self._space.sample(100, rng) if design not in self._dropped), None)


def mutants(space: SearchSpace, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random neighbour of each of n designs, (n, T), as `SearchSpace.mutate` does of one."""
    every = np.arange(len(rows))
    others = space.masks(rows) & (np.arange(space.max_choices) != rows[:, :, None])  # (n, T, C)
    decisions = np.where(others.any(axis=2), rng.random(rows.shape), -1.0).argmax(axis=1)
    others = others[every, decisions]
    changed = rows.copy()
    choices = np.where(others, rng.random(others.shape), -1.0).argmax(axis=1)
    changed[every, decisions] = np.where(others.any(axis=1), choices, rows[every, decisions])
    return np.array(space.complete(changed), dtype=np.int64)


def _highest(scores: NDArray[np.floating], items: NDArray[np.int64], rng: np.random.Generator) -> int:
    """Return the item of the highest score, of equals any."""
    return int(rng.choice(items[scores == scores.max()]))
