"""Training one network on data that live on the device, as fast as it goes.

The data are kept as one (n, height, width, channels) tensor, so a batch is one gather whose result is in the
channels_last layout that convolutions like best; a random crop and flip ride on the same gather.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasenv.clock import WakingClock
from nasenv.datasets import Split
from nasenv.errors import InputError

TIMEOUT = "timeout"  # how the error of a training that took too long begins
_SCORING_BATCH = 256  # larger ones leave a processor's cache
_WARM_UP_SHARE = 0.25  # of the steps, as the one-cycle schedule rises
_STATISTICS_BATCHES = 4  # forward passes that batch normalisation takes its statistics from


class Diverged(Exception):
    """The training came to a loss that is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes over the training data.
        batch_size: examples a step; the last, incomplete batch of an epoch is left out.
        optimizer: adamw, or sgd with Nesterov momentum 0.9.
        learning_rate: the peak of the one-cycle schedule.
        weight_decay: decoupled with adamw, L2 with sgd.
        label_smoothing: share of the target spread evenly over the classes.
        augment: none; crop (shifts of up to an eighth of the side); crop_flip (and left-right mirroring).
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    augment: Literal["none", "crop", "crop_flip"] = "none"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be an integer of {least} or more, got {value!r}")
            object.__setattr__(self, name, int(value))
        if self.optimizer not in ("adamw", "sgd"):
            raise InputError(f"optimizer must be adamw or sgd, got {self.optimizer!r}")
        if self.augment not in ("none", "crop", "crop_flip"):
            raise InputError(f"augment must be none, crop or crop_flip, got {self.augment!r}")
        for name in ("learning_rate", "weight_decay", "label_smoothing"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and 0 <= self.label_smoothing < 1):
            raise InputError(
                "learning_rate must be positive, weight_decay not negative, label_smoothing in [0, 1), got "
                f"{self.learning_rate}, {self.weight_decay}, {self.label_smoothing}"
            )


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Give layers that draw from torch's global generators (initial weights, dropout) those of this seed.

    Layers take no generator of their own; the state from before is put back at the end.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.random.manual_seed(seed)
        yield


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one processor thread, so that results do not depend on how many there are."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def same_each_time(device: torch.device) -> Iterator[None]:
    """Use on a GPU only algorithms that give the same numbers each time; an operation that has none raises.

    One processor thread always gives the same. See https://docs.pytorch.org/docs/stable/notes/randomness.html.
    """
    if device.type == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used in a process
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]


def fit(
    model: nn.Module, data: Split, recipe: Recipe, generator: torch.Generator, timeout_seconds: float = math.inf
) -> tuple[float, ...]:
    """Train the model in place and return the mean training loss of each epoch.

    Args:
        model: on the device of the data; its batch normalisation statistics are those of the final weights at the end.
        data: images (n, c, h, w), labels (n,).
        recipe: how to train.
        generator: draws the order of the data and their augmentation; on the device of the data.
        timeout_seconds: wall time after which the training is given up; a suspension does not count.

    Raises:
        Diverged: the loss is nan or infinite.
        TimeoutError: the time is up.
    """
    batches = _Batches(data, recipe, generator)
    optimizer = _make_optimizer(model, recipe)
    learning_rates = one_cycle(recipe.epochs * len(batches), recipe.learning_rate)
    clock = WakingClock(timeout_seconds / 10)
    device = data.images.device
    curve = []
    model.train()
    for epoch in range(recipe.epochs):
        total = torch.zeros((), device=device)
        for images, labels in batches:
            if clock() > timeout_seconds:
                raise TimeoutError(f"{TIMEOUT}: the training took more than {timeout_seconds:g} s")
            optimizer.param_groups[0]["lr"] = next(learning_rates)
            with _autocast(device):
                loss = F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
        curve.append(float(total) / len(batches))
        if not math.isfinite(curve[-1]):
            raise Diverged(f"the training loss is {curve[-1]} in epoch {epoch + 1} of {recipe.epochs}")
    _refresh_batch_norm(model, batches)
    return tuple(curve)


@torch.inference_mode()
def accuracy(model: nn.Module, data: Split) -> float:
    """Return the share of examples, in [0, 1], that the model classifies correctly."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.images.device)
    batches = zip(torch.split(data.images, _SCORING_BATCH), torch.split(data.labels, _SCORING_BATCH), strict=True)
    for images, labels in batches:
        with _autocast(images.device):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        correct += (logits.argmax(1) == labels).sum()
    return int(correct) / len(data)


def one_cycle(steps: int, peak: float) -> Iterator[float]:
    """Yield the learning rate of each step: up in a line to the peak, down in a half cosine to zero.

    After Smith and Topin 2018 (https://arxiv.org/abs/1708.07120).
    """
    rising = max(1, round(_WARM_UP_SHARE * steps))
    for step in range(steps):
        if step < rising:
            yield peak * (step + 1) / rising
        else:
            yield peak * 0.5 * (1 + math.cos(math.pi * (step + 1 - rising) / (steps - rising)))


class _Batches:
    """The training data in a fresh random order at each pass, as (images, labels) of one batch size."""

    def __init__(self, data: Split, recipe: Recipe, generator: torch.Generator) -> None:
        self._images_nhwc = data.images.permute(0, 2, 3, 1).contiguous()
        self._labels = data.labels
        self._generator = generator
        self._size = min(recipe.batch_size, len(data))
        self._flip = recipe.augment == "crop_flip"
        _, self._height, self._width, _ = self._images_nhwc.shape
        self._pad = 0 if recipe.augment == "none" else max(1, min(self._height, self._width) // 8)
        if self._pad:
            self._images_nhwc = F.pad(self._images_nhwc, (0, 0, self._pad, self._pad, self._pad, self._pad))

    def __len__(self) -> int:
        return len(self._labels) // self._size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._labels), generator=self._generator, device=self._labels.device)
        for rows in torch.split(order, self._size)[: len(self)]:
            images_nhwc = self._crop(rows) if self._pad else self._images_nhwc[rows]
            yield images_nhwc.permute(0, 3, 1, 2), self._labels[rows]

    def _crop(self, rows: Tensor) -> Tensor:
        ys = self._draw(len(rows), 2 * self._pad + 1) + torch.arange(self._height, device=rows.device)
        xs = self._draw(len(rows), 2 * self._pad + 1) + torch.arange(self._width, device=rows.device)
        if self._flip:
            xs = torch.where(self._draw(len(rows), 2) == 1, xs.flip(1), xs)
        return self._images_nhwc[rows[:, None, None], ys[:, :, None], xs[:, None, :]]

    def _draw(self, n: int, upper: int) -> Tensor:
        return torch.randint(upper, (n, 1), generator=self._generator, device=self._labels.device)


def _make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings)  # type: ignore[arg-type]
    return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)  # type: ignore[arg-type]


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


@torch.no_grad()
def _refresh_batch_norm(model: nn.Module, batches: _Batches) -> None:
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
    for _, (images, _) in zip(range(_STATISTICS_BATCHES), batches, strict=False):
        with _autocast(images.device):
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
