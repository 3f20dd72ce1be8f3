"""Chooses which choices of a space to keep after a run, so that a part as small as asked for holds the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import number
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.inspection.score_model import Candidates, ScoreModel
from nasenv.spaces.space import SearchSpace

_RARE = 1e-4  # with which a choice that no architecture drawn has is still drawn
_DIGITS = 9  # of a share; sums of weights are rounded
_SAMPLE = 20_000  # architectures from which the share of a large space with constraints is estimated

RULE = (
    "functions are drawn from a Gaussian process on the evaluations; one after the other, the choice is left out that "
    "costs the least of the expected best score for what it takes from the logarithm of the size, until the part is as "
    "small as asked for; what then still fits is taken back"
)


def narrowed_by(evaluations: RunEvaluations, share: float) -> tuple[dict[str, list[Hashable]], dict[str, Any]]:
    """Return the choices to keep, by decision, and how they came about, as JSON values.

    Args:
        evaluations: those of a run.
        share: of the space, the largest part that is kept.

    Raises:
        InputError: a share outside (0, 1]; too few evaluations.
    """
    return narrowed(ScoreModel(evaluations), share)


def narrowed(model: ScoreModel, share: float) -> tuple[dict[str, list[Hashable]], dict[str, Any]]:
    """Return what `narrowed_by` returns, from the model of a run."""
    number("share", share, lambda s: 0.0 < s <= 1.0, "a number above 0, up to 1")
    evaluations, space = model.evaluations, model.space
    kept = _Part(space, model.candidates)
    left_out = []
    while kept.share > share and (choice := kept.cheapest()) is not None:
        kept.leave_out(*choice)
        left_out.append(choice)
    for choice in reversed(left_out):
        kept.take_back(*choice, most=share)
    keep = {
        decision.name: [decision.choices[c] for c in np.flatnonzero(row)]
        for decision, row in zip(space.decisions, kept.choices, strict=True)
        if row.sum() < len(decision.choices)
    }
    evidence = {
        "rule": RULE,
        "run": evaluations.run,
        "evaluations": len(evaluations.architectures),
        "rank_correlation": round(model.rank_correlation, 3),
        "share_asked_for": share,
        "share": float(f"{kept.share:.4g}"),
        "probability_of_the_best": round(kept.probability, 3),
    }
    return keep, evidence


class _Part:
    """A part of a space from which choices are left out.

    Attributes:
        choices: which are kept, (T, C).
    """

    def __init__(self, space: SearchSpace, candidates: Candidates) -> None:
        self._space, self._candidates = space, candidates
        self._is_open = space.masks(candidates.rows).sum(axis=2) > 1  # (n, T)
        self._inside = np.ones(len(candidates.rows), dtype=np.bool_)
        self._expected = float(candidates.best(self._inside).mean())
        self._measure = _Size(space, candidates.every)
        self.choices: NDArray[np.bool_] = self._measure.valid | space.masks(candidates.rows).any(axis=0)

    @property
    def share(self) -> float:
        """Return the share of the space's architectures that are in it."""
        return self._measure.share(self.choices)

    @property
    def probability(self) -> float:
        """Return in which share of the functions it holds a best one."""
        best = self._candidates.scores.max(axis=1)
        return float((self._candidates.best(self._inside) >= best).mean())

    def cheapest(self) -> tuple[int, int] | None:
        """Return (decision, choice) that is best left out next; None if nothing can be."""
        return min(self._prices(), default=(0.0, None))[1]

    def leave_out(self, t: int, choice: int) -> None:
        """Leave out a choice of decision t."""
        self._inside = self._without(t, choice)
        self.choices[t, choice] = False
        self._expected = float(self._candidates.best(self._inside).mean())

    def take_back(self, t: int, choice: int, most: float) -> None:
        """Keep a choice after all if the share stays at ``most`` or below."""
        more = self.choices.copy()
        more[t, choice] = True
        if self._measure.share(more) <= most:
            self.choices = more
            kept = more[np.arange(len(more)), self._candidates.rows]
            self._inside = (kept | ~self._is_open).all(axis=1)
            self._expected = float(self._candidates.best(self._inside).mean())

    def _prices(self) -> Iterator[tuple[float, tuple[int, int]]]:
        """Yield the price of each choice that can be left out: loss in expected best score by that in log size."""
        log_saved = self._measure.log_saved(self.choices)
        for t, row in enumerate(self.choices):
            for choice in np.flatnonzero(row).tolist() if row.sum() > 1 else ():
                inside = self._without(t, choice)
                saved = log_saved(t, choice)
                if inside.any() and saved > 0.0:
                    yield (self._expected - float(self._candidates.best(inside).mean())) / saved, (t, choice)

    def _without(self, t: int, choice: int) -> NDArray[np.bool_]:
        """Return which candidates are left without a choice; where it is the only valid one it stays."""
        left: NDArray[np.bool_] = self._inside & ((self._candidates.rows[:, t] != choice) | ~self._is_open[:, t])
        return left


