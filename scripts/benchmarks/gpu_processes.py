"""Trainings a second of several processes, with and without NVIDIA's Multi-Process Service, and of all cores."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from nasenv import TrainingEvaluator, Trial
from scripts.benchmarks.bench import cores
from scripts.benchmarks.bench_problems import PROBLEMS
from scripts.benchmarks.gpu_steps import Figures, memory_mib

_PIPE = "CUDA_MPS_PIPE_DIRECTORY"
_PROGRAM = "nvidia-cuda-mps-control"
_STARTING_SECONDS, _ENDING_SECONDS = 1, 5  # of the service


@dataclass(frozen=True)
class _Sizes:
    processes: tuple[int, ...]
    trainings: int  # all in all, at least
    each: int  # trainings of a process, at least
    epochs: int


_SIZES = {"cuda": _Sizes((1, 4, 16), 30, 12, 5), "cpu": _Sizes((1, 2), 1, 1, 1)}


def processes(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the trainings a second of so many worker processes on the device."""
    for n in _SIZES[device].processes:
        yield str(n), _rate(device, n, _SIZES[device])


def processes_with_service(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the same while the Multi-Process Service runs; nothing where there is none."""
    if device == "cpu" or _PIPE in os.environ:
        yield from processes(device)
    else:
        print(f"there is no {_PROGRAM} here", flush=True)


def all_cores(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the trainings a second of all cores of the processor, as many as the device gets."""
    yield str(cores()), _rate("cpu", cores(), _SIZES[device])


@contextmanager
def multi_process_service() -> Iterator[None]:
    """Run the Multi-Process Service meanwhile, with folders of its own; nothing where it is not installed."""
    program = shutil.which(_PROGRAM)
    if program is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        pipe, log = Path(folder, "pipe"), Path(folder, "log")
        pipe.mkdir()
        log.mkdir()
        with mock.patch.dict(os.environ, {_PIPE: str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log)}):
            service = subprocess.Popen([program, "-f"], start_new_session=True)
            try:
                time.sleep(_STARTING_SECONDS)
                yield
            finally:
                _quit(program, service)
        for path in sorted(log.iterdir()):
            print(path.name, *path.read_text(errors="replace").splitlines()[-3:], sep="\n  ", flush=True)


def _quit(program: str, service: "subprocess.Popen[bytes]") -> None:
    """Ask the service to end, and end it where it does not."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run([program], input="quit\n", text=True, timeout=_ENDING_SECONDS, check=False)
        service.wait(_ENDING_SECONDS)
    with suppress(ProcessLookupError):  # it has ended, and its server with it
        os.killpg(service.pid, signal.SIGKILL)
    service.wait()


def _rate(device: str, n: int, sizes: _Sizes) -> Figures:
    """Return the trainings a second of n workers, each of which has done one before, and what came out."""
    problem = PROBLEMS["digits"]()
    architectures = problem.architectures()
    length = {"epochs": sizes.epochs, "batch_size": problem.batch_size}
    with TrainingEvaluator(problem.space, problem.data, devices=device, concurrency=n, **length) as evaluator:
        total = n + max(sizes.trainings, n * sizes.each)
        trials = [Trial(architectures[i % len(architectures)], seed=i) for i in range(total)]
        began = time.perf_counter()
        evaluator.start()
        evaluator.measure(trials[:n])
        started, before = time.perf_counter(), dict(evaluator.worker_seconds)
        measured = evaluator.measure(trials[n:])
        seconds = time.perf_counter() - started
        parts = {part: spent - before.get(part, 0.0) for part, spent in evaluator.worker_seconds.items()}
        memory = memory_mib(device) if device == "cuda" else None
        not_captured = dict(evaluator.eager)
    scores = [m.score for m in measured if m.score is not None]
    return {
        "trainings_per_second": len(scores) / seconds,
        "trainings": len(measured),
        "start_seconds": started - began,
        "percent": 100 * float(np.mean(scores or [0.0])),
        "ms_of_a_training": {part: 1e3 * spent / len(measured) for part, spent in parts.items()},
        "memory_mib": memory,
        "failed": sorted({m.error for m in measured if m.error is not None}),
        "not_captured": not_captured,
    }
