"""Whether the part of a space that a run's evaluations choose holds the best, and what a search of it saves.

On each table that ``scripts/configs/evaluations_to_optimum.yaml`` names, a run of an agent, RandomSearch by default,
evaluates 100 architectures; from those alone, what to keep is chosen. The table says what is the best of that part, and
of the whole. Then agents search the part until they meet the best of the whole; what they need is counted with the 100
and is at most 1,000, as in a search of the whole space, beside which it stands.

The tables are not shipped: ``--tables FOLDER`` names where they lie. The rule was chosen on NAS-Bench-Graph, a space
that is not among them.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from nasenv import Budget, Score, Search
from nasenv.agents import Agent, MaskablePPO, RandomSearch, RegularizedEvolution
from nasenv.commands.compare import problems_of
from nasenv.comparison.problem import Problem
from nasenv.comparison.statistics import mean_time
from nasenv.inspection.narrowed import Narrowed
from nasenv.inspection.narrowing import narrowed_by
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.spaces.space import to_architectures
from nasenv.trial import Trial
from scripts.benchmarks.bench import at_least, cores, goal, run, table

_CONFIG = Path(__file__).parents[1] / "configs" / "evaluations_to_optimum.yaml"
_MOST = 1_000
_CLOSE = 0.001  # a tenth of a point
_ENOUGH = 0.9  # of the runs
_AGENTS = {
    "RandomSearch": RandomSearch,
    "RegularizedEvolution": partial(RegularizedEvolution, population_size=50, sample_size=10),
    "MaskablePPO": MaskablePPO,
}


@dataclass(frozen=True)
class Part:
    """Holds what was chosen after one run.

    Args:
        seed: of the run.
        share: size of the part, by that of the whole.
        loss: by how much its best is below that of the whole.
        believed: the probability, by the model, that it holds the best.
        seconds: that it took to choose it.
        needed: evaluations of the run until it met the best; one more than it has if it did not.
        keep: the choices.
    """

    seed: int
    share: float
    loss: float
    believed: float
    seconds: float
    needed: int
    keep: dict[str, Any]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables, and return their figures."""
    figures: dict[str, Any] = {"tables": [], "goals": [], "parts": {}}
    parts = {name: _chosen(name, arguments) for name in arguments.problems}
    rows = [[name, *_row(found, arguments.share)] for name, found in parts.items()]
    heads = ["problem", "runs", "share kept", "best within 0.1 points", "best itself", "loss (points)", "believed", "s"]
    title = f"Narrowing, after {arguments.evaluations} evaluations of {arguments.agent}"
    figures["tables"].append(table(title, heads, rows))
    for name, found in parts.items():
        close = float(np.mean([part.loss <= _CLOSE and part.share <= arguments.share for part in found]))
        asked = f"{_ENOUGH:.0%} of the runs"
        figures["goals"].append(goal(f"{name}: the best kept within 0.1 points", close, close >= _ENOUGH, ".0%", asked))
        figures["parts"][name] = [vars(part) for part in found]
    for name, found in parts.items():
        if arguments.search_seeds:
            figures["tables"].append(_searched(name, found[: arguments.search_seeds], arguments))
    return figures


def _chosen(name: str, arguments: argparse.Namespace) -> list[Part]:
    """Return what is chosen after the run of each seed."""
    return _in_processes(partial(_choose, name, arguments), range(arguments.seeds), arguments)


def _choose(name: str, arguments: argparse.Namespace, seed: int) -> Part:
    problem, scores = _problem(name, arguments)
    agent = _AGENTS[arguments.agent]()
    space, best = problem.space, float(scores.max())
    with Search(space, problem.evaluator, agent, Budget(evaluations=arguments.evaluations), seed=seed) as search:
        search.run()
        history = search.history
        rewards = np.array([outcome.reward for outcome in history])
        failed = np.array([outcome.measurement.error is not None for outcome in history])
        seen = RunEvaluations(space, [outcome.architecture for outcome in history], rewards, failed, f"seed {seed}")
    started = time.perf_counter()
    keep, evidence = narrowed_by(seen, arguments.share)
    seconds = time.perf_counter() - started
    part = Narrowed(of=space, keep=keep)
    inside = _scores(problem, part.all_architectures())
    needed = int(np.argmax(rewards >= best)) + 1 if (rewards >= best).any() else len(rewards) + 1
    share = len(inside) / len(scores)
    return Part(seed, share, best - float(inside.max()), evidence["probability_of_the_best"], seconds, needed, keep)


def _row(found: Sequence[Part], share: float) -> list[str]:
    loss = np.array([part.loss for part in found])
    return [
        f"{len(found)}",
        f"{np.mean([part.share for part in found]):.3f}, at most {max(part.share for part in found):.3f}",
        f"{(loss <= _CLOSE).mean():.0%}",
        f"{(loss <= 0).mean():.0%}",
        f"{100 * loss.mean():.3f}, at most {100 * loss.max():.3f}",
        f"{np.mean([part.believed for part in found]):.2f}",
        f"{np.median([part.seconds for part in found]):.1f}",
    ]


