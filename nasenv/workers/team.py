"""The worker processes that a pool has: those that wait for a job, those that have one, those to be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from multiprocessing.util import Finalize
from typing import Any

from nasenv.errors import InputError
from nasenv.workers.serving import Message
from nasenv.workers.worker import Worker

_END_FIRST = 100  # at exit; multiprocessing would send SIGTERM, which workers survive, and wait for them


class Team:
    """Worker processes that do the same ``work``; they end with this object.

    Args:
        work: the function, or bound method, that answers a job; pickled once a worker.
        size: the number of workers; it may be set anew, and holds from the next job on.
        environments: variables that workers have beside this process's, by their place in turn.

    Raises:
        InputError: ``work`` cannot be pickled, or the processes end before they are ready.
    """

    def __init__(
        self, work: Callable[[Any], Any], size: int, environments: Sequence[Mapping[str, str]] = ({},)
    ) -> None:
        self.work, self.size, self._environments = work, size, environments
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self.end = Finalize(self, _end, (self._workers,), exitpriority=_END_FIRST)
        try:
            starting = [self.fresh() for _ in range(size)]
            for worker in starting:  # so that no job waits for a process to start
                check_ready(worker.hear())
                self.free(worker)
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> set[int]:
        """The processes that there are now."""
        return {worker.pid for worker in self._workers if worker.pid is not None}

    def fresh(self) -> Worker:
        """Start a worker; it will say when it is ready."""
        taken = {worker.place for worker in self._workers}
        place = next(place for place in count() if place not in taken)
        worker = Worker(self.work, place, self._environments[place % len(self._environments)])
        self._workers.add(worker)
        return worker

    def idle(self) -> Worker | None:
        """Take one that is ready and waits, if there is one."""
        return self._idle.pop() if self._idle else None

    def free(self, worker: Worker) -> None:
        """Take a worker back that is ready for another job."""
        if len(self._idle) < self.size:
            self._idle.append(worker)
        else:
            self.drop(worker)

    def drop(self, worker: Worker) -> None:
        """End a worker."""
        worker.kill()
        worker.release()
        self._workers.discard(worker)


def check_ready(message: Message) -> None:
    """Raise InputError where a worker's first message is not that it is ready."""
    if message.kind != "ready":
        raise InputError(
            f"the worker processes ended before they were ready ({message.content}): in a script, start the work "
            "under `if __name__ == '__main__':`; classes of a notebook or shell cannot reach them: put those into a "
            "module, or give concurrency=0; a file in the current folder hides a module of the same name (random.py, "
            "torch.py): rename it"
        )


def _end(workers: set[Worker]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.release()
    workers.clear()
