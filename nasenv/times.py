"""Where the time of a search went, part by part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

EVALUATION, IDLE = "evaluation", "idle workers"


class Times:
    """Wall time by part of what a process does: each moment belongs to the part that was entered last.

    Example:
        >>> times = Times()
        >>> with times.part("controller"), times.part("cache"):
        ...     pass
        >>> list(times.seconds)
        ['controller', 'cache']
    """

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._entered: list[str] = []
        self._since = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time so far, by part in the order in which they were first entered; of parts that are over."""
        return dict(self._seconds)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done inside is this part of the whole, but for parts inside it."""
        self._turn()
        self._entered.append(name)
        self._seconds[name] += 0.0
        try:
            yield
        finally:
            self._turn()
            self._entered.pop()

    def _turn(self) -> None:
        """Give the time since the last turn to the part that it was spent in."""
        now = time.perf_counter()
        if self._entered:
            self._seconds[self._entered[-1]] += now - self._since
        self._since = now


def where_it_went(wall: Mapping[str, float], worked: Mapping[str, float], workers: int) -> dict[str, float]:
    """Return seconds by part, the largest first; they add up to the wall time.

    Args:
        wall: wall time of the process that searches, by part; ``evaluation`` is what it waited for the workers.
        worked: what workers did while it waited, by part, of all of them together; their time counts by their number.
        workers: how many there are to work.
    """
    parts = {part: seconds for part, seconds in wall.items() if part != EVALUATION}
    parts |= {part: seconds / workers for part, seconds in worked.items()}
    waited = wall.get(EVALUATION, 0.0)
    if worked:
        parts[IDLE] = max(0.0, waited - sum(worked.values()) / workers)
    elif waited:
        parts[EVALUATION] = waited
    return dict(sorted(parts.items(), key=lambda item: -item[1]))
