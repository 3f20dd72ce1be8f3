"""The loop that runs in a worker process: it unpickles its work, answers jobs, and ends with its parent."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal, NamedTuple

import torch

from nasenv.errors import InputError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # reach a whole terminal or job; the parent decides on them
_LONGEST_REASON = 300


class Message(NamedTuple):
    """Holds what a worker sends: that it is ready, an answer, a fault, or the text of an `InputError` (refusal)."""

    kind: Literal["ready", "answer", "fault", "refusal"]
    content: Any = None


def describe_error(error: BaseException) -> str:
    """Return an exception as one line, ``TypeName: text``."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's class
        text = ""
    return f"{type(error).__name__}: {text[:_LONGEST_REASON] or 'no message'}"


Work = tuple[Callable[[Any], Any], Callable[[], object] | None]
"""What answers a job, and what a worker does before its first, if anything."""


def load_work(pickled: torch.Tensor) -> Work:
    """Return the work from its pickled bytes, (n,) of uint8; whatever its classes raise is raised."""
    work: Work = pickle.loads(pickled.numpy().tobytes())  # of our own parent
    return work


def serve(connection: Connection, opening: Callable[[], Work]) -> None:
    """Answer jobs until the connection closes.

    Args:
        connection: receives the environment, then jobs, and sends a `Message` for each.
        opening: returns the work.
    """
    try:
        environment = connection.recv()  # the server has that of its start
        _tie_to_parent()
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)  # unlike SIG_IGN not inherited by programs that a job starts
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(1)
        try:
            work, warm_up = opening()
            if warm_up is not None:
                warm_up()
        except BaseException as error:  # of a user's module
            connection.send(Message("fault", describe_error(error)))
            return
        connection.send(Message("ready"))
        while True:
            connection.send_bytes(_reply(work, connection.recv_bytes()))
    except BaseException:  # the parent is gone or there is no memory to say so; a traceback would tell nobody more
        os._exit(1)


def _reply(work: Callable[[Any], Any], job: bytes) -> memoryview:
    """Return the pickled message that answers a pickled job."""
    try:
        return ForkingPickler.dumps(Message("answer", work(pickle.loads(job))))
    except InputError as error:
        return ForkingPickler.dumps(Message("refusal", str(error)))
    except BaseException as error:
        return ForkingPickler.dumps(Message("fault", describe_error(error)))


def _tie_to_parent() -> None:
    """Ensure that this process dies with its parent, however that ends.

    The kernel closes the parent's end of a pipe. On Linux it then sends SIGKILL, also to a process that is stuck in C
    code (PR_SET_PDEATHSIG would look at the server that this process was forked from); elsewhere a thread notices. To
    be called when the parent has written all that it will write to that pipe, for that has the same effect.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was started by multiprocessing
    if sys.platform == "linux":
        pipe = parent.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True).start()
    if not parent.is_alive():  # gone before the call
        os._exit(1)
