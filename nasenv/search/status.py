"""The status of a search: whether it is over or was stopped, and who is to blame if it failed."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from nasenv.errors import AgentError, BudgetExhausted, InputError, SearchStopped, counted
from nasenv.search.budget import Budget
from nasenv.search.history import History
from nasenv.search.layer import AgentLike

_REFUSALS = 1000  # after which an agent is taken not to hear


class SearchStatus:
    """Tracks why a search is over, was stopped, or failed.

    Args:
        budget: limits of the search.
        history: the search's history.
        size: number of architectures of its space; None where it is not known.
        agent: the agent; None if something else asks for evaluations.
        endless: whether it goes on answering repeats, whatever was spent.

    Attributes:
        ended: why it is over; None while it is not.
        stopped: why it was stopped before; None where it was not.
        fault: exception of the search itself, which passes through the agent; None if there was none.
    """

    def __init__(
        self,
        budget: Budget,
        history: History,
        size: int | None,
        agent: AgentLike | None,
        endless: bool = False,
    ) -> None:
        self._budget, self._history, self._size, self._agent = budget, history, size, type(agent).__name__
        self._endless, self._has_policy = endless, getattr(agent, "has_policy", False)
        self.ended: str | None = None
        self.stopped: str | None = None
        self.fault: BaseException | None = None
        self._refusals = 0
        self._inside: dict[str, tuple[int]] = {}  # the thread that is; a lock could not be copied with the search
        self._deadline: threading.Timer | None = None

    def stop(self, reason: str) -> None:
        """Note that the search was asked to stop; safe in signal handlers and other threads."""
        self.stopped = self.stopped or reason

    def is_stopped(self) -> bool:
        """Return whether the search was asked to stop."""
        return self.stopped is not None

    def watch_the_clock(self, wall_seconds: float) -> None:
        """Stop the search after so many seconds, counted from the first call."""
        if self._deadline is None:
            said = f"the budget of {counted(wall_seconds, 'wall second')} is used up"
            self._deadline = threading.Timer(min(wall_seconds, threading.TIMEOUT_MAX), self.stop, [said])
            self._deadline.daemon = True
            self._deadline.start()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the agent within this context until the search is over.

        Raises:
            AgentError: the agent raised; where that came from the search itself, it is raised as it was.
            InputError: something in the search itself raised SystemExit, which would end the program in silence.
        """
        try:
            yield
        except BudgetExhausted:
            pass
        except (Exception, SystemExit) as error:  # an agent that exits would end the program in silence
            if self.fault is not None:  # the agent may have wrapped it
                raise _aloud(self.fault) from None
            raise AgentError(self._told(error)) from error
        if self.fault is not None:  # the agent has swallowed it
            raise _aloud(self.fault)

    def _told(self, error: BaseException) -> str:
        after = f"after {counted(len(self._history), 'evaluation')}"
        if isinstance(error, InputError):
            return f"agent {self._agent}: {error}; {after}"
        return f"agent {self._agent} raised {_in_words(error)} {after}"

    def check(self) -> None:
        """Raise BudgetExhausted if the search is over, SearchStopped if it was stopped before."""
        if self.stopped is not None:
            raise self._refused(SearchStopped(self.stopped))
        if self.ended is None and not self._endless:
            self.ended = self._over()
        if self.ended is not None:
            raise self._refused(BudgetExhausted(self.ended))

    def _over(self) -> str | None:
        """Return why the search is over; None if it is not."""
        exhausted = self._budget.exhausted(self._history)
        if exhausted is None and self._history.full_evaluations == self._size:
            over = " or break constraints" if self._history.looks else ""
            many = f"all {self._size} architectures of the space are evaluated{over}"
            return "the only architecture of the space is evaluated" if self._size == 1 else many
        if exhausted is not None and self._has_policy and self._budget.reached(self._history) is None:
            return f"{exhausted}; its policy has collapsed"
        return exhausted

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Exclude other threads from this context, and note its faults; see `noting_faults`.

        History and journal take in one proposal after the other.

        Raises:
            AgentError: another thread is inside.
        """
        mine = (threading.get_ident(),)
        holder = self._inside.setdefault("thread", mine)  # atomic
        if holder != mine:
            raise AgentError("evaluate is called from one thread at a time; give it several architectures at once")
        try:
            yield
        except (BudgetExhausted, AgentError):
            raise
        except (Exception, SystemExit) as error:
            self.fault = self.fault or error
            raise
        finally:
            if holder is mine:  # else this thread is inside still, further out
                self._inside.clear()

    @contextmanager
    def noting_faults(self) -> Iterator[None]:
        """Note exceptions within this context as faults of the search, not of the agent that they pass through."""
        try:
            yield
        except BudgetExhausted:
            raise
        except (Exception, SystemExit) as error:
            self.fault = self.fault or error
            raise

    def close(self) -> None:
        """Cancel the timer."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _refused(self, error: BudgetExhausted) -> BaseException:
        """Return the error, or one that is hardly ever caught if the agent ignores it again and again."""
        self._refusals += 1
        if self._refusals <= _REFUSALS:
            return error
        self.fault = AgentError(f"agent {self._agent} goes on proposing after the search is over: {error}")
        return SystemExit(str(self.fault))


def _aloud(fault: BaseException) -> BaseException:
    """Return the fault, or, if it would end the program silently, an error with its message."""
    if not isinstance(fault, SystemExit):
        return fault
    return InputError(f"the evaluator, or what it called, raised {_in_words(fault)}")


def _in_words(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
