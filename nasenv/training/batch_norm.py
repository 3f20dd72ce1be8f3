"""Batch normalisation in a short training: statistics of the final weights, and no kernels that nobody needs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # of which is known how they count


@torch.no_grad()
def refresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute the running statistics of batch normalisation with the final weights.

    After a few epochs the running averages still remember early weights, and accuracy under them is mostly noise.

    Args:
        model: is in evaluation mode afterwards, but for its batch normalisation.
        batches: inputs; none is taken where there is no batch normalisation.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    hooks = [norm.register_forward_pre_hook(_plain_mean()) for norm in norms]
    for inputs in batches:
        model(inputs)
    for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
        hook.remove()
        norm.momentum = momentum


def _plain_mean() -> Callable[[Any, Any], None]:
    """Return what has a norm take the mean over its calls, as momentum None does, which waits for the device."""
    calls = itertools.count(1)

    def weigh(norm: Any, _: Any) -> None:
        norm.momentum = 1 / next(calls)

    return weigh


@contextlib.contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """Have batch normalisation not count its batches, which is a kernel each and matters to `refresh_statistics` alone.

    The numbers are those from before at the end.
    """
    counts: list[tuple[Any, Any]] = [(m, m.num_batches_tracked) for m in model.modules() if type(m) in _NORMS]
    for norm, _ in counts:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, count in counts:
            norm.num_batches_tracked = count
