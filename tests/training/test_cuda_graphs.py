"""Calls that are captured as a CUDA graph; without a GPU, on one that is pretended."""

import contextlib
import functools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nasenv.data.dataset import load_dataset
from nasenv.training import Recipe, cuda_graphs, fit, seeded
from nasenv.training.cuda_graphs import CAPTURE_FAILED, graphed
from tests.training.test_fitting import TASK, random_split

CUDA = torch.device("cuda", 0)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class PretendedCuda:
    """Streams, graphs, allocator and generator of PyTorch 2.11 to 2.13, with what a failed capture leaves of them."""

    def __init__(self):
        self.main, self.side = (SimpleNamespace(wait_stream=lambda other: None) for _ in range(2))
        self.current, self.mode, self.pool = self.main, "default", (0, 1)
        self.graph, self.is_valid = None, True  # of the capture that goes on
        self.underway, self.calls = [], []
        self.generator = SimpleNamespace(
            capturing=False, clone_state=lambda: False, graphsafe_set_state=self.set_generator
        )

    def set_generator(self, capturing):
        self.generator.capturing = capturing

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def kernel(self, act):
        """Do something on the device, or note it down while a capture goes on."""
        if self.graph is None:
            act()
        else:
            self.graph.kernels.append(act)

    def wait(self, is_seen):
        """Wait for the device, by a call that PyTorch watches or by another."""
        if self.graph is not None:
            self.is_valid = False
            raise RuntimeError("operation not permitted when stream is capturing")
        if is_seen and self.mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=2)

    def dropout(self):
        if self.generator.capturing and self.graph is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def empty_cache(self):
        self.calls.append("empty_cache")
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def stop_allocating(self, index, pool):
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)


class PretendedGraph:
    def __init__(self, cuda):
        self.cuda, self.kernels = cuda, []

    def capture_begin(self, pool, capture_error_mode, **_):
        assert self.cuda.current is self.cuda.side
        if pool in self.cuda.underway:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.cuda.underway.append(pool)
        self.cuda.graph, self.cuda.is_valid, self.cuda.generator.capturing = self, True, True

    def capture_end(self):
        self.cuda.graph = None
        if not self.cuda.is_valid:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.cuda.underway.clear()
        self.cuda.generator.capturing = False

    def replay(self):
        for kernel in self.kernels:
            kernel()

    def reset(self):
        self.kernels.clear()


