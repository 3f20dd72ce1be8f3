"""Measures the default run as a user starts it, beside random search: its results, and its time outside trainings.

Each run is ``nasenv train --cache none`` of its own in a temporary folder, read from its journal, result and times.
Search seconds go from the first proposal to the last reward. Two shares of the workers' time are told: what is not
training, and, of that, the overhead: all but what workers do for an evaluation (training, building networks, scoring
them), which is the agent, its records, and workers without work. Then the first seed of the first agent runs twice on
one cache. At its defaults (2 agents, 2 seeds, 200 evaluations) it is to take less than 8 minutes on 2 cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasenv import InputError
from scripts.benchmarks.bench import at_least, goal, run, shown, spread, table

GOAL_ACCURACY = 0.95
GOAL_LEARNT = 0.8  # of the seeds
GOAL_OVERHEAD = 0.05
GOAL_CACHED = 0.1  # of the time
_COMMAND = Path(__file__).parents[1] / "train_controller.py"
_EVALUATING = ("training", "building", "scoring", "data")  # what workers do
_TIMES = ("seconds", "train_seconds")  # what differs between two journals of the same search


class Run:
    """Holds one finished run: its journal, its result, and the wall seconds of the whole command."""

    def __init__(self, folder: Path, agent: str, seed: int, evaluations: int, cache: str, extra: Sequence[str]) -> None:
        options = {"agent": agent, "seed": seed, "budget.evaluations": evaluations, "cache": cache, "run_dir": folder}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        started = time.perf_counter()
        with (folder.with_suffix(".log")).open("w") as log:
            done = subprocess.run(
                [sys.executable, _COMMAND, *words, *extra], cwd=folder.parent, stdout=log, check=False
            )
        if done.returncode:
            raise InputError(f"the run {folder.name} ended with exit code {done.returncode}; its reason is above")
        self.whole_seconds = time.perf_counter() - started
        _, *lines = (folder / "journal.jsonl").read_text().splitlines()
        self.journal: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.result = json.loads((folder / "result.json").read_text())
        self.spent: dict[str, float] = json.loads((folder / "timing.json").read_text())["seconds"]

    def without_times(self) -> list[dict[str, Any]]:
        """Return the journal without the fields that differ between equal runs."""
        return [{k: v for k, v in entry.items() if k not in _TIMES} for entry in self.journal]

    def figures(self) -> dict[str, float]:
        """Return the results of the run; accuracies and rewards are in [0, 1]."""
        rewards = [entry["reward"] for entry in self.journal]
        quarter = max(1, len(rewards) // 4)
        search_seconds = self.journal[-1]["seconds"]
        return {
            "test_score": self.result["test_score"],
            "best_val_score": max(entry["score"] or 0.0 for entry in self.journal),
            "first_quarter": float(np.mean(rewards[:quarter])),
            "last_quarter": float(np.mean(rewards[-quarter:])),
            "trained": sum(not entry["cached"] for entry in self.journal),
            "repeats": self.result["repeats"],
            "search_seconds": search_seconds,
            "not_training": 1 - self.spent.get("training", 0.0) / search_seconds,
            "overhead": 1 - sum(self.spent.get(part, 0.0) for part in _EVALUATING) / search_seconds,
            "whole_seconds": self.whole_seconds,
        }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print a table of the runs, a summary, and the effect of the cache; return the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = {
            agent: [_run(folder / f"{agent}-{seed}", agent, seed, arguments) for seed in range(arguments.seeds)]
            for agent in arguments.agents
        }
        figures = {agent: [r.figures() for r in rs] for agent, rs in runs.items()}
        tables = _run_tables(figures)
        goals = _goals(figures[arguments.agents[0]])
        cached = _cached(folder, runs[arguments.agents[0]][0], arguments)
    told = {"runs": figures, "summary": _summary(figures), "cached": cached}
    return {**told, "tables": tables, "goals": goals}


def _run(folder: Path, agent: str, seed: int, arguments: argparse.Namespace, cache: str = "none") -> Run:
    finished = Run(
        folder, agent, seed, arguments.evaluations, cache, ["--evaluator.devices", arguments.device, *arguments.options]
    )
    print(f"{folder.name}: {finished.whole_seconds:.0f} s", flush=True)
    return finished


def _run_tables(figures: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Print and return the tables of the runs and of their summary."""
    heads = [
        *("agent", "seed", "test", "best val", "mean reward 1st > last quarter"),
        *("trained", "repeats", "search s", "not training", "overhead", "whole s"),
    ]
    rows = [
        [
            *(agent, str(seed), f"{f['test_score']:.4f}", f"{f['best_val_score']:.4f}"),
            *(f"{f['first_quarter']:.3f} > {f['last_quarter']:.3f}", f"{f['trained']}", f"{f['repeats']}"),
            *(f"{f['search_seconds']:.1f}", f"{f['not_training']:.1%}", f"{f['overhead']:.1%}"),
            f"{f['whole_seconds']:.0f}",
        ]
        for agent, fs in figures.items()
        for seed, f in enumerate(fs)
    ]
    runs = table("each run, no cache", heads, rows)
    scores, times = ("test_score", "best_val_score", "last_quarter"), ("search_seconds", "whole_seconds")
    keys = (*scores, *times, "not_training", "overhead")
    summary = _summary(figures)
    seeds = len(next(iter(figures.values())))
    spreads = [[key, *(shown(s[key], ".4g") for s in summary.values())] for key in keys]
    return [runs, table(f"median (min - max) over {seeds} seeds", ["", *summary], spreads)]


