"""Commands print texts, tables and progress bars to the terminal, and its signals stop them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from nasenv.comparison.run import Run
from nasenv.errors import counted
from nasenv.objectives import is_score
from nasenv.search.budget import Budget
from nasenv.search.history import History
from nasenv.search.search import Search
from nasenv.trial import Measurement, Outcome, Trial

_LAST = 32  # number of latest evaluations whose mean reward is shown
_LONGEST_NAME = 32  # characters of a row's name that are not broken in a narrow terminal
_ROUNDING = 1e-6  # of seconds left
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

    def explain(self, text: str) -> None:
        """Print sentences; in a terminal they are broken between words."""
        self.print(text, soft_wrap=not self.is_terminal)

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
    """Draws a progress bar with elapsed time and time left, and a text below; prints lines if there is no terminal.

    Args:
        console: console to draw on.
        doing: name of the activity.
        total: length of the bar; None if it is not known.
        lines: number of lines that are printed if there is no terminal, besides the first.
        of: name of what the time is left of.
    """

    def __init__(
        self, console: Console, doing: str, total: float | None, lines: int = _LINES, of: str | None = None
    ) -> None:
        columns = (TextColumn(doing), BarColumn(bar_width=None), TextColumn("{task.fields[count]}"))
        times = (TimeElapsedColumn(), TextColumn("elapsed{task.fields[left]}"))
        self._total, self._lines, self._printed, self._text = total, lines, -1, ""
        self._of = f" of {of}" if of else ""
        super().__init__(*columns, *times, console=console, disable=not console.is_terminal)
        count = "" if total is None else f"0/{total:.0f}"
        self._left = "" if total is None else f", -:--:-- left{self._of}"
        self._bar = self.add_task(doing, total=total, count=count, left=self._left)
        self._begun: tuple[float, float] | None = None  # when, and the share that was done by then

    def begin(self, share: float = 0.0) -> None:
        """Estimate the time left by what is done from now on, not from the first `show` on."""
        self._begun = (self.get_time(), share)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, and the text below it."""
        yield from super().get_renderables()
        if self._text:
            yield Text(self._text)

    def show(self, done: float, text: str, line: str, share: float | None = None, seconds: float | None = None) -> None:
        """Draw the bar and the text; without a terminal, print the line if it is time for another.

        Args:
            done: how much of the total is done.
            text: text below the bar.
            line: the line; the time left is added.
            share: share of the work that is done, where parts of the total take unequal times.
            seconds: how long what is done took; by default the time since `begin` or the first call.
        """
        self._text = text
        if self._total and share is None:
            share = done / self._total
        left = None if share is None else self._seconds_left(share, seconds)
        if left is not None:
            self._left = f", {timedelta(seconds=math.ceil(left - _ROUNDING))} left{self._of}"
        count = f"{done:.0f}" if self._total is None else f"{done:.0f}/{self._total:.0f}"
        self.update(self._bar, completed=(self._total or 0) * (share or 0), count=count, left=self._left)
        every = max(1, (self._total or 100 * self._lines) // self._lines)
        if not self.console.is_terminal and done // every > self._printed:
            self._printed = int(done // every)
            self.console.print(f"{line}{self._left if left else ''}", highlight=False, soft_wrap=True)

    def _seconds_left(self, share: float, seconds: float | None) -> float | None:
        """Return the seconds left at the speed so far; None if that is not known."""
        now = self.get_time()
        self._begun = self._begun or (now, share)
        since, before = self._begun if seconds is None else (now - seconds, 0.0)
        if share <= before < 1.0:
            return None
        return 0.0 if share >= 1.0 else (now - since) / (share - before) * (1.0 - share)


def waiting(console: Console, doing: str) -> Bar:
    """Return a bar for an activity whose end is not known; without a terminal, print its name."""
    if not console.is_terminal:
        console.print(doing, highlight=False, soft_wrap=True)
    return Bar(console, doing, None)


def spent_text(history: History, evaluations: int | None) -> str:
    """Return a text on the spent part of a budget of evaluations; None stands for no limit."""
    made = counted(history.evaluations, "evaluation")
    if history.spent == history.evaluations:
        return f"{history.evaluations:,} of {counted(evaluations, 'evaluation')}" if evaluations else made
    spent = round(history.spent, 2)
    of, whole = (f" of {evaluations:,}", evaluations) if evaluations else ("", spent)
    return f"{spent:.12g}{of} full training{'s' * (whole != 1)} spent on {made}"


def reward_name(search: Search) -> str:
    """Return the name of a search's rewards: the metric if they are scores, else reward."""
    return f"validation {search.space.task.metric.replace('_', ' ')}" if is_score(search.objective) else "reward"


def shown_reward(search: Search, reward: float) -> str:
    """Return a reward as text, in the metric's unit if it is a score."""
    return search.space.task.shown(reward) if is_score(search.objective) else f"{reward:.4f}"


def shown_outcome(search: Search, outcome: Outcome) -> str:
    """Return reward and score of an outcome as text; once where they are the same."""
    reward = f"{reward_name(search)} {shown_reward(search, outcome.reward)}"
    score, task = outcome.measurement.score, search.space.task
    if is_score(search.objective) or score is None:
        return reward
    return f"{reward} (validation {task.metric.replace('_', ' ')} {task.shown(score)})"


class SearchProgress(Bar):
    """Draws the progress of a search: evaluations, best reward, mean of the last 32, repeats, failures and looks.

    Where the budget limits charged seconds alone, the bar is of these.
    """

    def __init__(self, console: Console, budget: Budget) -> None:
        self._budget, self._failed = budget, 0
        super().__init__(console, "searching", budget.evaluations or budget.charged_seconds, of="the search")

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Show the progress after an answer; a callback of the search."""
        history, in_seconds = search.history, self._budget.evaluations is None
        done = history.charged_seconds if in_seconds and self._budget.charged_seconds else float(int(history.spent))
        best = history.best
        found = f"best {reward_name(search)} none yet" if best is None else f"best {shown_outcome(search, best)}"
        last = counted(min(_LAST, history.evaluations), "evaluation")
        recent = shown_reward(search, history.mean_reward(_LAST)) if history.evaluations else "none yet"
        mean = f"mean of the last {last} {recent}"
        self._failed += outcome.status == "failed" and not outcome.repeat
        repeats = f", {counted(history.repeats, 'repeated proposal')}" if history.repeats else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        looks = f", {history.looks:,} over the limit" if history.looks else ""
        text = f"{found}, {mean}{repeats}{failed}{looks}"
        spent = spent_text(history, self._budget.evaluations)
        seconds = search.seconds * min(1.0, done / (_trained(search) or done or 1.0))
        self.show(done, text, f"{spent} in {search.seconds:.0f} s: {text}", seconds=seconds)


def _trained(search: Search) -> int:
    """Return how many full trainings have ended: those of a batch all end before its first answer; 0 if unknown."""
    in_full = search.history.full_evaluations == len(search.history)
    return len(search.trials.measurements) if in_full and search.trials is not None else 0


class FinalProgress(contextlib.ExitStack):
    """Draws the progress of final trainings, a bar for those that confirm and one for those that test.

    A training has a share of the bar like that of its architecture in the time of the search, so that the time left
    is right though the longest trainings come first.

    Args:
        console: console to draw on.
        search: the search, which is over.
    """

    def __init__(self, console: Console, search: Search) -> None:
        super().__init__()
        self._console, self._purpose = console, ""
        self._seconds = {
            search.representative(o.architecture): o.measurement.train_seconds / o.fidelity
            for o in search.history
            if o.measurement.error is None
        }

    def expected(self, trials: Collection[Trial]) -> dict[Trial, float]:
        """Return the seconds that each would take if it were as long as a training of the search."""
        seconds = [self._seconds.get(trial.architecture, 0.0) for trial in trials]
        usual = sum(seconds) / max(1, sum(map(bool, seconds))) or 1.0
        return {trial: (s or usual) for trial, s in zip(trials, seconds, strict=True)}

    def __call__(self, trials: Collection[Trial], measured: Mapping[Trial, Measurement]) -> None:
        """Show the progress after a training; a callback of `conclude`."""
        expected = self.expected(trials)
        share = math.fsum(expected[trial] for trial in measured) / math.fsum(expected.values())
        (purpose,) = {trial.purpose for trial in trials}
        doing = f"{'final' if purpose == 'confirm' else 'test'} trainings"
        if purpose != self._purpose:
            self.close()
            self._purpose, self._bar = purpose, self.enter_context(Bar(self._console, doing, len(trials)))
            self._bar.begin(share)
        self._bar.show(len(measured), "", f"{doing}: {len(measured)} of {len(trials)} done", share)
        if purpose == "test" and len(measured) == len(trials):
            self.close()
            self.enter_context(waiting(self._console, "saving the result"))


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
