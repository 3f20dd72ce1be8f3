"""Persistent worker processes, one thread each, that answer jobs side by side."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

import pebble
import torch
import torch.multiprocessing

from nasenv.errors import InputError

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_GRACE_SECONDS = 10.0  # a job sees its own timeout; a worker that hangs is killed so much later
_PR_SET_PDEATHSIG = 1


class WorkerPool(Generic[Job, Answer]):
    """Runs ``work(job)`` in worker processes that live as long as the pool.

    Workers are spawned, not forked (torch's threads do not survive a fork). What ``work`` carries is sent to each
    once, tensors in shared memory. A worker that dies or hangs costs its one job and is replaced.

    Args:
        work: the function, or bound method, that answers a job; pickled once a worker.
        workers: number of processes, 1 or more.
        timeout_seconds: a job that takes longer, by ten seconds, costs its worker; None is no limit.

    Raises:
        InputError: ``work`` cannot be pickled, or the processes end before they are ready.
    """

    def __init__(self, work: Callable[[Job], Answer], workers: int, timeout_seconds: float | None) -> None:
        self._work, self._workers = work, workers
        self._timeout = None if timeout_seconds is None else timeout_seconds + _GRACE_SECONDS
        self._pool = self._start()

    def _start(self) -> pebble.ProcessPool:
        pool = pebble.ProcessPool(
            max_workers=self._workers,
            initializer=_become_worker,
            initargs=(_Parcel(self._work), os.getpid()),
            context=torch.multiprocessing.get_context("spawn"),
        )
        ready: set[int] = set()
        try:
            while len(ready) < self._workers:  # so that no job waits for a process to import torch
                ready |= {f.result() for f in [pool.schedule(_report) for _ in range(self._workers)]}
        except (BrokenProcessPool, pebble.ProcessExpired):
            raise InputError(
                "the worker processes ended before they were ready: in a script, start the work under "
                "`if __name__ == '__main__':`; classes of a notebook or shell cannot reach them: put those into a "
                "module, or give workers=0; a file in the current folder hides a module of the same name (random.py, "
                "torch.py): rename it"
            ) from None
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"the space or data cannot be sent to worker processes ({error}); define functions and classes at "
                "the top of a module, or give workers=0"
            ) from error
        return pool

    def map(self, jobs: Sequence[Job], failed: Callable[[Job, str, float], Answer]) -> list[Answer]:
        """Return the answer of each job, in order; ``failed(job, reason, seconds)`` stands in for one that has none."""
        started = time.perf_counter()
        futures = [self._schedule(job) for job in jobs]
        return [self._awaited(job, future, failed, started) for job, future in zip(jobs, futures, strict=True)]

    def stream(self, jobs: Sequence[Job], failed: Callable[[Job, str, float], Answer]) -> Iterator[Answer]:
        """Yield the answers as they come."""
        started = time.perf_counter()
        scheduled = {self._schedule(job): job for job in jobs}
        for future in as_completed(scheduled):
            yield self._awaited(scheduled.pop(future), future, failed, started)

    def _awaited(
        self, job: Job, future: Future[Answer], failed: Callable[[Job, str, float], Answer], started: float
    ) -> Answer:
        try:
            return self._result(job, future)
        except FutureTimeout:
            return failed(job, "timeout: the worker hung and was ended", self._timeout or 0.0)
        except pebble.ProcessExpired as error:
            reason = f"the worker process ended with exit code {error.exitcode}"
            return failed(job, reason, time.perf_counter() - started)

    def _schedule(self, job: Job) -> Future[Answer]:
        try:
            return self._pool.schedule(_work, args=[job], timeout=self._timeout)
        except RuntimeError:  # a worker died idle, and pebble gives the whole pool up
            self.close()
            self._pool = self._start()
            return self._pool.schedule(_work, args=[job], timeout=self._timeout)

    def _result(self, job: Job, future: Future[Answer]) -> Answer:
        try:
            return future.result()
        except BrokenProcessPool:  # given up since the job was scheduled
            return self._schedule(job).result()

    def close(self) -> None:
        """End the workers, busy or not."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


class _Parcel:
    """What a worker is to do, sent through shared memory.

    In a pipe, more than its 64 KiB would keep the parent waiting for ever for a worker that dies while it starts.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __reduce__(self) -> tuple[Callable[[torch.Tensor], Any], tuple[torch.Tensor]]:
        pickled = torch.frombuffer(bytearray(ForkingPickler.dumps(self._work)), dtype=torch.uint8)
        self._sent = pickled.share_memory_()  # type: ignore[no-untyped-call]  # kept until the worker opens it
        return _unpack, (self._sent,)


def _unpack(pickled: torch.Tensor) -> Any:
    return pickle.loads(pickled.numpy().tobytes())  # of our own parent


_answer: Callable[[Any], Any]  # what this process does, where it is a worker


def _become_worker(work: Callable[[Any], Any], parent: int) -> None:
    global _answer
    _answer = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the call
            os._exit(1)
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # imports for seconds, which the first job would have to wait for


def _work(job: Any) -> Any:
    return _answer(job)


def _report() -> int:
    time.sleep(0.02)  # leaves the next one to another worker
    return os.getpid()
