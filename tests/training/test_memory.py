"""The memory of a forward pass, against sums by hand."""

import math

import pytest
import torch
from torch import nn

from nasenv.training.memory import memory_mb

META, CPU = torch.device("meta"), torch.device("cpu")
FLOAT = 4


class Residual(nn.Module):
    """Keeps its input alive beside what it computes of it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def chain():
    """Two convolutions: the input of 64 values, then 256, then 512 at once with what they are made of."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


CASES = {
    "chain": (chain, (1, 8, 8), 36 + 4 + 32 + 8, 64 + 256 + 512),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 650, 64 + 10),  # a view is free
    "in place": (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True)), (1, 8, 8), 8, 64 + 256),
    "not in place": (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()), (1, 8, 8), 8, 64 + 256 + 256),
    # x, the block's input, the inner convolution, their sum
    "residual": (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), Residual(nn.Conv2d(4, 4, 1))), (1, 8, 8), 28, 64 + 3 * 256),
    "no weights": (lambda: nn.Identity(), (1, 8, 8), 0, 64),
}


@pytest.mark.parametrize("device", [META, CPU], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_is_weights_and_the_most_that_is_alive_at_once(case, device):
    build, shape, weights, alive = CASES[case]
    with device:
        model = build().eval()
    assert memory_mb(model, shape, device) == pytest.approx(FLOAT * (weights + alive) / 1e6, rel=1e-12)


def test_shared_weights_count_once_and_buffers_count():
    layer = nn.Linear(64, 64, bias=False)
    shared = nn.Sequential(nn.Flatten(), layer, layer).eval()
    assert memory_mb(shared, (1, 8, 8), CPU) == pytest.approx(FLOAT * (64 * 64 + 64 + 64 + 64) / 1e6)
    buffered = nn.Identity()
    buffered.register_buffer("table", torch.zeros(1000))
    assert memory_mb(buffered, (1, 8, 8), CPU) == pytest.approx(FLOAT * 1064 / 1e6)


def test_what_cannot_be_followed_has_none():
    class Branches(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    assert math.isnan(memory_mb(Branches(), (1, 8, 8), CPU))


def test_nothing_is_recorded_for_gradients():
    model = chain().eval()
    memory_mb(model, (1, 8, 8), CPU)
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
