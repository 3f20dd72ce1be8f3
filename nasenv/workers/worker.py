"""One worker process as seen by its parent: started, sent jobs, received from, and killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing  # tensors are sent as shared memory

from nasenv.errors import InputError, counted
from nasenv.workers.serving import SIGNALS, Message, Work, describe_error, load_work, serve

_IMPORTED = ["torch._dynamo", "nasenv.evaluators.training"]  # once, by the process that all workers are forked from
_NAME = "nasenv-worker"
_GONE = (BrokenPipeError, ConnectionResetError)  # what a write to a process that has ended raises
_ENDING_SECONDS = 5.0  # in which the kernel lets go of a process that is killed
_SHARED = Path("/dev/shm")
_SEGMENT = re.compile(r"</(torch_\w+)>")  # of shared memory that cannot be had, in torch's words
_FEW_FILES = 64  # a limit below which a server of processes cannot do its work
_WITHOUT = "give concurrency=0 (for trainings) or workers=0 (for a comparison)"


class Worker:
    """Controls a process that answers one job after the other.

    It is forked from a server, itself a child of this process, that has imported PyTorch and started nothing: it is
    there in 0.03 s instead of 2 s, shares the memory of what is imported, and nothing of this process's threads and
    devices is carried over. What ``work`` carries is pickled, tensors in shared memory.

    Args:
        work: the function, or bound method, that answers a job.
        place: its index in the pool, from 0.
        environment: variables that it has beside this process's.
        warm_up: what it does before it is ready, if anything.

    Attributes:
        busy: whether it has a job, since ``began`` and until ``deadline`` at most, seconds on the pool's clock.

    Raises:
        InputError: ``work`` cannot be pickled, there is no shared memory for it, or no process can be started.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        place: int,
        environment: Mapping[str, str],
        warm_up: Callable[[], object] | None = None,
    ) -> None:
        self.place, self.busy, self.began, self.deadline, self.overdue = place, False, 0.0, float("inf"), False
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, _Parcel((work, warm_up))), name=_NAME, daemon=True)
        try:
            with closing(theirs), _signals_blocked(), _without_missing_script():
                self._process.start()
        except Exception as error:
            raise _reason(error) from error
        self.pid = self._process.pid
        with suppress(*_GONE):  # heard when it is listened to
            self.connection.send({**os.environ, **environment})

    def send(self, job: Any, now: float, seconds: float) -> None:
        """Send a job with its time limit; if the process has ended, `receive` reports that as the job's fault."""
        self.busy, self.began, self.deadline = True, now, now + seconds
        with suppress(*_GONE):
            self.connection.send(job)

    def receive(self) -> Message:
        """Wait for the worker's message and return it; a dead or overdue worker gives a fault."""
        if self.overdue:
            return Message("fault", "timeout: the worker hung and was ended")
        try:
            message: Message = pickle.loads(self.connection.recv_bytes())  # of our own child
        except (EOFError, *_GONE):
            return Message("fault", self._ending())
        except Exception as error:  # a user's class may raise anything
            return Message("fault", f"the answer cannot be read ({describe_error(error)})")
        return message

    def _ending(self) -> str:
        self._process.join(_ENDING_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "the worker process closed its connection"
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        hint = ": memory ran out, or someone ended it" if -code == signal.SIGKILL else ""
        return f"the worker process was killed by signal {-code} ({signal.strsignal(-code)}{hint})"

    def kill(self, overdue: bool = False) -> None:
        """Kill the process; call `release` next. An overdue one is reported by `receive`."""
        self.overdue = self.overdue or overdue
        try:  # suppress may be gone already where the interpreter ends
            if self._process.is_alive():
                self._process.kill()
        except ValueError:  # released before
            pass

    def release(self) -> None:
        """Close the connection to a killed process and free its resources."""
        self.connection.close()
        try:
            self._process.join(_ENDING_SECONDS)
            self._process.close()
        except ValueError:  # released before, or the kernel does not let go of it
            pass


def _reason(error: Exception) -> BaseException:
    """Return the error to raise if a process cannot be started."""
    match error:
        case pickle.PicklingError() | AttributeError() | TypeError() | ValueError():
            return InputError(
                f"the space, data, evaluator or agent cannot be sent to worker processes ({error}); define functions "
                f"and classes at the top of a module, or {_WITHOUT}"
            )
        case RuntimeError() | OSError() if os.strerror(errno.EMFILE) in str(error):
            return _few_files()
        case RuntimeError() if segment := _SEGMENT.search(str(error)):
            with suppress(OSError):
                (_SHARED / segment[1]).unlink(missing_ok=True)  # torch leaves it
            return InputError(
                f"no shared memory for worker processes ({error}); see that {_SHARED} is writable and has room, or "
                f"{_WITHOUT}"
            )
        case RuntimeError() if multiprocessing.current_process().name == _NAME:
            return SystemExit(1)  # imports a script that lacks its guard; the process that runs it says so
        case EOFError() if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _FEW_FILES:
            return _few_files()
        case EOFError():  # of the server
            return InputError(
                "worker processes cannot import PyTorch; a file in the current folder may hide a module of the same "
                f"name (random.py, torch.py): rename it, or {_WITHOUT}"
            )
        case OSError() if "AF_UNIX" in str(error):
            return InputError(
                f"worker processes have their sockets in {tempfile.gettempdir()}, whose name is too long for that; set "
                f"TMPDIR to a shorter one, such as /tmp, or {_WITHOUT}"
            )
        case OSError():
            return InputError(f"no worker process can be started ({error}); ask for fewer, or {_WITHOUT}")
    return error


def _few_files() -> InputError:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return InputError(
        f"no worker process can be started: {counted(limit, 'file')} can be open at once here, which are too few; "
        f"raise the limit (`ulimit -n 1024`), or {_WITHOUT}"
    )


@contextmanager
def _without_missing_script() -> Iterator[None]:
    """Start processes that do not import a script that came from standard input, and so is no file."""
    main = sys.modules["__main__"].__dict__
    script = main.get("__file__")
    if script is None or Path(script).exists():
        yield
        return
    del main["__file__"]
    try:
        yield
    finally:
        main["__file__"] = script


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes with signals blocked, so that none reaches them before they handle it."""
    resource_tracker.ensure_running()  # which unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Parcel:
    """Pickles a worker's function through shared memory; it arrives as a function that returns it.

    In a pipe, more than its 64 KiB would keep the parent waiting for ever for a worker that dies while it starts. It is
    unpacked by the worker itself, which can then say what went wrong.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __reduce__(self) -> tuple[type[partial[Any]], tuple[Any, ...]]:
        pickled = torch.frombuffer(bytearray(ForkingPickler.dumps(self._work)), dtype=torch.uint8)
        self._sent = pickled.share_memory_()  # type: ignore[no-untyped-call]  # kept until it is sent
        return partial, (load_work, self._sent)