class _Size:
    """Measures the share of a space that is kept: exactly, or from a sample if it is large and has constraints.

    Attributes:
        valid: which choices are valid somewhere, (T, C).
    """

    def __init__(self, space: SearchSpace, every: NDArray[np.int64] | None) -> None:
        self._space = space
        self.valid: NDArray[np.bool_] = np.arange(space.max_choices) < space.num_choices[:, None]
        if space.is_product:
            return
        weights: NDArray[np.float64]
        if every is None:
            every, weights = weighted_sample(space, _SAMPLE, np.random.default_rng(0))
        else:
            weights = np.full(len(every), 1 / len(every))
        self._rows, self._weights, self._masks = every, weights, space.masks(every)
        self.valid = np.asarray(self._masks.any(axis=0))

    def share(self, kept: NDArray[np.bool_]) -> float:
        """Return the share of the architectures that consist of kept choices; where none of them is valid, of any."""
        if self._space.is_product:
            return float((kept.sum(axis=1) / self._space.num_choices).prod())
        return round(float(self._weights[self._inside(kept)].sum()), _DIGITS)

    def log_saved(self, kept: NDArray[np.bool_]) -> Callable[[int, int], float]:
        """Return a function of (decision, choice): by how much leaving that out lowers the logarithm of the share.

        With constraints it is nearly that: prefixes whose last kept choice it would be are taken to keep all as before.
        """
        if self._space.is_product:
            counts = kept.sum(axis=1)
            return lambda t, choice: math.log(counts[t] / (counts[t] - 1))
        rows, weights = (part[self._inside(kept)] for part in (self._rows, self._weights))
        has_other = ((self._masks[self._inside(kept)] & kept).sum(axis=2) > 1).T  # (T, n)
        total = float(weights.sum())

        def saved(t: int, choice: int) -> float:
            left = total - float(weights[(rows[:, t] == choice) & has_other[t]].sum())
            return math.log(total / left) if left > 0.0 else 0.0

        return saved

    def _inside(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        left_out = ~kept[np.arange(len(kept)), self._rows]  # (n, T)
        replaced = (self._masks & kept).any(axis=2)
        inside: NDArray[np.bool_] = ~np.asarray((left_out & replaced).any(axis=1))
        return inside


def weighted_sample(
    space: SearchSpace, n: int, rng: np.random.Generator, rounds: int = 4
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return n architectures, (n, T), and their weights, (n,), with which they stand for all architectures alike.

    An architecture's weight is one by the probability with which it was drawn (Knuth 1975,
    https://doi.org/10.2307/2005469). Each round draws choices as often as the weights of the round before say that they
    are in the space, so that the weights become nearly equal (the cross-entropy method).
    """
    shares = np.ones((space.num_decisions, space.max_choices))
    for _ in range(rounds):
        rows, logs = np.zeros((n, space.num_decisions), dtype=np.int64), np.zeros(n)
        for t in range(space.num_decisions):
            odds = space.mask(rows[:, :t]) * shares[t]
            odds /= odds.sum(axis=1, keepdims=True)
            rows[:, t] = (odds.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
            logs -= np.log(odds[np.arange(n), rows[:, t]])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        taken = rows[:, :, None] == np.arange(space.max_choices)
        shares = np.einsum("n,ntc->tc", weights, taken) + _RARE
    return rows, weights
