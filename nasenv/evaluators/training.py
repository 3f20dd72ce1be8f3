"""Trains the network of an architecture and returns its validation score."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nasenv.configuration import digest, flag, integer, positive
from nasenv.data.dataset import Data, Dataset, as_dataset
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator, never
from nasenv.spaces.space import SearchSpace
from nasenv.training import TIMEOUT, Recipe
from nasenv.training.cost import TrainingCost
from nasenv.training.cuda_graphs import CAPTURE_FAILED
from nasenv.training.devices import check_compiler, device_environments, resolve_devices
from nasenv.training.trainer import OUT_OF_MEMORY, Job, Trainer, TrainingResult, resolve_precision
from nasenv.trial import DIVERGED, Architecture, Measurement, Trial
from nasenv.workers.concurrency import Concurrency
from nasenv.workers.pool import WorkerPool

_VERSION = 2  # counted up when the same settings come to give another measurement

RECIPES = {"digits": Recipe(epochs=5, batch_size=64), "mnist5k": Recipe(epochs=3, batch_size=128)}
"""The training of a search by data set: long enough that two seeds rank architectures alike (BENCHMARKS.md)."""

OTHER_RECIPE = Recipe(epochs=5, batch_size=128)
"""The training of a search on data that are not named in `RECIPES`."""

_FINAL_EPOCHS = {"digits": 10}  # by data set; the default run has two minutes on two cores
_FINAL_LENGTH = 4  # else the final training is so many times as long as the search's


class TrainingEvaluator(Evaluator):
    """Trains the network of an architecture from scratch and reports its score on validation data.

    A search's trial trains on the training split, for the share ``fidelity`` of its steps, and is scored on validation
    data; so is a trial that confirms, after ``final_epochs``. One that tests trains on training + validation data for
    ``final_epochs``, and is scored on test data.

    A training's seed comes from the evaluator's seed and the architecture alone, so a measurement depends neither
    on the search nor on the order or the process in which it was made. Metrics reported: ``params``, and ``flops`` of
    one forward pass of one input (a multiplication and an addition count as two). ``train_seconds`` is processor time;
    on a GPU it is wall time, which depends on how many trainings are beside it, and so does an objective of it.

    Args:
        space: the space whose networks are trained; its task is that of the data.
        data: a `Dataset`; a source such as digits; or arrays (x, y), see `Dataset.from_arrays`; on the command line
            ``--data``.
        epochs: length of a search's training; by default what `RECIPES` says of the data set.
        batch_size: examples a step; by default what `RECIPES` says.
        optimizer: adamw (decays 0.85 and 0.99) or sgd (Nesterov momentum 0.9), both with a one-cycle schedule.
        learning_rate: the peak of the schedule.
        weight_decay: decoupled with adamw, L2 with sgd.
        label_smoothing: share of the target spread evenly over the classes.
        augment: none; crop (random shifts of up to an eighth of the side); crop_flip (and left-right mirroring).
        final_epochs: length of the training after the search; by default 10 on digits, four times ``epochs`` elsewhere.
        seed: seeds the trainings; searches that share it share a cache, whatever their own seeds.
        devices: cpu; cuda, every GPU; a list such as cuda:0,cuda:2; or auto: every GPU, the CPU where there is none.
        concurrency: trainings side by side, each in a worker process with one thread; 0 trains in this process, which a
            kernel that fails leaves unable to use its GPU. auto is one for each processor core on the CPU; on GPUs it
            begins with two each, and finds while the search goes on how many give the most trainings a second; it has
            fewer where memory runs out.
        timeout_seconds: a training that takes longer is a failed measurement.
        deterministic: whether trainings on a GPU are to come out the same each time, which makes them slower; on the
            CPU they always do.
        precision: what convolutions and products of a training are computed in, float32 (TF32 in convolutions on a GPU)
            or bfloat16; auto is bfloat16 for networks that gain by it, where the device has it, and float32 elsewhere.
            Weights, their updates and scores are float32 always.
        compile_final: whether trainings after the search go through torch.compile, which takes 7 to 24 s a network,
            and pays where they are very long, if at all (BENCHMARKS.md).

    Raises:
        InputError: unusable settings or data, or data that do not fit the space.
    """

    excluded_from_identity = ("concurrency", "devices")

    def __init__(
        self,
        space: SearchSpace,
        data: Dataset | Data | str | tuple[Any, Any] = "digits",
        epochs: int | None = None,
        batch_size: int | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.0,
        augment: Literal["none", "crop", "crop_flip"] = "none",
        final_epochs: int | None = None,
        seed: int = 0,
        devices: str = "auto",
        concurrency: int | Literal["auto"] = "auto",
        timeout_seconds: float = 600.0,
        deterministic: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        compile_final: bool = False,
    ) -> None:
        super().__init__(space)
        space = space.whole
        self.dataset = self._data = self._arguments["data"] = dataset = as_dataset(data)
        _check_fit(space, dataset)
        known = RECIPES.get(dataset.name, OTHER_RECIPE)
        sizes = (known.epochs if epochs is None else epochs, known.batch_size if batch_size is None else batch_size)
        self.recipe = Recipe(*sizes, optimizer, learning_rate, weight_decay, label_smoothing, augment)
        longer = _FINAL_EPOCHS.get(dataset.name, _FINAL_LENGTH * self.recipe.epochs)
        final_epochs = longer if final_epochs is None else integer("final_epochs", final_epochs)
        self.final_recipe = replace(self.recipe, epochs=final_epochs)
        if not isinstance(seed, int | np.integer):
            raise InputError(f"the evaluator's seed must be an integer, got {seed!r}")
        self.seed = int(seed)
        self.devices = resolve_devices(devices)
        self.concurrency = concurrency if concurrency == "auto" else integer("concurrency", concurrency, least=0)
        self._concurrency = _concurrency(self.concurrency, self.devices)
        self.timeout_seconds = math.inf if timeout_seconds == math.inf else positive("timeout_seconds", timeout_seconds)
        self.deterministic = flag("deterministic", deterministic)
        self.precision = resolve_precision(precision, self.devices[0])
        self.compile_final = flag("compile_final", compile_final)
        if self.compile_final:
            check_compiler()
        self._worker_seconds = Counter[str]()  # wall seconds
        self.eager: Counter[str] = Counter()
        settings = (self.timeout_seconds, self.deterministic, self.precision)
        self._trainer = Trainer(space, dataset, self.devices[0], *settings)
        self._cost = TrainingCost(space)
        self._waiting: dict[Trial, Job] = {}
        self._sorted = True
        self._pool: WorkerPool[Job, TrainingResult] | None = None

    def fingerprint(self) -> str:
        """Return a short hash of data, recipe, seed, kind of device, precision, and a subclass's source."""
        kind = torch.device(self.devices[0]).type
        if kind == "cuda" and self.deterministic:
            kind = "cuda, deterministic"
        data = self._data.fingerprint
        return digest([_VERSION, data, asdict(self.recipe), self.seed, kind, self.precision, self.source_digest()])

    def fidelity(self, wanted: float) -> float:
        """Return the nearest fidelity that is a whole number of a search's steps, one at least."""
        steps = self._trainer.steps(self.recipe)
        return max(1, round(wanted * steps)) / steps

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return ``params`` and ``flops`` of a forward pass of one input, computed without allocating the network."""
        return self._trainer.costs(architecture)

    def further_costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """Return ``memory_mb``: of weights and of the tensors that are alive at once, see `nasenv.training.memory`."""
        return {"memory_mb": self._trainer.memory_mb}

    def submit(self, trial: Trial, *, start: Path | None = None, keep: Path | None = None) -> None:
        """Submit a trial; see `Evaluator.submit`."""
        self._waiting[trial] = self._job(trial, start, keep)
        self._sorted = False

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Yield each trial with its measurement as it ends; the longest start first. See `Evaluator.completed`."""
        if len(self._waiting) > 1:
            self.start()
        among: dict[Job, int] = {}  # how many trainings were to be at work when it began
        self._concurrency.begin(self._starts)
        try:
            for job, trained in self._trained(self._jobs(among), stopped):
                if (trained.error or "").startswith(OUT_OF_MEMORY) and self._concurrency.out_of_memory(among[job]):
                    self._waiting[job.trial] = job
                else:
                    self._learn(job, trained)
                    self._concurrency.ended(job.trial.fidelity * job.recipe.epochs, self._starts)
                    yield job.trial, _measurement(trained)
                self._resize()
            self._concurrency.look(self._starts)
        finally:
            self._waiting.clear()

    @property
    def slots(self) -> int:
        """Return the number of trainings that run at once."""
        return max(1, self._concurrency.now)

    @property
    def worker_seconds(self) -> Mapping[str, float]:
        """Return the wall seconds so far of data, building, training and scoring, summed over all workers."""
        return self._worker_seconds

    def start(self) -> None:
        """Start the worker processes; with concurrency 0, or inside a worker process, there are none."""
        if self.concurrency and self._pool is None and not multiprocessing.current_process().daemon:
            trainer = self._trainer.on(torch.device(self.devices[0]).type)  # each worker sees its own device alone
            self._pool = WorkerPool(
                *(trainer.run, self._concurrency.now, self.timeout_seconds, worth_retrying),
                environments=device_environments(self.devices),
                warm_up=trainer.warm_up if trainer.device.type == "cuda" else None,
                spoilt=_is_spoilt,
            )

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @property
    def _starts(self) -> int:
        return 0 if self._pool is None else self._pool.starts

    def _resize(self) -> None:
        """Have as many workers as trainings are to be at work; new ones are waited for, so that none is measured."""
        if self._pool is None or (more := self._concurrency.now - self._pool.size) == 0:
            return
        self._pool.size = self._concurrency.now
        if more > 0:
            try:
                self._pool.ready()
            except InputError:  # there is no room for so many
                self._concurrency.out_of_memory(self._concurrency.now)
                self._pool.size = self._concurrency.now
            self._concurrency.begin(self._starts)

    def _jobs(self, among: dict[Job, int]) -> Iterator[Job | None]:
        """Yield the longest waiting job whenever asked; None if there is none."""
        while True:
            if not self._sorted:
                waiting = list(self._waiting.items())
                order = self._cost.longest_first([trial.architecture for trial, _ in waiting])
                self._waiting, self._sorted = dict(waiting[i] for i in order), True
            trial = next(iter(self._waiting), None)
            job = None if trial is None else self._waiting.pop(trial)
            if job is not None:
                among[job] = self._concurrency.now
            yield job

    def _trained(self, jobs: Iterator[Job | None], stopped: Callable[[], bool]) -> Iterator[tuple[Job, TrainingResult]]:
        """Yield jobs as they are done: side by side in workers, else one after the other in this process."""
        if self._pool is not None:
            yield from self._pool.stream(jobs, _failed, stopped)
            return
        while not stopped() and (job := next(jobs)) is not None:
            yield job, self._trainer.run(job)

    def _learn(self, job: Job, trained: TrainingResult) -> None:
        """Record how long a training took."""
        self._worker_seconds.update(trained.seconds)
        if trained.error is None:
            epochs = job.trial.fidelity * job.recipe.epochs
            self._cost.add(job.trial.architecture, trained.train_seconds / epochs)
            if trained.eager is not None:
                self.eager[trained.eager] += 1

    def _job(self, trial: Trial, start: Path | None, keep: Path | None) -> Job:
        final = trial.purpose in ("confirm", "test")
        purpose = "search" if trial.purpose == "check" else trial.purpose
        seed = int(digest([self.seed, trial.architecture, purpose, trial.seed]), 16) % 2**63
        recipe = self.final_recipe if final else self.recipe
        return Job(trial, recipe, seed, final and self.compile_final, start, keep)


