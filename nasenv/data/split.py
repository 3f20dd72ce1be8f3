"""Splits of training, validation and test samples, drawn from each class deterministically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nasenv.errors import InputError


@dataclass(frozen=True)
class Split:
    """One of the three parts of a data set: inputs (n, *shape) float32 and targets.

    Targets are classes, (n,) int64, or numbers, (n, targets) float32.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> Split:
        """Return the split with its tensors on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))


def check_counts(samples: Split, names: Sequence[str], needed: int) -> None:
    """Raise InputError for a single class, and for classes with fewer samples than the splits need."""
    if len(names) < 2:
        raise InputError(f"a classifier needs two or more classes, the training samples are all of {names[0]!r}")
    counts = torch.bincount(samples.targets, minlength=len(names))
    if counts.min() < needed:
        rarest = int(counts.argmin())
        raise InputError(
            f"each class needs {needed} or more training samples, to be in each of {needed} splits; "
            f"class {names[rarest]!r} has {int(counts[rarest])}"
        )


def stratified(samples: Split, shares: Sequence[float], seed: int) -> list[Split]:
    """Return the remaining samples, then a split for each share; each class gives that share, at least one sample."""
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for value in range(int(samples.targets.max()) + 1):
        members = rng.permutation(np.flatnonzero(samples.targets.numpy() == value)).tolist()
        counts = [max(1, int(len(members) * share)) for share in shares]
        for part, count in zip(parts[1:], counts, strict=True):
            part += members[:count]
            members = members[count:]
        parts[0] += members
    return [Split(samples.inputs[sorted(part)], samples.targets[sorted(part)]) for part in parts]
