"""Says which decisions and choices matter, from the evaluations of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.inspection.score_model import ScoreModel
from nasenv.spaces.space import SearchSpace

_SAMPLES, _SIZE, _DRAWS = 4, 750, 50  # samples, architectures of each, functions of each
_LEVEL = 0.95  # of the intervals
_MOST_PAIRED = 40  # decisions whose pairs are looked at
_RARELY = 0.05  # share of the functions in which a best architecture can have a choice, below which it is dominated

Labels = NDArray[np.int64]  # (n,), the group of each of n architectures


@dataclass(frozen=True)
class Estimate:
    """Holds a number with the bounds of its 95 % credible interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: NDArray[np.float64]) -> Estimate:
        """Return the median of draws, and the interval that holds 95 % of them."""
        low, middle, high = np.quantile(draws, [0.5 - _LEVEL / 2, 0.5, 0.5 + _LEVEL / 2])
        return cls(float(middle), float(low), float(high))


@dataclass(frozen=True)
class ChoiceWorth:
    """Holds what a choice is worth.

    Args:
        choice: the choice, as text.
        evaluations: how many evaluated architectures have it.
        worth: mean reward of architectures with it, minus that of all; None if none was drawn that has it.
        in_best: probability that a best architecture can have it.
    """

    choice: str
    evaluations: int
    worth: Estimate | None
    in_best: float

    @property
    def is_dominated(self) -> bool:
        """Return whether the best architecture hardly ever has it."""
        return self.in_best < _RARELY


@dataclass(frozen=True)
class DecisionImportance:
    """Holds how much a decision matters.

    Args:
        name: of the decision.
        share: of the variance of the scores over architectures drawn at random, what it explains by itself.
        choices: what each of its choices is worth.
    """

    name: str
    share: Estimate
    choices: Sequence[ChoiceWorth]


