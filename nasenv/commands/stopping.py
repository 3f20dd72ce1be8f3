"""Ctrl-C, SIGTERM and SIGHUP: the first lets the trainings in flight finish, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop(reason)`` at the first Ctrl-C, SIGTERM or SIGHUP; at the second, die of it; so do the workers.

    To be used in the main thread.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        for each in heard:
            signal.signal(each, _end)
        stop(f"stopped by {_SIGNALS[signal.Signals(number)]}")
        _say(sys.stderr, b"\nstopping when the trainings in flight are done; once more ends at once\n")

    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # closed
            if stream.isatty():
                _say(stream, _SHOW_CURSOR)  # a bar that was being drawn has hidden it
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _say(stream: TextIO, text: bytes) -> None:
    """Write past Python's buffers, which the signal may have interrupted; nobody may be listening."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.write(stream.fileno(), text)
