"""How long a server that went away is waited for, and what is said of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from nasenv.cache.database import Away

_PATIENCE_SECONDS = 60.0  # for which it is tried again
_QUIET_SECONDS = 2.0  # of which nothing is said
_REST_SECONDS = 30.0  # between two tries after that
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two tries before that
_T = TypeVar("_T")
_log = logging.getLogger("nasenv")


class Patience:
    """Tries again what a server that went away has not answered.

    It is tried for a minute, with pauses that grow. Where that was in vain it is taken to be away for long: whoever
    asks is told so at once, but for one try each half minute, until it answers again.

    Args:
        name: of what is away, for those who read.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rests_until: float | None = None  # given up until then

    def tried(self, act: Callable[[], _T]) -> _T:
        """Return act(); raise `Away` where that does so for too long."""
        given_up = self._rests_until is not None
        if self._rests_until is not None and time.monotonic() < self._rests_until:
            raise Away(f"cache {self._name} does not answer")
        try:
            result = act() if given_up else self._again_and_again(act)
        except Away as away:
            if not given_up:
                _log.warning("%s; the search goes on without it, and what it measures waits to enter it", away)
            self._rests_until = time.monotonic() + _REST_SECONDS
            raise
        if given_up:
            _log.warning("cache %s answers again", self._name)
            self._rests_until = None
        return result

    @staticmethod
    def _again_and_again(act: Callable[[], _T]) -> _T:
        started, pause, said = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                return act()
            except Away as away:
                gone = time.monotonic() - started
                if gone + pause > _PATIENCE_SECONDS:
                    raise
                if gone > _QUIET_SECONDS and not said:
                    _log.warning("%s; trying again for %.0f s", away, _PATIENCE_SECONDS)
                    said = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
