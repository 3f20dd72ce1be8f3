"""A pool of persistent worker processes, one thread each, that do jobs side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Generic, NamedTuple, TypeVar

from nasenv.errors import InputError
from nasenv.workers.clock import WakingClock
from nasenv.workers.worker import Worker

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_GRACE_SECONDS = 10.0  # in which a job that sees to its own timeout ends by itself
_STARTING_SECONDS = 300.0  # in which a worker is ready; it imports what the jobs need
_STARTS = 3  # of workers for one job that end before they are ready
_LOOK_SECONDS = 0.1  # between two looks at the workers, and at whether to stop
_LONGEST_LOOK = 1.0  # more is a suspension
_END_FIRST = 100  # at exit; multiprocessing would send SIGTERM, which workers survive, and wait for them
_NOT_READY = (
    "the worker processes ended before they were ready ({}): in a script, start the work under `if __name__ == "
    "'__main__':`; classes of a notebook or shell cannot reach them: put those into a module, or give concurrency=0; a "
    "file in the current folder hides a module of the same name (random.py, torch.py): rename it"
)


class WorkerPool(Generic[Job, Answer]):
    """Runs ``work(job)`` in worker processes that live as long as the pool, and are ready when it is made.

    A worker that dies, hangs or raises costs its one job, which is tried again in a worker that has done nothing yet.
    Workers end with this process, however it ends; Ctrl-C and SIGTERM do not end them.

    Args:
        work: function or bound method that answers a job; it is pickled once for each worker.
        workers: number of processes, 1 or more.
        timeout_seconds: a job that takes longer, by ``grace_seconds``, costs its worker; None is no limit.
        retry: tells from an answer whether a fresh process might give a better one; the second answer counts.
        grace_seconds: extra time before a job is taken to hang; ten by default.
        environments: variables that workers have beside this process's, the first worker those of the first, and so on
            in turn: how each gets its GPU.
        warm_up: what workers do before they are ready, all at once, such as loading libraries; one that takes the place
            of another, with a job waiting, does without. Like ``work`` it may be a method, then of the same object.
        spoilt: tells from an answer whether its process is to do no other job.

    Attributes:
        size: number of jobs at work at once; setting it holds from the next job on.
        starts: number of processes that were started so far.

    Raises:
        InputError: ``work`` cannot be pickled, or the processes end before they are ready.
    """

    def __init__(
        self,
        work: Callable[[Job], Answer],
        workers: int,
        timeout_seconds: float | None,
        retry: Callable[[Answer], bool] = lambda answer: False,
        grace_seconds: float | None = None,
        environments: Sequence[Mapping[str, str]] = ({},),
        warm_up: Callable[[], object] | None = None,
        spoilt: Callable[[Answer], bool] = lambda answer: False,
    ) -> None:
        grace = _GRACE_SECONDS if grace_seconds is None else grace_seconds
        self._timeout = float("inf") if timeout_seconds is None else timeout_seconds + grace
        self._work, self.size, self._retry, self._environments = work, workers, retry, environments
        self._warm_up, self._spoilt, self.starts = warm_up, spoilt, 0
        self._workers: list[Worker] = []
        self._clock = WakingClock(_LONGEST_LOOK)
        self._gate = threading.RLock()  # held by who begins jobs, or wants that none begins
        self._end = Finalize(self, _end, (self._workers,), exitpriority=_END_FIRST)
        self.ready()

    @property
    def pids(self) -> set[int]:
        """Return the process ids of the current workers."""
        return {worker.pid for worker in self._workers if worker.pid}

    def ready(self) -> int:
        """Wait until there are ``size`` workers that have unpacked their work and warmed up; return how many are idle.

        To be called where ``size`` has grown, or workers may have died, and no job is to wait for a process to start.

        Raises:
            InputError: a process cannot be started, or ends before it is ready.
        """
        with self._gate:
            idle = self._idle()
            return len(idle) + len(self._started(self.size - len(self._workers), self._warm_up))

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Wait for the running jobs, and start no others within the context, so that the machine is idle for timings.

        Streams in other threads wait meanwhile, as does one in this thread while the caller has an answer of it; what
        this thread streams inside has the machine for itself. Jobs keep their timeout, and no answer is lost.

        >>> for job, answer in pool.stream(jobs, failed):  # doctest: +SKIP
        ...     with pool.pause():
        ...         latency_ms = measured(answer)
        """
        with self._gate:
            at_work = [worker for worker in self._workers if worker.busy]
            while at_work:
                heard = self._heard(at_work)
                at_work = [worker for worker in at_work if worker not in heard]
            yield

    def stream(
        self,
        jobs: Iterable[Job | None],
        failed: Callable[[Job, str, float], Answer],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Job, Answer]]:
        """Yield each job with its answer, in the order of completion.

        Args:
            jobs: begun in this order, each taken when a worker is free for it; None says that there is none for the
                moment. The stream is over when no job is being done and there is none to begin.
            failed: ``failed(job, reason, seconds)`` stands in for the answer of a job that went wrong twice.
            stopped: polled; once it returns True, no job is begun or tried again, and the stream ends
                after those that are being done.

        Raises:
            InputError: of ``work``; or processes can no longer be started.
        """
        stream = _Stream(iter(jobs), failed, stopped)
        try:
            while self._begin(stream):
                for worker in self._heard(stream.busy):
                    answered = self._settle(stream, worker)
                    try:
                        self._begin(stream)  # before the caller takes its time
                    except InputError:
                        yield from answered  # which are worth something also where no more can be had
                        raise
                    yield from answered
        finally:
            with self._gate:
                self._drop(*stream.busy)  # nobody wants their answers

    def close(self) -> None:
        """Kill the workers, busy or not."""
        self._end()

    def _begin(self, stream: _Stream[Job, Answer]) -> bool:
        """Give jobs to free workers; return whether any worker is busy."""
        with self._gate:
            while len(stream.busy) < self.size and (task := stream.next()) is not None:
                idle = self._idle() if task.fault is None else []
                worker = idle[0] if idle else self._fresh()
                worker.send(task.job, self._clock(), self._timeout)
                stream.busy[worker] = task
            if (surplus := len(self._workers) - self.size) > 0:
                self._drop(*self._idle()[:surplus])
        return bool(stream.busy)

    def _settle(self, stream: _Stream[Job, Answer], worker: Worker) -> list[tuple[Job, Answer]]:
        """Handle a worker's message; return its job with the answer, or nothing if the job is tried again."""
        with self._gate:
            task, message = stream.busy.pop(worker), worker.receive()
            if message.kind == "answer" and (task.fault is not None or not self._retry(message.content)):
                worker.busy = False
                if self._spoilt(message.content):
                    self._drop(worker)
                return [(task.job, message.content)]
            self._drop(worker)
        if message.kind == "refusal":
            raise InputError(message.content)
        fault = message.content if message.kind == "fault" else "its answer was an error"
        return stream.faulty(task, fault, self._clock() - worker.began)

    def _idle(self) -> list[Worker]:
        """Return the workers that wait for a job; drop those that have died."""
        idle = [worker for worker in self._workers if not worker.busy]
        self._drop(*(worker for worker in idle if worker.connection.poll()))
        return [worker for worker in idle if worker in self._workers]

    def _fresh(self) -> Worker:
        """Return a new worker; starting one is tried a few times."""
        for _ in range(_STARTS - 1):
            with suppress(InputError):  # it may have been in want of memory
                return self._started(1)[0]
        return self._started(1)[0]

    def _started(self, number: int, warm_up: Callable[[], object] | None = None) -> list[Worker]:
        """Return so many new workers, when they are ready."""
        new: list[Worker] = []
        try:
            for _ in range(number):
                place = min({*range(len(self._workers) + 1)} - {worker.place for worker in self._workers})
                new.append(Worker(self._work, place, self._environments[place % len(self._environments)], warm_up))
                self._workers.append(new[-1])
                self.starts += 1
            for worker in new:
                if not worker.connection.poll(_STARTING_SECONDS):
                    worker.kill(overdue=True)
                if (message := worker.receive()).kind != "ready":
                    raise InputError(_NOT_READY.format(message.content))
        except BaseException:
            self._drop(*new)
            raise
        return new

    def _heard(self, workers: Collection[Worker]) -> list[Worker]:
        """Return, after a short wait, the workers that sent a message and those killed for exceeding their time."""
        speaking = wait([worker.connection for worker in workers], _LOOK_SECONDS)
        now = self._clock()
        for worker in workers:
            if worker.deadline < now and worker.connection not in speaking:
                worker.kill(overdue=True)
        return [worker for worker in workers if worker.overdue or worker.connection in speaking]

    def _drop(self, *workers: Worker) -> None:
        self._workers[:] = [worker for worker in self._workers if worker not in workers]
        _end([*workers])


