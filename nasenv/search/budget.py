"""A budget decides when a search is over."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nasenv.configuration import flag, integer, number, positive
from nasenv.errors import counted
from nasenv.search.history import History
from nasenv.search.index import Proposals
from nasenv.trial import Architecture, Finding

_ROUNDING = 1e-9  # of sums of fidelities
_EVALUATIONS = 200  # by default
_LIMITS = ("evaluations", "charged_seconds", "wall_seconds", "target_reward")


@dataclass(frozen=True)
class Budget:
    """Defines when a search is over, and how many final trainings follow it.

    Args:
        evaluations: full trainings' worth that may be spent: a distinct architecture costs its fidelity, 1 for a full
            training; None is no limit.
        charged_seconds: training time that may be charged: what each distinct architecture's training took, also where
            a cache or a table made it free. The search ends with the evaluation that reaches it; None is no limit.
        wall_seconds: wall time after which a start of the search stops early, as Ctrl-C does: what is measured is kept,
            and the same search, started again, goes on; None is no limit.
        charge_repeats: whether an architecture proposed again is charged again, as an evaluation and in seconds, as the
            protocols of most tabular benchmarks do; else repeats are free.
        target_reward: reward at which the search has found enough, and ends with the proposals that are being answered;
            None goes on.
        repeats_per_evaluation: free repeats for each evaluation of the budget, after which the agent is taken to
            propose the same few architectures for ever, and the search ends.
        looks_per_evaluation: looks at architectures that break the search's constraints, which are not trained and
            cost nothing, for each evaluation of the budget, after which the search ends; None goes on. A budget
            without evaluations counts as one of 200, or of those made.
        finalists: number of best architectures that are trained again, for longer, to choose the winner.
        final_seeds: number of times that each of them is.

    Raises:
        InputError: a limit that is not positive.
    """

    evaluations: int | None = _EVALUATIONS
    charged_seconds: float | None = None
    wall_seconds: float | None = None
    charge_repeats: bool = False
    target_reward: float | None = None
    repeats_per_evaluation: int = 50
    looks_per_evaluation: int | None = 5
    finalists: int = 10
    final_seeds: int = 3

    def __post_init__(self) -> None:
        for name in ("evaluations", "repeats_per_evaluation", "looks_per_evaluation", "finalists", "final_seeds"):
            value = getattr(self, name)
            if value is not None or name not in ("evaluations", "looks_per_evaluation"):
                object.__setattr__(self, name, integer(f"budget.{name}", value))
        for name in ("charged_seconds", "wall_seconds"):
            seconds = getattr(self, name)
            if seconds is not None:
                object.__setattr__(self, name, positive(f"budget.{name}", seconds))
        if self.target_reward is not None:
            target = number("budget.target_reward", self.target_reward, lambda _: True, "a finite number")
            object.__setattr__(self, "target_reward", target)
        flag("budget.charge_repeats", self.charge_repeats)

    def config(self, constrained: bool = False) -> dict[str, Any]:
        """Return the arguments; that on looks only for a search under constraints."""
        return {name: value for name, value in asdict(self).items() if constrained or name != "looks_per_evaluation"}

    def identity(self, constrained: bool = False) -> dict[str, Any]:
        """Return the arguments that change the results of a search, under constraints or not."""
        return {name: value for name, value in self.config(constrained).items() if name != "wall_seconds"}

    @property
    def is_limited(self) -> bool:
        """Return whether it sets any limit, apart from that on repeats."""
        return any(getattr(self, name) is not None for name in _LIMITS)

    def remaining(self, history: History) -> float | None:
        """Return the full trainings left, 0 or more; None if there is no limit."""
        if self.evaluations is None:
            return None
        left = max(0.0, self.evaluations - history.spent)
        return left if left > _ROUNDING else 0.0

    def payable(self, proposals: Proposals, history: History, looks: Collection[Architecture] = ()) -> Proposals:
        """Return the proposals before the first that the budget of evaluations, or that of looks, cannot pay.

        Args:
            proposals: the proposals.
            history: the search's history.
            looks: the new architectures that are not evaluated, as they break constraints.
        """
        left = self.remaining(history)
        most = proposals.n if self.charge_repeats else len(proposals.new)
        if not looks and (left is None or left >= most * proposals.fidelity):
            return proposals
        is_new = ~proposals.repeats
        new_looks = [-1 - j for j, architecture in enumerate(proposals.new) if architecture in looks]
        is_look = history.are_looks(proposals.numbers) | np.isin(proposals.numbers, new_looks)
        paid = np.flatnonzero(~is_look & (is_new | self.charge_repeats))
        looked = np.flatnonzero(is_look & is_new)
        n = len(paid) if left is None else int(left / proposals.fidelity + _ROUNDING)
        most_looks = self._looks_left(history)
        ends = [*paid[n : n + 1], *(() if most_looks is None else looked[most_looks : most_looks + 1])]
        return proposals.first(int(min(ends, default=proposals.n)))

    def _looks_left(self, history: History) -> int | None:
        """Return how many more looks there may be; None if there is no limit."""
        if self.looks_per_evaluation is None or not self.is_limited:
            return None
        evaluations = self.evaluations or max(_EVALUATIONS, history.evaluations)
        return max(0, self.looks_per_evaluation * evaluations - history.looks)

    def within_seconds(self, proposals: Proposals, found: Sequence[Finding], history: History) -> Proposals | None:
        """Return the proposals up to the one that uses up the charged seconds; None if none does.

        Args:
            proposals: the proposals.
            found: findings of the first new ones, in order.
            history: the search's history.
        """
        if self.charged_seconds is None:
            return None
        charged, new = history.charged_seconds, 0
        for position, evaluation in enumerate(proposals.numbers.tolist(), 1):
            is_new = evaluation == -1 - new
            if is_new and new == len(found):
                return None
            new += is_new
            if is_new or self.charge_repeats:
                seen = found[-1 - evaluation].measurement if evaluation < 0 else history[evaluation].measurement
                charged += seen.train_seconds
            if charged >= self.charged_seconds:
                return proposals.first(position)
        return None

    def pays_for_another(self, in_flight: Collection[Architecture], history: History, size: int | None) -> bool:
        """Return whether budget and space have room for an evaluation beside those in flight.

        Args:
            in_flight: the proposals that are not answered, at full fidelity.
            history: the search's history.
            size: number of architectures of the space; None where it is not known.
        """
        left, evaluated, most = self.remaining(history), history.full_evaluations, len(in_flight)
        left = math.inf if left is None else left + _ROUNDING
        if most + 1 <= left and (size is None or evaluated + most < size):
            return True  # though all of them were new
        new = history.count_unknown(in_flight)
        paid = most if self.charge_repeats else new
        return paid + 1 <= left and (size is None or evaluated + new < size)

    def reached(self, history: History) -> str | None:
        """Return as text which limit a search has reached; None if none."""
        if self.remaining(history) == 0:
            return self.used_up()
        if self.charged_seconds is not None and history.charged_seconds >= self.charged_seconds:
            return f"the budget of {counted(self.charged_seconds, 'charged second')} is used up"
        if history.looks and self._looks_left(history) == 0:
            return (
                f"the looks at architectures that break constraints are used up: {history.looks:,}, "
                f"{self.looks_per_evaluation} for each evaluation of the budget, "
                f"beside {counted(history.evaluations, 'distinct evaluation')}"
            )
        best = history.best_reward
        if self.target_reward is not None and best is not None and best >= self.target_reward:
            return f"the target reward of {self.target_reward:g} is met"
        return None

    def used_up(self) -> str:
        """Return as text that no evaluation is left."""
        what = "proposal" if self.charge_repeats else "evaluation"
        return f"the budget of {counted(self.evaluations or 0, what)} is used up"

    def exhausted(self, history: History) -> str | None:
        """Return as text why a search is over, a limit or an agent that repeats itself; None if it is not over."""
        limit = self.reached(history)
        if limit is None and history.repeats >= self.repeats_per_evaluation * (
            self.evaluations or max(1, history.evaluations)
        ):
            return (
                f"the agent proposes what it proposed before: {counted(history.repeats, 'repeat')} beside "
                f"{counted(history.evaluations, 'distinct evaluation')}"
            )
        return limit