@pytest.fixture
def cuda(monkeypatch):
    pretended = PretendedCuda()
    for name, value in {
        "CUDAGraph": functools.partial(PretendedGraph, pretended),
        "stream": pretended.stream,
        "Stream": lambda device: pretended.side,
        "current_stream": lambda device=None: pretended.current,
        "MemPool": lambda: SimpleNamespace(id=pretended.pool),
        "synchronize": lambda device=None: pretended.calls.append("synchronize"),
        "empty_cache": pretended.empty_cache,
        "default_generators": (pretended.generator,),
        "get_sync_debug_mode": lambda: pretended.mode,
        "set_sync_debug_mode": functools.partial(setattr, pretended, "mode"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", pretended.stop_allocating, raising=False)
    forget()
    yield pretended
    forget()


def forget():
    cuda_graphs._pool.cache_clear()
    cuda_graphs._side_stream.cache_clear()


class Counter:
    """A function of a device that counts its calls there; ``also`` is done beside."""

    def __init__(self, cuda, also=lambda: None):
        self.cuda, self.also, self.total = cuda, also, 0

    def __call__(self):
        self.cuda.kernel(self.count)
        self.also()

    def count(self):
        self.total += 1

    def repeat(self, calls=20):
        """Call it, and return why it was not captured."""
        with graphed(self, 100, CUDA) as act:
            for _ in range(calls):
                act()
        return act.eager


def test_on_a_processor_a_repeated_function_is_called_as_it_is():
    calls = []
    with graphed(lambda: calls.append(1), 100, torch.device("cpu")) as act:
        for _ in range(5):
            act()
    assert len(calls) == 5
    assert act.eager == "no GPU"


def test_it_is_captured_once_and_replayed_and_no_memory_given_back(cuda):
    in_python = []
    count = Counter(cuda, lambda: in_python.append(list(cuda.calls)))
    assert count.repeat() is None
    assert count.total == 20
    assert len(in_python) == 3, "two warm-up calls and the capture"
    assert in_python[-1] == [], "nothing is waited for before"
    assert cuda.calls == ["synchronize"], "at the end"
    assert count.repeat(calls=10) is None
    assert count.total == 30


def test_what_waits_for_the_device_is_not_captured_and_the_reason_is_logged(cuda, caplog):
    def waits():
        assert cuda.graph is None, "a capture was tried"
        cuda.wait(is_seen=True)

    count = Counter(cuda, waits)
    assert count.repeat().startswith("it waits for the device in test_cuda_graphs.py:")
    assert count.total == 20
    assert "not captured as a CUDA graph, and slower: it waits for the device" in caplog.text
    assert cuda.mode == "default"


def test_a_failed_capture_leaves_the_process_as_it_was(cuda):
    def waits():
        cuda.wait(is_seen=False)
        cuda.dropout()

    count = Counter(cuda, waits)
    assert count.repeat() == f"{CAPTURE_FAILED}: operation not permitted when stream is capturing"
    assert count.total == 20
    assert cuda.current is cuda.main
    cuda.empty_cache()
    cuda.dropout()
    later = Counter(cuda)
    assert later.repeat() is None
    assert later.total == 20


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), KeyError("x")]
)
def test_other_errors_of_a_capture_are_raised_and_leave_the_process_as_it_was(cuda, error):
    def fails():
        if cuda.graph is not None:
            cuda.is_valid = False
            raise error

    with pytest.raises(type(error), match=error.args[0]):
        Counter(cuda, fails).repeat()
    assert cuda.current is cuda.main
    assert Counter(cuda).repeat() is None


# On a GPU


def captured_total(calls):
    total = torch.zeros((), device="cuda")
    with graphed(lambda: total.add_(1), 100, torch.device("cuda")) as act:
        for _ in range(calls):
            act()
    assert act.eager is None
    return int(total)


class Waiting(nn.Module):
    """A network whose steps wait for the device, in a way that PyTorch sees or in another."""

    def __init__(self, is_seen):
        super().__init__()
        self.wait = torch.Tensor.item if is_seen else lambda _: torch.cuda.synchronize()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(60, 3))

    def forward(self, x):
        y = self.body(x)
        self.wait(y.detach().sum())
        return y


@pytest.mark.gpu
@on_gpu
def test_on_a_gpu_a_captured_function_counts_as_an_eager_one():
    assert captured_total(100) == 100


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("is_seen", "reason"), [(True, "it waits for the device"), (False, CAPTURE_FAILED)])
def test_on_a_gpu_what_cannot_be_captured_is_trained_and_the_next_is_captured(is_seen, reason):
    data = random_split().to(torch.device("cuda"))
    fitted = fit(Waiting(is_seen).cuda(), TASK, data, Recipe(4, 16), torch.Generator("cuda").manual_seed(0))
    assert fitted.eager.startswith(reason)
    assert "previous error" not in fitted.eager
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.empty_cache()
    nn.functional.dropout(torch.ones(5, device="cuda"))
    assert captured_total(20) == 20


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_captured_training_is_the_eager_one(optimizer, monkeypatch):
    device = torch.device("cuda")
    data = load_dataset("digits").to(device)
    curves = {}
    for worth in (0, 10**9):
        monkeypatch.setattr("nasenv.training.cuda_graphs.WORTH_CAPTURING", worth)
        with seeded(0, device):
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.0), nn.Linear(32, 10)).to(
                device
            )
        fitted = fit(model, data.task, data.train, Recipe(4, 64, optimizer), torch.Generator(device).manual_seed(0))
        assert fitted.eager == (None if worth == 0 else f"fewer than {worth} steps")
        curves[worth] = fitted.curve
    np.testing.assert_allclose(*curves.values(), rtol=0.02)
