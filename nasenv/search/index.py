"""An index from architectures to their evaluations at one fidelity, and `Proposals`: architectures looked up in it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from nasenv.trial import Architecture

Architectures: TypeAlias = Sequence[Architecture] | NDArray[np.integer[Any]]
"""n architectures: a sequence of tuples, or an integer array (n, T)."""

Check: TypeAlias = Callable[[Any], list[Architecture]]
_MOST_COMBINATIONS = 1 << 22  # of choices; four bytes each


class Proposals(Sequence[Architecture]):
    """Holds n proposed architectures in order, all at one fidelity.

    Args:
        architectures: the architectures, tuples or the rows of an integer array (n, T).
        numbers: (n,), index of each proposal's evaluation, from 0; -1 - j for the j-th new architecture.
        new: architectures that are new to the search, each once.
        firsts: (len(new),), index of the first proposal of each new architecture, ascending.
        fidelity: share in (0, 1] of the search's full training.

    Attributes:
        n: number of proposals.
        repeats: whether each was known or occurs earlier among these proposals, (n,).
    """

    def __init__(
        self,
        architectures: Architectures,
        numbers: NDArray[np.int64],
        new: Sequence[Architecture],
        firsts: NDArray[np.int64],
        fidelity: float,
    ) -> None:
        self._architectures, self.numbers, self.new, self.firsts = architectures, numbers, new, firsts
        self.fidelity, self.n = fidelity, len(numbers)
        self.repeats: NDArray[np.bool_] = np.ones(self.n, dtype=np.bool_)
        self.repeats[firsts] = False

    def first(self, n: int) -> Proposals:
        """Return the first n proposals."""
        if n >= self.n:
            return self
        firsts = self.firsts[: int(np.searchsorted(self.firsts, n))]
        new = self.new[: len(firsts)]
        return Proposals(self._architectures[:n], self.numbers[:n], new, firsts, self.fidelity)

    def before_new(self, k: int) -> Proposals:
        """Return the proposals before that of the k-th new architecture, from 0; all if there are at most k."""
        return self.first(int(self.firsts[k])) if k < len(self.new) else self

    @overload
    def __getitem__(self, index: int) -> Architecture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Architecture]: ...
    def __getitem__(self, index: int | slice) -> Architecture | Sequence[Architecture]:
        if isinstance(index, slice):
            return list(map(tuple, self._architectures[index]))
        return tuple(map(int, self._architectures[index]))

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Architecture]:
        rows = self._architectures
        return map(tuple, rows.tolist() if isinstance(rows, np.ndarray) else rows)


class EvaluationIndex:
    """Maps architectures to the numbers of their evaluations at one fidelity.

    Where a space has few combinations of choices, there is a place for each, and many are looked up at once; that is
    what agents on a table live on.

    Args:
        num_choices: (T,), of each decision.
        fidelity: share in (0, 1] of the search's full training.
    """

    def __init__(self, num_choices: NDArray[np.int64], fidelity: float) -> None:
        self._num_choices, self._fidelity = num_choices, fidelity
        self._architectures: list[Architecture] = []
        self._evaluations = array("q")
        self._by_tuple: dict[Architecture, int] = {}
        self._combinations = math.prod(num_choices.tolist())
        self._weights = np.array([math.prod(num_choices[t + 1 :].tolist()) for t in range(len(num_choices))])
        self._by_place: NDArray[np.int32] | None = None
        self._placed = 0
        self._looked_up: tuple[Sequence[Architecture], NDArray[np.int64]] = (), np.zeros(0, np.int64)  # last, and where

    def add(self, architectures: Sequence[Architecture], first: int) -> None:
        """Add architectures, whose evaluations are numbered from ``first`` on."""
        self._architectures += architectures
        self._evaluations.extend(range(first, first + len(architectures)))

    def find(self, architecture: Architecture) -> int | None:
        """Return the number, from 0, of an architecture's evaluation; None if there is none."""
        return self._tuples().get(architecture)

    def look_up(self, architectures: Architectures, check: Check) -> Proposals:
        """Look up n architectures, check those that are new, and return them as proposals.

        Args:
            architectures: n of them.
            check: returns architectures as tuples, or raises InputError; it is given those that are new.
        """
        if isinstance(architectures, np.ndarray):
            found = self._look_up_rows(architectures, check)
            if found is not None:
                return found
            architectures = architectures.tolist()
        return self._look_up_tuples(list(map(tuple, architectures)), check)

    def _look_up_tuples(self, given: Sequence[Architecture], check: Check) -> Proposals:
        known = self._tuples()
        new = list(dict.fromkeys([architecture for architecture in given if architecture not in known]))
        plain = dict(zip(new, check(new), strict=True)) if new else {}
        order = {architecture: -1 - j for j, architecture in enumerate(plain)}
        numbers = np.array([known.get(a, order.get(a)) for a in given], dtype=np.int64)
        first = {architecture: place for place, architecture in reversed(list(enumerate(given)))}
        firsts = np.array([first[a] for a in plain], dtype=np.int64)
        return Proposals([plain.get(a, a) for a in given], numbers, list(plain.values()), firsts, self._fidelity)

    def _look_up_rows(self, given: NDArray[np.integer[Any]], check: Check) -> Proposals | None:
        """Look up n rows, (n, T); return None if they are no choices, or the space is too large for an array."""
        places = self._places()
        if places is None or given.ndim != 2 or not np.issubdtype(given.dtype, np.integer):
            return None
        rows = given.astype(np.int64)
        if rows.shape[1:] != self._num_choices.shape or not ((rows >= 0) & (rows < self._num_choices)).all():
            return None
        where = rows @ self._weights
        numbers = places[where].astype(np.int64)
        unknown = np.flatnonzero(numbers < 0)
        if not len(unknown):
            return Proposals(rows, numbers, (), unknown, self._fidelity)
        order, new = np.arange(len(unknown)), where[unknown]
        places[new[::-1]] = order[::-1]  # of equals the first is written last
        first = places[new]  # of each, the first of its equals
        places[new] = -1
        is_first = first == order
        numbers[unknown] = -np.cumsum(is_first)[first]
        firsts = unknown[is_first]
        self._looked_up = check(rows[firsts]), new[is_first]
        return Proposals(rows, numbers, self._looked_up[0], firsts, self._fidelity)

    def _tuples(self) -> dict[Architecture, int]:
        """Return the numbers by architecture, updated on demand."""
        taken = len(self._by_tuple)
        if taken < len(self._architectures):
            self._by_tuple.update(zip(self._architectures[taken:], self._evaluations[taken:], strict=True))
        return self._by_tuple

    def _places(self) -> NDArray[np.int32] | None:
        """Return the numbers by combination of choices, updated on demand; None if there are too many combinations."""
        if self._by_place is None and self._combinations <= _MOST_COMBINATIONS:
            self._by_place = np.full(self._combinations, -1, dtype=np.int32)
        if self._by_place is not None and self._placed < len(self._architectures):
            new, (looked_up, places) = self._architectures[self._placed :], self._looked_up
            if new != looked_up:
                places = np.array(new, dtype=np.int64) @ self._weights
            self._by_place[places] = self._evaluations[self._placed :]
            self._placed = len(self._architectures)
        return self._by_place
