"""Measures what each step from the plain PyTorch loop to nasenv's training gains, on top of the steps before it.

The architectures, data and recipes are those of ``bench_training.py``. Every round goes through all steps, from a seed
of its own; "times the plain loop" is taken within rounds.
"""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch

from nasenv import Architecture, InputError, TrainingEvaluator
from nasenv.workers.pool import WorkerPool
from scripts.benchmarks.bench import at_least, cores, run, shown, spread, table
from scripts.benchmarks.bench_plain import PlainLoop, Way
from scripts.benchmarks.bench_problems import Problem, add_options, selected
from scripts.benchmarks.bench_training import Contest, timed

_SWITCHES = {
    "+ resident data": "resident",
    "+ fused AdamW": "fused",
    "+ channels_last": "channels_last",
    "+ a pool that keeps channels_last": "pool",
    "+ all parameters in one vector": "flat",
    "+ bfloat16": "bf16",
}
Job = tuple[Architecture, int, Way]
Step = Callable[[Sequence[Architecture], int], list[float]]  # architectures, seed -> accuracies


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print a table for each problem, and return the tables with their figures."""
    figures: dict[str, Any] = {"problems": {}, "tables": []}
    for problem in selected(arguments):
        with problem.evaluator(arguments.device) as evaluator:
            loop = PlainLoop(problem, evaluator)
            with contextlib.closing(WorkerPool(loop, cores(), timeout_seconds=600.0)) as pool:
                steps = _steps(problem, evaluator, loop, pool)
                measured = _rounds(steps, problem.architectures(arguments.architectures), arguments.rounds)
        figures["problems"][problem.name] = measured
        figures["tables"].append(_table(problem, measured))
    return figures


def _steps(
    problem: Problem, evaluator: TrainingEvaluator, loop: PlainLoop, pool: WorkerPool[Job, float]
) -> dict[str, Step]:
    """Return the steps by name; on the CPU all but the first run on one thread, then in workers."""

    def alone(way: Way) -> Step:
        return lambda architectures, seed: [loop((a, seed, way)) for a in architectures]

    def in_workers(way: Way) -> Step:
        return lambda architectures, seed: _side_by_side(pool, [(a, seed, way) for a in architectures])

    contest = Contest(problem, evaluator)
    both = Way(threads=cores())
    steps = {"the plain loop": alone(both), "... at a constant rate": alone(replace(both, one_cycle=False))}
    way, trains = (both, alone) if torch.device(evaluator.devices[0]).type == "cuda" else (Way(), in_workers)
    if trains is in_workers:
        steps |= {"one thread": alone(way), f"+ {cores()} workers": in_workers(way)}
    for name, switch in _SWITCHES.items():
        way = replace(way, **{switch: True})
        steps[name] = trains(way)
    return steps | {"TrainingEvaluator": lambda architectures, seed: contest.train(architectures, seed).accuracies}


def _side_by_side(pool: WorkerPool[Job, float], jobs: Sequence[Job]) -> list[float]:
    accuracies = dict(pool.stream(jobs, _failed))
    return [accuracies[job] for job in jobs]


def _failed(job: Job, reason: str, seconds: float) -> NoReturn:
    raise InputError(f"a training failed after {seconds:.0f} s: {reason}")


def _rounds(steps: dict[str, Step], architectures: Sequence[Architecture], rounds: int) -> list[dict[str, Any]]:
    """Return speed and mean accuracy of each step."""
    for act in steps.values():
        act(architectures[:1], rounds)  # warm
    timings = [[timed(lambda act=act, r=r: act(architectures, r)) for act in steps.values()] for r in range(rounds)]
    seconds = np.array([[one for one, _ in row] for row in timings])  # (rounds, steps)
    return [
        {
            "step": name,
            "rate": spread(len(architectures) / seconds[:, i]),
            "times_plain": spread(seconds[:, 0] / seconds[:, i]),
            "accuracy": float(np.mean([row[i][1] for row in timings])),
        }
        for i, name in enumerate(steps)
    ]


def _table(problem: Problem, measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rounds = measured[0]["rate"]["n"]
    heads = ["step", "trained networks a second", "times the plain loop", "mean accuracy"]
    rows = [[f["step"], shown(f["rate"]), shown(f["times_plain"]), f"{f['accuracy']:.3f}"] for f in measured]
    return table(f"{problem.name}: median (min - max) of {rounds} rounds", heads, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    parser.add_argument("--rounds", type=at_least(1), default=3, help="default: %(default)s")
    run(parser, measure)