def _searched(name: str, found: Sequence[Part], arguments: argparse.Namespace) -> dict[str, Any]:
    """Print each agent's evaluations until the best, in the whole space and in the part with those that chose it."""
    rows = []
    for agent in arguments.agents:
        whole = _in_processes(partial(_search_whole, name, agent, arguments), [part.seed for part in found], arguments)
        narrow = _in_processes(partial(_search_part, name, agent, arguments), found, arguments)
        fewer = np.array(whole) - np.array(narrow)
        rows.append([agent, f"{len(found)}", *_until(whole), *_until(narrow), f"{fewer.mean():+.0f}"])
    heads = ["agent", "runs", "whole: mean [95 %]", "met it", "narrowed: mean [95 %]", "met it ", "fewer"]
    title = f"{name}: evaluations until the best, at most {_MOST:,}; of the narrowed space with the first"
    return table(f"{title} {arguments.evaluations}", heads, rows)


def _search_whole(name: str, agent: str, arguments: argparse.Namespace, seed: int) -> int:
    problem, _ = _problem(name, arguments)
    return _needed(problem, _AGENTS[agent](), seed, _MOST)


def _search_part(name: str, agent: str, arguments: argparse.Namespace, part: Part) -> int:
    """Return the evaluations until the best, those of the run with them; that run may have met it already."""
    if part.needed <= arguments.evaluations:
        return part.needed
    problem, _ = _problem(name, arguments)
    space = Narrowed(of=problem.space, keep=part.keep)
    narrow = Problem(space, problem.evaluator, problem.objective, problem.budget)
    most = _MOST - arguments.evaluations
    return arguments.evaluations + _needed(narrow, _AGENTS[agent](), part.seed, most)


def _needed(problem: Problem, agent: Agent, seed: int, most: int) -> int:
    """Return the evaluations until the target reward; one more than the most if it is not met."""
    budget = Budget(evaluations=most, repeats_per_evaluation=5, target_reward=problem.budget.target_reward)
    with Search(problem.space, problem.evaluator, agent, budget, seed=seed) as search:
        search.run()
        best = search.history.best
        met = best is not None and best.reward >= (problem.budget.target_reward or 0.0)
        return len(search.history) if met else most + 1


def _until(needed: Sequence[int]) -> tuple[str, str]:
    counts = np.array(needed, dtype=np.float64)
    met = counts <= _MOST
    mean, low, high = mean_time(np.minimum(counts, _MOST), met, seed=0)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]", f"{met.mean():.0%}"


_problems: dict[str, tuple[Problem, NDArray[np.float64]]] = {}  # of this process


def _problem(name: str, arguments: argparse.Namespace) -> tuple[Problem, NDArray[np.float64]]:
    """Return a problem, and the scores of all its architectures."""
    if name not in _problems:
        values = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))["problems"][name]
        options = values["evaluator"]["init_args"]
        options["table"] = str(arguments.tables.absolute() / options["table"])
        problem = problems_of(None, None, Score(), Budget(evaluations=_MOST), {name: values})[name]
        _problems[name] = problem, _scores(problem, problem.space.all_architectures())
    return _problems[name]


def _scores(problem: Problem, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the scores of architectures, (n, T) -> (n,); a failure has -1."""
    measured = problem.evaluator.measure([Trial(architecture) for architecture in to_architectures(rows)])
    return np.array([-1.0 if m.score is None else m.score for m in measured])


def _in_processes(function: Any, items: Any, arguments: argparse.Namespace) -> list[Any]:
    if arguments.processes == 1:
        return [*map(function, items)]
    with get_context("spawn").Pool(arguments.processes) as pool:
        return pool.map(function, items, chunksize=1)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    problems = list(yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))["problems"])
    default, agents = "default: %(default)s", list(_AGENTS)
    parser.add_argument("--tables", type=Path, required=True, metavar="FOLDER", help="tables of published benchmarks")
    parser.add_argument("--problems", nargs="+", choices=problems, default=problems, help=default)
    parser.add_argument("--agent", choices=agents, default="RandomSearch", help=f"of the first run; {default}")
    parser.add_argument("--evaluations", type=at_least(10), default=100, help=f"of the first run; {default}")
    parser.add_argument("--share", type=float, default=0.1, help=f"of the space, that is kept at most; {default}")
    parser.add_argument("--seeds", type=at_least(1), default=100, help=default)
    parser.add_argument("--agents", nargs="+", choices=agents, default=agents[1:], help=f"that search; {default}")
    parser.add_argument("--search_seeds", type=at_least(0), default=100, help=f"of the searches; 0: none; {default}")
    parser.add_argument("--processes", type=at_least(1), default=cores(), help=default)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    _add_options(parser)
    run(parser, measure)
