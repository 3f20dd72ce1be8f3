"""``nasenv compare``: several agents, many seeds, the same budgets; statistics, figures and a report."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.commands.compared import config_of, default_agents, problems_of, published_of
from nasenv.commands.progress import ComparisonProgress
from nasenv.commands.stopping import stopping
from nasenv.commands.terminal import Terminal
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.figures import draw, save
from nasenv.comparison.findings import Metric, Summary
from nasenv.comparison.problem import Problem
from nasenv.comparison.report import Description, standings_table, write_report
from nasenv.comparison.run import Run
from nasenv.comparison.summary import summarise, write_summary
from nasenv.configuration import digest, integer
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.files import user_path
from nasenv.objectives import Objective, Score
from nasenv.provenance import provenance
from nasenv.search.budget import Budget
from nasenv.spaces.space import SearchSpace

_STALLED_SECONDS = 600.0  # a search on a table takes seconds


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
    backend: Literal["processes", "ray"] = "processes",
    address: str | None = None,
) -> None:
    """Compare agents over many seeds, and leave results, statistics, figures and a report.

    Started again on the same folder, it does only the runs that are not there yet; more seeds, agents and problems can
    be added so.

    Args:
        agents: name -> class and options, as in --agents.mine PPO --agents.mine.learning_rate 1e-3; random search,
            evolution, local search, REINFORCE, MaskablePPO and ModelAssistedPPO by default.
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
        cache: file of measurements for problems that train, or postgresql://user@host:port/database; none for no
            cache.
        backend: processes, on this machine; ray, on all nodes of a Ray cluster, one search a core (``workers`` does not
            matter then).
        address: of the cluster: auto, HOST:PORT or ray://HOST:PORT; by default Ray is started on this machine.
    """
    console = Terminal()
    numbers = range(first_seed, integer("first_seed", first_seed, least=0) + integer("seeds", seeds, least=1))
    contenders = default_agents() if agents is None else agents
    made = problems_of(space, evaluator, objective or Score(), budget, problems)
    others = published_of(published or {}, made)
    processes = len(os.sched_getaffinity(0)) if workers == "auto" else integer("workers", workers, least=0)
    limit = _limit(timeout_seconds, made)
    config = config_of(contenders, made, metric, published)
    folder = user_path(output) if output is not None else Path("runs") / f"compare-{digest(config)[:6]}"
    comparison = Comparison(made, contenders, numbers, folder, None if cache == "none" else cache)
    with comparison.held():
        text = _write_config(folder, {**config, "seeds": seeds, "first_seed": first_seed})
        if backend == "ray":
            _run(comparison, lambda done: comparison.run_on_ray(done, address, limit), console)
        else:
            _run(comparison, lambda done: comparison.run(done, processes, limit), console)
        summaries, figures = _conclude(comparison, metric, console)
        hardware, versions = _setting()
        command = ["nasenv", "compare", "--config", str(folder / "config.yaml")]
        description = Description(shlex.join(command), text, hardware, versions)
        title = f"{len(contenders)} agents, {len(numbers)} seeds: {', '.join(made)}"
        write_report(folder / "report.html", title, summaries, figures, description, others)
    _say(folder, console)


def _write_config(folder: Path, config: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(config), sort_keys=False)
    try:
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"output {folder} cannot be written: {error.strerror}") from error
    return text


def _limit(timeout_seconds: float | None, problems: Mapping[str, Problem]) -> float | None:
    if timeout_seconds is None:
        return None if any(problem.evaluator.trains for problem in problems.values()) else _STALLED_SECONDS
    if not 0.0 < timeout_seconds < math.inf:
        raise InputError(f"timeout_seconds must be a positive number, got {timeout_seconds}")
    return timeout_seconds


def _run(comparison: Comparison, do: Callable[[Callable[[Run], None]], None], console: Terminal) -> None:
    total, missing = len(comparison.jobs), len(comparison.pending)
    kept = f"; {total - missing} are there already" if missing < total else ""
    console.print(f"{total} runs in {comparison.folder}{kept}", soft_wrap=True)
    with ComparisonProgress(console, missing) as progress, stopping(comparison.stop):
        do(progress)


def _conclude(
    comparison: Comparison, metric: Metric, console: Terminal
) -> tuple[list[Summary], dict[str, dict[str, str]]]:
    """Write results.csv, summary.csv and the figures, print the standings, and return what the report shows."""
    folder = comparison.folder
    digests = comparison.write_results(folder / "results.csv")
    random = next((name for name, agent in comparison.agents.items() if isinstance(agent, RandomSearch)), None)
    summaries, figures = [], {}
    for name, problem in comparison.problems.items():
        summary = summarise(name, digests[name], problem.optimum, metric, random=random)
        figures[name] = save(draw(summary, digests[name], random), folder / "figures", name)
        summaries.append(summary)
        _show(summary, console)
    write_summary(folder / "summary.csv", summaries)
    return summaries, figures


def _show(summary: Summary, console: Terminal) -> None:
    heads, rows = standings_table(summary)
    title = f"{summary.problem}: mean ± standard deviation over the seeds"
    shown = Table(*heads, title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for verdict in summary.verdicts:
        console.print(f"- {verdict}")


def _say(folder: Path, console: Terminal) -> None:
    lines = [
        f"report: {folder / 'report.html'}",
        f"figures: {folder / 'figures'}; tables: {folder / 'summary.csv'}, {folder / 'results.csv'}",
        f"every run in TensorBoard: {shlex.join(['tensorboard', '--logdir', str(folder / 'runs')])}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


def _setting() -> tuple[str, dict[str, str]]:
    """Return the hardware in words, and versions and commits by name."""
    known = dict(provenance())
    hardware = [known.pop(name) for name in ("processor", "cores", "system")]
    return f"{hardware[0]}, {hardware[1]} cores, {hardware[2]}", known
