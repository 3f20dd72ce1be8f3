"""Hands jobs to worker processes, tries again what went wrong, and says what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Generic, TypeVar

from nasenv.errors import InputError
from nasenv.workers.clock import WakingClock
from nasenv.workers.serving import Message
from nasenv.workers.team import Team, check_ready
from nasenv.workers.worker import Worker

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_STARTING_SECONDS = 300.0  # in which a worker is ready; it imports what the jobs need
_STARTS = 3  # of workers for one job that end before they are ready
_LONGEST_LOOK = 1.0  # seconds between two looks at the workers; more is a suspension
_STOP_SECONDS = 0.1  # between two looks at whether to stop


@dataclass
class _Task(Generic[Job]):
    """A job that a worker has, or is started for.

    Args:
        job: what is to be done.
        clock: of the stream.
        fault: what went wrong the first time; None where this is the first time.
        begun: when the worker was given it or started.
        given: whether it was given it.
        spent: seconds of workers that had it before.
        starts: workers started for it.
    """

    job: Job
    clock: WakingClock
    fault: str | None = None
    begun: float = 0.0
    given: bool = False
    spent: float = 0.0
    starts: int = 0

    @property
    def seconds(self) -> float:
        """What it took so far."""
        return self.spent + (self.clock() - self.begun if self.given else 0.0)


class Dispatch(Generic[Job, Answer]):
    """One stream of jobs through the workers of a team; see `WorkerPool.stream`.

    Args:
        team: the workers; the stream has as many of them at work as the team has places.
        limit: seconds after which a worker that has a job is taken to hang; None is no limit.
        retry: tells from an answer whether a fresh process might give a better one.
        failed: makes an answer of a job, the reason why it has none, and the seconds that it took.
        stopped: tells whether to begin no more.
    """

    def __init__(
        self,
        team: Team,
        limit: float | None,
        retry: Callable[[Answer], bool],
        failed: Callable[[Job, str, float], Answer],
        stopped: Callable[[], bool],
    ) -> None:
        self._team, self._limit, self._retry, self._failed, self._stopped = team, limit, retry, failed, stopped
        self._waiting: Iterator[Job | None] = iter(())
        self._busy: dict[Worker, _Task[Job]] = {}
        self._clock = WakingClock(_LONGEST_LOOK)

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Answer]]:
        """Yield each job with its answer as it is done; see `WorkerPool.stream` for the jobs."""
        self._waiting = iter(jobs)
        try:
            self._begin()
            while self._busy:
                for worker in self._heard():
                    for answered in self._settled(worker):
                        fault = self._begun()  # before the caller takes its time
                        yield answered
                        if fault is not None:
                            raise fault
                self._begin()
        finally:
            for worker in self._busy:  # nobody wants their answers
                self._team.drop(worker)

    def _begun(self) -> InputError | None:
        """Keep the workers busy, and return why that cannot be."""
        try:
            self._begin()
        except InputError as error:
            return error
        return None

    def _begin(self) -> None:
        """Keep the workers busy."""
        if self._stopped():
            self._waiting = iter(())
        while len(self._busy) < self._team.size and (job := next(self._waiting, None)) is not None:
            self._hand(_Task(job, self._clock), self._team.idle())

    def _hand(self, task: _Task[Job], worker: Worker | None) -> None:
        """Give a job to a worker that is ready, or start one for it where there is none or it died meanwhile."""
        task.begun, task.given = self._clock(), worker is not None
        if worker is not None and not worker.give(task.job):
            self._team.drop(worker)
            task.given, worker = False, None
        if worker is None:
            task.starts += 1
            worker = self._team.fresh()
        self._busy[worker] = task

    def _heard(self) -> list[Worker]:
        """Wait for workers that have something to say, or have had their time; an empty list says to look again."""
        rest = min(self._deadline(task) for task in self._busy.values()) - self._clock()
        speaking = set(wait([w.connection for w in self._busy], max(0.0, min(rest, _STOP_SECONDS))))
        now = self._clock()
        return [w for w, task in self._busy.items() if w.connection in speaking or self._deadline(task) < now]

    def _deadline(self, task: _Task[Job]) -> float:
        if not task.given:
            return task.begun + _STARTING_SECONDS
        return float("inf") if self._limit is None else task.begun + self._limit

    def _settled(self, worker: Worker) -> Iterator[tuple[Job, Answer]]:
        """Do what follows from what a worker says, or from its silence; yield an answer that is final."""
        task = self._busy.pop(worker)
        silent = not worker.connection.poll()
        message = Message("fault", "timeout: the worker hung and was ended") if silent else worker.hear()
        if not task.given:
            self._started(worker, task, message)
        elif message.kind == "refusal":
            self._team.drop(worker)
            raise InputError(message.content)
        elif message.kind == "answer" and (task.fault is not None or not self._retry(message.content)):
            self._team.free(worker)
            yield task.job, message.content
        else:
            self._team.drop(worker)
            fault = message.content if message.kind == "fault" else "its answer was an error"
            yield from self._faulty(task, fault)

    def _started(self, worker: Worker, task: _Task[Job], message: Message) -> None:
        """Give its job to a worker that is ready, unless it is too late to begin."""
        if message.kind != "ready":
            self._team.drop(worker)
            if task.starts == _STARTS:
                check_ready(message)
            self._hand(task, None)
        elif self._stopped():
            self._team.free(worker)
        else:
            self._hand(task, worker)

    def _faulty(self, task: _Task[Job], fault: str) -> Iterator[tuple[Job, Answer]]:
        """Try again what went wrong, or yield that it did so twice."""
        if task.fault is not None:
            reason = f"{fault}, twice" if fault == task.fault else f"{fault}; the first time: {task.fault}"
            yield task.job, self._failed(task.job, reason, task.seconds)
        elif not self._stopped():
            self._hand(_Task(task.job, self._clock, fault, spent=task.seconds), None)
