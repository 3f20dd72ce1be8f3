"""The Ray cluster that a process is connected to: joined or started, its nodes and their slots, whether it is there."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
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


class Share(NamedTuple):
    """What one evaluation has of a node.

    Attributes:
        cpus: processor cores, 0 or more.
        gpus: GPUs, or the share of one.
    """

    cpus: float
    gpus: float

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many evaluations fit side by side on a node.

        >>> Share(1.0, 0.3).fits({"CPU": 16.0, "GPU": 2.0})
        6
        """
        room = [resources.get("CPU", 0.0) / self.cpus] if self.cpus else []
        if 0.0 < self.gpus < 1.0:  # no evaluation has parts of two
            room.append(math.floor(1.0 / self.gpus + _ROUNDING) * math.floor(resources.get("GPU", 0.0)))
        elif self.gpus:
            room.append(resources.get("GPU", 0.0) / self.gpus)
        return math.floor(min(room) + _ROUNDING)


class Cluster:
    """A connection to a Ray cluster.

    Where Ray runs in this process already, that is used, and left running.

    Args:
        address: of a cluster to join; None starts a local one, which ends with this connection.
        share: what one evaluation has of a node.
        scale_to: for how many evaluations at once an autoscaler is asked to provide; None asks for nothing.

    Raises:
        InputError: Ray is not installed; nothing answers at the address; no node has room for an evaluation.
    """

    def __init__(self, address: str | None, share: Share, scale_to: int | None = None) -> None:
        self._share, self._scale_to = share, scale_to
        self._ours = False
        self._silent_since: float | None = None
        self._nodes: dict[str, int] = {}
        ray = imported_ray()
        if not ray.is_initialized():
            self._connect(ray, address)
            self._ours = True
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
        """Return how many evaluations the nodes that are alive have room for, by Ray's name of each.

        While the head of the cluster does not answer, what it said last.

        Raises:
            InputError: it has not answered for some time.
        """
        if self._answers():
            self._silent_since = None
        else:
            self._check_patience()
        return self._nodes

    def kill(self, actor: Any) -> None:
        """End an actor; where the head is gone, it ends when its node notices that."""
        if self._is_there():  # Ray would wait for it without end
            imported_ray().kill(actor)

    def close(self) -> None:
        """Let go of it; a local one ends."""
        ray = imported_ray()
        if self._scale_to is not None and ray.is_initialized() and self._is_there():
            self._scale(0)
        if self._ours:
            ray.shutdown()

    def _connect(self, ray: Any, address: str | None) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if address is None:
            if threading.current_thread() is not threading.main_thread():
                raise InputError("Ray is started in the main thread alone; call the evaluator's start() there first")
            with _undisturbed(), _blocked():
                ray.init("local", num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, **quiet)
            return
        wanted = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        if wanted != "auto":
            _check_answers(wanted)
        try:
            with _undisturbed(), _without_stderr(), warnings.catch_warnings(action="ignore"):
                ray.init(wanted, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"the Ray cluster at address {wanted} cannot be joined ({' '.join(str(error).split())}); {_HINTS}"
            ) from error

    def _answers(self) -> bool:
        """Ask the head for its nodes, and return whether it answers."""
        ray = imported_ray()
        if not self._is_there():
            return False
        try:
            nodes = ray.nodes()
        except (ray.exceptions.RayError, OSError, RuntimeError):
            return False
        self._nodes = {n["NodeID"]: self._share.fits(n["Resources"]) for n in nodes if n["Alive"]}
        return True

    def _check_patience(self) -> None:
        """Raise InputError where the head has not answered for too long."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since > _LOST_SECONDS:
            raise InputError(
                f"the head of the Ray cluster, {':'.join(map(str, self._head or ()))}, has not answered for "
                f"{_LOST_SECONDS:.0f} s; what is done is in the run directory: the same command goes on when it is back"
            )

    def _is_there(self) -> bool:
        """Ray itself would wait for a minute for a head that is gone, and then end the process."""
        if self._head is None:  # of a client, whose every call says so
            return True
        try:
            socket.create_connection(self._head, timeout=1.0).close()
        except OSError:
            return False
        return True

    def _scale(self, slots: int) -> None:
        from ray.autoscaler.sdk import request_resources

        asked = {name: amount for name, amount in (("CPU", self._share.cpus), ("GPU", self._share.gpus)) if amount}
        request_resources(bundles=[asked] * slots)

    def _too_small(self, ray: Any) -> InputError:
        largest = {
            kind: max((node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
            for kind in ("CPU", "GPU")
        }
        asked = f"cpus_per_evaluation {self._share.cpus:g} and gpus_per_evaluation {self._share.gpus:g}"
        return InputError(
            f"no node of the Ray cluster has room for {asked}: the largest have {largest['CPU']:g} CPUs and "
            f"{largest['GPU']:g} GPUs; ask for less, or give scale_to where an autoscaler is to add nodes"
        )


def imported_ray() -> Any:
    """Return the package; raise InputError where it is not installed."""
    try:
        with _environment({} if "ray" in sys.modules else _QUIET):
            import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError("RayEvaluator needs Ray; install it with `pip install nasenv[ray]`") from error
    return ray


def _host_and_port(address: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]]+?)\]?:(\d+)", address)
    if found is None or int(found[2]) >= 1 << 16:
        raise InputError(f"address must be auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    return found[1], int(found[2])


def _check_answers(address: str) -> None:
    """Raise InputError where no server of Ray's kind answers: Ray would take minutes to say so, and many lines."""
    import grpc

    host, port = _host_and_port(address)
    refused = InputError(
        f"no Ray cluster answers at address {address}; start one with `ray start --head --port={port}` there, and see "
        "to it that this machine may reach it"
    )
    try:
        socket.create_connection((host, port), timeout=_REACHING_SECONDS).close()
    except OSError as error:
        raise refused from error
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_REACHING_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise refused from error


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Take back the handlers of signals that Ray puts in the place of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Start processes that are deaf to the signals that reach a whole terminal or job; they end with this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with _environment(_QUIET):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep quiet what Ray's own threads print while they try to connect: a line a second."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for a while."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
