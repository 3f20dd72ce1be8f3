"""A recipe says how a network is trained: epochs, batch size, optimizer, schedule, augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nasenv.errors import InputError

_WARM_UP_SHARE = 0.25  # of the steps, as the one-cycle schedule rises


@dataclass(frozen=True)
class Recipe:
    """Holds the hyperparameters of a training.

    Args:
        epochs: passes over the training data.
        batch_size: examples a step; the last, incomplete batch of an epoch is left out.
        optimizer: adamw with decays 0.85 and 0.99, or sgd with Nesterov momentum 0.9.
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

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of batches in an epoch over so many examples."""
        return examples // self.batch_of(examples)

    def batch_of(self, examples: int) -> int:
        """Return the batch size for so many examples."""
        return min(self.batch_size, examples)


def one_cycle(steps: int, peak: float) -> list[float]:
    """Return the learning rate of each step: a linear rise to the peak, then a cosine decay to zero.

    After Smith and Topin 2018 (https://arxiv.org/abs/1708.07120).
    """
    rising = max(1, round(_WARM_UP_SHARE * steps))
    rates = [peak * step / rising for step in range(1, min(rising, steps) + 1)]
    for step in range(rising + 1, steps + 1):
        rates.append(peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising))))
    return rates
