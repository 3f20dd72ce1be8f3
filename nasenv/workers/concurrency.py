"""Finds how many trainings a GPU runs at once, by trying while the search goes on."""

from __future__ import annotations

_WORTH = 1.1  # times the rate of half as many that twice as many have to reach


class Concurrency:
    """Chooses how many trainings run side by side: doubled while the rate grows, halved after running out of memory.

    A small network leaves most of a GPU idle, and how many fit beside each other, in memory and in time, depends on the
    networks. Every batch of a search is a measurement: the work that it was expected to be against its seconds.

    Args:
        least: never less: one a device.
        most: never more, such as the processor's cores, each of which drives one training.
        first: to begin with; where not given, the least.

    Attributes:
        now: trainings to have at work.
    """

    def __init__(self, least: int, most: int, first: int | None = None) -> None:
        self._least, self._most = least, max(least, most)
        self.now = min(first or least, self._most)
        self._rates: dict[int, float] = {}
        self._settled = False

    def update(self, trainings: int, work: float, seconds: float) -> None:
        """Add the measured rate of a batch of trainings, and choose the number for the next.

        Args:
            trainings: how many the batch had; fewer than twice ``now`` did not keep it busy, and tell nothing.
            work: their expected cost, in any unit that stays the same.
            seconds: wall time of the batch.
        """
        if self._settled or trainings < 2 * self.now or seconds <= 0:
            return
        self._rates[self.now] = work / seconds
        before = self._rates.get(self.now // 2)
        if before is not None and self._rates[self.now] < _WORTH * before:
            self.now, self._settled = self.now // 2, True
        elif 2 * self.now <= self._most:
            self.now *= 2
        else:
            self._settled = True

    def out_of_memory(self, among: int) -> bool:
        """Halve the number permanently after a training ran out of memory; further ones of the same batch may follow.

        Args:
            among: value of ``now`` when the training began.

        Returns:
            Whether it may be made again with fewer beside it; False where there were none to leave out.
        """
        if among <= self._least:
            return False
        self.now, self._settled = min(self.now, max(self._least, among // 2)), True
        return True
