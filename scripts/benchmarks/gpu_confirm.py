"""Confirms on a GPU that trainings there work: tests, memory, accuracy, and speed against the plain loop.

Tests: those that are marked gpu, of trainings and evaluators. Memory: of 40 trainings of different networks, one after
the other in one process, which must not grow with their number. Accuracy: the same 20 random networks from the same
seeds on the GPU and on the processor, whose validation accuracies are compared network by network. The plain loop:
what ``bench_training.py`` compares, on fewer networks, with the loader's usual workers and with none, which start anew
for each training.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasenv import ChainCNN, TrainingEvaluator, Trial, load_dataset
from nasenv.training import Recipe
from nasenv.training.trainer import Job, Trainer
from scripts.benchmarks.bench import goal, shown, spread, table
from scripts.benchmarks.bench_plain import LOADER_WORKERS
from scripts.benchmarks.bench_problems import PROBLEMS
from scripts.benchmarks.bench_training import GOAL_POINTS, GPU_AIM, GPU_GOAL, Contest, mean_std
from scripts.benchmarks.gpu_steps import Figures, Step, check, memory_mib

_ROOMS, _MARK = ("tests/training", "tests/evaluators"), "@pytest.mark.gpu"  # whole rooms take long to import
_OUTCOMES = ("passed", "failed", "error", "skipped")
_MORE_MIB = 64  # that trainings may need after the first quarter, among them larger networks


@dataclass(frozen=True)
class _Sizes:
    trainings: int  # whose memory is looked at
    networks: int  # that are compared with the processor
    seeds: int  # of each
    architectures: int  # against the plain loop
    pairs: int
    loader_workers: tuple[int, ...]
    epochs: int
    batch_size: int


_SIZES = {"cuda": _Sizes(40, 20, 4, 4, 2, (LOADER_WORKERS, 0), 5, 64), "cpu": _Sizes(8, 2, 1, 1, 1, (0,), 1, 512)}


class _Outcomes:
    """A plug-in of pytest that keeps the number of tests by outcome."""

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Count."""
        self.counts = {outcome: len(terminalreporter.stats.get(outcome, [])) for outcome in _OUTCOMES}


