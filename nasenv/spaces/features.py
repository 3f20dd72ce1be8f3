"""Feature encodings of architectures, for models that predict what an architecture is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Choices = Sequence[tuple[Hashable, ...]]
"""The choices of each of the T decisions."""

_FEWEST_IN_ORDER = 3  # two choices have no order that one-hot codes would not show


def one_hot(choices: Choices, rows: NDArray[np.int64], is_open: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the one-hot encoding of the choices taken, (n, K), for K choices of all decisions together.

    Args:
        choices: the choices of each decision.
        rows: (n, T), the architectures.
        is_open: (n, T), whether more than one choice was valid; a decision that was not open is zeros.
    """
    codes = [(rows[:, t, None] == np.arange(len(listed))) & is_open[:, t, None] for t, listed in enumerate(choices)]
    return np.concatenate(codes, axis=1).astype(np.float64)


def counts(choices: Choices, rows: NDArray[np.int64], is_open: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how often each choice was taken, (n, K), over decisions that have the same choices.

    K sums over the sets of choices that two decisions or more have. Arguments are those of `one_hot`.
    """
    alike: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    for t, listed in enumerate(choices):
        alike[listed].append(t)
    codes = [np.zeros((len(rows), 0))]
    for listed, members in alike.items():
        if len(members) > 1:
            taken = np.where(is_open[:, members], rows[:, members], -1)
            codes.append((taken[:, :, None] == np.arange(len(listed))).sum(axis=1))
    return np.concatenate(codes, axis=1).astype(np.float64)


def thermometer(choices: Choices, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the thermometer encoding, (n, K), of decisions whose three or more choices are ordered numbers.

    The squared distance of two codes is the number of steps between the choices. Arguments are those of `one_hot`.
    """
    codes = [rows[:, t, None] > np.arange(len(listed) - 1) for t, listed in enumerate(choices) if _are_in_order(listed)]
    return np.concatenate([np.zeros((len(rows), 0)), *codes], axis=1)


@cache
def _are_in_order(listed: tuple[Hashable, ...]) -> bool:
    """Return whether the choices are three or more numbers that grow, or that shrink."""
    numbers = [c for c in listed if isinstance(c, int | float) and not isinstance(c, bool)]
    steps = np.diff(np.array(numbers, dtype=np.float64))
    return len(listed) == len(numbers) >= _FEWEST_IN_ORDER and bool((steps > 0).all() or (steps < 0).all())
