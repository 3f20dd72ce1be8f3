"""What the machine can compute at all, in this run, to hold trainings against."""

import math
import time

import torch

_SIDES = {"cpu": 2048, "cuda": 8192}  # sides of the matrices, large enough that nothing but the product counts
_REPEATS = 7  # the fastest counts: other work can only slow one down
TRAINING = 3  # a backward pass costs about two forward passes


def floors(device: torch.device, cores: int) -> dict[str, float]:
    """Return GFLOP/s a core (a GPU as a whole) of a square matrix product, all cores at work, by precision."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if device.type == "cpu":
        torch.set_num_threads(cores)
    return {name: _product(device, dtype) / (cores if device.type == "cpu" else 1) for name, dtype in types.items()}


def _product(device: torch.device, precision: torch.dtype) -> float:
    side = _SIDES[device.type]
    a, b = (torch.ones(side, side, device=device, dtype=precision) for _ in range(2))
    seconds = math.inf
    for _ in range(_REPEATS):
        started = time.perf_counter()
        (a @ b).sum().item()  # waits for the device
        seconds = min(seconds, time.perf_counter() - started)
    return 2 * side**3 / seconds / 1e9
