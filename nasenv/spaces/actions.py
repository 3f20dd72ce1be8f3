"""What actions mean under a mask: an invalid one stands for a valid one."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_BITS = 8  # of a byte


def redirected(mask: NDArray[np.bool_], actions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the actions (n,), those that the mask (n, C) forbids replaced by the (a mod k)-th of the k valid ones."""
    actions = np.asarray(actions, dtype=np.int64)
    n, c = mask.shape
    if c <= _BITS and not (actions & -_BITS).any():  # all of 0, ..., 7
        return _meanings()[np.packbits(mask, axis=1, bitorder="little")[:, 0], actions]
    inside = (actions >= 0) & (actions < c)
    wrong = np.flatnonzero(~(inside & mask[np.arange(n), np.where(inside, actions, 0)]))
    meant = actions.copy()
    meant[wrong] = _nth_valid(mask[wrong], actions[wrong])
    return meant


def _nth_valid(mask: NDArray[np.bool_], actions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the (a mod k)-th of the k choices that are valid in each row of a mask, (n, C)."""
    order = np.argsort(~mask, axis=1, kind="stable")  # valid choices first, in order
    nth: NDArray[np.int64] = order[np.arange(len(mask)), actions % mask.sum(axis=1)]
    return nth


@cache
def _meanings() -> NDArray[np.int64]:
    """Return the choices that actions 0 to 7 stand for under each mask of up to eight choices, (256, 8)."""
    codes, actions = np.divmod(np.arange(_BITS, _BITS << _BITS), _BITS)  # all masks but the one that forbids everything
    masks = codes[:, None] >> np.arange(_BITS) & 1 == 1
    meant = np.where(masks[np.arange(len(codes)), actions], actions, _nth_valid(masks, actions))
    return np.concatenate([np.arange(_BITS), meant]).reshape(-1, _BITS)
