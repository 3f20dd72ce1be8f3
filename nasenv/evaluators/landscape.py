"""Computes a score for every architecture of a product space, with interactions and a known optimum.

The score of an architecture x of T decisions is a sum of T terms, each of ``order`` neighbouring decisions:

    F(x) = sum over t of  main_t(x_t) + joint_t(x_{t - order + 1}, ..., x_t)

This is an NK landscape with neighbours next to each other (Kauffman & Levin 1987,
https://doi.org/10.1016/S0022-5193(87)80029-2), whose optimum dynamic programming finds in O(T C^order) steps for C
choices a decision, while with neighbours anywhere it would be NP-hard (Wright, Thompson & Zhang 2000,
https://doi.org/10.1109/4235.887236). What is added to it is that some decisions are of ordered sizes, such as widths:
there main_t rises with diminishing return up to a size that is drawn, and falls beyond it, and joint_t is linear in the
size's place, so F is concave in it.

Everything is in whole numbers: the draws are the leading bits of PCG64's, which NumPy keeps the same for ever
(https://numpy.org/neps/nep-0019-rng-policy.html), and sums are exact, so a landscape is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.trial import Architecture

_BITS = 20
_MOST_ENTRIES = 10**6  # of a term

_Integers = NDArray[np.int64]


class Landscape:
    """Holds the terms of one landscape, and its highest and lowest sums.

    Args:
        num_choices: (T,), number of choices of each decision.
        ordered: (T,), whether a decision's choices are sizes in ascending order.
        order: how many neighbouring decisions a term reads, one or more; with one there is no interaction.
        seed: seed of the random integers.

    Attributes:
        best: the architecture of the highest sum.
        low, high: the lowest and the highest sum of an architecture.

    Raises:
        InputError: a term would have more than a million entries.
    """

    def __init__(self, num_choices: Sequence[int], ordered: Sequence[bool], order: int, seed: int) -> None:
        draws = RandomIntegers(seed)
        terms = []
        for t in range(len(num_choices)):
            reads = slice(max(0, t - order + 1), t + 1)
            main = _main(num_choices[t], ordered[t], draws)
            terms.append(main + _joint(num_choices[reads], ordered[reads], draws))
        self.best, self.high = _highest(terms, order)
        self.low = -_highest([-term for term in terms], order)[1]
        self._strides, self._starts = _places(terms)
        self._entries = np.concatenate([term.ravel() for term in terms])

    def sums(self, architectures: Sequence[Architecture]) -> _Integers:
        """Return the sums F, (n,), of n architectures."""
        rows = np.array(architectures, dtype=np.int64).reshape(len(architectures), len(self._starts))
        return np.asarray(self._entries[rows @ self._strides + self._starts].sum(axis=1))


class RandomIntegers:
    """Draws integers from 0 to 2^20 - 1 uniformly, the same on every machine.

    Args:
        seed: a whole number of 0 or more, or several.
    """

    unit = 1 << _BITS

    def __init__(self, seed: int | Sequence[int]) -> None:
        self._generator = np.random.PCG64(seed)

    def __call__(self, *shape: int) -> _Integers:
        """Return the next integers, as an array of this shape."""
        raw = self._generator.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(64 - _BITS)).astype(np.int64).reshape(shape)


def _main(choices: int, ordered: bool, draws: RandomIntegers) -> _Integers:
    """Return main_t, (C,): random for each choice, or for sizes a parabola with a random peak."""
    if not ordered:
        return draws(choices)
    places = RandomIntegers.unit * np.arange(choices) // (choices - 1)  # from the smallest size to the largest
    return 2 * (RandomIntegers.unit - ((places - draws(1)) ** 2 >> _BITS))


def _joint(choices: Sequence[int], ordered: Sequence[bool], draws: RandomIntegers) -> _Integers:
    """Return joint_t, one axis a decision: random at all corners, and linear along sizes."""
    if np.prod(choices, dtype=np.float64) > _MOST_ENTRIES:
        raise InputError(
            f"order {len(choices)}: a term of decisions with {', '.join(map(str, choices))} choices would have more "
            f"than {_MOST_ENTRIES:,} entries; give a lower order"
        )
    joint = draws(*(2 if is_size else k for k, is_size in zip(choices, ordered, strict=True)))
    for axis, (k, is_size) in enumerate(zip(choices, ordered, strict=True)):
        if is_size:
            ends = np.moveaxis(joint, axis, -1)
            place = np.arange(k)
            between = (ends[..., :1] * (k - 1 - place) + ends[..., 1:] * place) // (k - 1)
            joint = np.moveaxis(between, -1, axis)
    return joint


def _highest(terms: Sequence[_Integers], order: int) -> tuple[Architecture, int]:
    """Return the architecture of the highest sum, and the sum, by dynamic programming over the decisions."""
    value = terms[0]  # the highest sum so far, by the last decisions that terms to come read
    answers = []  # to each decision that no term to come reads: its best choice, by those after it
    for t, term in enumerate(terms[1:], 1):
        if t >= order:
            answers.append(value.argmax(axis=0))
            value = value.max(axis=0)
        value = value[..., None] + term
    architecture = tuple(map(int, np.unravel_index(int(value.argmax()), value.shape)))
    for answer in reversed(answers):
        architecture = (int(answer[architecture[: order - 1]]), *architecture)
    return architecture, int(value.max())


def _places(terms: Sequence[_Integers]) -> tuple[_Integers, _Integers]:
    """Return strides (T, T) and starts (T,): term t of architecture x is entry ``x @ strides[:, t] + starts[t]``."""
    strides = np.zeros((len(terms), len(terms)), dtype=np.int64)
    for t, term in enumerate(terms):
        for axis in range(term.ndim):
            strides[t - term.ndim + 1 + axis, t] = np.prod(term.shape[axis + 1 :], dtype=np.int64)
    return strides, np.cumsum([0, *(term.size for term in terms[:-1])])
