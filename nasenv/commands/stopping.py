"""Ctrl-C and SIGTERM: the first lets the trainings in flight finish, the second ends at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop(reason)`` at the first Ctrl-C or SIGTERM; at the second, die of it, and the worker processes too.

    To be used in the main thread.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, _end)
        _say(b"\nstopping when the trainings in flight are done; once more ends at once\n")
        stop(f"stopped by {_SIGNALS[signal.Signals(number)]}")

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    if sys.stderr.isatty():
        _say(_SHOW_CURSOR)  # a bar that was being drawn has hidden it
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _say(text: bytes) -> None:
    """Write past Python's buffers, which the signal may have interrupted."""
    os.write(sys.stderr.fileno(), text)
