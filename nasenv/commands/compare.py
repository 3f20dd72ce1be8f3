"""``nasenv compare``: compare agents on the same problems and budgets over many seeds, and write a report."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from rich.box import SIMPLE_HEAD

from nasenv.agents.agent import Agent
from nasenv.agents.local_search import LocalSearch
from nasenv.agents.model_assisted_ppo import ModelAssistedPPO
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.reinforce import Reinforce
from nasenv.agents.sb3 import MaskablePPO
from nasenv.commands.arguments import make
from nasenv.commands.terminal import ComparisonProgress, Terminal, stopping, table_of
from nasenv.comparison.analysis import summarise
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.conclusions import detectable
from nasenv.comparison.problem import Problem
from nasenv.comparison.run import Run
from nasenv.comparison.summary import RankBy, Summary, write_summary
from nasenv.comparison.table_files import write_tables
from nasenv.comparison.tables import PublishedResults, TextTable, problem_tables, standings_table
from nasenv.configuration import digest, integer, without_derived
from nasenv.data.dataset import Data
from nasenv.errors import InputError, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.files import user_path
from nasenv.objectives import Objective, Score
from nasenv.provenance import provenance
from nasenv.search.budget import Budget
from nasenv.spaces.space import SearchSpace

if TYPE_CHECKING:
    from nasenv.comparison.report import Description

_STALLED_SECONDS = 600.0  # a search on a table takes seconds
_DEFAULT_PROBLEMS = {
    "chain_cnn_digits": {
        "space": {"class_path": "ChainCNN", "init_args": {"max_layers": 3, "widths": [16]}},
        "evaluator": {"class_path": "TableEvaluator", "init_args": {"table": "chain_cnn_digits"}},
    }
}
_DEFAULT_AGENTS: dict[str, type[Agent]] = {
    "random": RandomSearch,
    "evolution": RegularizedEvolution,
    "local_search": LocalSearch,
    "reinforce": Reinforce,
    "maskable_ppo": MaskablePPO,
    "model_assisted_ppo": ModelAssistedPPO,
}


def compare(
    agents: dict[str, Agent] | None = None,
    space: SearchSpace | None = None,
    evaluator: Evaluator | None = None,
    objective: Objective | None = None,
    budget: Budget = Budget(evaluations=300),  # noqa: B008, it cannot be changed
    data: Data = Data(),  # noqa: B008, nor can this
    constraints: list[str] | str | None = None,
    problems: dict[str, dict[str, Any]] | None = None,
    seeds: int = 30,
    first_seed: int = 0,
    rank_by: RankBy = "speed",
    published: dict[str, dict[str, Any]] | None = None,
    run_dir: str | None = None,
    workers: int | Literal["auto"] = "auto",
    timeout_seconds: float | None = None,
    cache: str = "runs/cache.db",
    backend: Literal["processes", "ray"] = "processes",
    address: str | None = None,
) -> None:
    """Compare agents over many seeds, and write results, statistics, figures and a report.

    The same command on the same folder runs only the searches that are missing; seeds, agents and problems can be added
    in this way.

    Args:
        agents: name -> class and options, such as --agents.mine PPO --agents.mine.learning_rate 1e-3; random search,
            evolution, local search, REINFORCE, MaskablePPO and ModelAssistedPPO by default.
        space: the search space, for a single problem.
        evaluator: the evaluator, for a single problem.
        objective: measurement -> reward; the validation score by default.
        budget: limits of each search.
        data: data of the evaluator, for a single problem: digits, npz:FILE, folder:DIR, hub:NAME.
        constraints: limits on what a network costs, as '[params<=1e5, flops<=2e7]'; one that breaks any is not
            evaluated.
        problems: name -> space, evaluator and, where they differ, objective, budget, constraints and data; for several
            problems, in a --config file; by default a table of small networks on digits that comes with nasenv.
        seeds: number of searches of each agent on each problem.
        first_seed: seed of the first search; the others follow.
        rank_by: what ranks the agents: speed, which is the evaluations to the best reward of the space where at least
            half of the runs of an agent met it, else the area under the curve of the best reward so far; or reward,
            val_score or test_score of the incumbent at the end of the budget.
        published: problem -> source, and reward, val_score or test_score -> agent -> [mean, standard deviation];
            results that others published.
        run_dir: folder of the comparison; by default under runs, named after the configuration.
        workers: number of searches at once, each in a process of one thread; 0 for searches in this process; auto for
            one on each processor core.
        timeout_seconds: wall time after which a search counts as stalled; by default 600 if all problems are tables,
            else no limit.
        cache: file of measurements for problems that train, or postgresql://user@host:port/database; none for no
            cache.
        backend: processes, on this machine, or ray, on all nodes of a Ray cluster with one search on each core;
            ``workers`` has no effect then.
        address: address of the cluster: auto, HOST:PORT or ray://HOST:PORT; by default Ray starts on this machine.
    """
    console = Terminal()
    numbers = range(first_seed, integer("first_seed", first_seed, least=0) + integer("seeds", seeds, least=1))
    contenders = {name: kind() for name, kind in _DEFAULT_AGENTS.items()} if agents is None else agents
    made = problems_of(space, evaluator, objective or Score(), budget, problems, constraints)
    others = {problem: PublishedResults.of(values) for problem, values in (published or {}).items()}
    if strangers := [problem for problem in others if problem not in made]:
        raise InputError(f"published: there is no problem {strangers[0]!r}; there are {', '.join(made)}")
    processes = len(os.sched_getaffinity(0)) if workers == "auto" else integer("workers", workers, least=0)
    limit = _limit(timeout_seconds, made)
    config = {
        "agents": {name: agent.config() for name, agent in contenders.items()},
        "problems": {name: without_derived(problem.config()) for name, problem in made.items()},
        "rank_by": rank_by,
        **({"published": dict(published)} if published else {}),
    }
    folder = user_path(run_dir) if run_dir is not None else Path("runs") / f"compare-{digest(config)[:6]}"
    comparison = Comparison(made, contenders, numbers, folder, None if cache == "none" else cache)
    with comparison.held():
        text = yaml.safe_dump({**config, "seeds": seeds, "first_seed": first_seed}, sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        for problem in made.values():
            if problem.evaluator.dataset is not None:
                console.say(problem.evaluator.dataset.summary())
        on_ray = backend == "ray"
        run = partial(comparison.run_on_ray, address=address) if on_ray else partial(comparison.run, workers=processes)
        _say_what_can_be_shown(comparison, rank_by, console)
        _run(comparison, partial(run, timeout_seconds=limit), console)
        console.say("writing tables, figures and the report")
        summaries, figures = _conclude(comparison, rank_by, others, console)
        title = f"{counted(len(contenders), 'agent')}, {counted(len(numbers), 'seed')}: {', '.join(made)}"
        from nasenv.comparison.report import write_report

        write_report(folder / "report.html", title, summaries, figures, _description(folder, text), others)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    tables = ", ".join(str(folder / name) for name in ("tables", "summary.csv", "results.csv"))
    console.print(f"figures: {folder / 'figures'}; tables: {tables}", soft_wrap=True)
    board = shlex.join(["tensorboard", "--logdir", str(folder / "runs")])
    console.print(f"every run in TensorBoard: {board}", soft_wrap=True)


def _description(folder: Path, configuration: str) -> Description:
    from nasenv.comparison.report import Description

    versions = dict(provenance())
    processor, cores, system = (versions.pop(name) for name in ("processor", "cores", "system"))
    hardware = f"{processor}, {counted(int(cores), 'core')}, {system}"
    command = shlex.join(["nasenv", "compare", "--config", str(folder / "config.yaml")])
    return Description(command, configuration, hardware, versions)


def _limit(timeout_seconds: float | None, problems: Mapping[str, Problem]) -> float | None:
    if timeout_seconds is None:
        return None if any(problem.evaluator.trains for problem in problems.values()) else _STALLED_SECONDS
    if not 0.0 < timeout_seconds < math.inf:
        raise InputError(f"timeout_seconds must be a positive number, got {timeout_seconds}")
    return timeout_seconds


def _say_what_can_be_shown(comparison: Comparison, rank_by: RankBy, console: Terminal) -> None:
    seeds, agents = len(comparison.seeds), len(comparison.agents)
    if agents > 1 and comparison.pending:
        evaluations = rank_by == "speed" and any(p.optimum is not None for p in comparison.problems.values())
        console.print(detectable(seeds, agents, evaluations))


def _run(comparison: Comparison, do: Callable[[Callable[[Run], None]], None], console: Terminal) -> None:
    total, missing = len(comparison.keys), len(comparison.pending)
    kept = f"; {total - missing} of them are finished" if missing < total else ""
    console.print(f"{counted(total, 'run')} in {comparison.folder}{kept}", soft_wrap=True)
    with ComparisonProgress(console, missing) as progress, stopping(comparison.stop):
        do(progress)


def _conclude(
    comparison: Comparison, rank_by: RankBy, published: Mapping[str, PublishedResults], console: Terminal
) -> tuple[list[Summary], dict[str, dict[str, str]]]:
    """Write tables and figures, print the standings and conclusions, and return summaries and figures."""
    from nasenv.comparison.figures import draw, save  # matplotlib takes half a second to import

    folder = comparison.folder
    runs = comparison.write_results(folder / "results.csv")
    random = next((name for name, agent in comparison.agents.items() if isinstance(agent, RandomSearch)), None)
    summaries, figures = [], {}
    for name, problem in comparison.problems.items():
        summary = summarise(
            *(name, runs[name], problem.optimum, rank_by),
            random=random,
            metric=problem.metric,
            reward_is_score=problem.reward_is_score,
        )
        figures[name] = save(draw(summary, runs[name], random), folder / "figures", name)
        summaries.append(summary)
        tables = problem_tables(summary, published.get(name))
        write_tables(folder / "tables", name, tables)
        _print(standings_table(summary), f"{name}: mean ± standard deviation over the seeds", console)
        if table := tables.get("best_so_far"):
            _print(table, f"{name}: best so far, mean ± standard deviation", console)
        for sentence in summary.conclusions:
            console.print(f"- {sentence}")
    write_summary(folder / "summary.csv", summaries)
    return summaries, figures


def _print(table: TextTable, title: str, console: Terminal) -> None:
    looks = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    console.print(table_of(table.heads, table.rows, title, **looks))


def problems_of(
    space: SearchSpace | None,
    evaluator: Evaluator | None,
    objective: Objective,
    budget: Budget,
    problems: Mapping[str, Any] | None,
    constraints: list[str] | str | None = None,
) -> dict[str, Problem]:
    """Return the problems by name: the one of the options, those of the file, or the default one.

    Raises:
        InputError: a space without an evaluator, or the reverse; options and problems of a file together; a problem
            that cannot be made.
        SystemExit: code 2, after one line on stderr, if a problem of the file has unknown or wrong options.
    """
    if (space is None) != (evaluator is None):
        raise InputError("give both --space and --evaluator, or neither: an evaluator is made for a space")
    if space is None or evaluator is None:
        common = {"objective": objective.config(), "budget": asdict(budget), "constraints": constraints}
        named = _DEFAULT_PROBLEMS if problems is None else problems
        return {name: _problem(name, values, common) for name, values in named.items()}
    if problems:
        raise InputError("give either --space and --evaluator or problems, not both")
    data = evaluator.dataset.name if evaluator.dataset else type(evaluator).__name__
    return {f"{type(space).__name__}-{data}": Problem(space, evaluator, objective, budget, constraints=constraints)}


def _problem(name: str, values: Any, common: Mapping[str, Any]) -> Problem:
    """Return a problem of the file; missing options, and missing limits of its budget, are the common ones."""
    budget = values.get("budget", {}) if isinstance(values, Mapping) else None
    if not isinstance(budget, Mapping):
        raise InputError(f"problem {name}: expected options by name, budget with its limits by name, got {values}")
    try:
        options = {**common, **values, "budget": {**common["budget"], **budget}}
        return make(Problem, f"nasenv compare: problem {name}", options)
    except InputError as error:
        raise InputError(f"problem {name}: {error}") from error
