"""Chooses which choices of a space to keep after a run, so that a part as small as asked for holds the best."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import number
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.inspection.score_model import Candidates, ScoreModel
from nasenv.spaces.space import SearchSpace

_SAMPLE = 20_000  # architectures from which the share of a large space with constraints is estimated

RULE = (
    "functions are drawn from a Gaussian process on the evaluations; one after the other, the choice is left out that "
    "costs the least of the expected best score for what it takes from the logarithm of the size"
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
    while kept.share > share and (choice := kept.cheapest()) is not None:
        kept.leave_out(*choice)
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
        self.choices: NDArray[np.bool_] = np.arange(space.max_choices) < space.num_choices[:, None]
        self._is_open = space.masks(candidates.rows).sum(axis=2) > 1  # (n, T)
        self._inside = np.ones(len(candidates.rows), dtype=np.bool_)
        self._expected = float(candidates.best(self._inside).mean())
        self._measure = _Size(space, candidates.every)

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

    def _prices(self) -> Iterator[tuple[float, tuple[int, int]]]:
        """Yield the price of each choice that can be left out: loss in expected best score by that in log size."""
        for t, row in enumerate(self.choices):
            for choice in np.flatnonzero(row).tolist() if row.sum() > 1 else ():
                inside = self._without(t, choice)
                saved = self._measure.log_saved(self.choices, t, choice)
                if inside.any() and saved > 0.0:
                    yield (self._expected - float(self._candidates.best(inside).mean())) / saved, (t, choice)

    def _without(self, t: int, choice: int) -> NDArray[np.bool_]:
        """Return which candidates are left without a choice; where it is the only valid one it stays."""
        left: NDArray[np.bool_] = self._inside & ((self._candidates.rows[:, t] != choice) | ~self._is_open[:, t])
        return left


class _Size:
    """Measures the share of a space that is kept: exactly, or from a sample if it is large and has constraints."""

    def __init__(self, space: SearchSpace, every: NDArray[np.int64] | None) -> None:
        self._space = space
        if space.is_product:
            return
        if every is None:
            rng = np.random.default_rng(0)
            every = np.array(space.sample(_SAMPLE, rng), dtype=np.int64)
            self._masks = space.masks(every)
            logs = np.log(self._masks.sum(axis=2)).sum(
                axis=1
            )  # an architecture is drawn with a probability of 1 / e^log
            weights = np.exp(logs - logs.max())
        else:
            self._masks = space.masks(every)
            weights = np.ones(len(every))
        self._rows, self._weights = every, weights / weights.sum()

    def share(self, kept: NDArray[np.bool_]) -> float:
        """Return the share of the architectures that consist of kept choices; where none of them is valid, of any."""
        if self._space.is_product:
            return float((kept.sum(axis=1) / self._space.num_choices).prod())
        left_out = ~kept[np.arange(kept.shape[0]), self._rows]  # (n, T)
        replaced = (self._masks & kept).any(axis=2)
        return float(self._weights[~(left_out & replaced).any(axis=1)].sum())

    def log_saved(self, kept: NDArray[np.bool_], t: int, choice: int) -> float:
        """Return by how much leaving out a choice lowers the logarithm of the share."""
        if self._space.is_product:
            n = int(kept[t].sum())
            return math.log(n / (n - 1))
        fewer = kept.copy()
        fewer[t, choice] = False
        before, after = self.share(kept), self.share(fewer)
        return math.log(before / after) if after > 0.0 else 0.0
