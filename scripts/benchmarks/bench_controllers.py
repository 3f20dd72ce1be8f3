"""Measures the speed of agents on a table, and time and memory of whole comparisons.

Searches are timed in this process, on one thread. Whole comparisons are run as a user runs them, in
temporary folders, with a process a core. Those on published benchmarks need their tables, which are not shipped:
``--tables FOLDER`` names where they lie, under the names that the files in scripts/configs give them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasenv import (
    Budget,
    ChainCNN,
    Evaluator,
    InputError,
    NASBench201,
    Search,
    SyntheticEvaluator,
    SyntheticSpace,
    TableEvaluator,
)
from nasenv.agents import (
    PPO,
    Agent,
    GaussianProcess,
    LocalSearch,
    ModelAssistedPPO,
    RandomSearch,
    RegularizedEvolution,
    Reinforce,
)
from scripts.benchmarks.bench import at_least, goal, run, shown, spread, table

_SCRIPTS = Path(__file__).parents[1]
_COMMAND = _SCRIPTS / "compare_controllers.py"
_OBSERVED = (100, 1000, 10_000)  # architectures that a search starts from
_TIMED = 41  # proposals that are timed after them
_DEFAULT_SECONDS, _BYTES = 180.0, 1 << 30
AGENTS: dict[str, tuple[Callable[[], Agent], float | None]] = {  # how it is made, evaluations a second wanted
    "RandomSearch": (RandomSearch, 10_000.0),
    "RegularizedEvolution": (RegularizedEvolution, 10_000.0),
    "LocalSearch": (LocalSearch, None),
    "Reinforce": (Reinforce, None),
    "GaussianProcess": (GaussianProcess, 500.0),
    "ModelAssistedPPO": (ModelAssistedPPO, 300.0),
    "PPO": (PPO, 300.0),
    "PPO, 16 architectures, 4 epochs": (lambda: PPO(num_envs=16, n_epochs=4, imitation_steps=2), 1_000.0),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the selected parts, and return their figures."""
    return {name: _PARTS[name](arguments) for name in arguments.parts}


def _speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time searches; proposals are counted, since the table is asked for each of them."""
    torch.set_num_threads(1)
    evaluator = _evaluator(arguments)
    figures, rows, goals = {}, [], []
    for name, (make, wanted) in AGENTS.items():
        rates = spread(_rate(evaluator, make(), seed) for seed in range(arguments.rounds))
        figures[name] = rates
        rows.append([name, f"{rates['n']}", shown(rates, ",.0f")])
        if wanted is not None:
            goals.append(goal(f"{name}: {wanted:,.0f} a second", rates["median"], rates["median"] >= wanted, ",.0f"))
    space = type(evaluator.space).__name__
    table(f"proposals a second on a table of {space}", ["agent", "n", "median (min - max)"], rows)
    return {"space": space, "proposals_per_second": figures, "goals": goals}


def _evaluator(arguments: argparse.Namespace) -> TableEvaluator:
    """Return NAS-Bench-201's table if it is there, else the shipped one."""
    if arguments.tables is None:
        return TableEvaluator(ChainCNN(max_layers=3, widths=(16,)))
    columns = {"val_column": "val_accuracy_200_epochs", "test_column": None}
    return TableEvaluator(NASBench201(), str(arguments.tables / "nas-bench-201-cifar10.csv.gz"), **columns)


def _rate(evaluator: TableEvaluator, agent: Agent, seed: int) -> float:
    search = Search(evaluator.space, evaluator, agent, Budget(evaluations=480, charge_repeats=True), seed=seed)
    started = time.perf_counter()
    search.run()
    return search.history.proposals / (time.perf_counter() - started)


def _growth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time proposals after so many observations, in a space of 30 decisions and in one that can be listed."""
    torch.set_num_threads(1)
    figures, rows = {}, []
    for evaluator in (SyntheticEvaluator(SyntheticSpace()), *[_evaluator(arguments)] * (arguments.tables is not None)):
        space = type(evaluator.space).__name__
        for make in (GaussianProcess, ModelAssistedPPO):
            for n in _OBSERVED:
                took = spread(_proposals_ms(evaluator, make(), n, seed) for seed in range(arguments.rounds))
                figures[f"{space}, {make.__name__}, {n}"] = took
                rows.append([space, make.__name__, f"{n:,}", f"{took['n']}", shown(took)])
    table("ms a proposal", ["space", "agent", "observations", "n", "median (min - max)"], rows)
    return {"ms_a_proposal": figures}


def _proposals_ms(evaluator: Evaluator, agent: Agent, observed: int, seed: int) -> float:
    """Return the mean time of some proposals, the agent's update included, of a search that starts from random ones."""
    sampled = evaluator.space.sample(4 * observed, np.random.default_rng(seed))
    start = list(dict.fromkeys(sampled))[:observed]
    times: list[float] = []
    search = Search(
        *(evaluator.space, evaluator, agent, Budget(observed + _TIMED)),
        seed=seed,
        start=start,
        callbacks=[lambda *_: times.append(time.perf_counter())],
    )
    search.run()
    return 1000 * (times[-1] - times[-_TIMED]) / (_TIMED - 1)


def _whole(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the default comparison, and the published one if its tables are there, as a user runs them."""
    with tempfile.TemporaryDirectory() as folder:
        out = ["--run_dir", f"{folder}/out"]
        seconds = {"the default": _compare(Path(folder), out)}
        if arguments.tables is not None:
            paper = ["--config", str(_SCRIPTS / "configs" / "nas_bench_201_paper.yaml"), "--run_dir", f"{folder}/paper"]
            seconds["nas_bench_201_paper.yaml"] = _compare(arguments.tables, paper)
    table("whole comparisons", ["which", "seconds"], [[name, f"{took:.0f}"] for name, took in seconds.items()])
    default = seconds["the default"]
    return {
        "seconds": seconds,
        "goals": [goal("the default comparison in 3 minutes", default, default < _DEFAULT_SECONDS)],
    }


def _memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run 12 x 500 seeds x 300 evaluations of random search, to measure the comparison itself."""
    agents = {f"agent_{i}": {"class_path": "RandomSearch", "init_args": {"batch_size": 300}} for i in range(12)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "many.yaml").write_text(json.dumps({"agents": agents, "seeds": arguments.memory_seeds}))
        seconds = _compare(Path(folder), ["--config", "many.yaml", "--run_dir", "out"])
    largest = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of all processes so far
    table(
        f"12 agents, {arguments.memory_seeds} seeds, 300 evaluations",
        ["seconds", "largest process, MiB"],
        [[f"{seconds:.0f}", f"{largest / 2**20:.0f}"]],
    )
    return {
        "seconds": seconds,
        "bytes": largest,
        "goals": [goal("the largest process under 1 GiB", largest / 2**30, largest < _BYTES)],
    }


def _compare(folder: Path, options: list[str]) -> float:
    """Run a comparison in a folder; return the wall seconds of the whole command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, _COMMAND, *options], cwd=folder, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InputError(f"the comparison ended with exit code {done.returncode}; its reason is above")
    return time.perf_counter() - started


_PARTS = {"speed": _speed, "growth": _growth, "whole": _whole, "memory": _memory}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=[*_PARTS], help="default: all")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="the tables of published benchmarks")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="searches timed an agent; default: %(default)s")
    parser.add_argument("--memory_seeds", type=at_least(1), default=500, help="default: %(default)s")
    run(parser, measure)
