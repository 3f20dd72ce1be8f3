"""The proposals of an asynchronous search that are not answered yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from nasenv.spaces.space import Architecture


class InFlight:
    """Proposals that wait for their answers, the oldest first.

    There is room for another while fewer networks than ``slots`` are in flight. Proposals of one network take one slot
    together; as an agent might propose the same for ever, there are no more than two proposals a slot.

    Args:
        slots: number of networks in flight; it may be set anew.
        representative: design -> the network that is measured for it.
    """

    def __init__(self, slots: int, representative: Callable[[Architecture], Architecture]) -> None:
        self.slots, self._representative = slots, representative
        self.designs: list[Architecture] = []
        self.representatives: list[Architecture] = []  # of each of them
        self._networks: Counter[Architecture] = Counter()

    def __len__(self) -> int:
        return len(self.designs)

    def __contains__(self, design: Architecture) -> bool:
        return design in self.designs

    @property
    def has_room(self) -> bool:
        """Whether the agent is to be asked for another."""
        return len(self._networks) < self.slots and len(self) < 2 * self.slots

    def add(self, design: Architecture) -> None:
        """Take in a proposal."""
        network = self._representative(design)
        self.designs.append(design)
        self.representatives.append(network)
        self._networks[network] += 1

    def land(self, design: Architecture) -> None:
        """Let go of the oldest proposal of a design: it is answered."""
        index = self.designs.index(design)
        network = self.representatives.pop(index)
        del self.designs[index]
        self._networks[network] -= 1
        if not self._networks[network]:
            del self._networks[network]
