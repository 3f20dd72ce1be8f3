"""What a step costs on a GPU: kernels, waiting, and how far the host gets ahead; on a processor, as if it were one."""

import importlib
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nasenv.data.dataset import load_dataset
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.training import Recipe, fit, seeded
from nasenv.training.batch_norm import refresh_statistics, uncounted
from tests.fakes import TASK
from tests.training.test_fitting import TASK as SMALL_TASK
from tests.training.test_fitting import generator, linear, random_split

fitting = importlib.import_module("nasenv.training.fit")  # the package gives its function by this name
CPU = torch.device("cpu")
DIGITS = load_dataset("digits")
SPACES = {"chain": ChainCNN(), "cells": NASBench201(channels=16, cells=1, task=TASK)}
NO_KERNEL = {"detach", "empty", "expand", "permute", "select", "slice", "split", "t", "unsqueeze", "view"}


class PretendedEvent:
    """A mark in the work of a device that takes a second a step; waiting for it lets the clock go on."""

    clock, steps = 0.0, 0

    def __init__(self, blocking):
        assert blocking, "the host sleeps meanwhile"

    def record(self, stream):
        self.at = PretendedEvent.steps

    def synchronize(self):
        PretendedEvent.clock = max(PretendedEvent.clock, self.at)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(fitting, "on_gpu", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Event", PretendedEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    PretendedEvent.clock = PretendedEvent.steps = 0


class Operations(TorchDispatchMode):
    """Counts the operations of ATen by name."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten":
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "most"), [("chain", 52), ("cells", 106)])
def test_a_step_launches_few_kernels(as_on_a_gpu, name, most):
    space = SPACES[name]
    model = space.build(space.reference()).to(memory_format=torch.channels_last)
    training = fitting._Training(model, TASK, DIGITS.train, Recipe(5, 64), generator(), torch.float32, None)
    training.begin(0)
    with uncounted(model.train()):
        training.step()
        with Operations() as operations:
            training.step()
    kernels = operations.calls - Counter({name: 10**6 for name in NO_KERNEL})
    assert operations.calls["_fused_adamw_"] == 1
    assert kernels.total() <= most, kernels


def normed():
    """Return a network with batch normalisation, one module of it in two places."""
    with seeded(0, CPU):
        shared, middle = nn.BatchNorm1d(7), nn.Linear(7, 7, bias=False)
        first = nn.Sequential(nn.Flatten(), nn.Linear(60, 7, bias=False), shared, nn.ReLU())
        return nn.Sequential(*first, middle, shared, nn.Linear(7, 3))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_is_the_training_of_a_processor(as_on_a_gpu, monkeypatch, optimizer):
    ours, theirs, recipe = normed(), normed(), Recipe(3, 16, optimizer, learning_rate=0.05)
    curve = fit(ours, SMALL_TASK, random_split(), recipe, generator()).curve
    assert all(p.grad is None or p.grad._base is None for p in ours.parameters()), "each has its own"
    monkeypatch.undo()
    np.testing.assert_allclose(fit(theirs, SMALL_TASK, random_split(), recipe, generator()).curve, curve, rtol=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_device_is_not_waited_for(as_on_a_gpu):
    with Operations() as operations:
        fit(normed(), SMALL_TASK, random_split(), Recipe(3, 16), generator())
    assert operations.calls["addmm"] > 0
    assert operations.calls["_local_scalar_dense"] == 1, "the rate, which AdamW checks before there is work"


def test_a_timeout_is_noticed_though_the_host_is_ahead(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: PretendedEvent.clock))
    model = linear()
    model.register_forward_hook(lambda *_: setattr(PretendedEvent, "steps", PretendedEvent.steps + 1))
    with pytest.raises(TimeoutError, match="more than 400 s"):
        fit(model, SMALL_TASK, random_split(), Recipe(1000, 16), generator(), timeout_seconds=400)
    assert 400 < PretendedEvent.steps <= 400 + 2 * fitting._AHEAD


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_timeout_is_noticed_in_time():
    network = nn.Sequential(*[nn.Conv2d(2, 2, 1) for _ in range(3)], nn.Conv2d(2, 4096, 5), nn.Conv2d(4096, 4096, 1, 2))
    model = nn.Sequential(network, nn.Flatten(), nn.LazyLinear(3)).cuda()
    data = random_split(n=4096).to("cuda")
    model(data.inputs[:2])
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"more than 0\.5 s"):
        fit(model, SMALL_TASK, data, Recipe(5000, 4096), torch.Generator("cuda"), timeout_seconds=0.5)
    assert time.monotonic() - began < 10


# Batch normalisation


def test_statistics_are_to_the_bit_those_of_momentum_none_also_of_a_norm_that_is_called_twice():
    ours, theirs = normed(), normed()
    batches = torch.split(random_split(64).inputs, 16)
    refresh_statistics(ours, iter(batches))
    theirs[2].momentum = None
    with torch.no_grad():
        for batch in batches:
            theirs(batch)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert int(ours[2].num_batches_tracked) == 8, "two of each batch"
    assert ours[2].momentum == 0.1
    assert not ours[2]._forward_pre_hooks


def test_batches_are_not_counted_for_a_while():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            self.num_batches_tracked += 1
            return super().forward(x)

    model = nn.Sequential(nn.BatchNorm1d(4), Own(4))  # which may need its number
    model(torch.randn(5, 4))
    with uncounted(model):
        model(torch.randn(5, 4))
    assert [int(norm.num_batches_tracked) for norm in model] == [1, 4]
