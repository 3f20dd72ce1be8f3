"""Trains the network of one architecture in a worker: builds, trains and scores it, and measures the time."""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from nasenv.data.dataset import Dataset
from nasenv.errors import InputError
from nasenv.files import write_whole
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.spaces.space import SearchSpace
from nasenv.task import Task
from nasenv.training import Diverged, Recipe, deterministic_algorithms, fit, one_thread, score, seeded
from nasenv.training.devices import is_out_of_memory
from nasenv.training.memory import memory_mb
from nasenv.training.reproducibility import Drawn, OwnGenerator, default_settings, is_only_thread, watched
from nasenv.trial import DIVERGED, Architecture, Trial

OUT_OF_MEMORY = "out of memory"  # how the error of a training that had too little begins
DEVICE_LOST = "this process can use its GPU no more"  # how the error ends after one that a GPU does not survive
_WARM_UP_STEPS = 20  # enough for a CUDA graph
_BFLOAT16_FLOPS = {"cpu": 1.5e8, "cuda": 2e9}
"""FLOPs of a batch's forward pass from which on bfloat16 pays: on a processor by BENCHMARKS.md; on a GPU, where it adds
two casts a weight, each a kernel, by an estimate (not yet measured)."""


@dataclass(frozen=True)
class Job:
    """Describes one training: the trial, the recipe and the seed.

    Args:
        trial: the trial; one that tests is scored on the test split after training on training + validation
            data, for all others it is training split and validation split.
        recipe: the full training, of which the trial gets the share ``fidelity``.
        seed: seed of weights, order of the data and dropout.
        compiled: whether steps go through torch.compile.
        start: a safetensors file of the weights to begin with; None for fresh ones.
        keep: safetensors file for the trained weights; None for none.
    """

    trial: Trial
    recipe: Recipe
    seed: int
    compiled: bool = False
    start: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class TrainingResult:
    """Holds the result of a job: a score or an error, and the time that each part took.

    Args:
        score: on validation or test data, in the task's metric; None where it failed.
        train_seconds: processor time of the training, on a GPU wall time: that depends on what runs beside it, and is
            to be compared at the same concurrency only.
        seconds: wall time by part: data, building, training, scoring.
        eager: why a training on a GPU was not replayed as a CUDA graph; None where it was.
    """

    score: float | None
    error: str | None
    train_seconds: float
    metrics: Mapping[str, float]
    curve: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    eager: str | None = None


