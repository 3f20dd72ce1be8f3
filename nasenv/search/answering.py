"""Answers to proposals: taken into the history, journaled, drawn, and told to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nasenv.search.budget import Budget
from nasenv.search.history import Answers, Finding, History, Outcome
from nasenv.search.times import Times
from nasenv.spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:  # TensorBoard and matplotlib take a second to import
    from nasenv.records.run_directory import RunDirectory

_PICTURES = 4  # pictures of the choice shares in the course of a search


class Answering:
    """Takes in what was found out; an agent sees an evaluation when it is in the journal, not before.

    Args:
        space: puts designs into words.
        history: what the search has seen.
        budget: says whether repeats are charged.
        files: the run directory; None writes nothing.
        durable: whether an evaluation that was paid for is on the disk before the agent sees it: it cost a training.
        seconds: the search's time.
        times: told what journal, TensorBoard and listeners take.
    """

    def __init__(
        self,
        space: SearchSpace,
        history: History,
        budget: Budget,
        files: RunDirectory | None,
        durable: bool,
        seconds: Callable[[], float],
        times: Times,
    ) -> None:
        self._space, self._history, self._budget, self._files = space, history, budget, files
        self._durable, self._seconds, self._times = durable, seconds, times

    def take(
        self,
        designs: Sequence[Architecture],
        found: Sequence[Finding],
        replayed: int,
        tell: Callable[[Outcome], None] | None,
        slots: int | None = None,
    ) -> Answers:
        """Return the answers to the designs, recorded, and those of the new ones journaled.

        Args:
            designs: the proposals, in order.
            found: what is known of those that are new, in order.
            replayed: how many of these, from the first, are in the journal already.
            tell: told of every answer, repeats too; None where nobody listens.
            slots: how many networks are in flight from now on; None for as many as before.
        """
        files, spent, journaled = self._files, self._history.train_seconds, len(self._history) + replayed

        def hear(outcome: Outcome) -> None:
            if files is not None and not outcome.repeat:
                if outcome.evaluation > journaled:
                    files.journal.add(outcome, self._space.to_text(outcome.architecture), self._seconds(), slots)
                self._draw(files, outcome)
            if tell is not None:
                tell(outcome)

        heard = hear if files is not None or tell is not None else None
        with self._times.part("logging"):
            answers = self._history.take(designs, found, self._budget.charge_repeats, heard)
            paid = len(self._history) > journaled and self._history.train_seconds > spent
            if files is not None and self._durable and paid:
                files.journal.sync()
        return answers

    def _draw(self, files: RunDirectory, outcome: Outcome) -> None:
        files.record.evaluation(outcome, self._history.scalars())
        every = self._budget.evaluations and max(1, self._budget.evaluations // _PICTURES)
        if every and outcome.evaluation % every == 0:
            files.record.choice_shares(self._space, self._history.architectures)
