"""A clock that stops while the process is suspended."""

from __future__ import annotations

import time


class WakingClock:
    """Counts seconds since it was made, without suspensions of the process (Ctrl-Z, a closed laptop).

    A gap between two calls that exceeds ``longest`` is a suspension, and counts as ``longest`` seconds.

    Args:
        longest: largest gap in seconds between two calls of a process that is awake.
    """

    def __init__(self, longest: float) -> None:
        self._longest, self._looked, self._seconds = longest, time.monotonic(), 0.0

    def __call__(self) -> float:
        """Return the seconds so far; call it often, since a longer gap counts as a suspension."""
        now = time.monotonic()
        self._seconds += min(now - self._looked, self._longest)
        self._looked = now
        return self._seconds
