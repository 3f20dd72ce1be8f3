"""How many trainings to have at work at once on GPUs: found by trying, while the search goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

_WORTH = 1.1  # times the rate of half as many that twice as many have to reach
_ROUNDS = 2  # trainings, times those at work at once, by which a number is judged
_SECONDS = 3.0  # of work, at least, by which it is


class Concurrency:
    """The number of trainings side by side, from measured rates: doubled while that pays, halved where memory runs out.

    A small network leaves most of a GPU idle, and how many fit beside each other, in memory and in time, depends on the
    networks. The search itself is the measurement: the work that its trainings were expected to be against their
    seconds, over as many stretches of work as it takes. A stretch in which a worker process was started does not count,
    nor does one of fewer trainings than were to be at work; it is no use to have more than a batch has.

    Args:
        least: never less: one a device.
        most: never more, such as the processor's cores, each of which drives one training.
        first: to begin with; where not given, the least.
        clock: returns seconds.

    Attributes:
        now: trainings to have at work.
    """

    def __init__(
        self, least: int, most: int, first: int | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._least, self._most, self._clock = least, max(least, most), clock
        self.now = min(first or least, self._most)
        self._rates: dict[int, float] = {}
        self._is_final = False
        self._trainings, self._total, self._seconds = 0, 0.0, 0.0  # of all stretches with so many at work
        self._largest = 0  # trainings of a stretch
        self.begin(0)

    def begin(self, starts: int) -> None:
        """Begin a stretch of work: trainings are given out from here on.

        Args:
            starts: number of worker processes that were started so far.
        """
        self._began, self._starts, self._ended, self._work = self._clock(), starts, 0, 0.0

    def ended(self, work: float, starts: int) -> None:
        """Take in that a training ended; choose the number for the next where it is time.

        Args:
            work: what it was expected to cost, in any unit that stays the same.
            starts: number of worker processes that were started so far.
        """
        self._ended, self._work = self._ended + 1, self._work + work
        if self._ended >= _ROUNDS * self.now:
            self.look(starts)

    def look(self, starts: int) -> None:
        """End a stretch of work, as where a batch is over; choose the number for the next where it is time."""
        if starts == self._starts and self._ended >= self.now:
            self._largest = max(self._largest, self._ended)
            self._trainings += self._ended
            self._total += self._work
            self._seconds += self._clock() - self._began
            self._choose()
        self.begin(starts)

    def out_of_memory(self, among: int) -> bool:
        """Go back to half of those among which a training ran out of memory, for good; others of them may follow.

        Args:
            among: what ``now`` was when the training began.

        Returns:
            Whether it may be made again with fewer beside it; False where there were none to leave out.
        """
        if among <= self._least:
            return False
        self.now, self._is_final = min(self.now, max(self._least, among // 2)), True
        return True

    def _choose(self) -> None:
        if self._is_final or self._seconds < _SECONDS or self._trainings < _ROUNDS * self.now:
            return
        rate, before = self._total / self._seconds, self._rates.get(self.now // 2)
        if before is not None and rate < _WORTH * before:
            self.now, self._is_final = self.now // 2, True
        elif 2 * self.now > self._most:
            self._is_final = True
        elif 2 * self.now <= self._largest:
            self._rates[self.now] = rate
            self.now, self._largest = 2 * self.now, 0
            self._trainings, self._total, self._seconds = 0, 0.0, 0.0
