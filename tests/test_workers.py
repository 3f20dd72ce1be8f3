"""Worker processes that cannot start."""

import functools
import os
import signal

import pytest

from nasenv.errors import InputError
from nasenv.evaluators.workers import WorkerPool

MANY_BYTES = bytes(1_000_000)  # more than a pipe holds


class Deadly:
    """Ends the process that is sent it."""

    def __reduce__(self):
        return os._exit, (9,)


def work(deadly, data, job):
    return job


def too_late(signum, frame):
    raise TimeoutError("the parent still waits for a worker that is dead")


def test_workers_that_die_while_they_start_are_no_reason_to_wait_for_ever():
    previous = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    try:
        with pytest.raises(InputError, match="the worker processes ended before they were ready"):
            WorkerPool(functools.partial(work, Deadly(), MANY_BYTES), 1, None)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
