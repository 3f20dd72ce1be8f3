"""Measures on a GPU what decides how to train there: CUDA graphs, precision, streams, processes, cores.

Steps: a training's steps eager and captured as a CUDA graph, in float32 (TF32 in convolutions) and bfloat16, of four
networks from small to large, where the time of a step is the difference between a long and a short training, and what
the short one takes more is the capture's; graphs of as many trainings as there are streams, each on its own, replayed
in turn by one process; trainings a second of 1, 4 and 16 worker processes, without and with NVIDIA's Multi-Process
Service, by which kernels of several processes run at the same time, and of all cores of the processor, on the same
networks (those of ``bench_problems.py`` on digits, new to most of the processes); whether a training after a capture
that failed is captured, and comes out as one before.

A goal that is not met says that a default should be another one; those with "worth" in them ask for what there is not.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from nasenv import ChainCNN, Dataset, NASBench201, SearchSpace, load_dataset
from nasenv.training import Recipe, cuda_graphs, fit, mixed, seeded
from nasenv.training.fit import Batches, make_optimizer
from nasenv.training.trainer import count_costs
from scripts.benchmarks.bench import goal, table
from scripts.benchmarks.gpu_processes import all_cores, multi_process_service, processes, processes_with_service
from scripts.benchmarks.gpu_steps import Figures, Step, check, memory_mib, wait_for

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NETWORKS = {
    "chain": (lambda task: ChainCNN(task=task), 64),
    "cells, 16 channels": (lambda task: NASBench201(16, 1, task), 64),
    "cells, 64 channels": (lambda task: NASBench201(64, 1, task), 64),
    "cells, 128 channels": (lambda task: NASBench201(128, 1, task), 256),
}
_WAYS = {"processes": "processes", "service": "processes, Multi-Process Service", "cores": "processor cores"}
_SMALLEST, _LARGEST = next(iter(_NETWORKS)), list(_NETWORKS)[-1]


@dataclass(frozen=True)
class _Sizes:
    networks: int  # of `_NETWORKS`
    steps: tuple[int, int]  # of a short and a long training
    graphs: tuple[int, ...]
    replays: int  # of each graph


_SIZES = {"cuda": _Sizes(4, (40, 240), (1, 2, 4, 8, 16, 32), 400), "cpu": _Sizes(1, (1, 2), (1, 2), 2)}


# Steps of a training


def step_times(device: str) -> Iterator[tuple[str, Any]]:
    """Yield milliseconds of a step, eager and captured, by network and precision."""
    data = load_dataset("digits").to(torch.device(device))
    for name, (make, batch) in list(_NETWORKS.items())[: _SIZES[device].networks]:
        space = make(data.task)
        flops = count_costs(space.build(space.reference()), data.task.shape, torch.device("cpu"))["flops"] * batch
        for precision in _PRECISIONS:
            eager = _way(space, data, batch, precision, 10**9)
            captured = _way(space, data, batch, precision, 0)
            gained = eager["step_ms"] - captured["step_ms"]
            capture = captured["beside_ms"] - eager["beside_ms"]
            yield (
                f"{name}, {precision}",
                {
                    "gflops": flops / 1e9,
                    "eager_ms": eager["step_ms"],
                    "captured_ms": captured["step_ms"],
                    "capture_ms": capture,
                    "pays_after": capture / gained if gained > 0 else None,
                    "not_captured_because": captured["eager"],
                },
            )


def _way(space: SearchSpace, data: Dataset, batch: int, precision: str, worth: int) -> Figures:
    """Return milliseconds of a step and of what a training takes beside; captured from so many steps on."""
    seconds: dict[int, list[float]] = {steps: [] for steps in _SIZES[data.train.inputs.device.type].steps}
    with mock.patch.object(cuda_graphs, "WORTH_CAPTURING", worth):
        for _ in range(2):  # of which the first warms up
            for steps in seconds:
                spent, eager = _trained(space, data, Recipe(steps, batch), precision, steps)
                seconds[steps].append(spent)
    (short, quick), (long, slow) = ((steps, 1e3 * min(times)) for steps, times in seconds.items())
    step = (slow - quick) / (long - short)
    return {"step_ms": step, "beside_ms": quick - short * step, "eager": eager}


def _trained(space: SearchSpace, data: Dataset, recipe: Recipe, precision: str, steps: int) -> tuple[float, str | None]:
    """Return the seconds that a training takes, and why it was not captured."""
    device = data.train.inputs.device
    model = _built(space, device, 0)
    generator = torch.Generator(device).manual_seed(0)
    wait_for(device.type)
    began = time.perf_counter()
    fitted = fit(model, data.task, data.train, recipe, generator, precision=_PRECISIONS[precision], steps=steps)
    wait_for(device.type)
    return time.perf_counter() - began, fitted.eager


def _built(space: SearchSpace, device: torch.device, seed: int) -> nn.Module:
    with seeded(seed, device):
        model: nn.Module = space.build(space.reference()).to(device)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# Streams


class StreamedTraining:
    """Trains the reference of a space on a stream of its own; on a GPU a step replays a CUDA graph.

    Args:
        space: space of the network.
        data: on the device.
        seed: of the weights and the order of the data.
    """

    def __init__(self, space: SearchSpace, data: Dataset, seed: int) -> None:
        self._device = device = data.train.inputs.device
        recipe, generator = Recipe(1, 64), torch.Generator(device).manual_seed(seed)
        self._model, self._loss = _built(space, device, seed).train(), data.task.loss(0.0)
        self._batches = Batches(data.train, recipe, generator)
        self._batches.shuffle()
        self._optimizer = make_optimizer(self._model, recipe, torch.full((), 1e-3, device=device))
        self._number = torch.zeros(1, dtype=torch.int64, device=device)  # of the next batch
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture()

    def __call__(self) -> None:
        """Take a step."""
        if self._graph is None:
            self._step()
            return
        with torch.cuda.stream(self._stream):
            self._graph.replay()

    def _capture(self) -> None:
        self._stream, graph = torch.cuda.Stream(self._device), torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            for _ in range(3):
                self._step()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=self._stream):
            self._step()
        self._graph = graph

    def _step(self) -> None:
        inputs, targets = self._batches.get(self._number)
        self._number.add_(1).remainder_(len(self._batches))
        self._optimizer.zero_grad()
        with mixed(self._device, torch.float32):
            loss = self._loss(self._model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def streams(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the steps a second that graphs on so many streams of this process make together."""
    data = load_dataset("digits").to(torch.device(device))
    space = ChainCNN(task=data.task)
    sizes = _SIZES[device]
    trainings = [StreamedTraining(space, data, seed) for seed in range(max(sizes.graphs))]
    for n in sizes.graphs:
        wait_for(device)
        began = time.perf_counter()
        for _ in range(sizes.replays):
            for step in trainings[:n]:
                step()
        wait_for(device)
        rate = n * sizes.replays / (time.perf_counter() - began)
        yield str(n), {"steps_per_second": rate, "memory_mib": memory_mib(device)}


