"""Runs a comparison on a Ray cluster: workers on its nodes do the runs and return their files."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nasenv.cluster.actors import ActorPool
from nasenv.cluster.connection import Cluster, JobResources
from nasenv.cluster.worker import Reply, Worker
from nasenv.comparison.run import Run
from nasenv.comparison.runner import RunKey, Runner
from nasenv.files import write_whole

_RETRIES = 2  # of a run that was lost with its node

Files = Mapping[str, bytes]
"""The contents of the files in a run's folder, by name."""


class RayRuns:
    """Does the runs of a comparison on all nodes of a Ray cluster, one on each core; nodes may come and go.

    A run that was lost with its node is done again elsewhere, from where this machine knows it. One that is stopped
    comes back as far as it is. Every node needs what `nasenv.RayEvaluator` says.

    Args:
        runner: does a run, and says where its files are here.
        address: address of the cluster, as with `RayEvaluator`; None starts Ray on this machine alone.
        timeout_seconds: after which a run is given up; None is no limit.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or the problems cannot be sent.
    """

    def __init__(self, runner: Runner, address: str | None, timeout_seconds: float | None) -> None:
        self._runner, self._cluster = runner, Cluster(address, JobResources(1.0, 0.0))
        self._told = False  # whether workers were told to stop
        limit = math.inf if timeout_seconds is None else timeout_seconds
        parts = (runner.in_process(),)
        self._pool = ActorPool(self._cluster, RunWorker, parts, self._asked, _RETRIES, limit, retries_hung=False)

    def stream(self, keys: Iterable[RunKey]) -> Iterator[tuple[RunKey, Run | None]]:
        """Yield each key with its run once that is done and its files are written here; None if it was stopped.

        Raises:
            InputError: of an evaluator, or the cluster is lost.
        """
        for key, reply, seconds in self._pool.run(deque(keys), self._is_stopped):
            if reply.fault is not None:
                yield key, self._runner.give_up(key, reply.fault, seconds)
            else:
                run, files = reply.value
                _write(self._runner.path(key), files)
                yield key, run

    def close(self) -> None:
        """Kill the workers and close the connection to the cluster."""
        self._pool.close()
        self._cluster.close()

    def _asked(self, key: RunKey) -> tuple[RunKey, Files]:
        return key, _read(self._runner.path(key).parent)

    def _is_stopped(self) -> bool:
        if self._runner.is_stopped() and not self._told:
            self._told = True
            self._pool.stop()
        return self._told


class RunWorker(Worker):
    """Does runs in a temporary folder of a node, with the runner that the driver has put into Ray's object store."""

    def open(self, runner: Runner) -> Mapping[str, str]:
        """Store the runner; return no settings, since none depend on the machine."""
        self._runner = runner
        return {}

    def do(self, asked: tuple[RunKey, Files]) -> Reply:
        """Do a run, resumed from its files, and return it with its files; the run is None if it was stopped."""
        key, files = asked
        with tempfile.TemporaryDirectory(prefix="nasenv-") as folder:
            runner = self._runner.in_folder(Path(folder))
            path = runner.path(key)
            _write(path, files)
            return Reply((runner(key), _read(path.parent)))

    def stop(self) -> None:
        """Ask the current run to stop early."""
        self._runner.stop()


def _read(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write(path: Path, files: Files) -> None:
    """Write a run's files into its folder, the file at ``path`` last, since it marks the run as done."""
    for name in sorted(files, key=lambda name: name == path.name):
        file = path.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, files[name])
