"""Scores architectures by a formula with a known optimum, without training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import digest, integer, weight
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.landscape import Landscape, RandomIntegers
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.trial import Architecture, Measurement, Trial

_VERSION = 1  # counted up when the same arguments come to give another score
_UNIFORMS = 12  # whose sum less 6 has mean 0 and standard deviation 1, nearly as a normal one: no exp, no log
_MILLISECONDS = 1000


class SyntheticEvaluator(Evaluator):
    """Scores architectures by a landscape of neighbouring decisions, see `nasenv.evaluators.landscape`.

    The accuracy of architecture x of a space of N classes is 1 - (1 - 1 / N) (high - F(x)) / (high - low), where low
    and high are the lowest and highest F of all architectures: the best architecture has exactly 1, the worst guesses.
    Random architectures of `SyntheticSpace` have 0.6 on average. Decisions whose choices are positive numbers in
    ascending order count as sizes. A training is charged a second, and for each decision of sizes the share of the
    chosen in the largest: 2.9 to 16 seconds by default.

    Each seed is another landscape: compare agents on several. What confirms and tests gets the accuracy without noise.

    Args:
        space: a space in which every choice is always valid, such as `SyntheticSpace`.
        seed: seed of the landscape.
        order: how many neighbouring decisions interact: 1 none, 2 pairs, 3 triples.
        noise: standard deviation of the noise on the accuracy that a search sees, cut off at 0 and 1; the same for a
            architecture whenever it is measured.

    Raises:
        InputError: a space with constraints; a negative seed; an order or noise that is not a number of 1 or more, of 0
            or more; an order for which the terms are too large.

    Example:
        >>> from nasenv.spaces.synthetic import SyntheticSpace
        >>> from nasenv.trial import Trial
        >>> space = SyntheticSpace()
        >>> evaluator = SyntheticEvaluator(space)
        >>> [m.score for m in evaluator.measure([Trial(evaluator.best)])]
        [1.0]
    """

    trains = False

    def __init__(self, space: SearchSpace, seed: int = 0, order: int = 3, noise: float = 0.0) -> None:
        super().__init__(space)
        space = space.whole
        if not space.is_product:
            raise InputError(
                f"SyntheticEvaluator scores spaces in which every choice is always valid, and {type(space).__name__} "
                "has constraints; give --space SyntheticSpace"
            )
        self.noise, self.seed, order = weight("noise", noise), integer("seed", seed, least=0), integer("order", order)
        ordered = [_is_sizes(decision) for decision in space.decisions]
        self._landscape = Landscape(space.num_choices.tolist(), ordered, order, self.seed)
        shares = zip(space.decisions, ordered, strict=True)
        self._milliseconds = [_milliseconds(d) if is_sizes else [0] * len(d.choices) for d, is_sizes in shares]
        self._key = [_VERSION, self.seed, order, self.noise]

    @property
    def best(self) -> Architecture:
        """Return the best architecture, whose accuracy is 1."""
        return self._landscape.best

    def fingerprint(self) -> str:
        """Return a short hash of the landscape's arguments and a subclass's source."""
        return digest([*self._key, self.source_digest()])

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the score of each trial; search trials have noise and charged seconds, final ones have neither.

        Raises:
            InputError: an architecture of another space.
        """
        architectures = self.space.check_all([trial.architecture for trial in trials])
        searched = [trial.purpose in ("search", "check") for trial in trials]
        scores = self._scores(architectures)
        if self.noise:
            noise = [self._noise(a) if s else 0.0 for a, s in zip(architectures, searched, strict=True)]
            scores = np.clip(scores + noise, 0.0, 1.0)
        each = zip(architectures, scores.tolist(), searched, strict=True)
        return [Measurement(score, train_seconds=self._train_seconds(a) if s else 0.0) for a, score, s in each]

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture itself, since equivalent architectures differ in score."""
        return architecture

    def best_score(self) -> float | None:
        """Return 1, the best architecture's score; None if there is noise, since the highest noisy score is unknown."""
        return None if self.noise else 1.0

    def _scores(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the accuracies without noise, (n,), in [1 / classes, 1]."""
        landscape, guessed = self._landscape, 1.0 / self.space.task.outputs
        below = (landscape.high - landscape.sums(architectures)) / max(1, landscape.high - landscape.low)
        return np.asarray(1.0 - (1.0 - guessed) * below)

    def _noise(self, architecture: Architecture) -> float:
        total = int(RandomIntegers([self.seed, *architecture])(_UNIFORMS).sum())
        return self.noise * (total / RandomIntegers.unit - _UNIFORMS / 2)

    def _train_seconds(self, architecture: Architecture) -> float:
        chosen = sum(costs[c] for costs, c in zip(self._milliseconds, architecture, strict=True))
        return (_MILLISECONDS + chosen) / _MILLISECONDS


def _is_sizes(decision: Decision) -> bool:
    """Return whether the choices are two or more positive numbers in ascending order."""
    choices = decision.choices
    if len(choices) < 2 or not all(type(c) in (int, float) for c in choices):
        return False
    sizes = [float(str(c)) for c in choices]
    return sizes[0] > 0 and sizes == sorted(sizes) and sizes[-1] < math.inf


def _milliseconds(decision: Decision) -> list[int]:
    sizes = [float(str(c)) for c in decision.choices]
    return [round(_MILLISECONDS * size / sizes[-1]) for size in sizes]