def tests(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the number of tests by outcome; on a processor all are skipped."""
    outcomes = _Outcomes()
    options = ["-m", "gpu", "-v", "-rfE", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=40"]
    files = [str(path) for room in _ROOMS for path in sorted(Path(room).glob("test_*.py")) if _MARK in path.read_text()]
    code = pytest.main([*options, *files], plugins=[outcomes])
    yield from outcomes.counts.items()
    if code != pytest.ExitCode.OK:
        raise SystemExit(int(code))


def memory(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the MiB in use after the first, a quarter, and all of many trainings of this process, and their speed."""
    sizes, data = _SIZES[device], load_dataset("digits")
    space = ChainCNN(task=data.task)
    trainer = Trainer(space, data, device, 60.0)
    architectures = [space.reference(), *space.sample(sizes.trainings - 1, np.random.default_rng(0))]
    for i, architecture in enumerate(architectures):
        began = time.perf_counter()
        trained = trainer.run(Job(Trial(architecture), Recipe(sizes.epochs, sizes.batch_size), i))
        seconds = time.perf_counter() - began
        if i + 1 in (1, sizes.trainings // 4, sizes.trainings) or trained.error is not None:
            yield (
                f"training {i + 1}",
                {
                    "memory_mib": memory_mib(device),
                    "seconds": seconds,
                    "ms": {part: 1e3 * spent for part, spent in trained.seconds.items()},
                    "error": trained.error,
                    "not_captured_because": trained.eager,
                },
            )


def accuracy(device: str) -> Iterator[tuple[str, Any]]:
    """Yield the accuracy of each network in percent, mean of its seeds, on the processor and on the device."""
    sizes, data = _SIZES[device], load_dataset("digits")
    space = ChainCNN(task=data.task)
    architectures = space.sample(sizes.networks, np.random.default_rng(1))
    trials = [Trial(a, seed=seed) for a in architectures for seed in range(sizes.seeds)]
    percents = {}
    for name, where in (("processor", "cpu"), ("device", device)):
        with TrainingEvaluator(space, data, sizes.epochs, sizes.batch_size, devices=where) as evaluator:
            scores = [100 * (m.score or 0.0) for m in evaluator.measure(trials)]
        percents[name] = np.array(scores).reshape(len(architectures), sizes.seeds).mean(1)
        yield name, {"percent": percents[name].tolist(), "not_captured": dict(evaluator.eager)}
    yield "points", mean_std(percents["device"] - percents["processor"])


def plain_loop(device: str) -> Iterator[tuple[str, Any]]:
    """Yield how many times as fast as the plain loop we are, by its number of loader workers."""
    sizes, problem = _SIZES[device], PROBLEMS["digits"]()
    architectures = problem.architectures(sizes.architectures)
    length = {"epochs": sizes.epochs, "batch_size": sizes.batch_size}
    for workers in sizes.loader_workers:
        with TrainingEvaluator(problem.space, problem.data, devices=device, **length) as evaluator:
            pairs = Contest(problem, evaluator, workers).pairs(architectures, sizes.pairs)
        yield (
            f"{workers} loader workers",
            {
                "plain": spread(len(architectures) / plain.seconds for plain, _ in pairs),
                "ours": spread(len(architectures) / ours.seconds for _, ours in pairs),
                "ratio": spread(plain.seconds / ours.seconds for plain, ours in pairs),
            },
        )


def summary(figures: Figures) -> Figures:
    """Print tables and goals of what was measured, and return them."""
    makers = {"memory": _memory_table, "plain loop": _plain_table}
    tables = [make(figures[name]) for name, make in makers.items() if figures.get(name)]
    return {"tables": tables, "goals": _goals(figures)}


def _memory_table(trainings: Figures) -> Figures:
    rows = [
        [name, f"{f['memory_mib']:.0f}", f"{1e3 * f['seconds']:.0f}", f["error"] or f["not_captured_because"] or "-"]
        for name, f in trainings.items()
    ]
    heads = ["after", "MiB in use", "ms", "not as it should be"]
    return table("One process, networks of ChainCNN on digits", heads, rows)


def _plain_table(by_workers: Figures) -> Figures:
    keys = ("plain", "ours", "ratio")
    rows = [[workers, *(shown(f[key]) for key in keys)] for workers, f in by_workers.items()]
    return table("Trainings of digits a second, median (min - max)", ["the plain loop with", *keys], rows)


def _goals(figures: Figures) -> list[Figures]:
    goals = []
    if tested := figures.get("tests"):
        lost = tested["failed"] + tested["error"]
        goals.append(goal("tests on a GPU that failed", lost, lost == 0, "d", "0"))
    used = [f["memory_mib"] for f in figures.get("memory", {}).values() if f["error"] is None]
    if len(used) == 3:
        more, asked = used[2] - used[1], f"at most {_MORE_MIB}"
        goals.append(goal("MiB more after all trainings than after a quarter", more, more <= _MORE_MIB, asked=asked))
    if points := figures.get("accuracy", {}).get("points"):
        more, asked = points["mean"], f"{GOAL_POINTS:g} or more"
        goals.append(goal("points of accuracy more than on the processor", more, more >= GOAL_POINTS, "+.2f", asked))
    for workers, f in figures.get("plain loop", {}).items():
        ratio, asked = f["ratio"]["median"], f"at least {GPU_GOAL:g} (aim {GPU_AIM:g})"
        goals.append(goal(f"times the plain loop with {workers}", ratio, ratio >= GPU_GOAL, asked=asked))
    return goals


if __name__ == "__main__":
    check(
        __doc__,
        {
            "tests": Step(tests, 60),
            "memory": Step(memory, 20),
            "accuracy": Step(accuracy, 30),
            "plain loop": Step(plain_loop, 45),
        },
        summary,
    )
