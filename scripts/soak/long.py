"""Measures a search of 100,000 evaluations on a table: our share of its time, growth, memory, and replay.

The table has 2^17 architectures. Each search runs in a process of its own, which says its largest resident memory. The
cost of an evaluation is the processor time spent inside ``Search.evaluate`` (journal, TensorBoard, history, cache,
look-up), repeats included, by the thousand distinct evaluations. The cost of a proposal is that of the same thousand
over all proposals made in it. Whether costs grow is judged by the proposal: agents that repeat themselves make several
for each architecture that is new when most have been found, so their evaluations cost more though nothing has become
slower. As a repeat is cheaper than an evaluation, it is EachOnce, which proposes each architecture once, that says
whether evaluations grow dearer; the others say that their repeats do not outgrow them.

Then the journal loses its last line and the same search is made again, which replays the others: its time is the wall
time from opening the run directory to the end of the search. An agent's own time is that outside of
``Search.evaluate``.
"""

import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasenv import Budget, Cache, ChoiceSpace, Images, Search, TableEvaluator, Task, agents
from nasenv.search.layer import SearchLike
from nasenv.tables.table import write_table
from scripts.benchmarks.bench import goal, table
from scripts.soak.cases import build

GOAL_MICROSECONDS = 200.0
GOAL_GROWTH = 1.1  # of a proposal's cost, the last thousands over the first
GOAL_MEGABYTES = 500.0
GOAL_REPLAY_SECONDS = 60.0
GOAL_REPLAY_SHARE = 1.2  # of the agent's own time
_CHOICES = {"a": 8, "b": 8, "c": 8, "d": 8, "e": 8, "f": 4}  # 2^17 architectures
_THOUSAND = 1000
_COMPARED = 5  # thousands at the start and at the end, whose medians say whether the cost grows


class EachOnce(agents.Agent):
    """Proposes all architectures of the space once, in random order."""

    def run(self, search: SearchLike) -> None:
        """Propose until the budget is used up."""
        architectures = search.space.all_architectures()
        order = np.random.default_rng(search.seed).permutation(len(architectures))
        for first in range(0, len(order), self.batch_size):
            search.evaluate(architectures[order[first : first + self.batch_size]])


AGENTS: dict[str, Callable[[], agents.Agent]] = {
    "EachOnce": EachOnce,
    "RandomSearch": agents.RandomSearch,
    "PPO": agents.PPO,
}


class TimedSearch(Search):
    """Records the time spent in ``evaluate`` after each call.

    Attributes:
        spent: (evaluations, proposals, processor seconds, wall seconds) so far.
    """

    def __init__(self, *arguments: Any, **parts: Any) -> None:
        self.spent: list[tuple[int, int, float, float]] = [(0, 0, 0.0, 0.0)]
        super().__init__(*arguments, **parts)

    def evaluate(self, architectures: Any, fidelity: float = 1.0, *, by: str = "agent") -> Any:
        """Evaluate, timed."""
        processor, wall = time.process_time(), time.perf_counter()
        try:
            return super().evaluate(architectures, fidelity, by=by)
        finally:
            _, _, before, wall_before = self.spent[-1]
            seconds = before + time.process_time() - processor, wall_before + time.perf_counter() - wall
            self.spent.append((len(self.history), self.history.proposals, *seconds))


def space() -> ChoiceSpace:
    """Return the space of the table."""
    return ChoiceSpace({name: tuple(range(n)) for name, n in _CHOICES.items()}, build, task=Task(Images((1, 4, 4)), 10))


def write_architectures(path: Path, seed: int) -> None:
    """Write the table: each architecture has an accuracy drawn from the seed, seconds and parameters."""
    searched, rng = space(), np.random.default_rng(seed)
    architectures = searched.all_architectures()
    accuracies, seconds = rng.random(len(architectures)), rng.random(len(architectures))
    columns = {"val_accuracy": accuracies, "train_seconds": seconds, "params": architectures.sum(axis=1)}
    write_table(
        path, [searched.to_text(tuple(d)) for d in architectures.tolist()], {k: c.tolist() for k, c in columns.items()}
    )


def search_once(folder: Path, agent: str, evaluations: int, seed: int) -> dict[str, Any]:
    """Search in a run directory with a cache, and return the costs; a second call is a replay."""
    torch.set_num_threads(1)
    searched = space()
    evaluator = TableEvaluator(searched, str(folder / "table.csv"), test_column=None)
    ready = time.perf_counter()
    parts = {"agent": AGENTS[agent](), "budget": Budget(evaluations), "seed": seed}
    with (
        Cache(folder / f"{agent}.db") as cache,
        TimedSearch(searched, evaluator, cache=cache, run_dir=folder / agent, **parts) as search,
    ):
        replayed, opened = search.replayed, time.perf_counter()
        search.run()
        ended = time.perf_counter()
    return {
        "agent": agent,
        "evaluations": len(search.history),
        "proposals": search.history.proposals,
        "replayed": replayed,
        "opening_seconds": opened - ready,
        "seconds": time.perf_counter() - ready,
        "own_seconds": ended - opened - search.spent[-1][3],
        **_by_thousand(search.spent),
        "megabytes": _peak_megabytes(),
        "ended": search.ended,
    }


