"""Hands trials to a fleet of actors, tries again elsewhere what was lost, and says what became of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from nasenv.cluster.ray_actor import Reply
from nasenv.cluster.ray_fleet import Call, Fleet
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Answer, TestResult
from nasenv.trial import Measurement, Trial
from nasenv.workers.clock import WakingClock

_STOP_SECONDS = 0.1  # between two looks at whether to stop
_LONGEST_LOOK = 1.0  # seconds between two looks at the clock; more is a suspension


@dataclass
class _Task:
    """A trial that is to be answered.

    Args:
        trial: what is asked.
        begun: when it was given to the actor that has it.
        spent: seconds of actors that had it before.
        lost: why each of those has not answered.
        mended: whether an error was its answer before.
    """

    trial: Trial
    begun: float = 0.0
    spent: float = 0.0
    lost: tuple[str, ...] = ()
    mended: bool = False


class Done(NamedTuple):
    """The answer to a trial, and what it took: wall seconds by part, trainings that were no CUDA graph by reason."""

    trial: Trial
    answer: Answer
    worked: Mapping[str, float]
    eager: Mapping[str, int]


class RayDispatch:
    """One stream of trials through a fleet.

    Args:
        fleet: the actors.
        limit: seconds after which an actor that has a trial is taken to hang; None is no limit.
        retries: how many times a trial is tried again that was lost with its actor.
        stopped: tells whether to begin no more.
    """

    def __init__(self, fleet: Fleet, limit: float | None, retries: int, stopped: Callable[[], bool]) -> None:
        self._fleet, self._limit, self._retries, self._stopped = fleet, limit, retries, stopped
        self._again: deque[_Task] = deque()
        self._busy: dict[Call, _Task] = {}  # the longest begun first
        self._clock = WakingClock(_LONGEST_LOOK)

    def run(self, queue: deque[Trial]) -> Iterator[Done]:
        """Yield what is done, in the order in which it is; trials are begun from the left of a queue that may grow.

        Raises:
            InputError: of the evaluator, or of the fleet.
        """
        try:
            while self._begin(queue):
                for call, reply in [*self._fleet.heard(_STOP_SECONDS), *self._overdue()]:
                    task = self._busy.pop(call, None)
                    done = None if task is None else self._settled(call, task, reply)
                    if done is not None:
                        self._begin(queue)  # before the caller takes its time
                        yield done
        finally:
            for call in self._busy:  # nobody wants their answers
                self._fleet.drop(call.member)

    def _begin(self, queue: deque[Trial]) -> bool:
        """Keep the actors busy; return whether there is anything to wait for."""
        stopped = self._stopped()
        while not stopped and self._fleet.room and (self._again or queue):
            task = self._again.popleft() if self._again else _Task(queue.popleft())
            task.begun = self._clock()
            self._busy[self._fleet.give(task.trial)] = task
        return bool(self._busy) or (not stopped and bool(self._again or queue))

    def _overdue(self) -> list[tuple[Call, Reply]]:
        """End the actors that hang, and return what that makes of their trials."""
        if self._limit is None:
            return []
        latest = self._clock() - self._limit
        overdue = [call for call, _ in takewhile(lambda busy: busy[1].begun < latest, self._busy.items())]
        for call in overdue:
            self._fleet.drop(call.member)
        return [(call, Reply("lost", reason=f"timeout: the worker hung on {call.member.node}")) for call in overdue]

    def _settled(self, call: Call, task: _Task, reply: Reply) -> Done | None:
        """Return what is done; None where it is to be tried again, or was lost when it is too late for that."""
        task.spent += self._clock() - task.begun
        if reply.kind == "refusal":
            raise InputError(reply.reason)
        if reply.kind == "lost":
            task.lost += (reply.reason,)
            if len(task.lost) <= self._retries:
                self._again.append(task)
                return None
            tries = f", tried {len(task.lost)} times" if len(task.lost) > 1 else ""
            return Done(task.trial, _failed(task, reply.reason + tries), {}, {})
        if reply.mendable and self._retries and not task.mended:
            self._fleet.drop(call.member)  # a device or library may be in a bad state
            task.mended = True
            self._again.append(task)
            return None
        answer = _failed(task, reply.reason) if reply.answer is None else reply.answer
        return Done(task.trial, answer, reply.worked, reply.eager)


def _failed(task: _Task, reason: str) -> Answer:
    if task.trial.kind == "test":
        return TestResult(None, reason, task.spent)
    return Measurement(None, reason, task.spent, task.trial.fidelity)
