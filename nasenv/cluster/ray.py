"""The evaluator that has another one work on the machines of a Ray cluster."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nasenv.cluster.ray_actor import About, pack
from nasenv.cluster.ray_cluster import Cluster, Share
from nasenv.cluster.ray_dispatch import Done, RayDispatch
from nasenv.cluster.ray_fleet import Fleet
from nasenv.data.dataset import Dataset
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Answer, Evaluator
from nasenv.evaluators.streamed import Streamed
from nasenv.provenance import versions
from nasenv.spaces.space import SearchSpace
from nasenv.training.cost import TrainingCost
from nasenv.trial import Architecture, Measurement, Trial

_GRACE_SECONDS = 10.0  # in which an evaluator that sees to its own timeout ends by itself
_STOP_SECONDS = 0.1


class RayEvaluator(Streamed):
    """Has another evaluator work on all machines of a Ray cluster, as many designs at once as it has room for.

    What it says is what the inner evaluator says, and its fingerprint is that one's: a search on a cluster has the
    journal of the same search on one machine, goes on where that was interrupted, and shares its cache. Nodes may join
    and leave while it goes on. What is lost with a node or worker is tried again elsewhere. See
    https://docs.ray.io/en/latest/cluster/getting-started.html for how to start a cluster.

    Every node needs nasenv and the driver's versions of its packages; modules of your own must be importable there: by
    the same path as here (a shared folder will do), or installed.

    Args:
        space: the space whose designs are measured.
        inner: the evaluator that does the work, made for this space; any will do, your own too. One that trains does it
            with one thread; ``gpus_per_evaluation`` decides where.
        address: auto, the cluster that this machine belongs to; HOST:PORT or ray://HOST:PORT, another one. By default
            Ray is started on this machine alone.
        cpus_per_evaluation: processor cores that an evaluation is given; 0 where GPUs alone count.
        gpus_per_evaluation: GPUs; for small networks a share, such as 0.25 for four on one GPU.
        retries: how many times an evaluation is tried again that was lost with a worker; then it has failed.
        scale_to: for how many evaluations at once the cluster's autoscaler is asked to provide.

    Raises:
        InputError: settings of no use; later, when it is first needed, that Ray is not installed, no cluster answers
            at the address, or none of its nodes has room for an evaluation.
    """

    indifferent = ("address", "cpus_per_evaluation", "gpus_per_evaluation", "retries", "scale_to")
    at_once = 1  # trials that an actor has at the same time

    def __init__(
        self,
        space: SearchSpace,
        inner: Evaluator,
        address: str | None = None,
        cpus_per_evaluation: float = 1.0,
        gpus_per_evaluation: float = 0.0,
        retries: int = 2,
        scale_to: int | None = None,
    ) -> None:
        super().__init__(space)
        if isinstance(inner, RayEvaluator):
            raise InputError("inner must be an evaluator that does the work, got a RayEvaluator")
        if inner.space is not space and inner.space.fingerprint() != space.fingerprint():
            raise InputError("the inner evaluator was made for another space; make both with the same one")
        self.inner = inner
        self.address, self.retries, self.scale_to = address, _whole("retries", retries, 0), scale_to
        if scale_to is not None:
            _whole("scale_to", scale_to, 1)
        self._share = _share(cpus_per_evaluation, gpus_per_evaluation)
        gpu = self._share.gpus > 0
        self._settled: Mapping[str, str] | None = None  # a worker is asked where this machine cannot tell
        if not gpu or torch.cuda.is_available():
            self._settled = inner.settled(gpu)
        self.dataset: Dataset | None = inner.dataset
        self.trains = inner.trains
        self.eager: Counter[str] = Counter()
        self._worked: dict[str, float] = {}
        self._cost = TrainingCost(space)
        self._cluster: Cluster | None = None
        self._fleet: Fleet | None = None
        self._slots = 0

    def identity(self) -> dict[str, Any]:
        """Return that of the inner evaluator: where it works changes nothing of what comes out."""
        return self.inner.identity()

    def fingerprint(self) -> str:
        """Return that of the inner evaluator where it works; a worker is asked where this machine cannot tell."""
        if self._settled is None:
            self.start()
        return self.inner.single(self._settled or {}).fingerprint()

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the design that the inner evaluator measures for this one."""
        return self.inner.representative(architecture)

    def all_measurements(self) -> Sequence[Measurement] | None:
        """Return what the inner evaluator knows of all designs."""
        return self.inner.all_measurements()

    def best_score(self) -> float | None:
        """Return what the inner evaluator knows of the best design."""
        return self.inner.best_score()

    @property
    def slots(self) -> int:
        """How many evaluations the cluster has room for now, 1 at least; what it had at last, once this is closed."""
        if self._fleet is not None or not self._slots:
            self._slots = max(1, self._running().slots)
        return self._slots

    @property
    def worked(self) -> Mapping[str, float]:
        """Wall seconds of the inner evaluators by part, of all together."""
        return self._worked

    def stream(
        self, trials: Sequence[Trial], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Trial, Answer]]:
        """Yield each trial with its answer as it is done, the longest begun first; see `Evaluator.stream`."""
        timeout = getattr(self.inner, "timeout_seconds", None)
        limit = None if timeout is None else timeout + _GRACE_SECONDS
        dispatch = RayDispatch(self._running(), limit, self.retries, stopped)
        queue = trials if isinstance(trials, deque) else deque(self._longest_first(trials))
        for trial, answer, worked, eager in _connected(dispatch.run(queue)):
            for part, seconds in worked.items():
                self._worked[part] = self._worked.get(part, 0.0) + seconds
            self.eager.update(eager)
            if trial.kind == "search" and answer.error is None:
                self._cost.add(trial.architecture, answer.train_seconds / trial.fidelity)
            yield trial, answer

    def start(self, ready: int = 1) -> None:
        """Connect to the cluster, and return when its workers are ready for so many evaluations at once."""
        fleet = self._running()
        while fleet.room < ready:
            fleet.heard(_STOP_SECONDS)

    def close(self) -> None:
        """End the workers, and what was started of Ray for them; a request to the autoscaler is taken back."""
        fleet, self._fleet = self._fleet, None
        cluster, self._cluster = self._cluster, None
        if fleet is not None:
            fleet.close()
        if cluster is not None:
            cluster.close()

    def _running(self) -> Fleet:
        if self._cluster is None:
            self._cluster = Cluster(self.address, self._share, self.scale_to)
        if self._fleet is None:
            self._fleet = Fleet(self._cluster, self._share, pack(self.inner), self._welcome, self.at_once)
        return self._fleet

    def _welcome(self, about: About) -> None:
        """Take in a worker; raise InputError where it cannot do the work, or what it says would differ."""
        theirs, ours = about.versions, versions()
        differing = [f"{p} {theirs[p]} (here {v})" for p, v in ours.items() if _public(theirs.get(p, v)) != _public(v)]
        if differing:
            raise InputError(f"node {about.node} has {', '.join(differing)}; install the same versions on every node")
        if about.settled is None:
            raise InputError(f"the evaluator cannot work on node {about.node}: {about.problem}")
        self._settled = about.settled if self._settled is None else self._settled
        for name, value in self._settled.items():
            if about.settled.get(name) != value:
                raise InputError(
                    f"{name} is {about.settled.get(name)} on node {about.node}, and {value} elsewhere, so its "
                    f"measurements would differ; give --evaluator.inner.{name}, or leave that node out"
                )

    def _longest_first(self, trials: Sequence[Trial]) -> list[Trial]:
        return [trials[i] for i in self._cost.longest_first([trial.architecture for trial in trials])]


def _public(version: str) -> str:
    """Return a version without what tells builds of it apart, such as those for a GPU."""
    return version.partition("+")[0]


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number of {least} or more, got {value!r}")
    return int(value)


def _share(cpus: Any, gpus: Any) -> Share:
    for name, value in (("cpus_per_evaluation", cpus), ("gpus_per_evaluation", gpus)):
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (number and 0.0 <= value < math.inf):
            raise InputError(f"{name} must be a number of 0 or more, got {value!r}")
    if gpus > 1 and gpus != int(gpus):
        raise InputError(f"gpus_per_evaluation must be a share of 1, or a whole number, got {gpus!r}")
    if not cpus and not gpus:
        raise InputError("cpus_per_evaluation and gpus_per_evaluation are both 0; give one of them")
    return Share(float(cpus), float(gpus))


def _connected(stream: Iterator[Done]) -> Iterator[Done]:
    """Yield what a stream yields; a connection that breaks is an `InputError`."""
    try:
        yield from stream
    except ConnectionError as error:
        raise InputError(
            f"the connection to the Ray cluster is lost ({' '.join(str(error).split())}); what is done is in the run "
            "directory: the same command goes on"
        ) from error
