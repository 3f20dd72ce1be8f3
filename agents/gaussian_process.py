"""Bayesian optimization: a Gaussian process says which design is worth evaluating next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nasenv.agents.agent import Agent, positive, weight
from nasenv.agents.candidates import EveryDesign, NearTheBest
from nasenv.errors import InputError
from nasenv.spaces.space import SearchSpace, is_positive_integer
from nasenv.surrogates.gaussian_process import Surrogate
from nasenv.trial import Architecture, Outcome


class GaussianProcess(Agent):
    """Bayesian optimization with a Gaussian process over the features of designs (Snoek et al. 2012, arXiv:1206.2944).

    The process predicts the rank of every design from those evaluated (`Surrogate`): designs are alike that take like
    decisions, use options as often, or have like paths (`SearchSpace.feature_parts`). The design with the highest upper
    confidence bound (Srinivas et al. 2010, https://arxiv.org/abs/0912.3995) is evaluated next, and none twice.

    In spaces of up to 65,536 designs all are looked at; in larger ones mutants of the best seen and random designs. A
    design asked for counts as worth what is predicted of it until it is told, so that those of a batch, or in flight,
    keep apart. The prediction rests on up to 1,000 observations: those of a longer search are the best and the latest,
    so that a proposal never takes longer.

    Args:
        startup_designs: number of random designs, or designs to start from, before the process is used.
        beta: how many standard deviations the bound lies above what is expected. More is more exploration.
        noise: variance of a design's measured rank about its true one, both as normal scores: 1 over all designs.
        parts: names of the features that are used, all by default.
        candidates: number of designs looked at for one proposal in a larger space.
        batch_size: number of designs at a time; they are evaluated side by side.
        asynchronous: see `Agent`.

    Raises:
        InputError: a number that is not positive, a negative beta; when a search starts, a part that its space lacks.
    """

    def __init__(
        self,
        startup_designs: int = 10,
        beta: float = 2.0,
        noise: float = 0.05,
        parts: Sequence[str] | None = None,
        candidates: int = 500,
        batch_size: int = 1,
        asynchronous: bool = False,
    ) -> None:
        super().__init__(batch_size, asynchronous)
        for name, value in {"startup_designs": startup_designs, "candidates": candidates}.items():
            if not is_positive_integer(value):
                raise InputError(f"GaussianProcess: {name} must be an integer of 1 or more, got {value!r}")
        self.startup_designs, self.candidates, self.parts = int(startup_designs), int(candidates), parts
        self.beta = weight("GaussianProcess: beta", beta)
        self.noise = positive("GaussianProcess: noise", noise)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Know nothing."""
        self._space, self._rng = space, rng
        self._candidates = EveryDesign(space) if EveryDesign.suits(space) else NearTheBest(space, self.candidates)
        self._surrogate = Surrogate(space, self._candidates.networks, self.noise, parts=self.parts)
        self._asked: set[Architecture] = set()

    def ask(self, n: int) -> list[Architecture]:
        """Return n designs that were not asked for before, fewer where there are no more; any where there are none."""
        designs: list[Architecture] = []
        while len(designs) < n and (design := self._next()) is not None:
            self._drop([design])
            self._surrogate.believe([design])
            designs.append(design)
        return designs or self._space.sample(1, self._rng)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Take in what the designs are worth."""
        new = [outcome for outcome in outcomes if not outcome.repeat]
        if new:
            designs = [outcome.architecture for outcome in new]
            self._drop(designs)
            self._surrogate.observe(designs, [outcome.reward for outcome in new])

    def _next(self) -> Architecture | None:
        """Return the design to be evaluated next."""
        if len(self._asked) < self.startup_designs:
            return self._candidates.random(self._rng)
        return self._candidates.best(self._surrogate, self.beta, self._rng)

    def _drop(self, designs: Sequence[Architecture]) -> None:
        """Never ask for these again."""
        self._asked.update(designs)
        self._candidates.drop(designs)
