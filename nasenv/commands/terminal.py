"""The terminal: what commands print to it, the bars that they draw on it, and the signals that come from it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from nasenv.comparison.run import Run
from nasenv.errors import counted
from nasenv.objectives import is_score
from nasenv.search.history import History
from nasenv.search.search import Search
from nasenv.trial import Outcome

_LAST = 32  # evaluations whose mean says how well an agent does by now
_LONGEST_NAME = 32  # of what a row is about, which is kept whole where there is little room
_LINES = 10  # printed in the course of a command where there is no terminal to draw a bar on
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_SHOW_CURSOR = b"\x1b[?25h"


class Terminal(Console):
    """Standard output, which may fail: what a command does is worth more than what it says of it.

    Where it cannot be written (nobody reads the pipe any more, the disk is full), the rest is left unsaid; a character
    that its encoding lacks becomes a question mark.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)  # a folder's or choice's name in brackets is no markup
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")

    def say(self, text: str) -> None:
        """Print a text whose lines may be longer than the terminal is wide."""
        self.print(text, soft_wrap=True)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # rich itself sees to a broken pipe alone
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Say no more; rich's own ends the program."""
        self.quiet = True
        with contextlib.suppress(OSError):  # no file: io.UnsupportedOperation
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # what is left in its buffer is written at exit
            os.close(nowhere)


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str, **looks: Any) -> Table:
    """Return a table as narrow as its cells: heads are broken between words.

    Where the terminal is narrower still, cells are broken too, the first column's last of all; nothing is cut.

    Args:
        heads: of the columns.
        rows: as many texts each.
        title: stands above.
        looks: other options of `rich.table.Table`.
    """
    widths = [max(map(len, [*head.split(), *cells])) for head, *cells in zip(heads, *rows, strict=True)]
    broken = ("\n".join(textwrap.wrap(head, width)) for head, width in zip(heads, widths, strict=True))
    table = Table(*(Column(head, overflow="fold") for head in broken), title=title, **looks)
    table.columns[0].no_wrap = widths[0] <= _LONGEST_NAME
    for row in rows:
        table.add_row(*row)
    return table


class Bar(Progress):
    """A bar with what is done, time gone and left, and a line below it; lines alone where there is no terminal.

    Args:
        console: where to draw.
        doing: what is being done, in a word.
        total: length of the bar; None where it is not known.
        lines: printed in its course where there is no terminal.
    """

    def __init__(self, console: Console, doing: str, total: int | None, lines: int = _LINES) -> None:
        done = (TextColumn(doing), BarColumn(bar_width=None), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
        self._total, self._lines, self._printed, self._said = total, lines, 0, ""
        super().__init__(*done, *times, console=console, disable=not console.is_terminal, speed_estimate_period=600)
        self._bar = self.add_task(doing, total=total)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, and what is said below it."""
        yield from super().get_renderables()
        if self._said:
            yield Text(self._said)

    def show(self, done: int, said: str, line: str) -> None:
        """Draw how much is done and what is said, or print the line, if it is time for another."""
        self._said = said
        self.update(self._bar, completed=done)
        every = max(1, (self._total or 100 * self._lines) // self._lines)
        if not self.console.is_terminal and done // every > self._printed:
            self._printed = done // every
            self.console.print(line, highlight=False, soft_wrap=True)


def spent_of(history: History, evaluations: int | None) -> str:
    """Return what a search has spent of its budget of evaluations, None for no limit, in words."""
    made = counted(history.evaluations, "evaluation")
    if history.spent == history.evaluations:
        return f"{history.evaluations:,} of {counted(evaluations, 'evaluation')}" if evaluations else made
    of = f" of {evaluations:,}" if evaluations else ""
    return f"{round(history.spent, 2):.12g}{of} full trainings spent on {made}"


def reward_name(search: Search) -> str:
    """Return what a search's rewards are called: by the metric where they are scores as they are."""
    return f"validation {search.space.task.metric.replace('_', ' ')}" if is_score(search.objective) else "reward"


def shown_reward(search: Search, reward: float) -> str:
    """Return a reward as it is shown to people: in the metric's unit where it is a score."""
    return search.space.task.shown(reward) if is_score(search.objective) else f"{reward:.4f}"


class SearchProgress(Bar):
    """A bar with evaluations, best, mean of the last 32, repeats and failures of a search of so many evaluations."""

    def __init__(self, console: Console, evaluations: int | None) -> None:
        super().__init__(console, "searching", evaluations)
        self._failed = 0

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Take in an answer; a callback of the search."""
        history = search.history
        best = "none yet" if history.best_reward is None else shown_reward(search, history.best_reward)
        last = counted(min(_LAST, len(history)), "evaluation")
        mean = f"mean of the last {last} {shown_reward(search, history.mean_reward(_LAST))}"
        self._failed += outcome.measurement.error is not None and not outcome.repeat
        repeats = f", {counted(history.repeats, 'repeated proposal')}" if history.repeats else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        said = f"best {reward_name(search)} {best}, {mean}{repeats}{failed}"
        self.show(int(history.spent), said, f"{spent_of(history, self._total)} in {search.seconds:.0f} s: {said}")


class ComparisonProgress(Bar):
    """A bar with the runs done, the last one and the faults of a comparison of so many runs."""

    def __init__(self, console: Console, runs: int) -> None:
        super().__init__(console, "comparing", runs)
        self._faults, self._done = 0, 0

    def __call__(self, run: Run) -> None:
        """Take in a run that is done."""
        self._done += 1
        self._faults += run.error is not None
        failed = f"; {self._faults} failed" if self._faults else ""
        said = f"last: {run.agent} on {run.problem}, seed {run.seed}{failed}"
        self.show(self._done, said, f"{self._done} of {counted(self._total or 0, 'run')} done{failed}")


class ReplayEnd:
    """Says when all the evaluations that a journal holds were answered, and how long that took."""

    def __init__(self, console: Terminal, evaluations: int) -> None:
        self._console, self._evaluations, self._started = console, evaluations, time.monotonic()

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Take in an answer; a callback of the search."""
        if outcome.evaluation == self._evaluations and not outcome.repeat:
            gone = time.monotonic() - self._started
            self._console.say(f"{counted(self._evaluations, 'evaluation')} replayed in {gone:.1f} s")


@contextlib.contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop(reason)`` at the first Ctrl-C, SIGTERM or SIGHUP; at the second, die of it; so do the workers.

    To be used in the main thread.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        for each in heard:
            signal.signal(each, _end)
        stop(f"stopped by {_SIGNALS[signal.Signals(number)]}")
        _write(sys.stderr, b"\nstopping when the trainings in flight are done; once more ends at once\n")

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
                _write(stream, _SHOW_CURSOR)  # a bar that was being drawn has hidden it
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _write(stream: TextIO, text: bytes) -> None:
    """Write past Python's buffers, which the signal may have interrupted; nobody may be listening."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.write(stream.fileno(), text)
