"""What comparisons cost: evaluations a second of the agents on a table, and time and memory of whole comparisons.

Searches are timed in this process, on one thread. Whole comparisons are run as a user runs them, in
temporary folders, with a process a core. Those on published benchmarks need their tables, which are not shipped:
``--tables FOLDER`` names where they lie, under the names that the files in scripts/configs give them.
"""

import argparse
import csv
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
import yaml
from bench import at_least, goal, run, shown, spread, table
from bench_standings import best_found, until_best

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
from nasenv.comparison.run import Run, Trajectory

_HERE = Path(__file__).parent
_COMMAND = _HERE / "compare_controllers.py"
_CONFIGS = _HERE / "configs"
_MOST = 1000  # evaluations, as the configurations say
_FEW = (50, 100, 200, 500)  # after which the best found is told
_OBSERVED, _TIMED = (100, 1000, 10_000), 41  # designs that a search starts from, proposals that are timed after them
_PAPER_SECONDS, _DEFAULT_SECONDS, _BYTES = 120.0, 180.0, 1 << 30
AGENTS: dict[str, tuple[Callable[[], Agent], float | None]] = {  # how it is made, evaluations a second wanted
    "RandomSearch": (RandomSearch, 10_000.0),
    "RegularizedEvolution": (RegularizedEvolution, 10_000.0),
    "LocalSearch": (LocalSearch, None),
    "Reinforce": (Reinforce, None),
    "GaussianProcess": (GaussianProcess, 500.0),
    "ModelAssistedPPO": (ModelAssistedPPO, 300.0),
    "PPO": (PPO, 300.0),
    "PPO, 16 designs, 4 epochs": (lambda: PPO(num_envs=16, n_epochs=4, imitation_steps=2), 1_000.0),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the parts that are asked for; return their figures."""
    parts = {
        "speed": _speed,
        "growth": _growth,
        "default": _default,
        "memory": _memory,
        "paper": _paper,
        "optimum": _optimum,
        "graph": _graph,
        "ablation": _ablation,
    }
    if arguments.tables is None:
        for name in ("paper", "optimum", "graph", "ablation"):
            del parts[name]
    return {name: part(arguments) for name, part in parts.items() if name in arguments.parts}


def _speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time searches; proposals are counted, since a table is asked for every one of them."""
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
    """Return NAS-Bench-201's table where there is one, else the one that is shipped."""
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


def _default(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        seconds = _compare(Path(folder), ["--output", "out"])
    return {
        "seconds": seconds,
        "goals": [goal("the default comparison in 3 minutes", seconds, seconds < _DEFAULT_SECONDS)],
    }


def _memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run 12 agents x 500 seeds x 300 evaluations; all are random search: it is the comparison that is measured."""
    agents = {f"agent_{i}": {"class_path": "RandomSearch", "init_args": {"batch_size": 300}} for i in range(12)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "many.yaml").write_text(json.dumps({"agents": agents, "seeds": arguments.memory_seeds}))
        seconds = _compare(Path(folder), ["--config", "many.yaml", "--output", "out"])
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


def _paper(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the published comparison, and set what it finds beside what was published."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--config", str(_CONFIGS / "nas_bench_201_paper.yaml"), "--seeds", str(arguments.paper_seeds)]
        seconds = _compare(arguments.tables, [*options, "--output", str(Path(folder) / "out")])
        found = _summary(Path(folder) / "out")
    rows = [
        [row["problem"], row["agent"], row["seeds"], *(_percent(row, m) for m in ("val_score", "test_score"))]
        for row in found
    ]
    table("NAS-Bench-201, 12,000 charged seconds", ["problem", "agent", "runs", "validation %", "test %"], rows)
    print(f"{seconds:.0f} seconds for {sum(int(row['seeds']) for row in found):,} runs")
    return {"seconds": seconds, "summary": found}


def _optimum(arguments: argparse.Namespace) -> dict[str, Any]:
    """Count distinct evaluations until the best design of the space is met, all agents in one run."""
    return _until_the_best(arguments, "evaluations_to_optimum.yaml", arguments.seeds)


def _graph(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tell the best found on tables that no default was chosen on; of two of them, hardly any run meets the best."""
    config = "nas_bench_graph.yaml"
    seconds, out = _kept_comparison(arguments, config, arguments.graph_seeds)
    tables = []
    for problem in _configured(config)["problems"]:
        title = f"{problem}, {arguments.graph_seeds} seeds: best found"
        tables += best_found(title, _trajectories(out, problem), _FEW, "evolution")
    return {"seconds": seconds, "tables": tables}


def _ablation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do the same with PPO, one part of it left out at a time."""
    return _until_the_best(arguments, "ppo_ablation.yaml", arguments.ablation_seeds)


def _until_the_best(arguments: argparse.Namespace, config: str, seeds: int) -> dict[str, Any]:
    seconds, out = _kept_comparison(arguments, config, seeds)
    tables = []
    for problem, settings in _configured(config)["problems"].items():
        title = f"{problem}, {seeds} seeds: distinct evaluations until the best, at most {_MOST:,}"
        target = settings["budget"]["target_reward"]
        tables.append(until_best(title, _trajectories(out, problem), target, _MOST, "evolution"))
    return {"seconds": seconds, "tables": tables}


def _kept_comparison(arguments: argparse.Namespace, config: str, seeds: int) -> tuple[float, Path]:
    """Return the seconds that a comparison took, and where its report is."""
    out = (arguments.folder or Path(tempfile.mkdtemp())) / Path(config).stem
    options = ["--config", str(_CONFIGS / config), "--seeds", str(seeds)]
    seconds = _compare(arguments.tables, [*options, "--output", str(out.resolve())])
    print(f"{seconds:.0f} seconds; the report is in {out}")
    return seconds, out


def _trajectories(out: Path, problem: str) -> dict[str, list[Trajectory]]:
    """Return the runs of a problem by agent."""
    trajectories: dict[str, list[Trajectory]] = {}
    for path in sorted((out / "runs" / problem).glob("*/*/run.json")):
        run = Trajectory.of(Run.read(path))
        trajectories.setdefault(run.agent, []).append(run)
    return trajectories


def _configured(config: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_CONFIGS / config).read_text(encoding="utf-8"))
    return found


def _compare(folder: Path, options: list[str]) -> float:
    """Run a comparison in a folder; return the wall seconds of the whole command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, _COMMAND, *options], cwd=folder, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InputError(f"the comparison ended with exit code {done.returncode}; its reason is above")
    return time.perf_counter() - started


def _summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _percent(row: dict[str, str], metric: str) -> str:
    return f"{100 * float(row[f'{metric}_mean']):.2f} ± {100 * float(row[f'{metric}_std']):.2f}"


def options() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    names = ["speed", "growth", "default", "memory", "paper", "optimum", "graph", "ablation"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="the tables of published benchmarks")
    parser.add_argument(
        "--folder", type=Path, help="where comparisons of optimum, graph and ablation stay; default: a temporary one"
    )
    parser.add_argument("--rounds", type=at_least(1), default=5, help="searches timed an agent; default: %(default)s")
    parser.add_argument("--seeds", type=at_least(1), default=100, help="of optimum; default: %(default)s")
    parser.add_argument("--graph_seeds", type=at_least(1), default=32, help="default: %(default)s")
    parser.add_argument("--ablation_seeds", type=at_least(1), default=100, help="default: %(default)s")
    parser.add_argument("--paper_seeds", type=at_least(1), default=500, help="default: %(default)s")
    parser.add_argument("--memory_seeds", type=at_least(1), default=500, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    run(options(), measure)
