"""A worker that measures trials on a Ray cluster with a copy of the driver's evaluator, on its own device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import NamedTuple

import torch

from nasenv.cluster.worker import Reply, Worker
from nasenv.errors import InputError
from nasenv.evaluators.estimate import EstimateEvaluator
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.training import TrainingEvaluator, worth_retrying
from nasenv.training.trainer import resolve_precision
from nasenv.trial import Measurement, Trial
from nasenv.workers.concurrency import Concurrency


class TrialRequest(NamedTuple):
    """Holds a trial as it is sent: with initial weights as safetensors, and whether trained ones are returned."""

    trial: Trial
    start: bytes | None
    keeps: bool


class TrialResult(NamedTuple):
    """Holds a measurement, trained weights as safetensors, seconds by part, and why trainings used no CUDA graph."""

    measurement: Measurement
    weights: bytes | None
    worker_seconds: Mapping[str, float]
    eager: Mapping[str, int]


class EvaluatorWorker(Worker):
    """Measures trials with an evaluator that the driver has put into Ray's object store."""

    def open(self, evaluator: Evaluator, gpu: bool) -> Mapping[str, str]:
        """Start the evaluator on this machine; return the settings that it left to the machine."""
        settings = machine_settings(evaluator, gpu)
        self._evaluator = in_process(evaluator, settings)
        self._evaluator.start()
        return settings

    def do(self, asked: TrialRequest) -> Reply:
        """Measure a trial and return the reply."""
        evaluator = self._evaluator
        worker_seconds, eager = dict(evaluator.worker_seconds), dict(evaluator.eager)
        measurement, weights = self._measured(asked)
        measured = TrialResult(
            measurement,
            weights,
            {part: seconds - worker_seconds.get(part, 0.0) for part, seconds in evaluator.worker_seconds.items()},
            {why: count - eager.get(why, 0) for why, count in evaluator.eager.items()},
        )
        return Reply(measured, again=isinstance(evaluator, TrainingEvaluator) and worth_retrying(measurement))

    def _measured(self, asked: TrialRequest) -> tuple[Measurement, bytes | None]:
        """Return the measurement, and the trained weights if they are to be returned."""
        trial, start, keeps = asked
        if start is None and not keeps:
            return self._evaluator.measure([trial])[0], None
        with tempfile.TemporaryDirectory(prefix="nasenv-") as folder:
            before, after = Path(folder, "start"), Path(folder, "keep")
            before.write_bytes(start or b"")
            self._evaluator.submit(trial, start=None if start is None else before, keep=after if keeps else None)
            ((_, measurement),) = self._evaluator.completed()
            return measurement, after.read_bytes() if after.exists() else None


def machine_settings(evaluator: Evaluator, gpu: bool) -> Mapping[str, str]:
    """Return the settings that an evaluator leaves to the machine: device and precision, if it trains.

    Raises:
        InputError: it asks for another device than it is given, or there is no such.
    """
    if isinstance(evaluator, EstimateEvaluator):
        return machine_settings(evaluator.inner, gpu)
    if not isinstance(evaluator, TrainingEvaluator):
        return {}
    asked, kind = evaluator.config()["init_args"], "cuda" if gpu else "cpu"
    devices = asked.get("devices", "auto")
    if devices != "auto" and not devices.startswith(kind):
        raise InputError(f"devices is {devices}, where trainings are given {'a GPU' if gpu else 'no GPU'}; give auto")
    if gpu and not torch.cuda.is_available():
        raise InputError("PyTorch sees no GPU, where trainings are given one; install a build of it with CUDA")
    return {"devices": kind, "precision": resolve_precision(asked.get("precision", "auto"), kind)}


def in_process(evaluator: Evaluator, settings: Mapping[str, str]) -> Evaluator:
    """Return a copy of the evaluator that trains in its own process with these settings, on the CPU or first GPU."""
    other = copy(evaluator)
    if isinstance(other, EstimateEvaluator):
        other.inner = in_process(other.inner, settings)
    if isinstance(other, TrainingEvaluator):
        other.devices = ("cuda:0" if settings["devices"] == "cuda" else "cpu",)
        other.precision, other.concurrency = settings["precision"], 0
        other._concurrency, other._pool = Concurrency(0, 0), None
        other._trainer = other._trainer.on(other.devices[0])
        other._trainer.precision = other.precision
    return other
