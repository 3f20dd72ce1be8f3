"""Measures trainings a second against the plain PyTorch loop, on the CPU or on a GPU.

The plain way is what a practised user writes first: DataLoader and TensorDataset, AdamW under OneCycleLR, one training
at a time, contiguous tensors, the default optimizer implementation, scored by a DataLoader loop; on the processor with
torch on all cores, on a GPU with pinned memory and 4 loader workers, whose start takes 0.2 to 0.4 s of each training
(``--loader_workers 0`` does without). It has our epochs, batch size, peak rate, weight decay and number of steps. Ours
is the whole of ``TrainingEvaluator.measure``: also batch normalisation's statistics taken again, FLOPs counted, and the
way to the workers and back.

Speed and accuracy come from pairs of (plain, ours) that train the same architectures, each pair from a seed of its own,
the order changing from pair to pair; the ratio is taken within pairs. Accuracies are those on validation data.

Distance from the floor: FLOPs a second of the trainings, 3 times those of the forward passes of the examples trained
on, beside a large matrix product in the same run. ``bench_ablation.py`` shows the steps from the plain way to ours.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from nasenv import Architecture, InputError, Measurement, TrainingEvaluator, Trial
from scripts.benchmarks.bench import at_least, cores, goal, run, shown, spread, table
from scripts.benchmarks.bench_plain import LOADER_WORKERS, PlainLoop, Way
from scripts.benchmarks.bench_problems import Problem, add_options, selected

GPU_GOAL, GPU_AIM = 6.0, 25.0  # times the plain way
GOAL_POINTS = -0.5
TRAINING = 3  # a backward pass costs about two forward passes
_WARM_UP = 2  # architectures
_SIDES = {"cpu": 2048, "cuda": 8192}  # of matrices so large that nothing but their product counts
_REPEATS = 7  # of the product, of which the fastest counts: other work can only slow one down

Figures = dict[str, Any]
Result = TypeVar("Result")


class Trained(NamedTuple):
    """Holds the results of one way: wall seconds of all architectures, accuracy of each, and our measurements."""

    seconds: float
    accuracies: list[float]
    measurements: list[Measurement]


class Contest:
    """Trains the architectures of one problem both ways.

    Args:
        problem: what is trained.
        evaluator: ours; its seed is set to that of each pair.
        loader_workers: of the plain way on a GPU.
    """

    def __init__(self, problem: Problem, evaluator: TrainingEvaluator, loader_workers: int = LOADER_WORKERS) -> None:
        self._evaluator, self._loop = evaluator, PlainLoop(problem, evaluator, loader_workers)
        self._way = Way(threads=cores())

    def pairs(self, architectures: Sequence[Architecture], n: int) -> list[tuple[Trained, Trained]]:
        """Train the architectures n times both ways, from the seeds 0 to n - 1, after a few to warm up."""
        self._pair(architectures[:_WARM_UP], n)
        return [self._pair(architectures, seed) for seed in range(n)]

    def _pair(self, architectures: Sequence[Architecture], seed: int) -> tuple[Trained, Trained]:
        if seed % 2:
            ours = self.train(architectures, seed)
            return self._train_plainly(architectures, seed), ours
        return self._train_plainly(architectures, seed), self.train(architectures, seed)

    def _train_plainly(self, architectures: Sequence[Architecture], seed: int) -> Trained:
        return Trained(*timed(lambda: [self._loop((a, seed, self._way)) for a in architectures]), [])

    def train(self, architectures: Sequence[Architecture], seed: int) -> Trained:
        """Train the architectures with the evaluator.

        Raises:
            InputError: a training failed.
        """
        self._evaluator.seed = seed
        seconds, measurements = timed(lambda: self._evaluator.measure([Trial(a) for a in architectures]))
        for failed in (m for m in measurements if m.score is None):
            raise InputError(f"a training failed after {failed.train_seconds:.0f} s: {failed.error}")
        return Trained(seconds, [m.score for m in measurements if m.score is not None], measurements)


def timed(act: Callable[[], Result]) -> tuple[float, Result]:
    """Return the wall seconds that a function took, and its result."""
    started = time.perf_counter()
    result = act()
    return time.perf_counter() - started, result


def measure(arguments: argparse.Namespace) -> Figures:
    """Print the tables of speed, accuracy and distance from the floor; return them with their figures."""
    problems = selected(arguments)
    measured: dict[str, Figures] = {}
    for problem in problems:
        architectures = problem.architectures(arguments.architectures)
        with problem.evaluator(arguments.device) as evaluator:
            device = torch.device(evaluator.devices[0])
            contest = Contest(problem, evaluator, arguments.loader_workers)
            pairs = contest.pairs(architectures, arguments.pairs)
        measured[problem.name] = _figures(problem, architectures, pairs, 1 if device.type == "cuda" else cores())
        print(f"{problem.name}: measured", flush=True)
    floor = floors(device, cores())
    tables = [_speed_table(measured, device), _accuracy_table(measured), _floor_table(measured, floor, device)]
    goals = [met for problem in problems for met in _goals(problem, measured[problem.name], device)]
    return {"problems": measured, "floor": floor, "tables": tables, "goals": goals}


def _figures(
    problem: Problem, architectures: Sequence[Architecture], pairs: Sequence[tuple[Trained, Trained]], units: int
) -> Figures:
    """Return speed, accuracy, and GFLOP/s of each of so many cores or of the one GPU."""
    plain, ours = zip(*pairs, strict=True)
    gigaflops = TRAINING * problem.examples * sum(m.metrics["flops"] for m in ours[0].measurements) / 1e9
    percent = [[100 * float(np.mean(one.accuracies)) for one in way] for way in (plain, ours)]
    training = [sum(m.train_seconds for m in one.measurements) for one in ours]
    return {
        "designs": [problem.space.to_text(a) for a in architectures],
        "pairs": len(pairs),
        "plain": spread(len(architectures) / one.seconds for one in plain),
        "ours": spread(len(architectures) / one.seconds for one in ours),
        "ratio": spread(p.seconds / o.seconds for p, o in pairs),
        "plain_percent": mean_std(percent[0]),
        "percent": mean_std(percent[1]),
        "points": mean_std(np.subtract(percent[1], percent[0])),
        "plain_gflops": spread(gigaflops / one.seconds / units for one in plain),
        "gflops": spread(gigaflops / one.seconds / units for one in ours),
        "training_gflops": spread(gigaflops / seconds for seconds in training),
    }


def mean_std(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """Return n, mean and standard deviation."""
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=min(1, len(values) - 1))),
    }


def floors(device: torch.device, cores: int) -> dict[str, float]:
    """Return the GFLOP/s a core (or of the GPU) of a square matrix product on all cores, by precision."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if device.type == "cpu":
        torch.set_num_threads(cores)
    return {name: _product(device, dtype) / (cores if device.type == "cpu" else 1) for name, dtype in types.items()}


