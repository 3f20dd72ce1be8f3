"""The plain PyTorch training loop that an experienced user writes, and the switches that lead from it to ours."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nasenv import Architecture, Split, TrainingEvaluator
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.training.fit import FlatParameterOptimizer
from nasenv.training.recipe import Recipe, one_cycle
from scripts.benchmarks.bench_problems import Problem

_CONSTANT_RATE = 1e-3  # AdamW's default
_SCORING_BATCH = 256
LOADER_WORKERS = 4  # on a GPU


@dataclass(frozen=True)
class Way:
    """Selects how the plain loop runs; each switch is a step towards nasenv's training.

    Args:
        threads: of the processor.
        one_cycle: OneCycleLR, else a constant rate, which is the weaker baseline in few epochs.
        resident: the data lie on the device as one tensor, from which a batch is gathered.
        fused: AdamW's fused implementation.
        channels_last: the memory layout of weights and images.
        pool: the global average pool whose gradient keeps that layout.
        flat: all parameters are one vector.
        bf16: convolutions and products are computed in bfloat16.
    """

    threads: int = 1
    one_cycle: bool = True
    resident: bool = False
    fused: bool = False
    channels_last: bool = False
    pool: bool = False
    flat: bool = False
    bf16: bool = False


class PlainLoop:
    """Trains an architecture from a seed in a selected way, and returns its validation accuracy.

    It has our epochs, batch size, peak rate, weight decay and number of steps. On a GPU the loader has workers and
    pinned memory.

    Args:
        problem: says what is trained.
        evaluator: says where, at which rate and with which weight decay.
        loader_workers: on a GPU. They start anew for each training, which takes 0.2 to 0.4 s.
    """

    def __init__(self, problem: Problem, evaluator: TrainingEvaluator, loader_workers: int = LOADER_WORKERS) -> None:
        self.problem, self.recipe, self.device = problem, evaluator.recipe, torch.device(evaluator.devices[0])
        self._loader_workers = loader_workers

    def __call__(self, job: tuple[Architecture, int, Way]) -> float:
        """Train as the job says, and score."""
        architecture, seed, way = job
        torch.set_num_threads(way.threads)
        torch.manual_seed(seed)
        model = self._build(architecture, way)
        batches = self._batches(self.problem.data.train, way)
        step = _stepper(model, self.recipe, way, self.recipe.epochs * len(batches))
        for _ in range(self.recipe.epochs):
            for images, labels in self._on_device(batches):
                with self._precision(way):
                    loss = F.cross_entropy(model(images), labels)
                step(loss)
        return self._score(model, way)

    def _build(self, architecture: Architecture, way: Way) -> nn.Module:
        model = self.problem.space.build(architecture)
        if not way.pool:
            _with_the_usual_pool(model)
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if way.channels_last else model  # type: ignore[call-overload]

    def _batches(self, split: Split, way: Way) -> "DataLoader[tuple[Tensor, ...]] | _Resident":
        if way.resident:
            return _Resident(split, self.recipe.batch_size, self.device, way.channels_last)
        on_gpu = self.device.type == "cuda"
        workers = self._loader_workers if on_gpu else 0
        return DataLoader(
            TensorDataset(split.inputs, split.targets),
            self.recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu,
        )

    def _on_device(self, batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _precision(self, way: Way) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if way.bf16 else contextlib.nullcontext()

    @torch.no_grad()
    def _score(self, model: nn.Module, way: Way) -> float:
        model.eval()
        split = self.problem.data.validation
        loader = DataLoader(TensorDataset(split.inputs, split.targets), _SCORING_BATCH)
        correct = 0
        for images, labels in self._on_device(loader):
            with self._precision(way):
                correct += int((model(images).argmax(1) == labels).sum())
        return correct / len(split)


def _with_the_usual_pool(model: nn.Module) -> None:
    """Replace our global average pool by PyTorch's."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, GlobalAveragePool):
                setattr(module, name, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def _stepper(model: nn.Module, recipe: Recipe, way: Way, steps: int) -> Callable[[Tensor], None]:
    """Return the function that does the backward pass and the steps of optimizer and schedule."""
    if way.flat:
        return _flat_stepper(model, recipe, steps)
    rate = recipe.learning_rate if way.one_cycle else _CONSTANT_RATE
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=recipe.weight_decay, fused=way.fused or None)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps) if way.one_cycle else None

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if schedule is not None:
            schedule.step()

    return step


def _flat_stepper(model: nn.Module, recipe: Recipe, steps: int) -> Callable[[Tensor], None]:
    rate = torch.zeros((), device=next(model.parameters()).device)
    optimizer = FlatParameterOptimizer(model, recipe, rate)
    rates = iter(one_cycle(steps, recipe.learning_rate))

    def step(loss: Tensor) -> None:
        rate.fill_(next(rates))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class _Resident:
    """Yields a loader's batches, each gathered at once from the whole tensor on the device."""

    def __init__(self, split: Split, batch_size: int, device: torch.device, channels_last: bool) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._images = split.inputs.to(device).contiguous(memory_format=layout)
        self._labels, self._batch_size = split.targets.to(device), batch_size

    def __len__(self) -> int:
        return len(self._labels) // self._batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._labels), device=self._labels.device)
        for rows in torch.split(order, self._batch_size)[: len(self)]:
            yield self._images[rows], self._labels[rows]
