"""Kills searches by every agent at random moments; resumed, each must end as an undisturbed one does.

For every agent one search runs in peace, with no worker processes and with two. Then others of the same configuration
are killed, once or twice, at moments drawn evenly over the time of the peaceful one, and started again until they
end. Compared are the journal, the trainings and the result, times aside, the networks' weights byte by byte, and
TensorBoard's curve. An asynchronous search goes as its trainings happen to end: it is compared with one in peace that
is made to take the same course. Also looked at: whether the journal still begins with what it held at each kill, how
many trainings were begun more than once, and whether worker processes, or the server that they are forked from,
outlive their parent. Half of the searches have a cache.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.benchmarks.bench import goal, table
from scripts.soak.run import AGENTS, PRELOADED, reproduce_once, train_once, trainings_file

WORKERS = (0, 2)
_EVALUATIONS = 64  # of a search; half as many where kills are too few for all agents
_GRACE_SECONDS = {"workers": 10.0, "servers": 60.0}  # to outlive the parent; either may be importing when it ends
_TIMES = {"seconds", "train_seconds"}
_STOP_LOOKING = 300.0  # seconds until a search that does not end is given up


class Searches:
    """Starts searches with one configuration in processes of their own, in one folder.

    Args:
        folder: where run directories lie.
        seed: of all searches.
        evaluations: their budget.
    """

    def __init__(self, folder: Path, seed: int, evaluations: int) -> None:
        self.folder, self.evaluations, self._rest = folder, evaluations, (seed, evaluations)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)

    def start(self, name: str, agent: str, workers: int, cache: bool) -> ForkServerProcess:
        """Start a search, and return its process."""
        folder = self.folder / name
        process = self._processes.Process(target=train_once, args=(folder, agent, workers, cache, *self._rest))
        process.start()
        return process

    def in_peace(self, name: str, agent: str, workers: int) -> float:
        """Run a search undisturbed to its end; return its seconds since its journal was opened."""
        process = self.start(name, agent, workers, cache=False)
        opened = _opened(self.folder / name, process)
        finish(process, self.folder / name)
        return time.perf_counter() - opened

    def again(self, folder: Path) -> Path:
        """Run a finished search once more with its completion order; return its folder."""
        again = folder.with_name(f"{folder.name}-again")
        process = self._processes.Process(target=reproduce_once, args=(folder, again))
        process.start()
        finish(process, again)
        return again


def finish(process: ForkServerProcess, folder: Path) -> None:
    """Wait for the end of a search; raise RuntimeError if it fails."""
    process.join(_STOP_LOOKING)
    if process.exitcode != 0:
        process.kill()
        said = folder.with_suffix(".log").read_text()[-500:]
        raise RuntimeError(f"{folder.name} ended with {process.exitcode}: {said}")


def _opened(folder: Path, process: ForkServerProcess) -> float:
    """Wait for the journal, after which the process may be killed; return the time."""
    while not (folder / "journal.jsonl").exists() and process.is_alive():
        time.sleep(0.002)
    return time.perf_counter()


def kill_and_resume(searches: Searches, name: str, how: tuple[str, int, bool], moments: list[float]) -> Iterator[int]:
    """Kill a search after each of these seconds of work, and let it end; yield the orphans of each kill.

    Args:
        searches: starts it.
        name: of its run directory.
        how: its agent, the number of its worker processes, and whether it has a cache.
        moments: seconds from the opening of the journal, or from the start where there is one.
    """
    folder = searches.folder / name
    for moment in moments:
        process = searches.start(name, *how)
        _opened(folder, process)
        process.join(moment)
        if process.exitcode is not None:
            break
        servers = _children(process.pid)
        workers = [worker for server in servers for worker in _children(server)]
        process.kill()
        process.join()
        yield _left(workers, _GRACE_SECONDS["workers"]) + _left(servers, _GRACE_SECONDS["servers"])
    if not (folder / "result.json").exists():
        finish(searches.start(name, *how), folder)


def _lines(path: Path) -> list[bytes]:
    """Return the lines that have an end."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _children(pid: int | None) -> list[int]:
    """Return the processes that a process has started; none where it is gone."""
    try:
        return [int(c) for path in Path(f"/proc/{pid}/task").glob("*/children") for c in path.read_text().split()]
    except OSError:
        return []


def _left(pids: list[int], seconds: float) -> int:
    """Return how many processes still run after so long; returns at once when none does."""
    until = time.perf_counter() + seconds
    while (alive := sum(map(_is_alive, pids))) and time.perf_counter() < until:
        time.sleep(0.01)
    return alive


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def differences(peaceful: Path, resumed: Path) -> Iterator[str]:
    """Yield what in a resumed run directory is not as in that of the search left in peace."""
    for name in ("journal.jsonl", "trials.jsonl"):
        ours, theirs = _entries(resumed / name), _entries(peaceful / name)
        if name == "trials.jsonl":  # in the order in which they were done
            ours, theirs = sorted(ours), sorted(theirs)
        if ours != theirs:
            first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False), 1) if a != b), "the number")
            yield f"{name}: {first} of {len(ours)} and {len(theirs)} entries differs"
    results = [json.loads((folder / "result.json").read_text()) for folder in (peaceful, resumed)]
    if _without_times(results[0]) != _without_times(results[1]):
        yield "result.json differs"
    weights = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*.safetensors")} for f in (peaceful, resumed)]
    if weights[0] != weights[1]:
        yield f"weights differ: {sorted(map(str, weights[0]))}, {sorted(map(str, weights[1]))}"
    yield from _faults_of_curve(resumed, len(_entries(peaceful / "journal.jsonl")))


