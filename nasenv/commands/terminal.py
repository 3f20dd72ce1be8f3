"""Commands print texts, tables and progress bars to the terminal, and its signals stop them."""

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

_LAST = 32  # number of latest evaluations whose mean reward is shown
_LONGEST_NAME = 32  # characters of a row's name that are not broken in a narrow terminal
_LINES = 10  # number of lines of progress that are printed if there is no terminal
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_SHOW_CURSOR = b"\x1b[?25h"


class Terminal(Console):
    """Prints to standard output, whose errors end no command.

    If standard output cannot be written (a closed pipe, a full disk), the rest is not printed; a character that its
    encoding lacks becomes a question mark.
    """

    def __init__(self) -> None:
        super().__init__(
            markup=False, highlight=False, emoji=False
        )  # a folder's or choice's name in brackets is no markup
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")

    def say(self, text: str) -> None:
        """Print a text whose lines may be longer than the terminal is wide."""
        self.print(text, soft_wrap=True)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # rich itself handles broken pipes alone
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Print nothing more; rich's own method ends the program."""
        self.quiet = True
        with contextlib.suppress(OSError):  # no file: io.UnsupportedOperation
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # what is left in its buffer is written at exit
            os.close(nowhere)


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str, **looks: Any) -> Table:
    """Return a table as narrow as its cells, with heads broken between words.

    In a narrower terminal, cells are broken too, those of the first column last; nothing is cut.

    Args:
        heads: heads of the columns.
        rows: rows, each with a text for each column.
        title: title above the table.
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
    """Draws a progress bar with elapsed and remaining time, and a text below; prints lines if there is no terminal.

    Args:
        console: console to draw on.
        doing: name of the activity.
        total: length of the bar; None if it is not known.
        lines: number of lines that are printed if there is no terminal.
    """

    def __init__(self, console: Console, doing: str, total: int | None, lines: int = _LINES) -> None:
        done = (TextColumn(doing), BarColumn(bar_width=None), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))
        self._total, self._lines, self._printed, self._text = total, lines, 0, ""
        super().__init__(*done, *times, console=console, disable=not console.is_terminal, speed_estimate_period=600)
        self._bar = self.add_task(doing, total=total)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, and the text below it."""
        yield from super().get_renderables()
        if self._text:
            yield Text(self._text)

    def show(self, done: int, text: str, line: str) -> None:
        """Draw the bar and the text; without a terminal, print the line if it is time for another."""
        self._text = text
        self.update(self._bar, completed=done)
        every = max(1, (self._total or 100 * self._lines) // self._lines)
        if not self.console.is_terminal and done // every > self._printed:
            self._printed = done // every
            self.console.print(line, highlight=False, soft_wrap=True)


def spent_text(history: History, evaluations: int | None) -> str:
    """Return a text on the spent part of a budget of evaluations; None stands for no limit."""
    made = counted(history.evaluations, "evaluation")
    if history.spent == history.evaluations:
        return f"{history.evaluations:,} of {counted(evaluations, 'evaluation')}" if evaluations else made
    of = f" of {evaluations:,}" if evaluations else ""
    return f"{round(history.spent, 2):.12g}{of} full trainings spent on {made}"


def reward_name(search: Search) -> str:
    """Return the name of a search's rewards: the metric if they are scores, else reward."""
    return f"validation {search.space.task.metric.replace('_', ' ')}" if is_score(search.objective) else "reward"


def shown_reward(search: Search, reward: float) -> str:
    """Return a reward as text, in the metric's unit if it is a score."""
    return search.space.task.shown(reward) if is_score(search.objective) else f"{reward:.4f}"


class SearchProgress(Bar):
    """Draws the progress of a search: evaluations, best reward, mean of the last 32, repeats and failures."""

    def __init__(self, console: Console, evaluations: int | None) -> None:
        super().__init__(console, "searching", evaluations)
        self._failed = 0

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Show the progress after an answer; a callback of the search."""
        history = search.history
        best = "none yet" if history.best_reward is None else shown_reward(search, history.best_reward)
        last = counted(min(_LAST, len(history)), "evaluation")
        mean = f"mean of the last {last} {shown_reward(search, history.mean_reward(_LAST))}"
        self._failed += outcome.measurement.error is not None and not outcome.repeat
        repeats = f", {counted(history.repeats, 'repeated proposal')}" if history.repeats else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        text = f"best {reward_name(search)} {best}, {mean}{repeats}{failed}"
        self.show(int(history.spent), text, f"{spent_text(history, self._total)} in {search.seconds:.0f} s: {text}")


class ComparisonProgress(Bar):
    """Draws the progress of a comparison: finished runs, the last one, and the number of failed runs."""

    def __init__(self, console: Console, runs: int) -> None:
        super().__init__(console, "comparing", runs)
        self._failed, self._done = 0, 0

    def __call__(self, run: Run) -> None:
        """Show the progress after a run."""
        self._done += 1
        self._failed += run.error is not None
        failed = f"; {self._failed} failed" if self._failed else ""
        text = f"last: {run.agent} on {run.problem}, seed {run.seed}{failed}"
        self.show(self._done, text, f"{self._done} of {counted(self._total or 0, 'run')} done{failed}")


class ReplayTime:
    """Prints how long the replay of a journal's evaluations took, when it ends."""

    def __init__(self, console: Terminal, evaluations: int) -> None:
        self._console, self._evaluations, self._started = console, evaluations, time.monotonic()

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Print the time after the last replayed answer; a callback of the search."""
        if outcome.evaluation == self._evaluations and not outcome.repeat:
            seconds = time.monotonic() - self._started
            self._console.say(f"{counted(self._evaluations, 'evaluation')} replayed in {seconds:.1f} s")


@contextlib.contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Call ``stop(reason)`` at the first Ctrl-C, SIGTERM or SIGHUP; end the program and its workers at the second.

    It works in the main thread only.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, _end)
        stop(f"stopped by {_SIGNALS[signal.Signals(number)]}")
        _write(sys.stderr, b"\nstopping when the running trainings are done; a second signal ends at once\n")

    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, ask) for number in handled}
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
    """Write past Python's buffers, which the signal may have interrupted; ignore a closed stream."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.write(stream.fileno(), text)
