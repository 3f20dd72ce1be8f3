"""Small jobs for worker processes, which succeed or fail in every way."""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from nasenv.errors import InputError

Job = tuple[str, Any]  # the kind, and what it is given


class Unpicklable:
    """Cannot be pickled, and so not sent."""

    def __reduce__(self) -> NoReturn:
        raise ValueError("not me")


class Unreadable:
    """Is pickled without an error, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


def _raise(error: Exception) -> NoReturn:
    raise error


def _exceed_the_limit() -> bytearray:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
    return bytearray(2**28)


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "the worker process was killed by signal 9 (Killed: mem"),
    "exits 0": (lambda: os._exit(0), "the worker process ended with exit code 0"),
    "exits 3": (lambda: os._exit(3), "the worker process ended with exit code 3"),
    "segfault": (lambda: ctypes.string_at(0), "the worker process was killed by signal 11 (Segmentation fault)"),
    "stopped": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "timeout: the worker hung and was ended"),
    "hangs": (lambda: time.sleep(60), "timeout: the worker hung and was ended"),
    "hangs in C": (lambda: ctypes.PyDLL(None).sleep(60), "timeout: the worker hung and was ended"),  # holds the GIL
    "memory": (lambda: _raise(MemoryError()), "MemoryError: no message"),
    "memory limit": (_exceed_the_limit, "MemoryError: no message"),
    "raises": (lambda: _raise(ValueError("two\nlines")), "ValueError: two lines"),
    "quits": (sys.exit, "SystemExit: no message"),
    "unpicklable": (Unpicklable, "ValueError: not me"),
    "unreadable": (Unreadable, "the answer cannot be read (ValueError: invalid literal for int()"),
}
"""By kind: what is done, and how the reason that the parent gives begins."""

_had: list[Job] = []  # by this process


def work(job: Job) -> Any:
    """Return the answer of a job, if it has one."""
    kind, given = job
    _had.append(job)
    match kind:
        case "square":
            return given * given
        case "sleep":
            time.sleep(given)
            return given
        case "refuses":
            raise InputError("not with these data")
        case "errs":
            return "error", os.getpid()
        case "mends":  # takes the process with it the first time
            return len(_had) if _is_second(Path(given)) else os._exit(1)
    return FAULTS[kind][0]()


def _is_second(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def failed(job: Job, reason: str, seconds: float) -> tuple[str, str]:
    """Return the substitute answer of a job that failed twice."""
    return "failed", reason


def is_as_expected(job: Job, answer: Any) -> bool:
    """Return whether the answer is the one that the job's kind must have."""
    kind, _ = job
    if kind in FAULTS:
        state, reason = answer
        return bool(state == "failed" and reason.startswith(FAULTS[kind][1]) and reason.endswith(", twice"))
    if kind == "mends":
        return bool(answer == 1)  # job of its process
    return bool(answer == work(job))
