"""Faults of every kind in two worker processes, among jobs that are well: what is lost, and what is left behind.

Each fault is one of jobs.py, drawn from the seed: a worker kills itself, exits, crashes, is stopped, hangs, runs
out of memory, raises, or answers what cannot be read; or it dies the first time and not the second. Up to three jobs
that are well go before each. A faulty job has to come back as failed with the reason that its kind has, the others with
their answers. Handles, threads, processes and shared memory of this process, and handles and zombies of the server that
workers are forked from, are counted before and after.
"""

import argparse
import collections
import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nasenv.workers.pool import WorkerPool
from scripts.benchmarks.bench import at_least, goal, run, table
from scripts.soak.jobs import FAULTS, Job, failed, is_as_expected, work

_WORKERS = 2
_LIMIT_SECONDS = 1.0  # of a job; a healthy one takes a millisecond
_AT_ONCE = 100  # faults in a stream


def soak_faults(faults: int = 200, seed: int = 0) -> dict[str, Any]:
    """Return the faults by kind, the jobs, the seconds, which jobs came out wrong, and what more there is than before.

    Raises:
        RuntimeError: a job without an answer or with two.
    """
    rng = np.random.default_rng(seed)
    kinds = [str(kind) for kind in rng.choice([*FAULTS, "mends"], faults)]
    started, wrong, healthy = time.perf_counter(), list[str](), 0
    pool: WorkerPool[Job, Any] = WorkerPool(work, _WORKERS, _LIMIT_SECONDS, grace_seconds=0.0)
    with contextlib.closing(pool), tempfile.TemporaryDirectory() as folder:
        before = _held(pool)
        for first in range(0, faults, _AT_ONCE):
            jobs = list(_jobs(kinds[first : first + _AT_ONCE], first, Path(folder), rng))
            healthy += sum(kind == "square" for kind, _ in jobs)
            wrong += _wrong(pool, jobs)
        after = _held(pool)
    return {
        "faults": dict(sorted(collections.Counter(kinds).items())),
        "healthy": healthy,
        "seconds": time.perf_counter() - started,
        "wrong": wrong,
        "left": {name: after[name] - before[name] for name in before},
    }


def _jobs(kinds: list[str], first: int, folder: Path, rng: np.random.Generator) -> Iterator[Job]:
    for number, kind in enumerate(kinds, first):
        for i in range(rng.integers(4)):
            yield "square", 4 * number + i
        yield kind, str(folder / str(number))


def _wrong(pool: WorkerPool[Job, Any], jobs: list[Job]) -> list[str]:
    found = list(pool.stream(jobs, failed))
    if collections.Counter(job for job, _ in found) != collections.Counter(jobs):
        raise RuntimeError(f"{len(jobs)} jobs came back as {len(found)}")
    return [f"{job[0]}: {answer!r}" for job, answer in found if not is_as_expected(job, answer)]


def _held(pool: WorkerPool[Job, Any]) -> dict[str, int]:
    """Return how much there is of what a fault could leave behind; all workers are there and wait."""
    while len(pool.pids) < _WORKERS:
        list(pool.stream([("sleep", 0.1), ("sleep", 0.2)], failed))
    gc.collect()
    parents = {pid: _parent(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    server = parents[min(pool.pids)]
    return {
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": sum(parent == os.getpid() for parent in parents.values()),
        "shared memory": sum(f"_{os.getpid()}_" in name for name in os.listdir("/dev/shm")),
        "handles of the server": len(os.listdir(f"/proc/{server}/fd")),
        "processes of the server": sum(parent == server for parent in parents.values()),
    }


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 where it has ended meanwhile."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cause the faults, print the table, and return its figures."""
    figures = soak_faults(arguments.faults, arguments.seed)
    table("Faults in worker processes", ["fault", "n"], [[kind, str(n)] for kind, n in figures["faults"].items()])
    print(f"{figures['healthy']} jobs that are well, {figures['seconds']:.0f} s", *figures["wrong"], sep="\n")
    left = {name: n for name, n in figures["left"].items() if n > 0}
    goals = [
        goal("jobs that came out wrong", len(figures["wrong"]), not figures["wrong"]),
        goal(f"left behind ({', '.join(figures['left'])})", sum(left.values()), not left),
    ]
    return figures | {"goals": goals}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=at_least(1), default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="draws their kinds and order")
    run(parser, main)
