"""Persistent worker processes, one thread each, that answer jobs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from nasenv.workers.dispatch import Dispatch
from nasenv.workers.team import Team

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_GRACE_SECONDS = 10.0  # in which a job that sees to its own timeout ends by itself


class WorkerPool(Generic[Job, Answer]):
    """Runs ``work(job)`` in worker processes that live as long as the pool.

    A worker that dies, hangs or raises costs its one job, which is tried again in a worker that has done nothing yet.
    Workers end with this process, however it ends; Ctrl-C and SIGTERM do not end them.

    Args:
        work: the function, or bound method, that answers a job; pickled once a worker.
        workers: number of processes, 1 or more.
        timeout_seconds: a job that takes longer, by ``grace_seconds``, costs its worker; None is no limit.
        retry: tells from an answer whether a fresh process might give a better one; the second answer counts.
        grace_seconds: by default ten.
        environments: variables that workers have beside this process's, the first worker those of the first, and so on
            in turn: how each gets its GPU.

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
    ) -> None:
        grace = _GRACE_SECONDS if grace_seconds is None else grace_seconds
        self._timeout = None if timeout_seconds is None else timeout_seconds + grace
        self._retry = retry
        self._team = Team(work, workers, environments)

    @property
    def size(self) -> int:
        """Number of jobs at work at once; setting it holds from the next job on."""
        return self._team.size

    @size.setter
    def size(self, workers: int) -> None:
        self._team.size = workers

    @property
    def pids(self) -> set[int]:
        """The worker processes that there are now."""
        return self._team.pids

    def stream(
        self,
        jobs: Iterable[Job | None],
        failed: Callable[[Job, str, float], Answer],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Job, Answer]]:
        """Yield each job with its answer, in order of completion.

        Args:
            jobs: begun in this order, each taken when a worker is free for it; None says that there is none for the
                moment. The stream is over when no job is being done and there is none to begin.
            failed: ``failed(job, reason, seconds)`` stands in for the answer of a job that went wrong twice.
            stopped: asked again and again; once it says yes, no job is begun or tried again, and the stream ends
                after those that are being done.

        Raises:
            InputError: of ``work``; or processes can no longer be started.
        """
        return Dispatch(self._team, self._timeout, self._retry, failed, stopped).run(jobs)

    def close(self) -> None:
        """End the workers, busy or not."""
        self._team.end()