class _Task(NamedTuple, Generic[Job]):
    """Holds a job, and, if it is tried again, the fault of the first try and its seconds."""

    job: Job
    fault: str | None = None
    seconds: float = 0.0


@dataclass
class _Stream(Generic[Job, Answer]):
    """Holds the arguments of `WorkerPool.stream`, the jobs to try again, and the jobs in progress."""

    jobs: Iterator[Job | None]
    failed: Callable[[Job, str, float], Answer]
    stopped: Callable[[], bool]
    again: list[_Task[Job]] = field(default_factory=list)
    busy: dict[Worker, _Task[Job]] = field(default_factory=dict)

    def next(self) -> _Task[Job] | None:
        """Return the next job to start; None if there is none."""
        if self.stopped():
            return None
        if self.again:
            return self.again.pop()
        job = next(self.jobs, None)
        return None if job is None else _Task(job)

    def faulty(self, task: _Task[Job], fault: str, seconds: float) -> list[tuple[Job, Answer]]:
        """Schedule a job for another try, or return it with its substitute answer after the second."""
        seconds += task.seconds
        if task.fault is None:
            self.again.append(_Task(task.job, fault, seconds))
            return []
        reason = f"{fault}, twice" if fault == task.fault else f"{fault}; the first time: {task.fault}"
        return [(task.job, self.failed(task.job, reason, seconds))]


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.release()
    workers.clear()
