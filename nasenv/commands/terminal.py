"""The terminal that commands print to."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from rich.console import Console


class Terminal(Console):
    """Standard output, which may fail: what a command does is worth more than what it says of it.

    Where it cannot be written (nobody reads the pipe any more, the disk is full), the rest is left unsaid; a character
    that its encoding lacks becomes a question mark.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)  # a folder's or choice's name in brackets is no markup
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # rich itself sees to a broken pipe alone
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Say no more; rich's own ends the program."""
        self.quiet = True
        with suppress(OSError):  # no file: io.UnsupportedOperation
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # what is left in its buffer is written at exit
            os.close(nowhere)
