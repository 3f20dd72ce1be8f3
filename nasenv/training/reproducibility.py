"""Contexts that make trainings reproducible: PyTorch's defaults, seeds, one thread, deterministic algorithms."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used

_SMALLEST = math.ulp(0.0)  # equals 0 where denormal numbers are flushed to zero
_mkldnn: Any = torch.backends.mkldnn
_DEFAULTS: tuple[tuple[Callable[[], Any], Callable[[Any], object], tuple[Any, ...]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, (0,)),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled, (False,)),
    (lambda: _SMALLEST == 0.0, torch.set_flush_denormal, (False,)),
    (partial(getattr, _mkldnn, "enabled"), partial(setattr, _mkldnn, "enabled"), (True,)),
    *(
        (partial(getattr, way, "fp32_precision"), partial(setattr, way, "fp32_precision"), ("ieee", "none"))
        for way in (_mkldnn.matmul, _mkldnn.conv, _mkldnn.rnn)
    ),
)
"""Settings of PyTorch that change numbers: how each is read and set, and its default, with what amounts to the same."""

_lock = threading.RLock()  # these settings are the process's, and not a thread's


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # the thread that held it does not exist there


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Compute with PyTorch's defaults, whatever this thread and process have set, which is set again at the end.

    Gradients are recorded, nothing is cast automatically, and new tensors are float32 on the CPU. Threads take turns.
    """
    with _lock, torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as changed:
        for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            changed.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            changed.enter_context(torch.device("cpu"))
        for read, write, defaults in _DEFAULTS:
            if (before := read()) not in defaults:
                changed.callback(write, before)
                write(defaults[0])
        yield


def is_only_thread() -> bool:
    """Return whether no other thread of this process runs Python, and might draw random numbers."""
    return len(sys._current_frames()) == 1


class Drawn(Exception):
    """Random numbers were drawn from PyTorch's global generator, by the network or by another thread."""


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Raise `Drawn`, in a forward pass or at the end, if PyTorch's global generator was drawn from in the context."""
    before = torch.get_rng_state()

    def check(*_: object) -> None:
        if not torch.equal(torch.get_rng_state(), before):
            raise Drawn

    hook = model.register_forward_hook(check)
    try:
        yield
        check()
    finally:
        hook.remove()


class OwnGenerator(TorchDispatchMode):
    """Draws all random numbers on the CPU within the context from a generator of its own, which no other thread has.

    They are those that PyTorch's global generator returns after the same seed.

    Args:
        seed: seed of the generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        overload, position = _with_generator(func)
        if overload is None:
            return func(*args, **(kwargs or {}))
        if position is not None and position < len(args):
            args = (*args[:position], args[position] or self._generator, *args[position + 1 :])
            return overload(*args, **(kwargs or {}))
        return overload(*args, **{**(kwargs or {}), "generator": (kwargs or {}).get("generator") or self._generator})


@cache
def _with_generator(func: Any) -> tuple[Any, int | None]:
    """Return the overload of an operation that takes a generator, None without, and its place if it has one."""
    wanted = [a.name for a in func._schema.arguments if a.name != "generator"]
    for name in (func._overloadname, *func._overloadpacket.overloads()):
        overload = getattr(func._overloadpacket, name)
        arguments = overload._schema.arguments
        names = [a.name for a in arguments]
        if "generator" in names and [n for n in names if n != "generator"] == wanted:
            place = names.index("generator")
            return overload, None if arguments[place].kwarg_only else place
    return None, None


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, from which layers draw initial weights and dropout; restore them at the end.

    Layers take no generator of their own; the state from before is put back at the end.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.random.manual_seed(seed)
        yield


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one CPU thread, so that results do not depend on the number of threads."""
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
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Use only deterministic algorithms on a GPU; an operation that has none raises an error.

    One processor thread always gives the same. See https://docs.pytorch.org/docs/stable/notes/randomness.html.
    """
    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 as such in cuDNN, whose convolutions round their factors to 11 bits (TF32) otherwise."""
    cudnn: Any = torch.backends.cudnn
    ways = (cudnn.conv, cudnn.rnn)
    before = [way.fp32_precision for way in ways]
    try:
        for way in ways:
            way.fp32_precision = "ieee"
        yield
    finally:
        for way, precision in zip(ways, before, strict=True):
            way.fp32_precision = precision