def _by_thousand(spent: list[tuple[int, int, float, float]]) -> dict[str, list[float]]:
    """Return the processor time of each thousand evaluations, in microseconds an evaluation, and a proposal."""
    reached, proposals, seconds, _ = np.array(spent).T
    marks = np.arange(0, reached[-1] + 1, _THOUSAND)
    microseconds, made = (np.diff(np.interp(marks, reached, counts)) for counts in (1e6 * seconds, proposals))
    return {
        "microseconds": (microseconds / _THOUSAND).tolist(),
        "microseconds_a_proposal": (microseconds / made).tolist(),
    }


def _peak_megabytes() -> float:
    """Return the largest resident memory of this program; ``ru_maxrss`` would count that of the parent too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status says no VmHWM")
    return int(found[1]) / 1024


def soak(evaluations: int, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """Search and replay by each agent, print a table and whether the goals are met, and return the figures."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_architectures(folder / "table.csv", seed)
        figures = {}
        with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as apart:
            for name in names:
                search = apart.submit(search_once, folder, name, evaluations, seed).result()
                journal = folder / name / "journal.jsonl"
                before = _without_times(journal)
                cut = journal.read_bytes().rstrip(b"\n").rfind(b"\n") + 1
                with journal.open("r+b") as file:
                    file.truncate(cut)
                replay = apart.submit(search_once, folder, name, evaluations, seed).result()
                figures[name] = {"search": search, "replay": replay, "same": _without_times(journal) == before}
    _print_table(figures)
    goals = [g for name, f in figures.items() for g in _goals(name, f)]
    return {"searches": figures, "goals": goals, "lost": sum(not f["same"] for f in figures.values())}


def _without_times(journal: Path) -> list[bytes]:
    """Return the journal's entries without what no two runs share."""
    lines = journal.read_bytes().splitlines()[1:]
    return [re.sub(rb'"(seconds|train_seconds|cached)":[^,}]+', b"", line) for line in lines]


def _print_table(figures: dict[str, Any]) -> None:
    heads = ["agent", "proposals", "µs an evaluation", "first > last", "µs a proposal, first > last", "MB", "s"]
    heads += ["replay: MB", "s", "agent's own s"]
    rows = []
    for name, f in figures.items():
        search, replay = f["search"], f["replay"]
        ends = [_ends(search[costs]) for costs in ("microseconds", "microseconds_a_proposal")]
        costs = [f"{np.mean(search['microseconds']):.0f}", *(f"{first:.0f} > {last:.0f}" for first, last in ends)]
        rows.append(
            [name, f"{search['proposals']}", *costs, f"{search['megabytes']:.0f}", f"{search['seconds']:.0f}",
             f"{replay['megabytes']:.0f}", f"{replay['seconds']:.1f}", f"{replay['own_seconds']:.1f}"]
        )  # fmt: skip
    table(f"searches on a table of {np.prod([*_CHOICES.values()])} architectures", heads, rows)


def _ends(costs: list[float]) -> tuple[float, float]:
    """Return the median costs of the first and of the last thousands."""
    return float(np.median(costs[:_COMPARED])), float(np.median(costs[-_COMPARED:]))


def _goals(name: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Print and return the goals of one agent's search and replay."""
    search, replay = figures["search"], figures["replay"]
    mean = float(np.mean(search["microseconds"]))
    megabytes = max(search["megabytes"], replay["megabytes"])
    first, last = _ends(search["microseconds_a_proposal"])
    grown = last / first
    goals = [
        goal(f"{name}: the replay ends as the search did", figures["same"], figures["same"], "d"),
        goal(f"{name}: an evaluation costs under {GOAL_MICROSECONDS:.0f} µs", mean, mean < GOAL_MICROSECONDS),
        goal(f"{name}: under {GOAL_MEGABYTES:.0f} MB", megabytes, megabytes < GOAL_MEGABYTES, ".0f"),
        goal(f"{name}: a proposal of the last thousands costs as of the first", grown, grown < GOAL_GROWTH, ".2f"),
    ]
    if name == "RandomSearch":
        seconds = replay["seconds"]
        goals.append(
            goal(f"{name}: replayed in under {GOAL_REPLAY_SECONDS:.0f} s", seconds, seconds < GOAL_REPLAY_SECONDS)
        )
    elif name != "EachOnce":
        share = replay["seconds"] / replay["own_seconds"]
        what = f"{name}: replayed in under {GOAL_REPLAY_SHARE} times the agent's own time"
        goals.append(goal(what, share, share < GOAL_REPLAY_SHARE))
    return goals
