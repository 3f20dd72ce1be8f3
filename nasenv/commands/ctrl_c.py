"""Ctrl-C ends a command with one line while its modules are imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # exit code that shells give to a program ended by Ctrl-C
_PROGRAMS = ("nasenv", "train_controller.py", "compare_controllers.py")
_name = "nasenv"


def is_command() -> bool:
    """Return whether this program is the command ``nasenv``, or ``python -m nasenv``, and no user's program."""
    started = next(iter(sys.argv), "")
    return os.path.basename(started) in _PROGRAMS or started == "-m"


def exit_at_ctrl_c(name: str = "nasenv") -> bool:
    """Let Ctrl-C end the program at once, with one line that begins with this name; return whether it does.

    KeyboardInterrupt could be raised anywhere in PyTorch, which may convert it, or continue without one of its modules.
    Where the signal is ignored, as under nohup, or handled already, nothing is changed.
    """
    global _name
    _name = name
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    return signal.getsignal(signal.SIGINT) is _end


def _end(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), f"{_name}: interrupted before it began\n".encode())
    os._exit(INTERRUPTED)
