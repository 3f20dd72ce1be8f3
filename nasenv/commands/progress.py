"""The progress of a search, and of a comparison, in the terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nasenv.comparison.run import Run
from nasenv.search.history import History
from nasenv.search.search import Search
from nasenv.trial import Outcome

_LINES = 10  # printed in the course of a search where there is no terminal to draw a bar on
_ROUNDING = 1e-9  # of sums of fidelities


def spent_of(history: History, evaluations: int | None) -> str:
    """Return what a search has spent of its budget of evaluations, None for no limit, in words."""
    of = f" of {evaluations}" if evaluations else ""
    if history.spent == len(history):
        return f"{len(history)}{of} evaluations"
    return f"{round(history.spent, 2):.12g}{of} full trainings spent on {len(history)} evaluations"


class _Progress:
    """A bar in the terminal, drawn while in its context; its text is the field ``said``."""

    def __init__(self, console: Console, doing: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn(doing),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


class SearchProgress(_Progress):
    """A bar with what is spent, best, mean of the last 32, repeats and time left; lines where there is no terminal.

    Args:
        console: where to draw.
        evaluations: length of the bar; None where the budget has no limit.
    """

    def __init__(self, console: Console, evaluations: int | None) -> None:
        super().__init__(console, "searching")
        self._evaluations = evaluations
        self._lines = 0
        self._task = self._bar.add_task("search", total=evaluations, said="")

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Take in an answer; a callback of the search."""
        history = search.history
        best = "none yet" if history.best_reward is None else f"{history.best_reward:.4f}"
        said = f"best {best}  mean of last 32 {history.mean_reward(32):.4f}  repeats {history.repeats}"
        self._bar.update(self._task, completed=round(history.spent, 6), said=said)
        lines = int(history.spent / max(1, (self._evaluations or 1000) // _LINES) + _ROUNDING)
        if not self._console.is_terminal and lines > self._lines:
            self._lines = lines
            spent = spent_of(history, self._evaluations)
            self._console.print(f"{spent}  {said}  {search.seconds:.0f} s", highlight=False, soft_wrap=True)


class ReplayEnd:
    """Says when all that a journal holds was answered, and how long that took.

    Args:
        console: where to say it.
        evaluations: in the journal.
    """

    def __init__(self, console: Console, evaluations: int) -> None:
        self._console, self._evaluations, self._started = console, evaluations, time.monotonic()

    def __call__(self, search: Search, outcome: Outcome) -> None:
        """Take in an answer; a callback of the search."""
        if outcome.evaluation == self._evaluations and not outcome.repeat:
            gone = time.monotonic() - self._started
            self._console.print(f"{self._evaluations} evaluations replayed in {gone:.1f} s", soft_wrap=True)


class ComparisonProgress(_Progress):
    """A bar with the runs done, the last one, faults and time left; lines where there is no terminal.

    Args:
        console: where to draw.
        runs: length of the bar.
    """

    def __init__(self, console: Console, runs: int) -> None:
        super().__init__(console, "comparing")
        self._runs, self._faults, self._done = runs, 0, 0
        self._task = self._bar.add_task("comparison", total=runs, said="")

    def __call__(self, run: Run) -> None:
        """Take in a run that is done."""
        self._done += 1
        self._faults += run.error is not None
        faults = f"  faults {self._faults}" if self._faults else ""
        said = f"{run.agent} on {run.problem}, seed {run.seed}{faults}"
        self._bar.update(self._task, completed=self._done, said=said)
        if not self._console.is_terminal and self._done % max(1, self._runs // _LINES) == 0:
            self._console.print(f"{self._done} of {self._runs} runs{faults}", highlight=False)
