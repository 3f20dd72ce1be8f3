"""What a search is made of, as JSON: for those who read it or start it again, and what a journal belongs to."""

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
    """The parts of a search, as `Search` takes them."""

    space: SearchSpace
    evaluator: Evaluator
    agent: AgentLike | None
    objective: Objective
    budget: Budget
    seed: int
    start: Sequence[Architecture]
    layers: Sequence[Any]

    def config(self) -> dict[str, Any]:
        """Return the configuration in plain values; `without_derived`, it is what ``nasenv train --config`` reads."""
        config: dict[str, Any] = {"space": self.space.config(), "evaluator": self.evaluator.config()}
        config |= {"agent": self.agent.config()} if self.agent is not None else {}
        config |= {"objective": self.objective.config(), "budget": asdict(self.budget), "seed": self.seed}
        data = self.evaluator.dataset
        config |= {"data": asdict(data.source)} if data is not None and data.source is not None else {}
        config |= {"start_from": [self.space.to_text(a) for a in self.start]} if self.start else {}
        return config | ({"layers": [import_path(layer) for layer in self.layers]} if self.layers else {})

    def identity(self) -> dict[str, Any]:
        """Return what a journal belongs to: the configuration, without what changes no outcome, and fingerprints."""
        space, evaluator = self.space, self.evaluator
        data = {"data": evaluator.dataset.fingerprint} if evaluator.dataset is not None else {}
        prints = {"space": space.fingerprint(), "evaluator": evaluator.fingerprint(), **data}
        parts = {"space": space.identity(), "evaluator": evaluator.identity(), "budget": self.budget.identity()}
        agent = {"agent": self.agent.identity()} if self.agent is not None else {}
        return {**self.config(), **parts, **agent, "fingerprint": prints}
