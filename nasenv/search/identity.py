"""The configuration of a search as JSON, and the identity that its journal must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nasenv.configuration import import_path
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Objective
from nasenv.search.budget import Budget
from nasenv.search.layer import AgentLike
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


@dataclass(frozen=True)
class SearchParts:
    """Holds the parts of a search, as `Search` receives them."""

    space: SearchSpace
    evaluator: Evaluator
    agent: AgentLike | None
    objective: Objective
    budget: Budget
    seed: int
    start: Sequence[Architecture]
    layers: Sequence[Any]
    constraints: Sequence[str] = ()

    def config(self) -> dict[str, Any]:
        """Return the configuration as JSON values; ``nasenv train --config`` reads it after `without_derived`."""
        config: dict[str, Any] = {"space": self.space.config(), "evaluator": self.evaluator.config()}
        config |= {"agent": self.agent.config()} if self.agent is not None else {}
        budget = self.budget.config(bool(self.constraints))
        config |= {"objective": self.objective.config(), "budget": budget, "seed": self.seed}
        config |= {"constraints": list(self.constraints)} if self.constraints else {}
        data = self.evaluator.dataset
        config |= {"data": asdict(data.source)} if data is not None and data.source is not None else {}
        config |= {"start_from": [self.space.to_text(a) for a in self.start]} if self.start else {}
        return config | ({"layers": [import_path(layer) for layer in self.layers]} if self.layers else {})

    def identity(self) -> dict[str, Any]:
        """Return what a journal must match: the configuration without what changes no result, and fingerprints."""
        space, evaluator = self.space, self.evaluator
        data = {"data": evaluator.dataset.fingerprint} if evaluator.dataset is not None else {}
        prints = {"space": space.fingerprint(), "evaluator": evaluator.fingerprint(), **data}
        budget = self.budget.identity(bool(self.constraints))
        parts = {"space": space.identity(), "evaluator": evaluator.identity(), "budget": budget}
        constraints = {"constraints": sorted(self.constraints)} if self.constraints else {}
        agent = {"agent": self.agent.identity()} if self.agent is not None else {}
        return {**self.config(), **parts, **constraints, **agent, "fingerprint": prints}
