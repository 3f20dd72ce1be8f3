"""Compares what agents find in few evaluations, and how many they need to find the optimum.

Each part is a file in scripts/configs that ``nasenv compare`` takes too:

| part | file | problems |
|---|---|---|
| synthetic | landscapes.yaml | 30 decisions, whose best is 1 and where nothing can be listed |
| training | few_trainings.yaml | chains of convolutions trained on digits and mnist5k, each architecture once |
| optimum | evaluations_to_optimum.yaml | published tables, until the best is met |
| graph | nas_bench_graph.yaml | published tables that no default was chosen on |
| ablation | ppo_ablation.yaml | those of optimum; PPO, one part of it left out at a time |

The published tables are not shipped: ``--tables FOLDER`` names where they lie. With ``--folder`` the runs stay, and the
same command, with more agents or seeds too, does what is missing. The figures of 50 evaluations are those of longer
searches at that point: the same for agents that do not plan by the budget, as DQN does. Agents are paired by problem
and seed, and told apart by Wilcoxon's signed-rank test with Holm's correction.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nasenv import Budget, InputError, Score
from nasenv.agents import Agent, RegularizedEvolution
from nasenv.commands.arguments import make
from nasenv.commands.compare import problems_of
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.run import Trajectory
from nasenv.comparison.statistics import holm, mean_interval, mean_time, signed_rank
from scripts.benchmarks.bench import at_least, cores, run, table

_CONFIGS = Path(__file__).parents[1] / "configs"
_PARTS = {
    "synthetic": "landscapes",
    "training": "few_trainings",
    "optimum": "evaluations_to_optimum",
    "graph": "nas_bench_graph",
    "ablation": "ppo_ablation",
}
_UNTIL_BEST = ("optimum", "ablation")
_STALLED_SECONDS = 3600.0  # a search that trains nothing takes seconds to minutes
Trajectories = Mapping[str, Sequence[Trajectory]]  # by agent
Ends = Mapping[tuple[str, int], float]  # problem and seed -> a figure of the run


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the selected parts, and return their figures."""
    kept = nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        figures = {part: _part(part, arguments, Path(folder).absolute() / part) for part in arguments.parts}
    return {"parts": figures, "tables": [table for part in figures.values() for table in part.pop("tables")]}