def _summary(figures: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the spread over seeds of every figure of every agent."""
    return {agent: {key: spread(f[key] for f in fs) for key in fs[0]} for agent, fs in figures.items()}


def _goals(figures: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Print and return the goals of the first agent."""
    accuracy = float(np.median([f["test_score"] for f in figures]))
    learnt = float(np.mean([f["last_quarter"] > f["first_quarter"] for f in figures]))
    overhead = float(np.median([f["overhead"] for f in figures]))
    return [
        goal(f"test accuracy of {GOAL_ACCURACY} or more at the median", accuracy, accuracy >= GOAL_ACCURACY, ".4f"),
        goal(f"last quarter above the first in {GOAL_LEARNT:.0%} of the seeds", learnt, learnt >= GOAL_LEARNT, ".0%"),
        goal(
            f"overhead under {GOAL_OVERHEAD:.0%} of the time at the median", overhead, overhead < GOAL_OVERHEAD, ".1%"
        ),
    ]


def _cached(folder: Path, uncached: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the first seed twice on one new cache, beside the run without one."""
    agent, cache = arguments.agents[0], str(folder / "cache.db")
    first, second = (_run(folder / name, agent, 0, arguments, cache) for name in ("fills-cache", "from-cache"))
    a, b = first.figures(), second.figures()
    share = b["search_seconds"] / a["search_seconds"]
    alike = uncached.without_times() == first.without_times()
    compared = table(
        f"{agent}, seed 0, twice on one cache",
        ["", "trained", "search s", "whole s"],
        [
            [name, f"{f['trained']}", f"{f['search_seconds']:.2f}", f"{f['whole_seconds']:.1f}"]
            for name, f in (("first", a), ("second", b))
        ],
    )
    goals = [
        goal("the second trains nothing", b["trained"], b["trained"] == 0),
        goal(f"in under {GOAL_CACHED:.0%} of the time", share, share < GOAL_CACHED, ".1%"),
        goal("the same seed again, nothing cached: journals identical but for times", alike, alike, "d"),
    ]
    return {"first": a, "second": b, "tables": [compared], "goals": goals}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", nargs="+", default=["PPO", "RandomSearch"], help="default: %(default)s")
    parser.add_argument("--seeds", type=at_least(1), default=2, help="default: %(default)s")
    parser.add_argument("--evaluations", type=at_least(1), default=200, help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto; default: %(default)s")
    parser.add_argument("options", nargs="*", help="after --: further options of `nasenv train`, for every run")
    run(parser, measure)