def _entries(path: Path) -> list[str]:
    """Return the entries of a file of JSON lines as texts, without times."""
    entries = map(json.loads, path.read_text().splitlines()[1:])
    return [json.dumps(_without_times(entry), sort_keys=True) for entry in entries]


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _TIMES}


def _faults_of_curve(folder: Path, evaluations: int) -> Iterator[str]:
    files = list(folder.glob("events.out.tfevents.*"))
    if len(files) != 1:
        yield f"{len(files)} event files"
        return
    steps = [event.step for event in EventAccumulator(str(folder), {"scalars": 0}).Reload().Scalars("search/reward")]
    if steps != [*range(1, evaluations + 1)]:
        yield f"the curve has the steps {steps}"
    if list(folder.rglob("*.tmp")):
        yield "unfinished files are left"


def _faults_of_journal(folder: Path, kept: Sequence[list[bytes]], evaluations: int) -> Iterator[str]:
    """Yield what is wrong with a journal that held these lines at each kill, whatever others of its kind hold."""
    lines = _lines(folder / "journal.jsonl")
    if len(lines) != 1 + evaluations:
        yield f"{len(lines) - 1} evaluations, the budget is {evaluations}"
    if any(lines[: len(before)] != before for before in kept):
        yield "the journal does not begin with what it held when the search was killed"


def soak(kills: int, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """Kill so many times, spread over agents, print a table and every failure, and return the figures."""
    evaluations = _EVALUATIONS if kills >= len(AGENTS) else _EVALUATIONS // 2
    figures = _killed(kills, seed, evaluations, names)
    rows = [
        [name, f"{f['kills']}", f"{sum(f['again'])}", f"{f['orphans']}", f"{len(f['failures'])}"]
        for name, f in figures.items()
    ]
    heads = ["agent", "kills", "trainings begun again", "workers left alive", "failed"]
    table(f"kill -9 at random moments, {evaluations} evaluations", heads, rows)
    failures = [reason for f in figures.values() for reason in f["failures"]]
    print(*failures, sep="\n")
    kills = sum(f["kills"] for f in figures.values())
    goals = [goal(f"{kills} kills at random moments: nothing was lost", len(failures), not failures, "d")]
    return {"agents": figures, "goals": goals, "lost": len(failures)}


def _killed(kills: int, seed: int, evaluations: int, names: Sequence[str]) -> dict[str, Any]:
    """Return what so many kills came to, by the agent's name."""
    rng = np.random.default_rng([seed, 1])
    figures: dict[str, Any] = {name: {"kills": 0, "again": [], "orphans": 0, "failures": []} for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        searches = Searches(Path(temporary), seed, evaluations)
        spans = {name: _in_peace(figures[name], searches, name) for name in names}
        survivors = [name for name in names if not figures[name]["failures"]]
        number = 0
        while survivors and sum(f["kills"] for f in figures.values()) < kills:
            agent = min(survivors, key=lambda name: figures[name]["kills"])
            workers = WORKERS[number % len(WORKERS)]
            moments = rng.uniform(0, spans[agent][workers], size=rng.integers(1, 3)).tolist()
            how = agent, workers, bool(rng.integers(2))
            _add(figures[agent], searches, f"{agent}-{workers}-killed-{number}", how, moments)
            number += 1
    return figures


def _in_peace(figures: dict[str, Any], searches: Searches, agent: str) -> dict[int, float]:
    """Run an agent's searches undisturbed and compare them; return their seconds by number of workers."""
    spans: dict[int, float] = {}
    peaceful = [searches.folder / f"{agent}-{workers}" for workers in WORKERS]
    try:
        spans = {w: searches.in_peace(folder.name, agent, w) for w, folder in zip(WORKERS, peaceful, strict=True)}
        if not AGENTS[agent]().asynchronous:
            figures["failures"] += [f"{peaceful[1].name}: {reason}" for reason in differences(*peaceful)]
    except RuntimeError as error:
        figures["failures"].append(str(error))
    return spans


def _add(
    figures: dict[str, Any], searches: Searches, name: str, how: tuple[str, int, bool], moments: list[float]
) -> None:
    """Kill and resume one search, and add what it came to to its agent's figures."""
    agent, workers, _ = how
    folder = searches.folder / name
    orphans, kept = [], []
    try:
        for left in kill_and_resume(searches, name, how, moments):
            orphans.append(left)
            kept.append(_lines(folder / "journal.jsonl"))
        peaceful = searches.again(folder) if AGENTS[agent]().asynchronous else searches.folder / f"{agent}-0"
    except RuntimeError as error:
        figures["failures"].append(str(error))
        figures["kills"] += 1
        return
    begun = len(_lines(trainings_file(folder))) - len(_lines(trainings_file(peaceful)))
    found = [*differences(peaceful, folder), *_faults_of_journal(folder, kept, searches.evaluations)]
    if begun > max(1, workers) * len(orphans):
        found.append(f"{begun} trainings were begun again after {len(orphans)} kills of {max(1, workers)} at a time")
    if sum(orphans):
        found.append(f"{sum(orphans)} worker processes outlived their parent")
    figures["kills"] += len(orphans)
    figures["orphans"] += sum(orphans)
    figures["again"].append(begun)
    figures["failures"] += [f"{name}, killed after {np.round(moments, 2).tolist()} s: {reason}" for reason in found]
