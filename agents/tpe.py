"""The tree-structured Parzen estimator of Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from nasenv.agents.agent import Agent
from nasenv.agents.novelty import unseen
from nasenv.configuration import flag, integer
from nasenv.errors import InputError
from nasenv.search.layer import SearchLike
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Outcome


class TPE(Agent):
    """Runs Optuna's tree-structured Parzen estimator (Bergstra et al. 2011, https://papers.nips.cc/paper/4443).

    Needs Optuna: ``pip install optuna``. A decision is a categorical parameter of the choices that
    are valid: where masks leave it others, it is another parameter, so the tree is that of the masks. The
    estimator soon suggests the same few architectures over and over: one that was asked for before gives way to a
    random neighbour that was not. Architectures that the search was given to start from are trials like others.
    Architectures that are asked for and not answered yet count among those that are not good (Optuna's
    ``constant_liar``), so that those of a batch, or those in flight, keep apart.

    Args:
        startup_trials: number of random architectures, or architectures to start from, before the estimator is used.
        candidates: number of choices drawn from the good architectures' density, of which the one that is likeliest
            there and not among the others is taken.
        multivariate: whether the choices of an architecture are drawn together, from a joint density.
        batch_size: number of architectures at a time; they are evaluated side by side.
        asynchronous: see `Agent`.

    Raises:
        InputError: a number that is not positive; Optuna is not installed.
    """

    def __init__(
        self,
        startup_trials: int = 10,
        candidates: int = 24,
        multivariate: bool = False,
        batch_size: int = 1,
        asynchronous: bool = False,
    ) -> None:
        super().__init__(batch_size, asynchronous)
        self.startup_trials = integer("TPE: startup_trials", startup_trials)
        self.candidates = integer("TPE: candidates", candidates)
        self.multivariate = flag("TPE: multivariate", multivariate)

    def run(self, search: SearchLike) -> None:
        """Search without Optuna's log messages."""
        try:
            from optuna import logging
        except ImportError as error:
            raise InputError(f"TPE needs Optuna ({error}): pip install optuna") from error
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            super().run(search)
        finally:
            logging.set_verbosity(verbosity)

    def begin(self, space: SearchSpace, rng: np.random.Generator) -> None:
        """Start a study in memory."""
        import optuna

        with warnings.catch_warnings():  # before Optuna 5, multivariate and constant_liar are experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.startup_trials,
                n_ei_candidates=self.candidates,
                multivariate=self.multivariate,
                constant_liar=True,
                seed=int(rng.integers(2**32)),
            )
        self._space, self._rng = space, rng
        self._study = optuna.create_study(sampler=sampler, direction="maximize")
        self._numbers: dict[Architecture, int] = {}  # of the trials of the architectures that were asked for, or told

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures, new ones as far as possible; their Optuna trials are running."""
        architectures: list[Architecture] = []
        for _ in range(n):
            architecture = self._suggested()
            if architecture in self._numbers:
                architecture = unseen(self._space.neighbours, architecture, self._numbers, self._rng)
            architectures.append(architecture)
            self._trial(architectures[-1])
        return architectures

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Complete the Optuna trial of each new architecture."""
        for outcome in outcomes:
            if not outcome.repeat:
                self._study.tell(self._trial(outcome.architecture), outcome.reward)

    def _suggested(self) -> Architecture:
        """Return the sampler's architecture; its Optuna trial is failed, since another may be evaluated instead."""
        from optuna.trial import TrialState

        trial = self._study.ask()
        row: Architecture = ()
        while len(row) < self._space.num_decisions:
            name, valid = self._parameter(row)
            row += (valid[0] if len(valid) == 1 else trial.suggest_categorical(name, valid),)
        self._study.tell(trial, state=TrialState.FAIL)
        return row

    def _trial(self, architecture: Architecture) -> int:
        """Return the number of an architecture's Optuna trial; a new architecture's is started."""
        from optuna.distributions import CategoricalDistribution
        from optuna.trial import TrialState, create_trial

        if architecture not in self._numbers:
            taken = [(*self._parameter(architecture[:t]), choice) for t, choice in enumerate(architecture)]
            trial = create_trial(
                state=TrialState.RUNNING,
                params={name: choice for name, valid, choice in taken if len(valid) > 1},
                distributions={name: CategoricalDistribution(valid) for name, valid, _ in taken if len(valid) > 1},
            )
            self._study.add_trial(trial)
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            self._numbers[architecture] = running[-1].number
        return self._numbers[architecture]

    def _parameter(self, prefix: Architecture) -> tuple[str, tuple[int, ...]]:
        """Return the name and the values of the Optuna parameter for the next decision."""
        valid = tuple(np.flatnonzero(self._space.mask(np.array([prefix], dtype=np.int64))[0]).tolist())
        return f"{self._space.decisions[len(prefix)].name} of {valid}", valid
