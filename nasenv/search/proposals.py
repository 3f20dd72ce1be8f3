"""`Proposals` are architectures that an agent has asked to evaluate, numbered by the evaluations that answer them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from nasenv.search.index import Architectures
from nasenv.trial import Architecture


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

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """Return whether each was known or occurs earlier among these proposals, (n,)."""
        repeats = np.ones(self.n, dtype=np.bool_)
        repeats[self.firsts] = False
        return repeats

    def numbered(self, known: int) -> NDArray[np.int64]:
        """Return the index of each evaluation, (n,), if new ones are added after so many known evaluations."""
        return np.where(self.numbers < 0, known - 1 - self.numbers, self.numbers)

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
