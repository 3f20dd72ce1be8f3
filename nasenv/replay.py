"""A search made again on its run directory answers from its journal, and sees to it that the agent repeats itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasenv.errors import InputError
from nasenv.history import Finding
from nasenv.journal import read_measurement
from nasenv.objectives import Objective
from nasenv.spaces.space import Architecture, SearchSpace


class Replay:
    """What a journal still has to answer.

    Args:
        entries: the evaluations that the journal held when it was opened.
        space: puts designs into words.
        objective: must pay what the journal says was paid.
        where: the run directory, for messages.
    """

    def __init__(
        self, entries: Sequence[Mapping[str, Any]], space: SearchSpace, objective: Objective, where: Path | None
    ) -> None:
        self._entries = deque(entries)
        self._space, self._objective, self._where = space, objective, where

    def __len__(self) -> int:
        return len(self._entries)

    def answer(self, design: Architecture) -> Finding:
        """Return what the next entry says of the design.

        Raises:
            InputError: the entry is of another design, or the objective pays otherwise now.
        """
        entry = self._entries.popleft()
        if tuple(entry["architecture"]) != design:
            raise InputError(
                f"{self._where}: the agent does not repeat what the journal holds: evaluation {entry['evaluation']} "
                f"was {entry['text']}, now it is {self._space.to_text(design)}; other library versions may be the "
                "cause; give another run_dir (measurements are in the cache)"
            )
        measurement = read_measurement(entry)
        reward = self._objective.reward(measurement)
        if reward != entry["reward"]:
            raise InputError(
                f"{self._where}: the objective has changed since the journal was written: evaluation "
                f"{entry['evaluation']} was paid {entry['reward']}, now it would be {reward}; give another run_dir"
            )
        return Finding(measurement, reward, bool(entry["cached"]))