def _product(device: torch.device, precision: torch.dtype) -> float:
    side = _SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(precision) for _ in range(2))  # a GPU takes ones faster
    seconds = math.inf
    for _ in range(_REPEATS):
        started = time.perf_counter()
        (a @ b).sum().item()  # waits for the device
        seconds = min(seconds, time.perf_counter() - started)
    return 2 * side**3 / seconds / 1e9


def _speed_table(measured: dict[str, Figures], device: torch.device) -> Figures:
    plainly = "plain, on the GPU" if device.type == "cuda" else f"plain, {cores()} threads"
    rows = [
        [f"{name} ({len(f['designs'])} architectures)", *(shown(f[key]) for key in ("plain", "ours", "ratio"))]
        for name, f in measured.items()
    ]
    pairs = next(iter(measured.values()))["pairs"]
    heads = ["trained networks a second", plainly, "TrainingEvaluator", "ratio"]
    return table(f"Speed: median (min - max) of {pairs} pairs", heads, rows)


def _accuracy_table(measured: dict[str, Figures]) -> Figures:
    keys = ("plain_percent", "percent", "points")
    rows = [[name, *("{mean:.2f} ± {std:.2f}".format(**f[key]) for key in keys)] for name, f in measured.items()]
    seeds = next(iter(measured.values()))["pairs"]
    heads = ["validation accuracy, %", "plain", "TrainingEvaluator", "points more"]
    return table(f"Score, mean over the architectures: mean ± standard deviation over {seeds} seeds", heads, rows)


def _floor_table(measured: dict[str, Figures], floor: dict[str, float], device: torch.device) -> Figures:
    unit = "" if device.type == "cuda" else " a core"
    rows = [
        [name, *(f"{f[key]['median']:.3g}" for key in ("plain_gflops", "gflops", "training_gflops")),
         f"{f['training_gflops']['median'] / floor['float32']:.0%}"]
        for name, f in measured.items()
    ]  # fmt: skip
    reached = ", ".join(f"{value:.3g} in {name}" for name, value in floor.items())
    heads = [f"GFLOP/s{unit}", "plain", "TrainingEvaluator", "of it while training", "of the float32 floor"]
    return table(f"Distance from the floor, a large matrix product at {reached} GFLOP/s{unit}; medians", heads, rows)


def _goals(problem: Problem, figures: Figures, device: torch.device) -> list[Figures]:
    least, aim = (GPU_GOAL, GPU_AIM) if device.type == "cuda" else (problem.goal, problem.aim)
    ratio, points = figures["ratio"]["median"], figures["points"]["mean"]
    asked = f"at least {least:g} (aim {aim:g})"
    return [
        goal(f"{problem.name}: times the plain way", ratio, ratio >= least, asked=asked),
        goal(
            f"{problem.name}: points of accuracy more",
            points,
            points >= GOAL_POINTS,
            "+.2f",
            f"{GOAL_POINTS:g} or more",
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.add_argument("--pairs", type=at_least(1), default=10, help="each with its seed; default: %(default)s")
    workers = "of the plain way on a GPU; default: %(default)s"
    parser.add_argument("--loader_workers", type=at_least(0), default=LOADER_WORKERS, metavar="N", help=workers)
    run(parser, measure)
