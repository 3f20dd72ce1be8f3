"""What a job does beside its steps: counting, errors in words, precision, warming up; a GPU is pretended."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasenv.data.dataset import Dataset, load_dataset
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.task import Table
from nasenv.training import Recipe, score, trainer
from nasenv.training.trainer import DEVICE_LOST, OUT_OF_MEMORY, Job, Trainer, count_costs, resolve_precision
from nasenv.trial import Trial
from tests.fakes import TASK

DIGITS = load_dataset("digits")
CPU = torch.device("cpu")


class Broken(ChainCNN):
    """A space whose networks cannot be built."""

    def __init__(self, error):
        super().__init__(max_layers=1)
        self.error = error

    def build(self, architecture):
        raise self.error


def run(space, device="cpu"):
    """Return what a short training of any architecture comes to."""
    architecture = tuple(0 for _ in space.decisions)
    return Trainer(space, DIGITS, device, 60.0).run(Job(Trial(architecture), Recipe(1, 64), seed=0))


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A trainer on cuda finds nothing of a GPU missing until it moves a network there."""
    monkeypatch.setattr(Trainer, "_current", lambda self: contextlib.nullcontext())
    monkeypatch.setattr(Trainer, "_data", lambda self: self.dataset)
    monkeypatch.setattr(trainer, "seeded", lambda seed, device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)


# Counting


class Attention(nn.Module):
    def __init__(self, context=contextlib.nullcontext):
        super().__init__()
        self.context, self.qkv = context, nn.Linear(8, 24)

    def forward(self, x):
        with self.context():
            q, k, v = self.qkv(x.flatten(1, 2)).chunk(3, dim=-1)
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


class Branches(nn.Linear):
    def forward(self, x):
        x = x.flatten(1)
        return torch.cond(x.sum() > 0, super().forward, lambda x: super(Branches, self).forward(x) + 1, (x,))


def networks():
    for space in (ChainCNN(), NASBench201(channels=4, cells=1, task=TASK), NASBenchMacro(task=TASK)):
        for architecture in space.sample(6, np.random.default_rng(0)):
            yield space.build(architecture)
    yield Attention()
    yield Attention(torch.inference_mode)
    yield nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 3, 5), nn.GRU(60, 7))
    yield Branches(64, 3)


def test_flops_are_those_of_pytorchs_counter():
    found = []
    for network in networks():
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, 1, 8, 8))
        assert count_costs(network, (1, 8, 8), CPU)["flops"] == counter.get_total_flops()
        found.append(counter.get_total_flops())
    assert len(set(found)) > 12


def test_flops_are_counted_before_the_network_is_on_the_device(pretended_gpu, monkeypatch):
    def counted(network, shape, device):
        raise LookupError(f"{device}, {next(network.parameters()).device}")

    monkeypatch.setattr(trainer, "count_costs", counted)
    assert run(ChainCNN(max_layers=1), "cuda").error == "LookupError: cpu, cpu"


# Errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=str,
)
def test_memory_that_ran_out_is_known_as_such_whoever_says_so(error):
    assert run(Broken(error)).error.startswith(f"{OUT_OF_MEMORY}: ")


@pytest.mark.parametrize("error", [RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"), ValueError("out of memory")], ids=str)
def test_other_errors_are_not(error):
    assert run(Broken(error)).error == f"{type(error).__name__}: {error}"


def test_a_gpu_that_does_not_survive_an_error_is_told(pretended_gpu, monkeypatch):
    error = RuntimeError("CUDA error: device-side assert triggered")
    assert run(Broken(error), "cuda").error == f"RuntimeError: {error}"

    def synchronize(device):
        raise error

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert run(Broken(error), "cuda").error == f"RuntimeError: {error}; {DEVICE_LOST}"


# Precision, sameness


class Remembers(nn.Linear):
    """Remembers the precisions in which cuDNN would compute float32."""

    def forward(self, x):
        self.precisions = [op.fp32_precision for op in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)]
        return super().forward(x)


def test_scores_are_computed_in_float32_and_not_in_tf32():
    last = Remembers(64, 10)
    network = nn.Sequential(nn.Flatten(), last)
    network(DIGITS.test.inputs)
    before = last.precisions
    assert before == ["tf32", "tf32"], "PyTorch's default"
    score(network, TASK, DIGITS.encoding, DIGITS.test)
    assert last.precisions == ["ieee", "ieee"]
    network(DIGITS.test.inputs)
    assert last.precisions == before
    assert torch.backends.cudnn.allow_tf32, "it can be asked for"


@pytest.mark.parametrize(("has_bfloat16", "resolved"), [(True, "by_size"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_where_a_batch_is_large(monkeypatch, has_bfloat16, resolved):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert resolve_precision("auto", "cuda:0") == resolved
    made = Trainer(ChainCNN(), DIGITS, "cuda", 60.0, precision=resolved)
    assert made._precision(1e8) == torch.float32
    assert made._precision(1e11) == (torch.bfloat16 if has_bfloat16 else torch.float32)


def test_cublas_is_told_to_be_deterministic_before_it_can_be_used_unless_it_was_told_something_else():
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    program = """
import importlib, os
import nasenv.training
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
importlib.reload(nasenv.training.reproducibility)
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [":4096:8", ":16:8"]


# Warming up


ROWS = np.random.default_rng(0).normal(size=(50, 6))
RIDGES = Dataset.of_numbers("ridges", Table((5,)), [(ROWS[:, :5], ROWS[:, 5])] * 3)


@pytest.mark.parametrize("data", [DIGITS, RIDGES], ids=["images", "rows"])
def test_warming_up_trains_and_scores_a_network_and_leaves_the_generator_alone(data, monkeypatch):
    results = {}

    def noted(name, act):
        return lambda *args, **options: results.update({name: act(*args, **options)}) or results[name]

    for name in ("fit", "score"):
        monkeypatch.setattr(trainer, name, noted(name, getattr(trainer, name)))
    before = torch.get_rng_state()
    Trainer(SimpleNamespace(task=data.task), data, "cpu", 60.0).warm_up()
    assert np.isfinite([*results["fit"].curve, results["score"]]).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_warming_up_leaves_errors_to_the_first_training(pretended_gpu):
    Trainer(ChainCNN(), DIGITS, "cuda", 60.0).warm_up()