class Trainer:
    """Trains networks one after the other on one device; every worker process has its own.

    Args:
        space: builds the networks.
        dataset: the data, on the CPU.
        device: device to train on.
        timeout_seconds: wall time after which a training is given up.
        deterministic: whether a GPU is to give the same numbers each time.
        precision: float32, on a GPU TF32 for convolutions; bfloat16; by_size: bfloat16 where a batch is work enough to
            gain by it. Scores are computed in float32 as such.
    """

    def __init__(
        self,
        space: SearchSpace,
        dataset: Dataset,
        device: str,
        timeout_seconds: float,
        deterministic: bool = False,
        precision: str = "float32",
    ) -> None:
        self.space, self.dataset, self.timeout_seconds, self.precision = space, dataset, timeout_seconds, precision
        self._deterministic = deterministic
        self.device = torch.device(device)
        self._resident: Dataset | None = None

    def on(self, device: str) -> Trainer:
        """Return a copy that trains on another device."""
        other = copy(self)
        other.device, other._resident = torch.device(device), None
        return other

    def steps(self, recipe: Recipe) -> int:
        """Return the number of steps of a recipe's full training."""
        return recipe.epochs * recipe.steps_per_epoch(len(self.dataset.train))

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return ``params`` and ``flops`` of one forward pass of one input."""
        with self._on_meta() as meta:
            return count_costs(self.space.build(architecture), self.space.task.shape, meta)

    def memory_mb(self, architecture: Architecture) -> float:
        """Return the memory of one forward pass of one input; nan where it cannot be followed."""
        with self._on_meta() as meta:
            return memory_mb(self.space.build(architecture).eval(), self.space.task.shape, meta)

    @contextlib.contextmanager
    def _on_meta(self) -> Iterator[torch.device]:
        """Build networks within this context without allocating them, and leave the global generator alone."""
        meta = torch.device("meta")
        with default_settings(), torch.random.fork_rng(devices=[]), meta:
            yield meta

    def run(self, job: Job) -> TrainingResult:
        """Train and score a network; a failure is returned as the result's error.

        The numbers depend on the job alone, and not on what this thread, the process or other threads have set or draw.

        Raises:
            InputError: the weights to begin with cannot be read, or the trained ones not be written.
        """
        started = time.perf_counter()
        begin_with = None if job.start is None else read_weights(job.start)
        try:
            with default_settings(), self._current(), one_thread(self.device), self._algorithms():
                model, trained = self._train_seeded(job, begin_with)
        except Diverged as error:
            reason = f"{DIVERGED}: {error}"
        except TimeoutError as error:
            reason = str(error)
        except (Exception, SystemExit) as error:  # a user's network may raise anything, and the search goes on
            kind = OUT_OF_MEMORY if is_out_of_memory(error) else type(error).__name__
            reason = f"{kind}: {_one_line(error)}{'' if self._is_usable() else f'; {DEVICE_LOST}'}"
        else:
            if job.keep is not None:
                write_weights(job.keep, model)
            return trained
        return TrainingResult(None, reason, time.perf_counter() - started, {})

    def _train_seeded(
        self, job: Job, begin_with: Mapping[str, torch.Tensor] | None
    ) -> tuple[nn.Module, TrainingResult]:
        """Train with the job's seed: from PyTorch's global generator where no other thread can draw from it, too.

        Where one can, initial weights come from a generator of the training's own. So does all else, which takes
        longer, if numbers are drawn while it trains, as by dropout; the global one is then set back, as agents draw
        from it. (On a GPU, other threads are not looked for.)
        """
        if self.device.type == "cuda" or is_only_thread():
            with seeded(job.seed, self.device):
                return self._train(job, begin_with)
        before = torch.get_rng_state()
        try:
            return self._train(job, begin_with, among_threads=True)
        except Drawn:
            torch.set_rng_state(before)
            with OwnGenerator(job.seed):
                return self._train(job, begin_with)

    def _train(
        self, job: Job, begin_with: Mapping[str, torch.Tensor] | None, among_threads: bool = False
    ) -> tuple[nn.Module, TrainingResult]:
        times = _Times(self.device)
        data = self._data()
        times.end("data")
        with OwnGenerator(job.seed) if among_threads else contextlib.nullcontext():
            model = self.space.build(job.trial.architecture)
        with watched(model) if among_threads else contextlib.nullcontext():
            if begin_with is not None:
                model.load_state_dict(begin_with)
            return self._fit_and_score(job, model, data, times)

    def _fit_and_score(
        self, job: Job, model: nn.Module, data: Dataset, times: _Times
    ) -> tuple[nn.Module, TrainingResult]:
        testing = job.trial.purpose == "test"
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        metrics = count_costs(model, self.space.task.shape, torch.device("cpu"))  # a GPU would plan its kernels
        model = model.to(self.device)
        precision = self._precision(metrics["flops"] * job.recipe.batch_size)
        generator = torch.Generator(self.device).manual_seed(job.seed)
        times.end("building")
        examples = data.training_and_validation if testing else data.train
        steps = max(1, round(job.trial.fidelity * job.recipe.epochs * job.recipe.steps_per_epoch(len(examples))))
        fitted = fit(
            *(model, self.space.task, examples, job.recipe, generator),
            *(self.timeout_seconds, precision, job.compiled, steps),
        )
        train_seconds = times.end("training")
        found = score(model, self.space.task, data.encoding, data.test if testing else data.validation)
        times.end("scoring")
        eager = fitted.eager if self.device.type == "cuda" else None
        return model, TrainingResult(found, None, train_seconds, metrics, fitted.curve, times.wall, eager)

    def warm_up(self) -> None:
        """Train a tiny network, so that a GPU, its libraries and the data are there before trainings are timed.

        What goes wrong here goes wrong in the first training, too, which says so.
        """
        task, device = self.space.task, self.device
        with contextlib.suppress(Exception), default_settings(), self._current(), seeded(0, device), self._algorithms():
            data, model, generator = self._data(), _tiny(task).to(device), torch.Generator(device)
            fit(model, task, data.train, Recipe(_WARM_UP_STEPS), generator, steps=_WARM_UP_STEPS)
            score(model, task, data.encoding, data.validation)

    def _is_usable(self) -> bool:
        """Return whether the device still works; a kernel that failed leaves a process's GPU in error for good."""
        try:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except Exception:
            return False
        return True

    def _current(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the device is torch's current one, which CUDA graphs require."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()

    def _algorithms(self) -> contextlib.AbstractContextManager[object]:
        return deterministic_algorithms(self.device) if self._deterministic else contextlib.nullcontext()

    def _data(self) -> Dataset:
        if self._resident is None:
            importlib.import_module("torch._dynamo")  # two seconds that the first optimizer would take of its training
            self._resident = self.dataset.to(self.device)
        return self._resident

    def _precision(self, flops_of_a_batch: float) -> torch.dtype:
        if self.precision == "by_size":
            return torch.bfloat16 if flops_of_a_batch >= _BFLOAT16_FLOPS[self.device.type] else torch.float32
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


class _Times:
    """Measures how long the consecutive parts of a job take.

    Attributes:
        wall: seconds by part.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.wall: dict[str, float] = {}
        self._began = self._now()

    def end(self, part: str) -> float:
        """End a part; return its CPU time, or on a GPU its wall time, in seconds."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        wall, own = self._now()
        self.wall[part] = wall - self._began[0]
        spent = own - self._began[1]
        self._began = wall, own
        return spent

    def _now(self) -> tuple[float, float]:
        """Return the wall time and, on the CPU, this thread's CPU time."""
        wall = time.perf_counter()
        return wall, time.thread_time() if self._device.type == "cpu" else wall


def _tiny(task: Task) -> nn.Module:
    """Return a small network for a task, of what networks for it are made of."""
    if len(task.shape) != 3:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), task.outputs))
    convolution = nn.Conv2d(task.shape[0], 8, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), GlobalAveragePool(), nn.Linear(8, task.outputs))


