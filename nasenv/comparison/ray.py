"""The runs of a comparison are done on a Ray cluster: each is a task on some node, and its files come back."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nasenv.cluster.ray_actor import Packed, pack, unpack
from nasenv.cluster.ray_cluster import Cluster, Share, imported_ray
from nasenv.cluster.ray_fleet import reason
from nasenv.comparison.run import Run
from nasenv.comparison.runner import RunKey, Runner, watched
from nasenv.errors import InputError
from nasenv.files import write_whole
from nasenv.workers.clock import WakingClock
from nasenv.workers.serving import described

_RETRIES = 2  # of a run that was lost with its node
_POLL_SECONDS = 0.2
_FLAG_SECONDS = 1.0  # between two looks of a run: one flag answers them all
_LONGEST_LOOK = 1.0  # seconds between two looks at the clock; more is a suspension

Files = Mapping[str, bytes]
"""What a run's folder holds, by name."""


class RunResult(NamedTuple):
    """What a node sends back of a run: None where it was stopped, or why there is none: its fault, or a refusal."""

    run: Run | None
    files: Files
    refusal: str | None = None
    fault: str | None = None


class RayRuns:
    """Does the runs of a comparison on all nodes of a Ray cluster, one a core; nodes may come and go.

    A run that was lost with its node is done again elsewhere, from where this machine knows it. One that is stopped
    comes back as far as it is. Every node needs what `nasenv.cluster.ray.RayEvaluator` says.

    Args:
        runner: does a run, and says where its files are here.
        address: of the cluster, as with `RayEvaluator`; None starts Ray on this machine alone.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or the problems cannot be sent.
    """

    def __init__(self, runner: Runner, address: str | None) -> None:
        self._runner, self._cluster = runner, Cluster(address, Share(1.0, 0.0))
        self._clock = WakingClock(_LONGEST_LOOK)
        ray = imported_ray()
        self._packed = ray.put(pack(runner.alone()))
        self._flag = ray.remote(num_cpus=0)(StopFlag).remote()
        self._do = ray.remote(num_cpus=1, max_retries=_RETRIES)(do)
        self._busy: dict[Any, tuple[RunKey, float]] = {}  # and since when

    def stream(self, keys: Iterable[RunKey], timeout_seconds: float | None) -> Iterator[tuple[RunKey, Run | None]]:
        """Yield each key with its run as it is done and written here, None where it was stopped.

        Args:
            keys: begun in this order, as many at once as the cluster has room for.
            timeout_seconds: after which a run is given up; None is no limit.

        Raises:
            InputError: of an evaluator, or the cluster is lost.
        """
        waiting = iter(keys)
        while self._begin(waiting):
            done, _ = imported_ray().wait([*self._busy], num_returns=1, timeout=_POLL_SECONDS)
            if self._runner.is_stopped():
                self._flag.put_up.remote()
            for ref in done:
                yield self._settled(ref)
            if timeout_seconds is not None:
                yield from self._overdue(timeout_seconds)

    def close(self) -> None:
        """Give up what is being done, and let go of the cluster."""
        for ref in self._busy:
            imported_ray().cancel(ref, force=True)
        self._cluster.close()

    def _begin(self, waiting: Iterator[RunKey]) -> bool:
        """Keep the cluster busy; return whether there is anything to wait for."""
        room = max(1, sum(self._cluster.slots_by_node().values()))
        while len(self._busy) < room and not self._runner.is_stopped() and (key := next(waiting, None)) is not None:
            files = _read(self._runner.path(key).parent)
            ref = self._do.remote([self._packed], [self._flag], key, files, sys.path)
            self._busy[ref] = (key, self._clock())
        return bool(self._busy)

    def _settled(self, ref: Any) -> tuple[RunKey, Run | None]:
        """Write what came of a run, and return it."""
        ray, (key, since) = imported_ray(), self._busy.pop(ref)
        try:
            result: RunResult = ray.get(ref)
        except ray.exceptions.RayError as error:
            result = RunResult(None, {}, fault=reason(error))
        if result.refusal is not None:
            raise InputError(result.refusal)
        if result.fault is not None:
            return key, self._runner.give_up(key, result.fault, self._clock() - since)
        _write(self._runner.path(key), result.files)
        return key, result.run

    def _overdue(self, seconds: float) -> Iterator[tuple[RunKey, Run]]:
        """End the runs that take too long, and yield what that makes of them."""
        now = self._clock()
        for ref, (key, since) in [*self._busy.items()]:
            if now - since > seconds:
                del self._busy[ref]
                imported_ray().cancel(ref, force=True)
                yield key, self._runner.give_up(key, "timeout: the run hung and was ended", now - since)


class StopFlag:
    """Says to all nodes whether the comparison is stopped; made an actor by ``ray.remote``."""

    def __init__(self) -> None:
        self._up = False

    def put_up(self) -> None:
        """Say so from now on."""
        self._up = True

    def is_up(self) -> bool:
        """Return whether it is."""
        return self._up


def do(packed: Sequence[Any], flag: Sequence[Any], key: RunKey, files: Files, paths: Sequence[str]) -> RunResult:
    """Do a run in a folder of this node, and return its files; made a task by ``ray.remote``.

    Args:
        packed: where the runner lies, in a list, as Ray would else send it with every run.
        flag: says when to stop.
        key: which run.
        files: what is known of it, where it was begun before.
        paths: folders in which the driver finds modules; those that there are here are looked through last.
    """
    torch.set_num_threads(1)
    sys.path += [path for path in paths if path not in sys.path and Path(path).is_dir()]
    with tempfile.TemporaryDirectory(prefix="nasenv-") as folder:
        try:
            runner = _runner(packed[0]).below(Path(folder))
            path = runner.path(key)
            _write(path, files)
            asked = (
                watched(lambda: _is_up(flag[0]), runner.stop, _FLAG_SECONDS) if runner.trains(key) else nullcontext()
            )
            with asked:
                return RunResult(runner(key), _read(path.parent))
        except InputError as error:
            return RunResult(None, {}, refusal=str(error))
        except BaseException as error:  # of a user's class
            return RunResult(None, {}, fault=described(error))


@functools.lru_cache(maxsize=1)
def _runner(ref: Any) -> Runner:
    """Return the runner of the runs of one comparison; a process does many of them."""
    packed: Packed = imported_ray().get(ref)
    runner: Runner = unpack(packed)
    return runner


def _is_up(flag: Any) -> bool:
    """Return whether a flag says to stop; False of one that was lost with its node: nobody can say so any more."""
    ray = imported_ray()
    try:
        return bool(ray.get(flag.is_up.remote()))
    except ray.exceptions.RayError:
        return False


def _read(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write(path: Path, files: Files) -> None:
    """Write a run's files beside and at the path, that which says that it is done last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name == path.name):
        file = path.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, files[name])
