"""Time that a process was awake."""

from __future__ import annotations

import time


class WakingClock:
    """Seconds since it was made, without those in which the process was suspended (Ctrl-Z, a laptop that was closed).

    A suspension is what is longer than time can pass between two looks; it counts for so much.

    Args:
        longest: seconds between two looks, at most.
    """

    def __init__(self, longest: float) -> None:
        self._longest, self._looked, self._seconds = longest, time.monotonic(), 0.0

    def __call__(self) -> float:
        """Return the seconds; to be called again and again."""
        now = time.monotonic()
        self._seconds += min(now - self._looked, self._longest)
        self._looked = now
        return self._seconds
