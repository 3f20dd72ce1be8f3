"""Asynchronous searches: the proposals in flight, and which of them is answered next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from nasenv.errors import AgentError
from nasenv.records.replay import CompletionOrder, Replay
from nasenv.search.history import History
from nasenv.search.index import Architectures, Proposals
from nasenv.search.pending import PendingTrials
from nasenv.trial import Architecture, Finding, Trial


class _Proposal(NamedTuple):
    """Holds a proposal in flight, and the trial that measures it."""

    architecture: Architecture
    trial: Trial


class InFlight:
    """Holds the proposals that wait for their answers, the oldest first.

    There is room for another while fewer trials than ``slots`` are in flight. Proposals of one trial take one slot
    together; as an agent might propose the same for ever, there are no more than two proposals a slot. What an answer
    costs does not grow with the slots.

    Args:
        slots: number of trials in flight; it may be set anew.
        trial_of: architecture -> the trial that measures it.
    """

    def __init__(self, slots: int, trial_of: Callable[[Architecture], Trial]) -> None:
        self.slots, self._trial_of = slots, trial_of
        self._numbers = count()
        self._proposals: dict[int, _Proposal] = {}  # by number, the oldest first
        self._by_architecture: dict[Architecture, list[int]] = {}
        self._by_trial: dict[Trial, list[int]] = {}
        self._new: list[int] = []
        self._repeats: list[int] = []  # a heap, as is the next; both may hold what has been answered
        self._known: list[int] = []

    def __len__(self) -> int:
        return len(self._proposals)

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._by_architecture

    def __iter__(self) -> Iterator[Architecture]:
        return (proposal.architecture for proposal in self._proposals.values())

    @property
    def oldest(self) -> Architecture:
        """Return the architecture proposed first; there must be one."""
        return next(iter(self))

    @property
    def oldest_repeat(self) -> Architecture | None:
        """Return, of the architectures that were answered before, the one proposed first; None if there is none."""
        return self._oldest(self._repeats)

    @property
    def oldest_known(self) -> Architecture | None:
        """Return, of the architectures whose trial is measured, the one proposed first; None if there is none."""
        return self._oldest(self._known)

    @property
    def has_room(self) -> bool:
        """Return whether the agent is to be asked for another proposal."""
        return len(self._by_trial) < self.slots and len(self) < 2 * self.slots

    def trial(self, architecture: Architecture) -> Trial:
        """Return the trial of an architecture in flight."""
        return self._proposals[self._by_architecture[architecture][0]].trial

    def add(self, architecture: Architecture, repeat: bool) -> None:
        """Add a proposal; ``repeat`` says that its architecture was answered before."""
        number, trial = next(self._numbers), self._trial_of(architecture)
        self._proposals[number] = _Proposal(architecture, trial)
        self._by_architecture.setdefault(architecture, []).append(number)
        self._by_trial.setdefault(trial, []).append(number)
        self._new.append(number)
        if repeat:
            heappush(self._repeats, number)

    def fill(
        self,
        ask: Callable[[], Architectures],
        propose: Callable[[Architectures], Proposals],
        is_payable: Callable[[InFlight], bool],
    ) -> None:
        """Ask for proposals while there is room and the budget suffices.

        Args:
            ask: returns one architecture; none where the agent waits for an answer first.
            propose: checks it.
            is_payable: returns whether the budget reaches for another beside those in flight.

        Raises:
            AgentError: something else than one architecture was proposed, or none while nothing is in flight.
        """
        while self.has_room and is_payable(self):
            proposed = ask()
            if not len(proposed) and len(self):
                return
            proposals = propose(proposed)
            if len(proposals) > 1:
                raise AgentError(f"proposed {len(proposals)} architectures, was asked for one")
            self.add(proposals[0], repeat=not proposals.new)

    def remove(self, architecture: Architecture) -> None:
        """Remove the oldest proposal of an architecture once it is answered; its others become repeats."""
        number = self._by_architecture[architecture][0]
        trial = self._proposals.pop(number).trial
        _drop(self._by_architecture, architecture, number)
        _drop(self._by_trial, trial, number)
        for other in self._by_architecture.get(architecture, ()):
            heappush(self._repeats, other)

    def new_trials(self) -> list[Trial]:
        """Return the trials of proposals in flight that were added since the last call."""
        new, self._new = self._new, []
        return [self._proposals[number].trial for number in new if number in self._proposals]

    def set_known(self, trials: Iterable[Trial]) -> None:
        """Note that trials are measured, some of which may be in flight."""
        for trial in trials:
            for number in self._by_trial.get(trial, ()):
                heappush(self._known, number)

    def _oldest(self, numbers: list[int]) -> Architecture | None:
        """Return the architecture of the smallest number in a heap that is still in flight."""
        while numbers and numbers[0] not in self._proposals:
            heappop(numbers)
        return self._proposals[numbers[0]].architecture if numbers else None


def _drop(numbers: dict[Architecture, list[int]] | dict[Trial, list[int]], key: object, number: int) -> None:
    left = numbers[key]  # type: ignore[index]
    left.remove(number)
    if not left:
        del numbers[key]  # type: ignore[arg-type]


class Next(NamedTuple):
    """Describes the proposal that is answered next.

    Args:
        architecture: architecture of a proposal in flight.
        findings: its finding; none for a repeat.
        replayed: whether the journal has it already.
        slots: how many trials are to be in flight from then on; None for as many as before.
    """

    architecture: Architecture
    findings: Sequence[Finding] = ()
    replayed: bool = False
    slots: int | None = None


class NextAnswer:
    """Selects, among the proposals in flight, the one that is answered next.

    A repeat is answered at once. Otherwise, while there is a journal to replay, it is the proposal that was answered
    then; after that, the one that a completion order names, if that is in flight; else the oldest whose trial is
    measured. Likewise, the number in flight from then on comes from the journal or the completion order, and after them
    from the evaluator's slots at that time.

    Args:
        in_flight: the proposals.
        history: the search's history.
        trials: find out what proposals are worth; begun when there is nothing to replay any more.
        replay: answers from the journal; None if there is no journal.
        order: the order of answers to follow.
        slots: returns how many trials the evaluator works on at once now.
        stopped: whether to give up.
    """

    def __init__(
        self,
        in_flight: InFlight,
        history: History,
        trials: PendingTrials,
        replay: Replay | None,
        order: CompletionOrder,
        slots: Callable[[], int],
        stopped: Callable[[], bool],
    ) -> None:
        self._in_flight, self._history, self._trials = in_flight, history, trials
        self._replay, self._order, self._slots, self._stopped = replay, order, slots, stopped

    def find(self) -> Next | None:
        """Return the next proposal once it can be answered; None if the search is stopped before.

        Raises:
            InputError: the agent does not repeat what the journal holds, or a fault of the machine.
        """
        repeat = self._in_flight.oldest_repeat
        if repeat is not None:
            return Next(repeat)
        if self._replay is not None and len(self._replay):
            return self._replayed(self._replay)
        new = self._in_flight.new_trials()
        self._trials.begin(new)
        self._in_flight.set_known(filter(self._trials.is_known, dict.fromkeys(new)))
        while not self._stopped():
            ready = self._ready()
            if ready is not None:
                return Next(ready, self._trials.charge([ready], 1.0), slots=self._changed_slots())
            self._in_flight.set_known(self._trials.wait())
        return None

    def _replayed(self, replay: Replay) -> Next:
        awaited = replay.awaited()
        architecture = awaited if awaited in self._in_flight else self._in_flight.oldest  # which answer() refuses
        finding = replay.answer(architecture, 1.0)
        return Next(architecture, [self._trials.learn(architecture, 1.0, finding)], True, replay.slots)

    def _changed_slots(self) -> int | None:
        """Return the number of slots from the next evaluation on; None if it does not change."""
        evaluation = len(self._history) + 1
        if evaluation <= len(self._order.architectures):
            return self._order.changes.get(evaluation)
        return now if (now := self._slots()) != self._in_flight.slots else None

    def _ready(self) -> Architecture | None:
        """Return the architecture to be answered next; None while it is not measured."""
        evaluation, order = len(self._history), self._order.architectures
        if evaluation < len(order) and order[evaluation] in self._in_flight:
            architecture = order[evaluation]
            return architecture if self._trials.is_known(self._in_flight.trial(architecture)) else None
        return self._in_flight.oldest_known
