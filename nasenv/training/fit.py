"""Trains one network on data that are on the device, and scores it."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasenv.data.split import Split
from nasenv.task import Encoding, Task
from nasenv.training.batch_norm import refresh_statistics, uncounted
from nasenv.training.cuda_graphs import graphed
from nasenv.training.recipe import Recipe, one_cycle
from nasenv.training.reproducibility import full_float32

TIMEOUT = "timeout"  # how the error of a training that took too long begins
_SCORING_BATCH = {"cpu": 256, "cuda": 2048}  # larger ones leave a processor's cache; a GPU wants few, large ones
BETAS = (0.85, 0.99)
"""AdamW's decays. Trainings of a few epochs get on better when it forgets sooner than by PyTorch's (0.9, 0.999): ten
seeds of each benchmark gained 0.9 points of validation accuracy on digits, 2.8 on mnist5k, 0.2 with cells."""

_STATISTICS_BATCHES = 4  # forward passes that batch normalisation takes its statistics from
_AHEAD = 32  # steps of a GPU between two looks at how far it is; the host is at most twice as many ahead


class FitResult(NamedTuple):
    """Holds what a finished training returns.

    Args:
        curve: mean training loss of each epoch.
        eager: why its steps were not replayed as a CUDA graph; None where they were.
    """

    curve: tuple[float, ...]
    eager: str | None


class Diverged(Exception):
    """The training loss became nan or infinite."""


def fit(
    model: nn.Module,
    task: Task,
    data: Split,
    recipe: Recipe,
    generator: torch.Generator,
    timeout_seconds: float = math.inf,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
    steps: int | None = None,
) -> FitResult:
    """Train the model in place and return the loss curve.

    Args:
        model: on the device of the data; on a processor its parameters become views of one vector; its batch
            normalisation statistics are those of the final weights at the end.
        task: task, which defines the loss.
        data: inputs and targets, as the task's networks take them.
        recipe: hyperparameters of the training.
        generator: draws the order of the data and their augmentation; on the device of the data.
        timeout_seconds: wall time after which the training is given up; a suspension does not count.
        precision: float32, on a GPU TF32 for convolutions, or bfloat16: what convolutions and products are computed in;
            weights stay float32.
        compiled: whether steps go through torch.compile; the first of them may take half a minute.
        steps: length of the training, whose schedule is as long; all steps of the recipe by default.

    Raises:
        Diverged: the loss is nan or infinite.
        TimeoutError: the time is up.
    """
    network: nn.Module = torch.compile(model, dynamic=False) if compiled else model  # type: ignore[assignment]
    training = _Training(network, task, data, recipe, generator, precision, steps)
    model.train()
    with uncounted(model), graphed(training.step, training.steps, data.inputs.device) as repeat:
        for epoch in range(training.epochs):
            training.begin(epoch)
            step = training.step if repeat.eager is not None else repeat
            for _ in range(training.steps_of(epoch)):
                training.check_time(timeout_seconds)
                step()
            training.end(epoch)
        curve = training.curve()
    refresh_statistics(model, training.batches.another_pass(_STATISTICS_BATCHES))
    return FitResult(curve, repeat.eager)


class _Training:
    """Holds the state of a training in progress on the device: all that a step reads and writes."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        data: Split,
        recipe: Recipe,
        generator: torch.Generator,
        precision: torch.dtype,
        steps: int | None,
    ) -> None:
        self._network, self._precision = network, precision
        self._loss = task.loss(recipe.label_smoothing)
        self._device = data.inputs.device
        self.batches = Batches(data, recipe, generator)
        per_epoch = len(self.batches)
        self.steps = recipe.epochs * per_epoch if steps is None else steps
        self.epochs = math.ceil(self.steps / per_epoch)  # of which the last may be cut short
        rates = torch.zeros(self.epochs * per_epoch, device=self._device)
        rates[: self.steps] = torch.tensor(one_cycle(self.steps, recipe.learning_rate), device=self._device)
        self._rates = rates.view(self.epochs, per_epoch)
        self._rates_of_epoch = torch.zeros(per_epoch, device=self._device)
        self._rate = torch.zeros((), device=self._device)
        self._optimizer = make_optimizer(network, recipe, self._rate)
        self._number = torch.zeros(1, dtype=torch.int64, device=self._device)  # of the next batch
        self._total = torch.zeros((), device=self._device)  # of the losses of this epoch
        self._losses = torch.zeros(self.epochs, device=self._device)
        self._looked, self._seconds = time.monotonic(), 0.0  # at the clock, and spent awake
        self._given_out = itertools.count(1)  # steps
        self._mark: torch.cuda.Event | None = None

    def check_time(self, timeout_seconds: float) -> None:
        """Raise TimeoutError where the time is up; a suspension, longer than a tenth of it, counts for that tenth.

        The host gives out a GPU's steps faster than they are done, and its clock would stand still meanwhile; so it
        waits for those that it gave out `_AHEAD` steps ago, while there is work enough left.
        """
        if next(self._given_out) % _AHEAD == 0 and on_gpu(self._device):
            mark, self._mark = self._mark, torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._mark.record(torch.cuda.current_stream(self._device))
            if mark is not None:
                mark.synchronize()
        now = time.monotonic()
        self._seconds += min(now - self._looked, timeout_seconds / 10)
        self._looked = now
        if self._seconds > timeout_seconds:
            raise TimeoutError(f"{TIMEOUT}: the training took more than {timeout_seconds:g} s")

    def steps_of(self, epoch: int) -> int:
        """Return the number of steps of an epoch, from 0."""
        return min(len(self.batches), self.steps - epoch * len(self.batches))

    def begin(self, epoch: int) -> None:
        """Prepare the steps of an epoch."""
        self.batches.shuffle()
        self._rates_of_epoch.copy_(self._rates[epoch])
        self._number.zero_()
        self._total.zero_()

    def step(self) -> None:
        """Train on the next batch, without waiting for the device, so that the step can be captured in a CUDA graph."""
        inputs, targets = self.batches.get(self._number)
        self._rate.copy_(self._rates_of_epoch.index_select(0, self._number)[0])
        self._number += 1
        self._optimizer.zero_grad()
        with mixed(self._device, self._precision):
            loss = self._loss(self._network(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._total += loss.detach()

    def end(self, epoch: int) -> None:
        """Record the loss of an epoch; on the CPU, check that it is finite."""
        self._losses[epoch] = self._total / self.steps_of(epoch)
        if not on_gpu(self._device):
            self._check(epoch, float(self._losses[epoch]))

    def curve(self) -> tuple[float, ...]:
        """Return the mean loss of each epoch; raise Diverged if one is not finite."""
        losses: list[float] = self._losses.tolist()
        for epoch, loss in enumerate(losses):
            self._check(epoch, loss)
        return tuple(losses)

    def _check(self, epoch: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {epoch + 1} of {self.epochs}")


@torch.inference_mode()
@full_float32()
def score(model: nn.Module, task: Task, encoding: Encoding, data: Split) -> float:
    """Return the task's metric of a model on data, computed in float32 and in the user's units."""
    model.eval()
    size = _SCORING_BATCH[data.inputs.device.type]
    pieces = torch.split(data.inputs, size)
    outputs = torch.cat([model(channels_last(piece) if piece.ndim == 4 else piece) for piece in pieces])
    targets = encoding.outputs(data.targets) if task.kind == "regression" else data.targets
    return task.score(encoding.outputs(outputs), targets)


def channels_last(images_nchw: Tensor) -> Tensor:
    """Return images (n, c, h, w) with the strides of the channels_last memory layout.

    PyTorch takes an image of one channel to be in either layout, leaves its strides as they are, and then chooses by
    them: a network whose first convolution is 1x1 would run in the slow layout throughout.
    """
    return images_nchw.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


class Batches:
    """Holds the training data on the device and returns them batch by batch, in random order and augmented.

    Images are kept as one (n, height, width, channels) tensor, so a batch is one gather whose result is in the
    channels_last layout that convolutions like best; a random crop and flip ride on the same gather. Other inputs are
    kept as they are.

    Args:
        data: inputs (n, *shape), images of (c, h, w) among them, and targets (n, ...).
        recipe: batch size and augmentation.
        generator: draws the orders and the augmentation, a whole pass at once; on the device of the data.
    """

    def __init__(self, data: Split, recipe: Recipe, generator: torch.Generator) -> None:
        self._targets, self._generator = data.targets, generator
        self._are_images = data.inputs.ndim == 4
        self._inputs = channels_last(data.inputs).permute(0, 2, 3, 1) if self._are_images else data.inputs
        self._shape = len(data) // recipe.batch_of(len(data)), recipe.batch_of(len(data))
        self.device = device = data.targets.device
        self._order = torch.empty(self._shape, dtype=torch.int64, device=device)
        self._pad, self._flip = 0, False
        if self._are_images and recipe.augment != "none":
            self._prepare_augmentation(recipe.augment == "crop_flip")

    def _prepare_augmentation(self, flip: bool) -> None:
        _, height, width, _ = self._inputs.shape
        self._flip, self._pad = flip, max(1, min(height, width) // 8)
        self._inputs = F.pad(self._inputs, (0, 0, self._pad, self._pad, self._pad, self._pad))
        self._ys, self._xs = torch.arange(height, device=self.device), torch.arange(width, device=self.device)
        self._drawn = torch.empty((*self._shape, 3), dtype=torch.int64, device=self.device)  # y, x, whether mirrored

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._shape[0]

    def shuffle(self) -> None:
        """Draw the order and the augmentation of the next epoch, in place."""
        order = torch.randperm(len(self._targets), generator=self._generator, device=self.device)
        self._order.copy_(order[: self._order.numel()].view(self._shape))
        if self._pad:
            self._drawn[..., :2].random_(2 * self._pad + 1, generator=self._generator)
        if self._flip:
            self._drawn[..., 2].random_(2, generator=self._generator)

    def get(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (b, *shape) and targets (b, ...) of one batch; number, (1,), is a tensor on the device."""
        rows = self._order.index_select(0, number)[0]
        inputs = self._cropped(rows, number) if self._pad else self._inputs.index_select(0, rows)
        targets = self._targets.index_select(0, rows)
        return (inputs.permute(0, 3, 1, 2) if self._are_images else inputs), targets

    def another_pass(self, most: int) -> Iterator[Tensor]:
        """Draw a pass, and yield the inputs of its first batches."""
        self.shuffle()
        for number in torch.split(torch.arange(min(most, len(self)), device=self.device), 1):
            yield self.get(number)[0]

    def _cropped(self, rows: Tensor, number: Tensor) -> Tensor:
        y, x, mirrored = self._drawn.index_select(0, number)[0][..., None].unbind(1)  # (b, 1) each
        ys, xs = y + self._ys, x + self._xs
        if self._flip:
            xs = torch.where(mirrored == 1, xs.flip(1), xs)
        return self._inputs[rows[:, None, None], ys[:, :, None], xs[:, None, :]]


def on_gpu(device: torch.device) -> bool:
    """Return whether a device works beside the host, which gives out its work a kernel at a time."""
    return device.type == "cuda"


def make_optimizer(
    model: nn.Module, recipe: Recipe, learning_rate: Tensor
) -> FlatParameterOptimizer | torch.optim.Optimizer:
    """Return what updates a network's parameters: on a processor as one vector, on a GPU each as it is.

    A processor is spared a call a parameter. A GPU updates all of them in one kernel anyway; and gradients that can be
    let go of, as those of one vector cannot, are taken as the backward pass makes them, and not added to zeros.

    Raises:
        ValueError: no parameter is to be trained.
    """
    if on_gpu(learning_rate.device):
        return _rule(_trained(model), recipe, learning_rate)
    return FlatParameterOptimizer(model, recipe, learning_rate)


class FlatParameterOptimizer:
    """Updates the parameters of a network as one vector a type of number; they become views of it, as do gradients.

    What it computes is what the rule would parameter by parameter, but that one without a gradient decays too.

    Args:
        model: network to train, already on its device and in its memory layout.
        recipe: defines the update rule and its weight decay.
        learning_rate: a scalar on the parameters' device, read at each step.

    Raises:
        ValueError: no parameter is to be trained.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, learning_rate: Tensor) -> None:
        trained = _trained(model)
        types = dict.fromkeys(p.dtype for p in trained)
        self._flats = [_flattened([p for p in trained if p.dtype == dtype]) for dtype in types]
        self._rule = _rule(self._flats, recipe, learning_rate)

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for flat in self._flats:
            if flat.grad is not None:
                flat.grad.zero_()

    def step(self) -> None:
        """Update the parameters by their gradients."""
        self._rule.step()


def _trained(model: nn.Module) -> list[nn.Parameter]:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the network has no parameters to train")
    return trained


def _flattened(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Copy parameters of one dtype and device into one vector and return it; each becomes a view of the vector."""
    first = parameters[0]
    flat = nn.Parameter(first.new_empty(sum(p.numel() for p in parameters)))
    flat.grad = torch.zeros_like(flat)
    offset = 0
    for parameter in parameters:
        dense = parameter.detach().clone(memory_format=torch.preserve_format)
        place = dense.size(), dense.stride(), offset
        parameter.data = torch.as_strided(flat.data, *place).copy_(dense)
        parameter.grad = torch.as_strided(flat.grad, *place)
        offset += parameter.numel()
    return flat


def _rule(parameters: Iterable[nn.Parameter], recipe: Recipe, learning_rate: Tensor) -> torch.optim.Optimizer:
    decay = recipe.weight_decay
    if recipe.optimizer == "adamw":
        capturable = learning_rate.is_cuda
        return torch.optim.AdamW(
            parameters, learning_rate, BETAS, weight_decay=decay, fused=True, capturable=capturable
        )
    return torch.optim.SGD(parameters, learning_rate, 0.9, weight_decay=decay, nesterov=True, fused=True)


def mixed(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context for convolutions and matrix products in a precision; weights stay float32.

    Casts are not cached: a captured step would find those of the step in which it was captured.
    """
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision, cache_enabled=False)
