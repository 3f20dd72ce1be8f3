"""A problem that agents are compared on: a space, an evaluator, an objective and a budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nasenv.cluster.evaluator_worker import in_process, machine_settings
from nasenv.data.dataset import Data
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Objective, Score, is_score
from nasenv.search.budget import Budget
from nasenv.search.constraints import Constraints, parse_constraints
from nasenv.spaces.space import SearchSpace


@dataclass(frozen=True)
class Problem:
    """Holds the space, evaluator, objective and budget that all agents share.

    Args:
        space: the search space.
        evaluator: measures architectures; made for this space.
        objective: measurement -> reward.
        budget: limits of each search.
        data: data source of the evaluator, for configuration files.
        constraints: limits on the evaluator's costs, as in `Search`.

    Raises:
        InputError: a budget without a limit, or unusable constraints.
    """

    space: SearchSpace
    evaluator: Evaluator
    objective: Objective = field(default_factory=Score)
    budget: Budget = field(default_factory=lambda: Budget(evaluations=300))
    data: Data = field(default_factory=Data)
    constraints: list[str] | str | None = None

    def __post_init__(self) -> None:
        if self.budget.evaluations is None and self.budget.charged_seconds is None:
            raise InputError("the budget of a comparison needs a limit; give evaluations or charged_seconds")
        if self.budget.wall_seconds is not None:
            raise InputError(
                "wall_seconds would end the searches of a comparison unlike each other; give charged_seconds"
            )
        self._limits().check(self.space, ())

    def _limits(self) -> Constraints:
        return Constraints(parse_constraints(self.constraints), self.evaluator)

    @property
    def metric(self) -> str:
        """Return the metric of the scores, such as accuracy or r2; higher is better."""
        return self.space.task.metric

    @property
    def reward_is_score(self) -> bool:
        """Whether rewards are scores as they are."""
        return is_score(self.objective)

    @property
    def optimum(self) -> float | None:
        """Return the highest reward of an architecture within the constraints; None if the evaluator knows none."""
        known, limits = self.evaluator.all_measurements(), self._limits()
        if known is None and self.reward_is_score and not limits.texts:
            return self.evaluator.best_score()
        rewards = [self.objective.reward(m) for m in known or () if m.error is None and limits.keeps(m.metrics)]
        return max(rewards, default=None)

    def in_process(self, name: str) -> Problem:
        """Return a copy for another process, whose evaluator trains there on the CPU.

        Args:
            name: name of the problem, for an error.

        Raises:
            InputError: it would not be measured there as it is here.
        """
        evaluator = in_process(self.evaluator, machine_settings(self.evaluator, gpu=False))
        if evaluator.fingerprint() != self.evaluator.fingerprint():
            raise InputError(
                f"problem {name} would be measured on processors there, and otherwise than on this machine's GPU; give "
                "its evaluator devices cpu"
            )
        return replace(self, evaluator=evaluator)

    def config(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        parts = {name: part.config() for name, part in self._parts().items()}
        source = self.evaluator.dataset.source if self.evaluator.dataset is not None else None
        data = {"data": asdict(source)} if source is not None else {}
        constraints = self._limits().texts
        limits = {"constraints": constraints} if constraints else {}
        return {**parts, "budget": self.budget.config(bool(constraints)), **limits, **data}

    def identity(self) -> dict[str, Any]:
        """Return the configuration without what changes no result, and the fingerprints of space and evaluator."""
        parts = {name: part.identity() for name, part in self._parts().items()}
        prints = {"space": self.space.fingerprint(), "evaluator": self.evaluator.fingerprint()}
        constraints = sorted(self._limits().texts)
        limits = {"constraints": constraints} if constraints else {}
        return {**parts, "budget": self.budget.identity(bool(constraints)), **limits, "fingerprint": prints}

    def _parts(self) -> dict[str, SearchSpace | Evaluator | Objective]:
        return {"space": self.space, "evaluator": self.evaluator, "objective": self.objective}