def _concurrency(concurrency: int | Literal["auto"], devices: Sequence[str]) -> Concurrency:
    cores = len(os.sched_getaffinity(0))
    if concurrency != "auto":
        return Concurrency(concurrency, concurrency)
    if devices == ("cpu",):
        return Concurrency(cores, cores)
    return Concurrency(len(devices), cores, first=2 * len(devices))  # one computes while the other's host works


def _check_fit(space: SearchSpace, dataset: Dataset) -> None:
    dataset.task.check_trainable()
    if space.task != dataset.task:
        raise InputError(
            f"the space is made for {space.task}, data set {dataset.name} has {dataset.task} "
            f"({dataset.summary().splitlines()[0]}); make the space with task=data.task"
        )


def worth_retrying(trained: TrainingResult | Measurement) -> bool:
    """Return whether a retry in a fresh process might succeed: after any error but divergence or a timeout."""
    return trained.error is not None and not trained.error.startswith((DIVERGED, TIMEOUT))


def _is_spoilt(trained: TrainingResult) -> bool:
    """Return whether the process that answers so is not to be trusted any more: a capture failed there."""
    return (trained.eager or "").startswith(CAPTURE_FAILED)


def _failed(_: Job, reason: str, seconds: float) -> TrainingResult:
    return TrainingResult(None, reason, seconds, {})


def _measurement(trained: TrainingResult) -> Measurement:
    return Measurement(trained.score, trained.error, trained.train_seconds, trained.metrics, trained.curve)