# After a failed capture


class _Waiting(nn.Module):
    """A network whose forward pass waits for the device, which a capture does not survive."""

    def __init__(self) -> None:
        super().__init__()
        self._body = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, images_nchw: Tensor) -> Tensor:
        wait_for(images_nchw.device.type)
        outputs: Tensor = self._body(images_nchw)
        return outputs


def failed_capture(device: str) -> Iterator[tuple[str, Any]]:
    """Yield why trainings of one process were not captured, and their losses: before, while and after one fails."""
    data = load_dataset("digits").to(torch.device(device))
    space = ChainCNN(task=data.task)
    for name in ("before", "failing", "after"):
        with seeded(0, torch.device(device)):
            model = _Waiting().to(device) if name == "failing" else _built(space, torch.device(device), 0)
        generator = torch.Generator(device).manual_seed(0)
        fitted = fit(model, data.task, data.train, Recipe(2, 64), generator)
        yield name, {"not_captured_because": fitted.eager, "losses": list(fitted.curve)}


# What is told


def summary(figures: Figures) -> Figures:
    """Print tables and goals of what was measured, and return them."""
    makers = {"step times": _step_table, "streams": _stream_table}
    tables = [make(figures[name]) for name, make in makers.items() if figures.get(name)]
    if any(figures.get(way) for way in _WAYS):
        tables.append(_process_table(figures))
    return {"tables": tables, "goals": _goals(figures)}


def _step_table(times: Figures) -> Figures:
    keys = ("gflops", "eager_ms", "captured_ms", "capture_ms")
    rows = [[name, *(f"{f[key]:.3g}" for key in keys), _pays(f)] for name, f in times.items()]
    heads = ["reference", "GFLOPs a batch", "eager, ms", "captured, ms", "the capture, ms", "pays after steps"]
    return table("A step of a training on digits", heads, rows)


