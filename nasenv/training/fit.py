"""Training one network on data that live on the device, as fast as it goes, and scoring it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from nasenv.data.split import Split
from nasenv.task import Encoding, Task
from nasenv.training.batches import Batches, channels_last
from nasenv.training.optimizer import FlatOptimizer
from nasenv.training.recipe import Recipe, one_cycle
from nasenv.training.repeating import repeated
from nasenv.training.setting import mixed
from nasenv.workers.clock import WakingClock

TIMEOUT = "timeout"  # how the error of a training that took too long begins
_SCORING_BATCH = {"cpu": 256, "cuda": 2048}  # larger ones leave a processor's cache; a GPU wants few, large ones
_STATISTICS_BATCHES = 4  # forward passes that batch normalisation takes its statistics from


class Fitted(NamedTuple):
    """A training that is over.

    Args:
        curve: mean training loss of each epoch.
        eager: why its steps were not replayed as a CUDA graph; None where they were.
    """

    curve: tuple[float, ...]
    eager: str | None


class Diverged(Exception):
    """The training came to a loss that is not finite."""


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
) -> Fitted:
    """Train the model in place.

    Args:
        model: on the device of the data; its parameters become views of one vector, and its batch normalisation
            statistics are those of the final weights at the end.
        task: says what the loss is.
        data: inputs and targets, as the task's networks take them.
        recipe: how to train.
        generator: draws the order of the data and their augmentation; on the device of the data.
        timeout_seconds: wall time after which the training is given up; a suspension does not count.
        precision: float32, or bfloat16: what convolutions and products are computed in; weights stay float32.
        compiled: whether steps go through torch.compile; the first of them may take half a minute.
        steps: length of the training, whose schedule is as long; all steps of the recipe by default.

    Raises:
        Diverged: the loss is nan or infinite.
        TimeoutError: the time is up.
    """
    network: nn.Module = torch.compile(model, dynamic=False) if compiled else model  # type: ignore[assignment]
    training = _Training(network, task, data, recipe, generator, precision, steps)
    clock = WakingClock(timeout_seconds / 10)
    model.train()
    with repeated(training.step, training.steps, data.inputs.device) as step:
        for epoch in range(training.epochs):
            training.begin(epoch)
            for _ in range(training.steps_of(epoch)):
                if clock() > timeout_seconds:
                    raise TimeoutError(f"{TIMEOUT}: the training took more than {timeout_seconds:g} s")
                step()
            training.end(epoch)
        curve = training.curve()
    _refresh_batch_norm(model, training.batches)
    return Fitted(curve, step.eager)


class _Training:
    """A training in progress: everything that a step reads and writes, on the device."""

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
        self._network, self._task, self._recipe, self._precision = network, task, recipe, precision
        self._device = data.inputs.device
        self.batches = Batches(data, recipe, generator)
        per_epoch = len(self.batches)
        self.steps = recipe.epochs * per_epoch if steps is None else steps
        self.epochs = math.ceil(self.steps / per_epoch)  # of which the last may be cut short
        rates = torch.zeros(self.epochs * per_epoch, device=self._device)
        rates[: self.steps] = torch.tensor(list(one_cycle(self.steps, recipe.learning_rate)), device=self._device)
        self._rates = rates.view(self.epochs, per_epoch)
        self._rates_of_epoch = torch.zeros(per_epoch, device=self._device)
        self._rate = torch.zeros((), device=self._device)
        self._optimizer = FlatOptimizer(network, recipe, self._rate)
        self._number = torch.zeros(1, dtype=torch.int64, device=self._device)  # of the next batch
        self._total = torch.zeros((), device=self._device)  # of the losses of this epoch
        self._losses = torch.zeros(self.epochs, device=self._device)

    def steps_of(self, epoch: int) -> int:
        """Return the number of steps of an epoch, from 0."""
        return min(len(self.batches), self.steps - epoch * len(self.batches))

    def begin(self, epoch: int) -> None:
        """Make ready for the steps of an epoch."""
        self.batches.shuffle()
        self._rates_of_epoch.copy_(self._rates[epoch])
        self._number.zero_()
        self._total.zero_()

    def step(self) -> None:
        """Train on the next batch; nothing here waits for the device, so that it can be captured."""
        inputs, targets = self.batches.batch(self._number)
        self._rate.copy_(self._rates_of_epoch.index_select(0, self._number)[0])
        self._number += 1
        self._optimizer.zero_grad()
        with mixed(self._device, self._precision):
            loss = self._task.loss(self._network(inputs), targets, self._recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._total += loss.detach()

    def end(self, epoch: int) -> None:
        """Take down the loss of an epoch; a GPU is not waited for before the last."""
        self._losses[epoch] = self._total / self.steps_of(epoch)
        if self._device.type == "cpu":
            self._check(epoch, float(self._losses[epoch]))

    def curve(self) -> tuple[float, ...]:
        """Return the mean loss of each epoch."""
        losses: list[float] = self._losses.tolist()
        for epoch, loss in enumerate(losses):
            self._check(epoch, loss)
        return tuple(losses)

    def _check(self, epoch: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {epoch + 1} of {self.epochs}")


@torch.inference_mode()
def score(model: nn.Module, task: Task, encoding: Encoding, data: Split) -> float:
    """Return the task's metric of a model on data, computed in float32 and in the user's units."""
    model.eval()
    size = _SCORING_BATCH[data.inputs.device.type]
    pieces = torch.split(data.inputs, size)
    outputs = torch.cat([model(channels_last(piece) if piece.ndim == 4 else piece) for piece in pieces])
    targets = encoding.outputs(data.targets) if task.kind == "regression" else data.targets
    return task.score(encoding.outputs(outputs), targets)


@torch.no_grad()
def _refresh_batch_norm(model: nn.Module, batches: Batches) -> None:
    """Recompute the running statistics of batch normalisation with the final weights.

    After a few epochs the running averages still remember early weights, and accuracy under them is mostly noise.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    batches.shuffle()
    for number in range(min(_STATISTICS_BATCHES, len(batches))):
        inputs, _ = batches.batch(torch.tensor([number], device=batches.device))
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