@dataclass(frozen=True)
class Importance:
    """Holds which decisions and choices of a space matter, as far as the evaluations of a run tell.

    Args:
        evaluations: number of distinct architectures evaluated.
        failed: how many of them failed.
        rank_correlation: of the scores with what is predicted for each from the others.
        decisions: importance of each decision that is ever open, in their order.
        pairs: (name, name) -> share of the variance that two decisions explain together beyond each by itself.
    """

    evaluations: int
    failed: int
    rank_correlation: float
    decisions: Sequence[DecisionImportance]
    pairs: Mapping[tuple[str, str], Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return the importance as JSON values."""
        pairs = [{"decisions": names, "share": asdict(share)} for names, share in self.pairs.items()]
        return asdict(self) | {"pairs": pairs}


def importance(model: ScoreModel) -> Importance:
    """Return the importance of decisions, pairs and choices by functional analysis of variance.

    Of functions drawn from a Gaussian process on the evaluations, the variance over architectures drawn at random is
    decomposed (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html, who use forests); the intervals say
    how much these functions and samples differ. Scores are normal scores of ranks. Where a space has constraints,
    choices go together, and the shares of two decisions can hold the same variance.
    """
    space, evaluations = model.space, model.evaluations
    samples = [_Sample.of(model) for _ in range(_SAMPLES)]
    decided = range(space.num_decisions)
    mains = [np.concatenate([explained(sample.scores, sample.labels[t]) for sample in samples]) for t in decided]
    distinct = dict(zip(evaluations.architectures, evaluations.failed.tolist(), strict=True))
    seen = np.array(list(distinct), dtype=np.int64)
    decisions = [
        DecisionImportance(space.decisions[t].name, Estimate.of(mains[t]), _choices(model, t, seen, samples))
        for t in decided
        if any((sample.labels[t] >= 0).any() for sample in samples)
    ]
    failed = sum(distinct.values())
    return Importance(len(distinct), failed, model.rank_correlation, decisions, _pairs(space, samples, mains))


@dataclass(frozen=True)
class _Sample:
    """Holds n architectures drawn at random.

    Args:
        labels: for each decision, the choices taken, (n,); -1 where it had one valid choice.
        valid: which choices are valid somewhere, (T, C).
        scores: in each of s functions, (s, n).
        rewards: the scores as rewards, (s, n).
    """

    labels: Sequence[Labels]
    valid: NDArray[np.bool_]
    scores: NDArray[np.float64]
    rewards: NDArray[np.float64]

    @classmethod
    def of(cls, model: ScoreModel) -> _Sample:
        """Return a sample, and functions drawn from a model."""
        rows, scores = model.random(_SIZE, _DRAWS)
        masks = model.space.masks(rows)
        labels = np.where(masks.sum(axis=2) > 1, rows, -1)
        return cls(list(labels.T), np.asarray(masks.any(axis=0)), scores, model.in_rewards(scores))

    def worth(self, t: int, choice: int) -> NDArray[np.float64]:
        """Return the mean reward with a choice of decision t, minus that where it is open, (s,); none if not drawn."""
        with_it, is_open = self.labels[t] == choice, self.labels[t] >= 0
        if not with_it.any():
            return np.zeros(0)
        worth: NDArray[np.float64] = self.rewards[:, with_it].mean(axis=1) - self.rewards[:, is_open].mean(axis=1)
        return worth


def explained(scores: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """Return which share of the variance of n scores groups explain, for each of s functions: (s, n), (n,) -> (s,).

    It is the variance of the groups' means, without what these have by chance (Hays's omega squared); 0 at least.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(3, size=1000)
    >>> explained(np.stack([labels + 0.0, rng.random(1000)]), labels).round(2)
    array([1., 0.])
    """
    _, group = np.unique(labels, return_inverse=True)
    members = np.zeros((len(labels), int(group.max()) + 1))
    members[np.arange(len(labels)), group] = 1.0
    sizes = members.sum(axis=0)
    centred = scores - scores.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    between = ((centred @ members) ** 2 / sizes).sum(axis=1)
    degrees = len(sizes) - 1
    within = np.maximum(total - between, 0.0) / max(1, len(labels) - len(sizes))
    share: NDArray[np.float64] = np.clip((between - degrees * within) / (total + within + 1e-300), 0.0, 1.0)
    return share


def _choices(model: ScoreModel, t: int, seen: NDArray[np.int64], samples: Sequence[_Sample]) -> list[ChoiceWorth]:
    found, is_open = [], model.space.masks(seen)[:, t].sum(axis=1) > 1
    for choice, what in enumerate(model.space.decisions[t].choices):
        if not any(sample.valid[t, choice] for sample in samples):
            continue
        draws = np.concatenate([sample.worth(t, choice) for sample in samples])
        worth = Estimate.of(draws) if len(draws) else None
        evaluated = int(((seen[:, t] == choice) & is_open).sum())
        found.append(ChoiceWorth(str(what), evaluated, worth, model.candidates.share_with(t, choice)))
    return found


def _pairs(
    space: SearchSpace, samples: Sequence[_Sample], mains: Sequence[NDArray[np.float64]]
) -> dict[tuple[str, str], Estimate]:
    """Return what pairs of the decisions that matter most explain beyond each by itself, the largest first."""
    order = np.argsort([-main.mean() for main in mains], kind="stable")[:_MOST_PAIRED]
    pairs = {}
    for t, u in combinations(sorted(order.tolist()), 2):
        both = [sample.labels[t] * (space.max_choices + 1) + sample.labels[u] for sample in samples]
        together = [explained(sample.scores, labels) for sample, labels in zip(samples, both, strict=True)]
        share = np.maximum(np.concatenate(together) - mains[t] - mains[u], 0.0)
        pairs[space.decisions[t].name, space.decisions[u].name] = Estimate.of(share)
    return dict(sorted(pairs.items(), key=lambda item: -item[1].value))
