"""An asynchronous search: when it asks for another design, and which of those in flight it answers next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nasenv.errors import AgentError
from nasenv.records.replay import Course, Replay
from nasenv.search.batch import is_another_payable
from nasenv.search.budget import Budget
from nasenv.search.designs import Designs, checked
from nasenv.search.history import Finding, History
from nasenv.search.in_flight import InFlight
from nasenv.search.known import Known
from nasenv.search.trainings import Trainings
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


class Next(NamedTuple):
    """What is answered next.

    Args:
        design: of a proposal in flight.
        finding: what was found of it; None for a repeat.
        new: whether that is to be journaled.
        slots: how many networks are to be in flight from then on; None for as many as before.
    """

    design: Architecture
    finding: Finding | None = None
    new: bool = False
    slots: int | None = None


class Answerable:
    """Finds among the proposals in flight the one that is answered next.

    A repeat is answered at once. Else, while there is a journal to replay, it is the one that was answered then; after
    that the one that a course says, where one is to be followed and has it in flight; else the first whose network is
    known, the oldest first. In the same way, how many are in flight from then on is what journal or course say, and
    after them what the evaluator works on at once by then.

    Args:
        flight: the proposals.
        history: what the search has seen.
        known: what is known of networks.
        trainings: find out what is not; begun when there is nothing to replay any more.
        replay: what a journal still has to answer; None where there is none.
        course: which order to keep.
        slots: says how many networks the evaluator works on at once now.
        stopped: whether to give up.
    """

    def __init__(
        self,
        flight: InFlight,
        history: History,
        known: Known,
        trainings: Trainings,
        replay: Replay | None,
        course: Course,
        slots: Callable[[], int],
        stopped: Callable[[], bool],
    ) -> None:
        self._flight, self._history, self._known, self._trainings = flight, history, known, trainings
        self._replay, self._course, self._slots, self._stopped = replay, course, slots, stopped

    def next(self) -> Next | None:
        """Return it when it can be answered; None where the search is stopped before.

        Raises:
            InputError: the agent does not repeat what the journal holds, or a fault of the machine.
        """
        repeat = self._flight.oldest_repeat
        if repeat is not None:
            return Next(repeat)
        if self._replay is not None and len(self._replay):
            awaited = self._replay.awaited()
            design = awaited if awaited in self._flight else self._flight.oldest  # which answer() refuses
            learnt = self._known.learn({design: self._replay.answer(design)})
            return Next(design, learnt[design], slots=self._replay.slots)
        self._begin()
        while not self._stopped():
            ready = self._ready()
            if ready is not None:
                (finding,) = self._known.charge([ready])
                return Next(ready, finding, new=True, slots=self._changed())
            self._flight.know(self._trainings.wait())
        return None

    def _begin(self) -> None:
        """Have trained what was proposed since the last time."""
        new = self._flight.new_networks()
        self._trainings.begin(new)
        self._flight.know(filter(self._known.has, dict.fromkeys(new)))

    def _changed(self) -> int | None:
        """Return how many slots there are from the next evaluation on; None for as many as before."""
        evaluation = len(self._history) + 1
        if evaluation <= len(self._course.designs):
            return self._course.changes.get(evaluation)
        return now if (now := self._slots()) != self._flight.slots else None

    def _ready(self) -> Architecture | None:
        """Return the design that is to be answered; None while it, or all, are not known."""
        evaluation = len(self._history)
        if evaluation < len(self._course.designs) and self._course.designs[evaluation] in self._flight:
            design = self._course.designs[evaluation]
            return design if self._known.has(self._flight.network(design)) else None
        return self._flight.oldest_known


def fill(
    flight: InFlight,
    ask: Callable[[], Designs],
    space: SearchSpace,
    size: int | None,
    budget: Budget,
    history: History,
) -> None:
    """Ask for designs as long as there is room for another and the budget reaches for it.

    Args:
        flight: the proposals, to which they are added.
        ask: returns one design; none where the agent waits for an answer first.
        space: of the designs.
        size: how many it has; None where that is not known.
        budget: of the search.
        history: what the search has seen.

    Raises:
        AgentError: something else than one design was proposed, or none while nothing is in flight.
    """
    while flight.has_room and is_another_payable(flight, budget, history, size):
        proposed = ask()
        if not len(proposed) and len(flight):
            return
        designs, new = checked(space, history, proposed)
        if len(designs) > 1:
            raise AgentError(f"proposed {len(designs)} designs, was asked for one")
        flight.add(designs[0], repeat=not new)
