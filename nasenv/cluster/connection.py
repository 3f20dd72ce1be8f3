"""The connection to a Ray cluster: it is joined or started, and asked for its nodes."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nasenv.errors import InputError

_REACHING_SECONDS = 10.0  # in which an address answers
_LOST_SECONDS = 20.0  # for which the head may be silent
_ROUNDING = 1e-9
_QUIET = {  # read when ray is imported, or when it starts
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # of the lines that it would print among ours, all
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_HINTS = (
    "HOST:PORT and auto are for a machine that `ray start` made one of its nodes, ray://HOST:10001 for others; a "
    "cluster that asks for a token takes who sets RAY_AUTH_MODE=token and has it"
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class JobResources(NamedTuple):
    """Holds the resources of one job: CPU cores and GPUs, 0 or more; a part of a GPU is possible."""

    cpus: float
    gpus: float

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many jobs fit side by side on a node with these resources.

        >>> JobResources(1.0, 0.3).fits({"CPU": 16.0, "GPU": 2.0})
        6
        """
        room = [resources.get("CPU", 0.0) / self.cpus] if self.cpus else []
        if 0.0 < self.gpus < 1.0:  # no job has parts of two
            room.append(math.floor(1.0 / self.gpus + _ROUNDING) * math.floor(resources.get("GPU", 0.0)))
        elif self.gpus:
            room.append(resources.get("GPU", 0.0) / self.gpus)
        return math.floor(min(room) + _ROUNDING)


class Cluster:
    """Connects to a Ray cluster; if Ray already runs in this process, that connection is used and left open.

    Args:
        address: address of a cluster to join; None starts a local one, which ends with this connection.
        share: resources of one job.
        scale_to: number of simultaneous jobs to ask an autoscaler for; None asks for nothing.

    Raises:
        InputError: Ray is not installed; nothing answers at the address; no node has room for a job.
    """

    def __init__(self, address: str | None, share: JobResources, scale_to: int | None = None) -> None:
        self.share, self._scale_to = share, scale_to
        self._silent_since: float | None = None
        self._slots: dict[str, int] = {}
        ray = imported_ray()
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray, address)
        try:
            told = ray.get_runtime_context().gcs_address
            self._head = None if (address or "").startswith("ray://") else _host_and_port(told)
            if scale_to is not None:
                self._scale(scale_to)
            elif not any(self.slots_by_node().values()):
                raise self._too_small(ray)
        except BaseException:
            self.close()
            raise

    def slots_by_node(self) -> dict[str, int]:
        """Return how many jobs each node that is alive has room for, by Ray's node id.

        While the head of the cluster does not answer, what it said last.

        Raises:
            InputError: it has not answered for some time.
        """
        ray, nodes = imported_ray(), None
        if self._is_there():
            with contextlib.suppress(ray.exceptions.RayError, OSError, RuntimeError):
                nodes = ray.nodes()
        if nodes is None:
            self._check_patience()
        else:
            self._silent_since = None
            self._slots = {n["NodeID"]: self.share.fits(n["Resources"]) for n in nodes if n["Alive"]}
        return self._slots

    def kill(self, actor: Any) -> None:
        """Kill an actor; if the head does not answer, the actor dies once its node notices."""
        if self._is_there():  # Ray would wait for it without end
            imported_ray().kill(actor)

    def close(self) -> None:
        """Close the connection; a local cluster is shut down."""
        ray = imported_ray()
        if self._scale_to is not None and ray.is_initialized() and self._is_there():
            self._scale(0)
        if self._ours:
            ray.shutdown()

    def _check_patience(self) -> None:
        """Raise InputError if the head has not answered for too long."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > _LOST_SECONDS:
            raise InputError(
                f"the head of the Ray cluster, {':'.join(map(str, self._head or ()))}, has not answered for "
                f"{_LOST_SECONDS:.0f} s; what is done is in the run directory: the same command goes on when it is back"
            )

    def _is_there(self) -> bool:
        """Return whether the head accepts connections; Ray itself waits a minute for it, then kills the process."""
        if self._head is None:  # of a client, whose every call says so
            return True
        try:
            socket.create_connection(self._head, timeout=1.0).close()
        except OSError:
            return False
        return True

    def _scale(self, slots: int) -> None:
        from ray.autoscaler.sdk import request_resources

        asked = {name: amount for name, amount in (("CPU", self.share.cpus), ("GPU", self.share.gpus)) if amount}
        request_resources(bundles=[asked] * slots)

    def _too_small(self, ray: Any) -> InputError:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (max((node.get(kind, 0.0) for node in alive), default=0.0) for kind in ("CPU", "GPU"))
        return InputError(
            f"no node of the Ray cluster has room for cpus_per_evaluation {self.share.cpus:g} and gpus_per_evaluation "
            f"{self.share.gpus:g}: the largest have {cpus:g} CPUs and {gpus:g} GPUs; ask for less, or give scale_to "
            "where an autoscaler is to add nodes"
        )


def imported_ray() -> Any:
    """Return the module ``ray``; raise InputError if it is not installed."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError("RayEvaluator needs Ray: pip install ray") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        if threading.current_thread() is not threading.main_thread():
            raise InputError("Ray is started in the main thread alone; call the evaluator's start() there first")
        with _signals_kept(blocked=_SIGNALS):  # they reach a whole terminal or job; Ray's processes end with this one
            ray.init("local", num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, **quiet)
        return
    wanted = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if wanted != "auto":
        _check_answers(wanted)
    try:
        with _signals_kept(), _without_stderr(), warnings.catch_warnings(action="ignore"):
            ray.init(wanted, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the Ray cluster at address {wanted} cannot be joined ({' '.join(str(error).split())}); {_HINTS}"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]]+?)\]?:(\d+)", address)
    if found is None or int(found[2]) >= 1 << 16:
        raise InputError(f"address must be auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    return found[1], int(found[2])


def _check_answers(address: str) -> None:
    """Raise InputError if no Ray server answers at the address, which Ray itself reports only after minutes."""
    import grpc

    host, port = _host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=_REACHING_SECONDS).close()
        if os.environ.get("RAY_USE_TLS") != "1":
            with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=_REACHING_SECONDS)
    except (OSError, grpc.FutureTimeoutError) as error:
        raise InputError(
            f"no Ray cluster answers at address {address}; start one with `ray start --head --port={port}` there, and "
            "see to it that this machine may reach it"
        ) from error


@contextlib.contextmanager
def _signals_kept(blocked: Sequence[int] = ()) -> Iterator[None]:
    """Restore the signal handlers that Ray replaces; child processes start with ``blocked`` signals blocked."""
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what Ray's threads print to stderr while they try to connect."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
