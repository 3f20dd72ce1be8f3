"""``nasenv compare``: several agents, many seeds, the same budgets; statistics, figures and a report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Table

from nasenv.agents.agent import Agent
from nasenv.agents.local_search import LocalSearch
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.reinforce import Reinforce
from nasenv.agents.sb3 import PPO
from nasenv.budget import Budget, integer
from nasenv.commands.arguments import make
from nasenv.commands.progress import ComparisonProgress
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.digest import digested
from nasenv.comparison.figures import draw, save
from nasenv.comparison.findings import Metric, Summary
from nasenv.comparison.problem import Problem
from nasenv.comparison.report import Description, Published, standings_table, write_report
from nasenv.comparison.summary import summarise, write_summary
from nasenv.configuration import digest, without_derived
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Accuracy, Objective
from nasenv.spaces.space import SearchSpace

_STALLED_SECONDS = 600.0  # a search on a table takes seconds
_PACKAGES = ("nasenv", "stable_baselines3", "sb3_contrib", "torch", "numpy", "scipy")

SHIPPED = {  # what is compared on where nothing is said
    "chain_cnn_digits": {
        "space": {"class_path": "ChainCNN", "init_args": {"max_layers": 3, "widths": [16]}},
        "evaluator": {"class_path": "TableEvaluator", "init_args": {"table": "chain_cnn_digits"}},
    }
}


def compare(
    agents: dict[str, Agent] | None = None,
    space: SearchSpace | None = None,
    evaluator: Evaluator | None = None,
    objective: Objective | None = None,
    budget: Budget = Budget(evaluations=300),  # noqa: B008, it cannot be changed
    problems: dict[str, dict[str, Any]] | None = None,
    seeds: int = 30,
    first_seed: int = 0,
    metric: Metric = "reward",
    published: dict[str, dict[str, Any]] | None = None,
    output: str | None = None,
    workers: int | Literal["auto"] = "auto",
    timeout_seconds: float | None = None,
    cache: str = "runs/cache.db",
) -> None:
    """Compare agents over many seeds, and leave results, statistics, figures and a report.

    Started again on the same folder, it does only the runs that are not there yet; more seeds, agents and problems can
    be added so.

    Args:
        agents: name -> class and options; random search, evolution, local search, REINFORCE and PPO by default.
        space: what is searched, where there is one problem.
        evaluator: what measures a design, where there is one problem.
        objective: measurement -> reward; validation accuracy by default.
        budget: when a search is over.
        problems: name -> space, evaluator and, where they differ, objective and budget; for several problems, in a
            --config file. By default a table of small networks on digits that comes with nasenv.
        seeds: number of searches of each agent on each problem.
        first_seed: seed of the first of them; the others follow.
        metric: what agents are ranked by, of the incumbent at the end of the budget.
        published: problem -> source, and metric -> agent -> [mean, standard deviation] of what others published.
        output: folder for everything; by default under runs, named after what is compared.
        workers: searches side by side, in processes of one thread each; 0 searches in this process; auto is one for
            each processor core.
        timeout_seconds: wall time after which a search is taken to have stalled; by default 600 where all problems are
            tables, else none.
        cache: file of measurements for problems that train; none for no cache.
    """
    console = Console(markup=False, highlight=False)
    contenders = agents or _default_agents()
    made = _problems(space, evaluator, objective, budget, problems)
    others = _published(published or {}, made)
    numbers = range(first_seed, integer("first_seed", first_seed, least=0) + integer("seeds", seeds, least=1))
    config = _config(contenders, made, metric, published)
    folder = Path(output) if output is not None else Path("runs") / f"compare-{digest(config)[:6]}"
    comparison = Comparison(made, contenders, numbers, folder, None if cache == "none" else cache)
    text = _write_config(folder, {**config, "seeds": seeds, "first_seed": first_seed})
    _run(comparison, workers, timeout_seconds, console)
    summaries, figures = _conclude(comparison, metric, console)
    description = Description(f"nasenv compare --config {folder / 'config.yaml'}", text, _hardware(), _versions())
    title = f"{len(contenders)} agents, {len(numbers)} seeds: {', '.join(made)}"
    write_report(folder / "report.html", title, summaries, figures, description, others)
    _say(folder, console)


def _default_agents() -> dict[str, Agent]:
    return {
        "random": RandomSearch(),
        "evolution": RegularizedEvolution(),
        "local_search": LocalSearch(),
        "reinforce": Reinforce(),
        "ppo": PPO(),
    }


def _problems(
    space: SearchSpace | None,
    evaluator: Evaluator | None,
    objective: Objective | None,
    budget: Budget,
    problems: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, Problem]:
    """Return the problems by name: the one of the options, those of the file, or the shipped one."""
    if (space is None) != (evaluator is None):
        raise InputError("give both --space and --evaluator, or neither: an evaluator is made for a space")
    if space is not None and evaluator is not None:
        if problems:
            raise InputError("give either --space and --evaluator or problems, not both")
        name = f"{type(space).__name__}-{evaluator.dataset.name if evaluator.dataset else type(evaluator).__name__}"
        return {name: Problem(space, evaluator, objective or Accuracy(), budget)}
    common = {"objective": (objective or Accuracy()).config(), "budget": asdict(budget)}
    made = {}
    for name, values in (problems or SHIPPED).items():
        options = {**common, **values, "budget": {**common["budget"], **values.get("budget", {})}}
        try:
            made[name] = make(Problem, f"nasenv compare: problem {name}", options)
        except InputError as error:
            raise InputError(f"problem {name}: {error}") from error
    return made


def _published(published: Mapping[str, Mapping[str, Any]], problems: Mapping[str, Problem]) -> dict[str, Published]:
    """Return what others published, by problem."""
    found = {}
    for problem, values in published.items():
        if problem not in problems:
            raise InputError(f"published: there is no problem {problem!r}; there are {', '.join(problems)}")
        by_agent: dict[str, dict[Metric, tuple[float, float]]] = {}
        try:
            for metric in ("reward", "val_accuracy", "test_accuracy"):
                for agent, (mean, std) in values.get(metric, {}).items():
                    by_agent.setdefault(agent, {})[metric] = (float(mean), float(std))
            found[problem] = Published(str(values["source"]), by_agent)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"published: expected `source` and, for a metric, agent: [mean, standard deviation], got {values}"
            ) from None
    return found


def _config(
    agents: Mapping[str, Agent], problems: Mapping[str, Problem], metric: Metric, published: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what is compared, as ``--config`` reads it."""
    return {
        "agents": {name: agent.config() for name, agent in agents.items()},
        "problems": {name: without_derived(problem.config()) for name, problem in problems.items()},
        "metric": metric,
        **({"published": dict(published)} if published else {}),
    }


