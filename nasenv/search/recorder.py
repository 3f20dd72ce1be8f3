"""`Recorder` writes each answer of a search to history, journal and TensorBoard, and calls the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nasenv.search.budget import Budget
from nasenv.search.constraints import Constraints
from nasenv.search.history import Answers, History
from nasenv.search.index import Proposals
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Finding, Outcome

if TYPE_CHECKING:  # TensorBoard and matplotlib take a second to import
    from nasenv.records.run_directory import RunDirectory

_PICTURES = 4  # of the choices over time, in the course of a search


class Recorded(Protocol):
    """Declares what a recorder reads of its search."""

    space: SearchSpace
    history: History
    budget: Budget
    constraints: Constraints
    callbacks: list[Callable[[Any, Outcome], None]]

    @property
    def seconds(self) -> float:
        """Return the wall time of the search."""


class Recorder:
    """Writes each answer to the history, the journal and TensorBoard, in order, and calls the callbacks.

    Args:
        search: the search, which callbacks receive.
        files: run directory of the search; None writes nothing.
        durable: whether the journal is synced to disk after new trainings, before the agent sees their rewards.
    """

    def __init__(self, search: Recorded, files: RunDirectory | None, durable: bool) -> None:
        self._search, self._files, self._durable = search, files, durable
        self._next_best = 1  # the evaluation from which on a new incumbent is drawn

    def take(self, taken: Proposals, findings: Sequence[Finding], replayed: int, by: str, slots: int | None) -> Answers:
        """Record proposals and return their answers.

        Args:
            taken: the proposals.
            findings: findings of the new ones, in order.
            replayed: number of findings, from the first, that are in the journal already.
            by: name of the asker, agent or a layer.
            slots: number of trials in flight from now on; None for no change.
        """
        search, files, history = self._search, self._files, self._search.history
        journaled, spent = len(history) + replayed, history.train_seconds

        def on_outcome(outcome: Outcome) -> None:
            if files is not None and not outcome.repeat:
                if outcome.evaluation > journaled:
                    text = search.space.to_text(outcome.architecture)
                    files.journal.add(outcome, text, search.seconds, by, slots)
                self._draw(files, outcome)
            for callback in search.callbacks:
                callback(search, outcome)

        answers = history.take(taken, findings, search.budget.charge_repeats, on_outcome)
        paid = len(history) > journaled and history.train_seconds > spent
        if files is not None and self._durable and paid:
            files.journal.sync()
        return answers

    def _draw(self, files: RunDirectory, outcome: Outcome) -> None:
        search = self._search
        history = search.history
        share = {"search/infeasible_share": history.looks / len(history)} if search.constraints.texts else {}
        files.record.evaluation(outcome, {**history.scalars(), **share})
        every = search.budget.evaluations and max(1, search.budget.evaluations // _PICTURES)
        if every and outcome.evaluation % every == 0:
            files.record.choice_shares(search.space, search.history.architectures)
        if outcome.evaluation >= self._next_best and files.record.best_architecture(
            search.space, search.history.best, outcome.evaluation
        ):
            self._next_best = 2 * outcome.evaluation