def _pays(f: Figures) -> str:
    if f["not_captured_because"] is not None:
        return f"not captured: {f['not_captured_because']}"
    return "never" if f["pays_after"] is None else f"{max(0.0, f['pays_after']):.0f}"


def _stream_table(by_number: Figures) -> Figures:
    rows = [[n, *(f"{f[key]:.0f}" for key in ("steps_per_second", "memory_mib"))] for n, f in by_number.items()]
    return table("Graphs on streams of one process", ["graphs", "steps a second together", "MiB in use"], rows)


def _process_table(figures: Figures) -> Figures:
    rows = [
        [f"{n} {shown}", f"{f['trainings_per_second']:.3g}", f"{f['start_seconds']:.1f}", f"{f['percent']:.1f}",
         "-" if f["memory_mib"] is None else f"{f['memory_mib']:.0f}", str(len(f["failed"]))]
        for way, shown in _WAYS.items() for n, f in figures.get(way, {}).items()
    ]  # fmt: skip
    heads = ["side by side", "trainings a second", "start, s", "accuracy, %", "MiB in use", "kinds of failure"]
    return table("Trainings of five epochs of digits", heads, rows)


def _goals(figures: Figures) -> list[Figures]:
    times, graphs = figures.get("step times", {}), [*_rates(figures, "streams", "steps_per_second").values()]
    plain, served, on_cores = (_rates(figures, way, "trainings_per_second") for way in _WAYS)
    most = [n for n in plain if n in served][-1:]  # processes, both ways
    rates, both = [*plain.values()], ([served[n] for n in most], [plain[n] for n in most])
    asked = [
        _ratio("a small network: captured steps, times eager ones", _ms(times, _SMALLEST, "eager_ms"), 1.5),
        _ratio("a large network: bfloat16, times float32", _precisions(times, _LARGEST), 1.0),
        _ratio("a small network: float32, times bfloat16", _precisions(times, _SMALLEST)[::-1], 1.0),
        _ratio("most processes, times one", (rates[-1:], rates[:1]), 2.0),
        _ratio("the GPU at its best, times all cores", (sorted(rates)[-1:], [*on_cores.values()]), 1.0),
        _ratio("worth a service: most processes with it, times without", both, 1.2),
        _ratio("worth streams: most graphs in one process, times one", (graphs[-1:], graphs[:1]), 4.0),
    ]
    return [met for met in [*asked, _after_failure(figures.get("failed capture", {}))] if met is not None]


def _rates(figures: Figures, step: str, key: str) -> dict[str, float]:
    return {n: f[key] for n, f in figures.get(step, {}).items()}


def _ms(times: Figures, network: str, key: str) -> tuple[list[float], list[float]]:
    f = times.get(f"{network}, float32")
    return ([], []) if f is None else ([f[key]], [f["captured_ms"]])


def _precisions(times: Figures, network: str) -> tuple[list[float], list[float]]:
    both = [times.get(f"{network}, {precision}") for precision in _PRECISIONS]
    exact, rounded = ([] if f is None else [f["captured_ms"]] for f in both)
    return exact, rounded


def _ratio(what: str, of: tuple[Sequence[float], Sequence[float]], least: float) -> Figures | None:
    """Return the goal that a ratio is large enough; None where a part of it was not measured, or nothing came out."""
    above, below = of
    if not above or not below or not below[0]:
        return None
    value = above[0] / below[0]
    return goal(what, value, value >= least, asked=f"at least {least:g}")


def _after_failure(fits: Figures) -> Figures | None:
    if "after" not in fits:
        return None
    before, after = fits["before"], fits["after"]
    same = before["not_captured_because"] == after["not_captured_because"]
    close = bool(np.allclose(before["losses"], after["losses"], rtol=0.02))
    what = "after a failed capture: trainings captured as before, losses equal"
    return goal(what, int(same and close), same and close)


if __name__ == "__main__":
    check(
        __doc__,
        {
            "step times": Step(step_times, 60),
            "streams": Step(streams, 20),
            "processes": Step(processes, 45),
            "service": Step(processes_with_service, 45, multi_process_service),
            "cores": Step(all_cores, 25),
            "failed capture": Step(failed_capture, 15),
        },
        summary,
    )
