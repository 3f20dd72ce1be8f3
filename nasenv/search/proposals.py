"""The designs of one call of `Search.evaluate`, and which of them the search has seen before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from nasenv.trial import Architecture

_MOST_COMBINATIONS = 1 << 22  # of choices; four bytes each


class Proposals(Sequence[Architecture]):
    """n designs in the order in which they are proposed.

    Args:
        designs: all of them, tuples or the rows of an integer array (n, T).
        numbers: (n,), of the evaluation, from 0, that a design has had; -1 - j for the j-th that is new to the search.
        new: those that are new, each once.
        firsts: where each of these stands first, ascending.
    """

    def __init__(
        self,
        designs: Sequence[Architecture] | NDArray[np.int64],
        numbers: NDArray[np.int64],
        new: Sequence[Architecture],
        firsts: NDArray[np.int64],
    ) -> None:
        self._designs, self.numbers, self.new, self.firsts = designs, numbers, new, firsts

    @classmethod
    def of(cls, designs: Sequence[Architecture], known: Mapping[Architecture, int]) -> Proposals:
        """Return the proposals of n tuples, where known designs have these numbers."""
        new: dict[Architecture, int] = {}
        numbers, firsts = [], []
        for place, design in enumerate(designs):
            number = known.get(design)
            if number is None:
                number = new.get(design)
                if number is None:
                    number = new[design] = -1 - len(new)
                    firsts.append(place)
            numbers.append(number)
        return cls(designs, np.array(numbers), list(new), np.array(firsts, dtype=np.int64))

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """(n,), whether each design was known, or stands in these proposals before."""
        repeats = np.ones(len(self), dtype=np.bool_)
        repeats[self.firsts] = False
        return repeats

    def numbered(self, known: int) -> NDArray[np.int64]:
        """Return the number of each design's evaluation, (n,), when those that are new come after so many known."""
        return np.where(self.numbers < 0, known - 1 - self.numbers, self.numbers)

    @overload
    def __getitem__(self, index: int) -> Architecture: ...
    @overload
    def __getitem__(self, index: slice) -> Proposals: ...
    def __getitem__(self, index: int | slice) -> Architecture | Proposals:
        if not isinstance(index, slice):
            return tuple(map(int, self._designs[index]))
        start, stop, step = index.indices(len(self))
        if (start, step) != (0, 1):
            raise ValueError(f"proposals are cut at their end alone, got {index}")
        firsts = self.firsts[: int(np.searchsorted(self.firsts, stop))]
        return Proposals(self._designs[:stop], self.numbers[:stop], self.new[: len(firsts)], firsts)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Architecture]:
        return map(tuple, self._designs.tolist() if isinstance(self._designs, np.ndarray) else self._designs)


class Places:
    """The numbers of the evaluations of a space's designs, looked up for many designs at once.

    There is a place for every combination of choices.

    Args:
        num_choices: (T,), of each decision.
    """

    def __init__(self, num_choices: NDArray[np.int64]) -> None:
        self._num_choices = num_choices
        self._weights = np.array([math.prod(num_choices[t + 1 :].tolist()) for t in range(len(num_choices))])
        self._numbers = np.full(math.prod(num_choices.tolist()), -1, dtype=np.int32)
        self._taken = 0
        self._proposed: tuple[Sequence[Architecture], NDArray[np.int64]] = (), np.zeros(0, np.int64)  # last, and where

    @staticmethod
    def suit(num_choices: NDArray[np.int64]) -> bool:
        """Return whether there are few enough combinations."""
        return int(math.prod(num_choices.tolist())) <= _MOST_COMBINATIONS

    def propose(
        self, rows: NDArray[np.int64], check: Callable[[NDArray[np.int64]], list[Architecture]]
    ) -> Proposals | None:
        """Return the proposals of n rows, (n, T); None where these are no choices.

        Args:
            rows: the designs.
            check: returns rows as tuples, or raises InputError; it is given those that are new.
        """
        if rows.shape[1:] != self._num_choices.shape or not ((rows >= 0) & (rows < self._num_choices)).all():
            return None
        places = rows @ self._weights
        numbers = self._numbers[places].astype(np.int64)
        unknown = np.flatnonzero(numbers < 0)
        if not len(unknown):
            return Proposals(rows, numbers, (), unknown)
        order, new = np.arange(len(unknown)), places[unknown]
        self._numbers[new[::-1]] = order[::-1]  # of equals the first is written last
        first = self._numbers[new]  # of each, the first of its equals
        self._numbers[new] = -1
        is_first = first == order
        numbers[unknown] = -np.cumsum(is_first)[first]
        firsts = unknown[is_first]
        self._proposed = check(rows[firsts]), new[is_first]
        return Proposals(rows, numbers, self._proposed[0], firsts)

    def catch_up(self, designs: Sequence[Architecture]) -> None:
        """Take in the designs, all that were evaluated so far, in order, that it does not know yet."""
        if self._taken < len(designs):
            new, (proposed, places) = designs[self._taken :], self._proposed
            if new != proposed:
                places = np.array(new, dtype=np.int64) @ self._weights
            self._numbers[places] = np.arange(self._taken, len(designs))
            self._taken = len(designs)
