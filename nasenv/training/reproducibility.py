"""Contexts that make trainings reproducible: seeds, one thread, deterministic algorithms."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used


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
