"""What agents find with few evaluations, and how many they need until the best: each held against one of them.

synthetic: landscapes of 30 decisions, whose best is 1 and where nothing can be listed. training: the problems of
scripts/configs/few_trainings.yaml, chains of convolutions trained on digits and mnist5k, each design once, as all
searches share a cache. tables: the published ones of scripts/configs/evaluations_to_optimum.yaml, which are not
shipped: ``--tables FOLDER`` names where they lie. With ``--folder`` the runs stay, and the same command, with more
agents or seeds too, does what is missing. The figures of 50
evaluations are those of longer searches at that point: the same for agents that do not plan by the budget, as DQN does.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from bench import at_least, cores, run
from bench_standings import best_found, until_best

from nasenv import Score, Budget, InputError
from nasenv.agents import Agent
from nasenv.commands.arguments import make
from nasenv.commands.compare import problems_of
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.run import Trajectory

_CONFIGS = Path(__file__).parent / "configs"
_AGENTS = [
    *("RandomSearch", "RegularizedEvolution", "LocalSearch", "TPE"),
    *("PPO", "RecurrentPPO", "ModelAssistedPPO", "GaussianProcess"),
]
_STALLED_SECONDS = 3600.0  # a search that trains nothing takes seconds to minutes


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the parts that are asked for; return their figures."""
    parts = {"synthetic": _synthetic, "training": _training, "tables": _tables}
    if arguments.tables is None and "tables" in arguments.parts:
        raise InputError("--parts tables needs --tables FOLDER, where the tables of published benchmarks lie")
    agents = make(_named, "bench_agents.py", {"agents": dict(map(_agent, arguments.agents))})
    if arguments.against not in agents:
        raise InputError(f"--against {arguments.against}: the agents are {', '.join(agents)}")
    kept = nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        chosen = [name for name in parts if name in arguments.parts]
        figures = {name: parts[name](arguments, agents, Path(folder).absolute() / name) for name in chosen}
    return {"parts": figures, "tables": [table for part in figures.values() for table in part.pop("tables")]}


def _named(agents: dict[str, Agent]) -> dict[str, Agent]:
    """Return the agents that options make."""
    return agents


def _agent(text: str) -> tuple[str, Any]:
    """Return an agent's name and its options."""
    name, _, options = text.partition("=")
    return name, yaml.safe_load(options) if options else name


def _synthetic(arguments: argparse.Namespace, agents: Mapping[str, Agent], folder: Path) -> dict[str, Any]:
    problems = {
        f"landscape_{seed}": {
            "space": "SyntheticSpace",
            "evaluator": {"class_path": "SyntheticEvaluator", "init_args": {"seed": seed}},
        }
        for seed in range(arguments.landscapes)
    }
    found = _compared(problems, agents, arguments.seeds, max(arguments.evaluations), folder)
    title = f"Synthetic, 30 decisions, {arguments.landscapes} landscapes, {arguments.seeds} seeds each: best found"
    tables = best_found(title, found.pop("trajectories"), arguments.evaluations, arguments.against)
    return {**found, "tables": tables}


def _training(arguments: argparse.Namespace, agents: Mapping[str, Agent], folder: Path) -> dict[str, Any]:
    problems = {data: of for data, of in _configured("few_trainings").items() if data in arguments.data}
    folder.mkdir(parents=True, exist_ok=True)
    cache = arguments.cache or str(folder / "cache.db")
    found = _compared(problems, agents, arguments.training_seeds, max(arguments.evaluations), folder, cache)
    trajectories, tables = found.pop("trajectories"), []
    for data in problems:
        title = f"ChainCNN on {data}, {arguments.training_seeds} seeds: best validation accuracy found"
        tables += best_found(title, _of(trajectories, data), arguments.evaluations, arguments.against)
    return {**found, "tables": tables}


def _tables(arguments: argparse.Namespace, agents: Mapping[str, Agent], folder: Path) -> dict[str, Any]:
    problems = _configured("evaluations_to_optimum")
    for problem in problems.values():
        options = problem["evaluator"]["init_args"]
        options["table"] = str(arguments.tables.absolute() / options["table"])
    found = _compared(problems, agents, arguments.seeds, arguments.most, folder)
    trajectories, tables = found.pop("trajectories"), []
    for name, optimum in found["optima"].items():
        title = f"{name}, {arguments.seeds} seeds: distinct evaluations until the best, at most {arguments.most:,}"
        tables.append(until_best(title, _of(trajectories, name), optimum, arguments.most, arguments.against))
    return {**found, "tables": tables}


def _configured(name: str) -> dict[str, Any]:
    """Return the problems of a file in scripts/configs."""
    problems: dict[str, Any] = yaml.safe_load((_CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["problems"]
    return problems


def _of(trajectories: Mapping[str, list[Trajectory]], problem: str) -> dict[str, list[Trajectory]]:
    return {agent: [run for run in mine if run.problem == problem] for agent, mine in trajectories.items()}


def _compared(
    problems: Mapping[str, Any],
    agents: Mapping[str, Agent],
    seeds: int,
    evaluations: int,
    folder: Path,
    cache: str | None = None,
) -> dict[str, Any]:
    """Do the runs that are not there yet; return seconds, the best reward of each problem, trajectories by agent."""
    started = time.perf_counter()
    budget = Budget(
        evaluations, repeats_per_evaluation=5, final_seeds=1
    )  # repeats as in the configuration of the tables
    made = problems_of(None, None, Score(), budget, problems)
    limit = None if any(problem.evaluator.trains for problem in made.values()) else _STALLED_SECONDS
    comparison = Comparison(made, agents, range(seeds), folder, cache)
    with comparison.held():
        comparison.run(lambda _: None, cores(), limit)
    trajectories: dict[str, list[Trajectory]] = {name: [] for name in agents}
    for problem in made:
        for done in map(Trajectory.of, comparison.runs(problem)):
            if done.fault is None:
                trajectories[done.agent].append(done)
            else:
                print(f"{done.agent} on {problem}, seed {done.seed}: {done.fault}", flush=True)
    optima = {name: problem.optimum for name, problem in made.items()}
    return {"seconds": time.perf_counter() - started, "optima": optima, "trajectories": trajectories}


def options() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parts, default = ["synthetic", "training", "tables"], "default: %(default)s"
    data = [*_configured("few_trainings")]
    agents = f"classes, or names and what a configuration file says of an agent; {default}"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=parts, default=["synthetic"], help=default)
    parser.add_argument("--agents", nargs="+", metavar="NAME[=OPTIONS]", default=_AGENTS, help=agents)
    parser.add_argument("--against", default="RegularizedEvolution", help=f"the agent of the tests; {default}")
    parser.add_argument("--evaluations", type=at_least(1), nargs="+", default=[50, 100, 200], help=default)
    parser.add_argument("--seeds", type=at_least(1), default=32, help=f"of synthetic and tables; {default}")
    parser.add_argument("--landscapes", type=at_least(1), default=3, help=f"of synthetic; {default}")
    parser.add_argument("--training_seeds", type=at_least(1), default=20, help=default)
    parser.add_argument("--data", nargs="+", choices=data, default=data, help=f"of training; {default}")
    parser.add_argument("--cache", metavar="FILE", help="of training; by default in the folder")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="the tables of published benchmarks")
    parser.add_argument("--most", type=at_least(1), default=1000, help=f"evaluations on tables; {default}")
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary one by default")
    return parser


if __name__ == "__main__":
    run(options(), measure)
