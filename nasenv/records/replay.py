"""A search made again on its run directory answers from its journal, and sees to it that the agent repeats itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nasenv.errors import InputError
from nasenv.objectives import Objective
from nasenv.provenance import differences, provenance
from nasenv.records.journal import Journal, read_measurement
from nasenv.search.history import Finding
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture

_AFRESH = "--resume continue keeps every measurement and lets the agent start afresh"


@dataclass(frozen=True)
class Course:
    """What decides, beside the seed, which way an asynchronous search goes.

    Args:
        slots: number of networks in flight at once, to begin with.
        designs: what was answered, in order.
        changes: the number of slots from then on, by the number, from 1, of the evaluation that was answered then.
    """

    slots: int | None = None
    designs: Sequence[Architecture] = ()
    changes: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the course of the search whose journal this is; raise InputError where that is damaged."""
        header, entries = Journal.read(path)
        changes = {entry["evaluation"]: entry["slots"] for entry in entries if entry.get("slots") is not None}
        return cls(Journal.read_slots(path, header), [tuple(entry["architecture"]) for entry in entries], changes)


class Replay:
    """What a journal still has to answer, read from it as it is asked for.

    Args:
        journal: as it was opened.
        space: puts designs into words.
        objective: must pay what the journal says was paid.

    Attributes:
        seconds: when the last evaluation that was answered was journaled, since the search's start.
        slots: what the last evaluation that was answered says of the slots from then on; None for as many as before.
    """

    def __init__(self, journal: Journal, space: SearchSpace, objective: Objective) -> None:
        self._journal, self._entries, self._left = journal, journal.entries(), len(journal)
        self._awaited: Mapping[str, Any] | None = None  # an entry that was read ahead
        self._space, self._objective, self._where = space, objective, journal.path.parent
        self.seconds = 0.0
        self.slots: int | None = None

    def __len__(self) -> int:
        return self._left

    def designs(self) -> Iterator[Architecture]:
        """Yield the designs of the whole journal, in order."""
        return (tuple(entry["architecture"]) for entry in self._journal.entries())

    def check_used_up(self, evaluations: int) -> None:
        """Raise InputError where an agent ended before the journal's end, after so many evaluations."""
        if self._left:
            raise InputError(
                f"{self._where}: the agent does not repeat what the journal holds: it ended after {evaluations} "
                f"evaluations, the journal holds {len(self._journal)}; {self._cause()}; {_AFRESH}"
            )

    def awaited(self) -> Architecture:
        """Return the design of the next entry, which an asynchronous search has in flight; there must be one left."""
        self._awaited = self._awaited or next(self._entries)
        return tuple(self._awaited["architecture"])

    def answer(self, design: Architecture) -> Finding:
        """Return what the next entry says of the design.

        Raises:
            InputError: the entry is of another design, or the objective pays otherwise now.
        """
        entry, self._awaited = self._awaited or next(self._entries), None
        self._left -= 1
        if tuple(entry["architecture"]) != design:
            raise InputError(
                f"{self._where}: the agent does not repeat what the journal holds: evaluation {entry['evaluation']} "
                f"was {entry['text']}, now it is {self._space.to_text(design)}; {self._cause()}; {_AFRESH}"
            )
        measurement = read_measurement(entry)
        reward = self._objective.reward(measurement)
        if reward != entry["reward"]:
            raise InputError(
                f"{self._where}: the objective has changed since the journal was written: evaluation "
                f"{entry['evaluation']} was paid {entry['reward']}, now it would be {reward}; give another run_dir"
            )
        self.seconds, self.slots = float(entry["seconds"]), entry.get("slots")
        return Finding(measurement, reward, entry["cached"])

    def _cause(self) -> str:
        """Return what may make an agent propose something else, in words."""
        other = differences(self._journal.made_with, provenance())
        if other:
            return f"what may cause it: {', '.join(other)}"
        return (
            "versions and hardware are the same, so the agent draws from a generator that is not seeded by the search"
        )
