"""Runs another evaluator on the machines of a Ray cluster."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nasenv.cluster.actors import ActorPool
from nasenv.cluster.connection import Cluster, JobResources
from nasenv.cluster.evaluator_worker import EvaluatorWorker, TrialRequest, TrialResult, in_process, machine_settings
from nasenv.cluster.worker import Reply
from nasenv.configuration import integer, weight
from nasenv.data.dataset import Dataset
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator, never
from nasenv.files import write_whole
from nasenv.spaces.space import SearchSpace
from nasenv.training.cost import TrainingCost
from nasenv.training.trainer import read_weights
from nasenv.trial import Architecture, Measurement, Trial

_GRACE_SECONDS = 10.0  # in which an evaluator that sees to its own timeout ends by itself


class RayEvaluator(Evaluator):
    """Runs another evaluator on all machines of a Ray cluster, with as many trials at once as it has room for.

    What it says is what the inner evaluator says, and its fingerprint is that one's: a search on a cluster has the
    journal of the same search on one machine, goes on where that was interrupted, and shares its cache. Nodes may join
    and leave while it goes on. What is lost with a node or worker is tried again elsewhere. See
    https://docs.ray.io/en/latest/cluster/getting-started.html for how to start a cluster.

    Every node needs nasenv and the driver's versions of its packages; modules of your own must be importable there: by
    the same path as here (a shared folder will do), or installed. Weights that a trial begins with or keeps are files
    of the driver's.

    Args:
        space: the space whose architectures are measured.
        inner: the evaluator that does the work, made for this space; any will do, your own too. One that trains does it
            with one thread; ``gpus_per_evaluation`` decides where.
        address: auto, the cluster that this machine belongs to; HOST:PORT or ray://HOST:PORT, another one. By default
            Ray is started on this machine alone.
        cpus_per_evaluation: processor cores that an evaluation is given; 0 where GPUs alone count.
        gpus_per_evaluation: GPUs; for small networks a share, such as 0.25 for four on one GPU.
        retries: how many times an evaluation is tried again that was lost with a worker; then it has failed.
        scale_to: number of simultaneous evaluations to ask the cluster's autoscaler for.

    Raises:
        InputError: settings of no use; later, when it is first needed, that Ray is not installed, no cluster answers
            at the address, or none of its nodes has room for an evaluation.
    """

    excluded_from_identity = ("address", "cpus_per_evaluation", "gpus_per_evaluation", "retries", "scale_to")
    at_once = 1  # trials that a worker has at the same time

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
        self.inner, self.address = inner, address
        self.retries = integer("retries", retries, 0)
        self.scale_to = None if scale_to is None else integer("scale_to", scale_to)
        self._share = _share(cpus_per_evaluation, gpus_per_evaluation)
        gpu = self._share.gpus > 0
        here = not gpu or torch.cuda.is_available()  # else a worker is asked
        self._settings = machine_settings(inner, gpu) if here else None
        self.dataset: Dataset | None = inner.dataset
        self.trains = inner.trains
        self.eager: Counter[str] = Counter()
        self._worker_seconds: Counter[str] = Counter()
        self._cost = TrainingCost(space)
        self._files: dict[Trial, tuple[Path | None, Path | None]] = {}  # to begin with, and to be written
        self._cluster: Cluster | None = None
        self._pool: ActorPool[Trial] | None = None
        self._slots = 0

    def identity(self) -> dict[str, Any]:
        """Return the inner evaluator's identity, since where it runs changes no result."""
        return self.inner.identity()

    def fingerprint(self) -> str:
        """Return the inner evaluator's fingerprint on the workers' devices, asked of a worker if necessary."""
        if self._settings is None:
            self.start()
        return in_process(self.inner, self._settings or {}).fingerprint()

    def fidelity(self, wanted: float) -> float:
        """Return the nearest fidelity that the inner evaluator can measure."""
        return self.inner.fidelity(wanted)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return the costs that the inner evaluator knows without training."""
        return self.inner.costs(architecture)

    def further_costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """Return the inner evaluator's functions for costs that take longer."""
        return self.inner.further_costs()

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture that the inner evaluator measures for this one."""
        return self.inner.representative(architecture)

    def all_measurements(self) -> Sequence[Measurement] | None:
        """Return the inner evaluator's measurements of all architectures, if they are known."""
        return self.inner.all_measurements()

    def best_score(self) -> float | None:
        """Return the highest score of the space, if the inner evaluator knows it."""
        return self.inner.best_score()

    @property
    def slots(self) -> int:
        """Return how many evaluations the cluster has room for, 1 at least; the last known number once closed."""
        if self._pool is not None or not self._slots:
            self._slots = max(1, self._running().slots)
        return self._slots

    @property
    def worker_seconds(self) -> Mapping[str, float]:
        """Return the wall seconds of the inner evaluators by part, summed over all."""
        return self._worker_seconds

    def submit(self, trial: Trial, *, start: Path | None = None, keep: Path | None = None) -> None:
        """Submit a trial; see `Evaluator.submit`."""
        if start is not None:
            read_weights(start)  # that they can be read is told here, by the name of this machine's file
        self._files[trial] = start, keep
        self._submitted.append(trial)

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Yield each trial with its measurement as it ends; the longest start first. See `Evaluator.completed`."""
        waiting = list(self._submitted)
        order = self._cost.longest_first([trial.architecture for trial in waiting])
        self._submitted = deque(waiting[i] for i in order)
        try:
            for trial, reply, seconds in self._running().run(self._submitted, stopped):
                yield trial, self._measurement(trial, reply, seconds)
        finally:
            self._submitted.clear()
            self._files.clear()

    def start(self, ready: int = 1) -> None:
        """Connect to the cluster, and wait until its workers are ready for so many evaluations at once."""
        self._running().wait_for(ready)
        self._settings = self._running().settings

    def close(self) -> None:
        """Kill the workers, shut down a local cluster, and withdraw the request to the autoscaler."""
        pool, self._pool = self._pool, None
        cluster, self._cluster = self._cluster, None
        if pool is not None:
            pool.close()
        if cluster is not None:
            cluster.close()

    def _running(self) -> ActorPool[Trial]:
        if self._cluster is None:
            self._cluster = Cluster(self.address, self._share, self.scale_to)
        if self._pool is None:
            self._pool = ActorPool(
                *(self._cluster, EvaluatorWorker, (self.inner, self._share.gpus > 0), self._asked, self.retries),
                limit=getattr(self.inner, "timeout_seconds", math.inf) + _GRACE_SECONDS,
                settings=self._settings,
                at_once=self.at_once,
            )
        return self._pool

    def _asked(self, trial: Trial) -> TrialRequest:
        start, keep = self._files[trial]
        return TrialRequest(trial, None if start is None else start.read_bytes(), keep is not None)

    def _measurement(self, trial: Trial, reply: Reply, seconds: float) -> Measurement:
        """Return the measurement of a reply; record its seconds, and write the weights that are kept."""
        _, keep = self._files.pop(trial)
        if reply.fault is not None:
            return Measurement(None, reply.fault, seconds)
        measured: TrialResult = reply.value
        self._worker_seconds.update(measured.worker_seconds)
        self.eager.update(measured.eager)
        measurement = measured.measurement
        if trial.purpose == "search" and measurement.error is None:
            self._cost.add(trial.architecture, measurement.train_seconds / trial.fidelity)
        if keep is not None and measured.weights is not None:
            write_whole(keep, measured.weights)
        return measurement


def _share(cpus: Any, gpus: Any) -> JobResources:
    share = JobResources(weight("cpus_per_evaluation", cpus), weight("gpus_per_evaluation", gpus))
    if share.gpus > 1 and share.gpus != int(share.gpus):
        raise InputError(f"gpus_per_evaluation must be a share of 1, or a whole number, got {gpus!r}")
    if not any(share):
        raise InputError("cpus_per_evaluation and gpus_per_evaluation are both 0; give one of them")
    return share
