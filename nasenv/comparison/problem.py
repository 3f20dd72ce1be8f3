"""What agents are compared on."""

from __future__ import annotations

from dataclasses import dataclass, field

from nasenv.budget import Budget
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Accuracy, Objective
from nasenv.spaces.space import SearchSpace


@dataclass(frozen=True)
class Problem:
    """A space, what measures its designs, what they are paid for, and the budget that every agent has.

    Args:
        space: what is searched.
        evaluator: what measures a design; made for this space.
        objective: measurement -> reward.
        budget: when a search is over.
    """

    space: SearchSpace
    evaluator: Evaluator
    objective: Objective = field(default_factory=Accuracy)
    budget: Budget = field(default_factory=lambda: Budget(evaluations=300))

    @property
    def optimum(self) -> float | None:
        """The highest reward that a design of the space is paid; None where not all designs' measurements are known."""
        known = self.evaluator.all_measurements()
        rewards = [self.objective.reward(m) for m in known or () if m.error is None]
        return max(rewards, default=None)

    def check(self, name: str) -> None:
        """Raise InputError where a search of this problem could not be repeated or would never end."""
        if self.budget.evaluations is None and self.budget.charged_seconds is None:
            raise InputError(f"problem {name}: the budget has no limit; give evaluations or charged_seconds")
