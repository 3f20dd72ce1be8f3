"""What a search is made of, in plain values: what a user can read and give again, and what a journal belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Objective
from nasenv.search.budget import Budget
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


class Configured(Protocol):
    """What a search tells of its agent."""

    def config(self) -> dict[str, Any]:
        """Return how the agent was made."""

    def identity(self) -> dict[str, Any]:
        """Return what of this changes its proposals."""


@dataclass(frozen=True)
class Setup:
    """The parts of a search, as `Search` takes them."""

    space: SearchSpace
    evaluator: Evaluator
    agent: Configured | None
    objective: Objective
    budget: Budget
    seed: int
    start: Sequence[Architecture]

    def config(self) -> dict[str, Any]:
        """Return the configuration in plain values; `without_derived`, it is what ``nasenv train --config`` reads."""
        agent = {"agent": self.agent.config()} if self.agent is not None else {}
        start = {"start_from": [self.space.to_text(design) for design in self.start]} if self.start else {}
        return {
            "space": self.space.config(),
            "evaluator": self.evaluator.config(),
            **agent,
            "objective": self.objective.config(),
            "budget": asdict(self.budget),
            "seed": self.seed,
            **start,
        }

    def identity(self) -> dict[str, Any]:
        """Return what a journal belongs to: the configuration, without what changes no outcome, and fingerprints."""
        dataset = self.evaluator.dataset
        data = {"data": dataset.fingerprint} if dataset is not None else {}
        agent = {"agent": self.agent.identity()} if self.agent is not None else {}
        return {
            **self.config(),
            "space": self.space.identity(),
            "evaluator": self.evaluator.identity(),
            **agent,
            "budget": self.budget.identity(),
            "fingerprint": {"space": self.space.fingerprint(), "evaluator": self.evaluator.fingerprint(), **data},
        }
