"""One worker process: how it is started, tied to its parent, given a job, heard, and ended."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import torch
import torch.multiprocessing  # tensors are sent as shared memory

from nasenv.errors import InputError

_IMPORTED = ["torch._dynamo", "nasenv.evaluators.training"]  # once, by the process that all workers are forked from
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # reach the whole terminal or job; the parent decides what comes of them
_READING_SECONDS = 60.0  # in which an answer that begins to arrive has arrived
_ENDING_SECONDS = 5.0  # in which the kernel lets go of a process that is killed
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Message:
    """What a worker says.

    Args:
        kind: ready; unready, it cannot begin; answer; fault, the job has no answer; refusal, an `InputError`.
        content: the answer, or the reason in one line.
    """

    kind: Literal["ready", "unready", "answer", "fault", "refusal"]
    content: Any = None


class Worker:
    """A process that answers one job after the other; as seen from its parent.

    It is forked from a server, itself a child of this process, that has imported PyTorch and started nothing: it is
    there in 0.03 s instead of 2 s, shares the memory of what is imported, and nothing of this process's threads and
    devices is carried over. What ``work`` carries is pickled, tensors in shared memory.

    Args:
        work: the function, or bound method, that answers a job.

    Raises:
        InputError: ``work`` cannot be pickled, or no process can be started.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        self.connection, theirs = context.Pipe()
        arguments = (theirs, _Parcel(work), dict(os.environ))
        self._process = context.Process(target=_serve, args=arguments, name="nasenv-worker", daemon=True)
        try:
            with closing(theirs), _signals_blocked():
                self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"the space or data cannot be sent to worker processes ({error}); define functions and classes at "
                "the top of a module, or give workers=0"
            ) from error
        except RuntimeError:  # here a worker imports a script that starts workers when it is imported
            raise SystemExit(1) from None  # what is wrong is said by the process that runs the script
        except EOFError:  # of the server
            raise InputError(f"worker processes cannot import PyTorch; {_HIDING}, or give workers=0") from None
        except OSError as error:
            raise InputError(f"no worker process can be started ({error}); give fewer workers, or workers=0") from error
        self.pid = self._process.pid

    def give(self, job: Any) -> bool:
        """Send a job; return False where the worker died while it had none."""
        if self.connection.poll():
            return False
        with suppress(BrokenPipeError, ConnectionResetError):  # ends as it is sent the job: heard as the job's fault
            self.connection.send(job)
        return True

    def hear(self) -> Message:
        """Return what the worker says, or that it has ended; waits for that."""
        limit = threading.Timer(_READING_SECONDS, self._process.kill)  # stuck halfway
        limit.start()
        try:
            message = pickle.loads(self.connection.recv_bytes())  # of our own child
        except (EOFError, ConnectionResetError):
            return Message("fault", self._ending())
        except Exception as error:  # a user's class may raise anything
            return Message("fault", f"the answer cannot be read ({described(error)})")
        finally:
            limit.cancel()
        if isinstance(message, Message):
            return message
        return Message("fault", "the answer cannot be read")

    def _ending(self) -> str:
        self._process.join(_ENDING_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "the worker process closed its connection"
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        hint = ": memory ran out, or someone ended it" if -code == signal.SIGKILL else ""
        return f"the worker process was killed by signal {-code} ({signal.strsignal(-code)}{hint})"

    def kill(self) -> None:
        """End the process, whatever it does; `release` is to follow."""
        with suppress(ValueError):  # released before
            if self._process.is_alive():
                self._process.kill()

    def release(self) -> None:
        """Let go of what the system keeps of a process that was killed."""
        self.connection.close()
        with suppress(ValueError):  # released before, or the kernel does not let go of it
            self._process.join(_ENDING_SECONDS)
            self._process.close()


def described(error: BaseException) -> str:
    """Return an exception as one line, ``TypeName: text``."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's class
        text = ""
    return f"{type(error).__name__}: {text[:_LONGEST_REASON] or 'no message'}"


_HIDING = "a file in the current folder may hide a module of the same name (random.py, torch.py): rename it"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes that are deaf to signals from their first instruction on, and so cannot be taken by surprise."""
    resource_tracker.ensure_running()  # which unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Parcel:
    """What a worker is to do, sent through shared memory.

    In a pipe, more than its 64 KiB would keep the parent waiting for ever for a worker that dies while it starts. It is
    unpacked by the worker itself, which can then say what went wrong.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __reduce__(self) -> tuple[type[_Packed], tuple[torch.Tensor]]:
        pickled = torch.frombuffer(bytearray(ForkingPickler.dumps(self._work)), dtype=torch.uint8)
        self._sent = pickled.share_memory_()  # type: ignore[no-untyped-call]  # kept until the worker opens it
        return _Packed, (self._sent,)


class _Packed:
    def __init__(self, pickled: torch.Tensor) -> None:
        self._pickled = pickled

    def open(self) -> Callable[[Any], Any]:
        work: Callable[[Any], Any] = pickle.loads(self._pickled.numpy().tobytes())  # of our own parent
        return work


def _serve(connection: Connection, packed: _Packed, environment: Mapping[str, str]) -> None:
    """Be a worker: until the connection closes."""
    _tie_to_parent()
    try:
        for number in _SIGNALS:
            signal.signal(number, _nothing)  # unlike SIG_IGN not inherited by programs that a job starts
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.environ.clear()
        os.environ.update(environment)  # the server has that of its start
        torch.set_num_threads(1)
        work = _opened(connection, packed)
        while work is not None:
            connection.send_bytes(_reply(work, connection.recv_bytes()))
    except BaseException:  # the parent is gone or there is no memory to say so; a traceback would tell nobody more
        os._exit(1)


def _opened(connection: Connection, packed: _Packed) -> Callable[[Any], Any] | None:
    try:
        work = packed.open()
    except BaseException as error:  # of a user's module
        connection.send(Message("unready", described(error)))
        return None
    connection.send(Message("ready"))
    return work


def _reply(work: Callable[[Any], Any], job: bytes) -> memoryview:
    """Return the message, pickled, that answers a pickled job."""
    try:
        return ForkingPickler.dumps(Message("answer", work(pickle.loads(job))))
    except InputError as error:
        return ForkingPickler.dumps(Message("refusal", str(error)))
    except BaseException as error:
        return ForkingPickler.dumps(Message("fault", described(error)))


def _nothing(*_: Any) -> None:
    pass


def _tie_to_parent() -> None:
    """See to it that this process does not outlive its parent, however that ends and whatever is done here meanwhile.

    The kernel closes the parent's end of a pipe. On Linux it then sends SIGKILL, also to a process that is stuck in C
    code (PR_SET_PDEATHSIG would look at the server that this process was forked from). Elsewhere a thread notices.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was started by multiprocessing
    if sys.platform == "linux":
        pipe = parent.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    if not parent.is_alive():  # gone before the call
        os._exit(1)


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
