"""Every two agents of a problem held against each other, seed by seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nasenv.comparison.findings import LEVEL, Estimate, Pair
from nasenv.comparison.statistics import holm, improvement, seeds_needed, signed_rank

_Floats = NDArray[np.float64]


def paired(ends: Mapping[str, Mapping[int, float]], seed: int) -> tuple[Pair, ...]:
    """Return the pairs of agents that have seeds in common, the lowest p-values first.

    Args:
        ends: agent -> seed -> the value by which agents are ranked.
        seed: the bootstrap's.
    """
    samples: list[tuple[str, _Floats, str, _Floats]] = []
    for one, other in itertools.combinations(ends, 2):
        seeds = [s for s in ends[one] if s in ends[other]]
        x, y = (np.array([ends[agent][s] for s in seeds]) for agent in (one, other))
        if seeds:
            samples.append((one, x, other, y) if (x - y).sum() >= 0 else (other, y, one, x))
    tests = [signed_rank(x - y) for _, x, _, y in samples]
    corrected = holm(np.array([p for _, p in tests]))
    gains = [float((x - y).mean()) for _, x, _, y in samples]
    agree = [share > 0.5 and gain > 0 for (share, _), gain in zip(tests, gains, strict=True)]
    separated = [both and bool(p < LEVEL) for both, p in zip(agree, corrected, strict=True)]
    alpha = LEVEL / max(1, len(tests) - sum(separated))
    pairs = [
        Pair(
            better=better,
            worse=worse,
            improvement=Estimate(*improvement(x, y, seed)),
            p_value=tests[i][1],
            p_holm=float(corrected[i]),
            separated=separated[i],
            seeds_needed=seeds_needed(x - y, alpha) if agree[i] and not separated[i] else None,
            seeds=len(x),
            equal=int((x == y).sum()),
            difference=gains[i],
        )
        for i, (better, x, worse, y) in enumerate(samples)
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.p_value))
