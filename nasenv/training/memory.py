"""The memory that a network's forward pass needs: weights, and the largest sum of tensors that are alive at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BYTES = 1_000_000  # of a megabyte


def memory_mb(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> float:
    """Return the megabytes (10^6 bytes) that a forward pass of one input needs; nan where it cannot be followed.

    It is the size of weights and buffers, and of all other tensors at the moment when the most are alive, as PyTorch
    frees them in an eager forward pass without gradients. What kernels allocate for themselves is not in it.

    Args:
        model: a network in evaluation mode.
        shape: shape of one input.
        device: where the network is; on the meta device nothing is allocated.
    """
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    weights = {storage._cdata: storage.nbytes() for storage in storages}
    try:
        with torch.no_grad(), _PeakMemory(weights) as memory:
            model(torch.zeros(1, *shape, device=device))
    except NotImplementedError:  # control flow, as of torch.cond
        return math.nan
    return float(sum(weights.values()) + memory.peak) / _BYTES


class _PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of the tensors that are alive after each operation, without some that stay.

    Args:
        without: identities of the storages that are not counted.

    Attributes:
        peak: the largest sum, in bytes.
    """

    def __init__(self, without: dict[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._without = without
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._alive = {identity: kept for identity, kept in self._alive.items() if not _is_freed(kept[0])}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._without:
                    self._alive[storage._cdata] = _reference(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


def _reference(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _is_freed(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]
