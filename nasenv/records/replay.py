"""Replay: a search that is started again is answered from its journal, and its agent must propose the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nasenv.errors import InputError, counted
from nasenv.provenance import differences, provenance
from nasenv.records.journal import Journal
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Finding, Measurement

_AFRESH = "--resume continue keeps every measurement and lets the agent start afresh"


@dataclass(frozen=True)
class CompletionOrder:
    """Holds the order of answers and the slots that, beside the seed, determine an asynchronous search.

    Args:
        slots: number of trials in flight at once, to begin with.
        architectures: the architectures in the order of their answers.
        changes: the number of slots from then on, by the number, from 1, of the evaluation that was answered then.
    """

    slots: int | None = None
    architectures: Sequence[Architecture] = ()
    changes: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the completion order of the search with this journal; raise InputError if the journal is damaged."""
        header, entries = Journal.read(path)
        changes = {entry["evaluation"]: entry["slots"] for entry in entries if entry.get("slots") is not None}
        return cls(header.get("slots"), [tuple(entry["architecture"]) for entry in entries], changes)


class Replay:
    """Answers proposals from a journal, read on demand.

    Args:
        journal: as it was opened.
        space: puts architectures into words.
        pay: measurement, violation -> reward, in the order of the journal; it must be what the journal says was paid.
        violation: architecture -> by how much it breaks constraints, None where it is evaluated; it must be what the
            journal says.

    Attributes:
        seconds: when the last evaluation that was answered was journaled, since the search's start.
        slots: slots from the last answered evaluation on; None if their number did not change.
    """

    def __init__(
        self,
        journal: Journal,
        space: SearchSpace,
        pay: Callable[[Measurement, float | None], float],
        violation: Callable[[Architecture], float | None],
    ) -> None:
        self._violation = violation
        self._journal, self._entries, self._left = journal, journal.entries(), len(journal)
        self._awaited: Mapping[str, Any] | None = None  # an entry that was read ahead
        self._space, self._pay, self._where = space, pay, journal.path.parent
        self.seconds = 0.0
        self.slots: int | None = None

    def __len__(self) -> int:
        return self._left

    def proposals(self) -> Iterator[tuple[Architecture, float, str]]:
        """Yield the architecture, fidelity and asker of each entry of the whole journal, in order."""
        for entry in self._journal.entries():
            yield tuple(entry["architecture"]), entry["fidelity"], entry["by"]

    def check_used_up(self, evaluations: int) -> None:
        """Raise InputError if the agent ended, after so many evaluations, before the end of the journal."""
        if self._left:
            raise InputError(
                f"{self._where}: the agent does not repeat what the journal holds: it ended after "
                f"{counted(evaluations, 'evaluation')}, the journal holds {len(self._journal)}; {self._cause()}; "
                f"{_AFRESH}"
            )

    def awaited(self) -> Architecture:
        """Return the architecture of the next entry, which there must be."""
        self._awaited = self._awaited or next(self._entries)
        return tuple(self._awaited["architecture"])

    def answer(self, architecture: Architecture, fidelity: float, by: str = "agent") -> Finding:
        """Return the finding of the next entry, which must be of this architecture.

        Raises:
            InputError: the entry is of another trial, or of another asker, or the objective pays otherwise now.
        """
        entry, self._awaited = self._awaited or next(self._entries), None
        self._left -= 1
        if (tuple(entry["architecture"]), entry["fidelity"], entry["by"]) != (architecture, fidelity, by):
            then = self._in_words(entry["text"], entry["fidelity"], entry["by"])
            now = self._in_words(self._space.to_text(architecture), fidelity, by)
            raise InputError(
                f"{self._where}: the agent does not repeat what the journal holds: evaluation {entry['evaluation']} "
                f"was {then}, now it is {now}; {self._cause()}; {_AFRESH}"
            )
        measurement, violation = Measurement.from_json(entry), entry.get("violation")
        if violation != (now_broken := self._violation(architecture)):
            was, is_now = ("evaluated" if v is None else f"{v:g} over the constraints" for v in (violation, now_broken))
            raise InputError(
                f"{self._where}: the costs of architectures have changed since the journal was written: evaluation "
                f"{entry['evaluation']} was {was}, now it is {is_now}; give another run_dir"
            )
        reward = self._pay(measurement, violation)
        if reward != entry["reward"]:
            raise InputError(
                f"{self._where}: the objective has changed since the journal was written: evaluation "
                f"{entry['evaluation']} was paid {entry['reward']}, now it would be {reward}; give another run_dir"
            )
        self.seconds, self.slots = float(entry["seconds"]), entry.get("slots")
        return Finding(measurement, reward, entry["cached"], violation)

    @staticmethod
    def _in_words(text: str, fidelity: float, by: str) -> str:
        at = "" if fidelity == 1.0 else f" at fidelity {fidelity:g}"
        return f"{text}{at}" if by == "agent" else f"{text}{at}, asked for by {by}"

    def _cause(self) -> str:
        """Return as text what may make an agent propose something else."""
        other = differences(self._journal.made_with, provenance())
        if other:
            return f"what may cause it: {', '.join(other)}"
        return "versions and hardware are as they were, so it draws from a generator that is not seeded by the search"