def _part(part: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do the missing runs of a part; return its tables, the seconds, and the best reward of each problem."""
    config = yaml.safe_load((_CONFIGS / f"{_PARTS[part]}.yaml").read_text(encoding="utf-8"))
    agents = make(_named, "bench_agents.py", {"agents": dict(map(_agent, arguments.agents or ())) or config["agents"]})
    other = arguments.against or next((a for a, of in agents.items() if isinstance(of, RegularizedEvolution)), None)
    if other not in agents:
        raise InputError(f"--against {other}: the agents are {', '.join(agents)}")
    problems = {name: _placed(of, arguments) for name, of in config["problems"].items() if _asked(name, arguments)}
    most = config["budget"].get("evaluations", max(arguments.evaluations))
    budget = Budget(**{**config["budget"], "evaluations": most})
    seeds, started = arguments.seeds or config["seeds"], time.perf_counter()
    trajectories, optima = _compared(problems, agents, seeds, budget, folder)
    seconds, tables = time.perf_counter() - started, []
    for name, optimum in optima.items():
        title = f"{part}, {name}, {seeds} seeds: "
        own = {
            agent: [trajectory for trajectory in mine if trajectory.problem == name]
            for agent, mine in trajectories.items()
        }
        if part in _UNTIL_BEST:
            title += f"distinct evaluations until the best, at most {most:,}"
            tables.append(until_best(title, own, optimum, most, other))
        elif part != "synthetic":
            tables += best_found(f"{title}best found", own, arguments.evaluations, other)
    if part == "synthetic":  # landscapes are alike, and runs on all of them are one sample
        title = f"Synthetic, {len(problems)} landscapes, {seeds} seeds each: best found"
        tables = best_found(title, trajectories, arguments.evaluations, other)
    return {"seconds": seconds, "optima": optima, "tables": tables}


def _named(agents: dict[str, Agent]) -> dict[str, Agent]:
    """Return the agents that the options define."""
    return agents


def _agent(text: str) -> tuple[str, Any]:
    """Return an agent's name and its options."""
    name, _, options = text.partition("=")
    return name, yaml.safe_load(options) if options else name


def _asked(problem: str, arguments: argparse.Namespace) -> bool:
    return not arguments.problems or problem in arguments.problems


def _placed(problem: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a problem whose table, if it has one, is looked for in the folder of tables."""
    options = problem["evaluator"]["init_args"]
    if "table" in options:
        if arguments.tables is None:
            raise InputError("these parts need --tables FOLDER, where the tables of published benchmarks lie")
        options["table"] = str(arguments.tables.absolute() / options["table"])
    return problem


def _compared(
    problems: Mapping[str, Any], agents: Mapping[str, Agent], seeds: int, budget: Budget, folder: Path
) -> tuple[dict[str, list[Trajectory]], dict[str, Any]]:
    """Return trajectories by agent and the best reward of each problem; searches that train share a cache."""
    made = problems_of(None, None, Score(), budget, problems)
    trains = any(problem.evaluator.trains for problem in made.values())
    folder.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(made, agents, range(seeds), folder, str(folder / "cache.db") if trains else None)
    with comparison.held():
        comparison.run(lambda _: None, cores(), None if trains else _STALLED_SECONDS)
    trajectories: dict[str, list[Trajectory]] = {name: [] for name in agents}
    for problem in made:
        for trajectory in map(Trajectory.of, comparison.runs(problem)):
            if trajectory.fault is None:
                trajectories[trajectory.agent].append(trajectory)
            else:
                print(f"{trajectory.agent} on {problem}, seed {trajectory.seed}: {trajectory.fault}", flush=True)
    return trajectories, {name: problem.optimum for name, problem in made.items()}


def best_found(title: str, trajectories: Trajectories, evaluations: Sequence[int], other: str) -> list[dict[str, Any]]:
    """Print a table for each number of evaluations: the best reward by then, and what that is more than another's."""
    grid = sorted(evaluations)
    found = {a: {(t.problem, t.seed): t.reward_after(grid) for t in mine} for a, mine in trajectories.items() if mine}
    tables = []
    for i, n in enumerate(grid):
        ends = {agent: {key: float(values[i]) for key, values in mine.items()} for agent, mine in found.items()}
        gaps = _gaps(ends, other, "+.4f")
        rows = [[agent, f"{len(mine)}", _mean(mine), *gaps[agent]] for agent, mine in ends.items()]
        heads = ["agent", "runs", "mean [95 %]", f"less {other}'s", "p (Holm)"]
        tables.append(table(f"{title} in {n} evaluations", heads, rows))
    return tables


def until_best(title: str, trajectories: Trajectories, optimum: float, most: int, other: str) -> dict[str, Any]:
    """Print each agent's evaluations until the optimum, censored at a limit, and the differences to another's."""
    ends = {
        agent: {(t.problem, t.seed): _needed(t, optimum, most) for t in mine} for agent, mine in trajectories.items()
    }
    ends = {agent: mine for agent, mine in ends.items() if mine}
    gaps = _gaps(ends, other, "+.0f")
    rows = [[agent, f"{len(mine)}", *_until(mine, most), *gaps[agent]] for agent, mine in ends.items()]
    return table(title, ["agent", "runs", "mean [95 %]", "met it", f"less {other}'s", "p (Holm)"], rows)


def _needed(trajectory: Trajectory, optimum: float, most: int) -> float:
    """Return the evaluations of a run until the best, one more than the most where it did not meet it."""
    return float(trajectory.evaluation_of_optimum(optimum) or most + 1)


def _mean(ends: Ends) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(*mean_interval(np.array([*ends.values()]), seed=0))


def _until(ends: Ends, most: int) -> tuple[str, str]:
    """Return the mean evaluations until the optimum, censored at the limit, and which runs reached it."""
    needed = np.array([*ends.values()])
    met = needed <= most
    mean, low, high = mean_time(np.minimum(needed, most), met, seed=0)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]", f"{met.mean():.0%}"


def _gaps(ends: Mapping[str, Ends], other: str, form: str) -> dict[str, tuple[str, str]]:
    """Return, by agent, its mean difference from another's runs of the same seeds, and the signed-rank test's p."""
    theirs = ends.get(other, {})
    pairs = {a: [(mine[k], theirs[k]) for k in mine if k in theirs] for a, mine in ends.items() if a != other}
    gaps = {agent: -np.diff(np.array(both))[:, 0] for agent, both in pairs.items() if both}
    p_values = holm(np.array([signed_rank(gap)[1] for gap in gaps.values()]))
    cells = {a: (f"{gap.mean():{form}}", f"{p:.2g}") for (a, gap), p in zip(gaps.items(), p_values, strict=True)}
    return {agent: cells.get(agent, ("-", "-")) for agent in ends}


if __name__ == "__main__":
    default = "default: %(default)s"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=["synthetic"], help=default)
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="of the parts; default: all")
    parser.add_argument(
        "--agents",
        nargs="+",
        metavar="NAME[=OPTIONS]",
        help="classes, or names and what a configuration file says of an agent; default: those of the file",
    )
    parser.add_argument("--against", help="the agent of the tests; default: the first RegularizedEvolution")
    parser.add_argument("--evaluations", type=at_least(1), nargs="+", default=[50, 100, 200], help=default)
    parser.add_argument("--seeds", type=at_least(1), help="default: those of the file")
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="the tables of published benchmarks")
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary one by default")
    run(parser, measure)
