"""The proposals of an asynchronous search that are not answered yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from nasenv.trial import Architecture


class _Proposal(NamedTuple):
    """A design in flight, and the network that is measured for it."""

    design: Architecture
    network: Architecture


class InFlight:
    """Proposals that wait for their answers, the oldest first.

    There is room for another while fewer networks than ``slots`` are in flight. Proposals of one network take one slot
    together; as an agent might propose the same for ever, there are no more than two proposals a slot. What an answer
    costs does not grow with the slots.

    Args:
        slots: number of networks in flight; it may be set anew.
        representative: design -> the network that is measured for it.
    """

    def __init__(self, slots: int, representative: Callable[[Architecture], Architecture]) -> None:
        self.slots, self._representative = slots, representative
        self._numbers = count()
        self._proposals: dict[int, _Proposal] = {}  # by number, the oldest first
        self._of_design: dict[Architecture, list[int]] = {}
        self._of_network: dict[Architecture, list[int]] = {}
        self._new: list[int] = []
        self._repeats: list[int] = []  # a heap, as is the next; both may hold what has landed
        self._known: list[int] = []

    def __len__(self) -> int:
        return len(self._proposals)

    def __contains__(self, design: object) -> bool:
        return design in self._of_design

    def __iter__(self) -> Iterator[Architecture]:
        return (proposal.design for proposal in self._proposals.values())

    @property
    def oldest(self) -> Architecture:
        """The design proposed first; there must be one."""
        return next(iter(self))

    @property
    def oldest_repeat(self) -> Architecture | None:
        """Of the designs that the search has had answered before, the one proposed first."""
        return self._oldest(self._repeats)

    @property
    def oldest_known(self) -> Architecture | None:
        """Of the designs whose network is known, the one proposed first."""
        return self._oldest(self._known)

    @property
    def has_room(self) -> bool:
        """Whether the agent is to be asked for another."""
        return len(self._of_network) < self.slots and len(self) < 2 * self.slots

    def network(self, design: Architecture) -> Architecture:
        """Return what is measured for a design in flight."""
        return self._proposals[self._of_design[design][0]].network

    def add(self, design: Architecture, repeat: bool) -> None:
        """Take in a proposal, which may be of a design that was answered before."""
        number, network = next(self._numbers), self._representative(design)
        self._proposals[number] = _Proposal(design, network)
        self._of_design.setdefault(design, []).append(number)
        self._of_network.setdefault(network, []).append(number)
        self._new.append(number)
        if repeat:
            heappush(self._repeats, number)

    def land(self, design: Architecture) -> None:
        """Let go of the oldest proposal of a design: it is answered, so that the others are repeats."""
        number = self._of_design[design][0]
        network = self._proposals.pop(number).network
        for numbers, key in ((self._of_design, design), (self._of_network, network)):
            numbers[key].remove(number)
            if not numbers[key]:
                del numbers[key]
        for other in self._of_design.get(design, ()):
            heappush(self._repeats, other)

    def new_networks(self) -> list[Architecture]:
        """Return the networks of the proposals in flight that were added since this was called before."""
        new, self._new = self._new, []
        return [self._proposals[number].network for number in new if number in self._proposals]

    def know(self, networks: Iterable[Architecture]) -> None:
        """Note that networks are known, of which some may be in flight."""
        for network in networks:
            for number in self._of_network.get(network, ()):
                heappush(self._known, number)

    def _oldest(self, numbers: list[int]) -> Architecture | None:
        """Return the design of the least of a heap of numbers that is in flight."""
        while numbers and numbers[0] not in self._proposals:
            heappop(numbers)
        return self._proposals[numbers[0]].design if numbers else None