def count_costs(model: torch.nn.Module, shape: tuple[int, ...], device: torch.device) -> dict[str, float]:
    """Return ``params`` and ``flops`` of one forward pass of one input."""
    model.eval()
    return {"params": sum(p.numel() for p in model.parameters()), "flops": _flops(model, shape, device)}


def _flops(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    counter: _FlopCounter | FlopCounterMode
    try:
        with _FlopCounter() as counter:  # with gradients: else fused attention is not counted
            model(torch.zeros(1, *shape, device=device))
    except NotImplementedError:  # control flow, as of torch.cond
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *shape, device=device))
    return counter.get_total_flops()


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs as `FlopCounterMode`, which takes twice as long, as it counts those of each module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0

    def get_total_flops(self) -> int:
        """Return what was counted."""
        return self._flops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        self._flops += formula(*args, **kwargs, out_val=out)
        return out


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name; raise InputError if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"weights {path} cannot be read: {error}") from error


def write_weights(path: Path, model: nn.Module) -> None:
    """Write the weights of a network atomically to a safetensors file."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, save(weights))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or "no message"


def resolve_precision(precision: str, device: str) -> str:
    """Return what auto is on a device: by_size where it has bfloat16, else float32.

    Raises:
        InputError: it is none of auto, float32, bfloat16.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        return "by_size" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = torch.cpu.get_capabilities()
    return "by_size" if native.get("avx512_bf16") or native.get("amx_bf16") else "float32"