def _write_config(folder: Path, config: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(config), sort_keys=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"output {folder} cannot be written: {error.strerror}") from error
    return text


def _run(comparison: Comparison, workers: int | str, timeout_seconds: float | None, console: Console) -> None:
    processes = len(os.sched_getaffinity(0)) if workers == "auto" else integer("workers", workers, least=0)
    if timeout_seconds is None and not any(p.evaluator.trains for p in comparison.problems.values()):
        timeout_seconds = _STALLED_SECONDS
    total, missing = len(comparison.jobs), len(comparison.pending)
    kept = f"; {total - missing} are there already" if missing < total else ""
    console.print(f"{total} runs in {comparison.folder}{kept}", soft_wrap=True)
    with ComparisonProgress(console, missing) as progress:
        comparison.run(progress, processes, timeout_seconds)


def _conclude(
    comparison: Comparison, metric: Metric, console: Console
) -> tuple[list[Summary], dict[str, dict[str, str]]]:
    """Write results.csv, summary.csv and the figures, print the standings, and return what the report shows."""
    folder = comparison.folder
    comparison.write_results(folder / "results.csv")
    random = next((name for name, agent in comparison.agents.items() if isinstance(agent, RandomSearch)), None)
    summaries, figures = [], {}
    for name, problem in comparison.problems.items():
        digests = digested(comparison.runs(name))
        summary = summarise(name, digests, problem.optimum, metric, random=random)
        figures[name] = save(draw(summary, digests, random), folder / "figures", name)
        summaries.append(summary)
        _show(summary, console)
    write_summary(folder / "summary.csv", summaries)
    return summaries, figures


def _show(summary: Summary, console: Console) -> None:
    heads, rows = standings_table(summary)
    shown = Table(*heads, title=summary.problem)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for verdict in summary.verdicts:
        console.print(f"- {verdict}", soft_wrap=True)


def _say(folder: Path, console: Console) -> None:
    lines = [
        f"report: {folder / 'report.html'}",
        f"figures: {folder / 'figures'}; tables: {folder / 'summary.csv'}, {folder / 'results.csv'}",
        f"every run in TensorBoard: tensorboard --logdir {folder / 'runs'}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


def _hardware() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {platform.system()}"


def _versions() -> dict[str, str]:
    packages: Sequence[str] = _PACKAGES
    return {"Python": platform.python_version(), **{name: version(name) for name in packages}}
