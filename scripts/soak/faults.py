"""Causes faults of every kind in two worker processes, among sound jobs, and counts what is lost or left behind.

Each fault is one of jobs.py, drawn from the seed: a worker kills itself, exits, crashes, is stopped, hangs, runs
out of memory, raises, or answers what cannot be read; or it dies the first time and not the second. Up to three jobs
that are well go before each. A faulty job has to come back as failed with the reason that its kind has, the others with
their answers. Handles, threads, processes and shared memory of this process, and handles and zombies of the server that
workers are forked from, are counted before and after.
"""

import collections
import contextlib
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nasenv.workers.pool import WorkerPool
from scripts.benchmarks.bench import goal, table
from scripts.soak.jobs import FAULTS, Job, failed, is_as_expected, work

_WORKERS = 2
_LIMIT_SECONDS = 1.0  # of a job; a healthy one takes a millisecond
_AT_ONCE = 100  # faults in a stream


def soak(faults: int, seed: int) -> dict[str, Any]:
    """Cause so many faults; return them by kind, with all wrong results and leftovers.

    Raises:
        RuntimeError: a job without an answer or with two.
    """
    rng = np.random.default_rng(seed)
    kinds = [str(kind) for kind in rng.choice([*FAULTS, "mends"], faults)]
    wrong, healthy = list[str](), 0
    pool: WorkerPool[Job, Any] = WorkerPool(work, _WORKERS, _LIMIT_SECONDS, grace_seconds=0.0)
    with contextlib.closing(pool), tempfile.TemporaryDirectory() as folder:
        before = _held(pool)
        for first in range(0, faults, _AT_ONCE):
            jobs = list(_jobs(kinds[first : first + _AT_ONCE], first, Path(folder), rng))
            healthy += sum(kind == "square" for kind, _ in jobs)
            wrong += _wrong(pool, jobs)
        after = _held(pool)
    counts = dict(sorted(collections.Counter(kinds).items()))
    wrong += [f"{after[name] - n} {name} left behind" for name, n in before.items() if after[name] > n]
    table("Faults in worker processes", ["fault", "n"], [[kind, str(n)] for kind, n in counts.items()])
    print(f"{healthy} jobs that are well", *wrong, sep="\n")
    what = f"{faults} faults of workers: no other job lost, nothing left behind"
    return {"faults": counts, "goals": [goal(what, len(wrong), not wrong, "d")], "lost": len(wrong)}


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
    """Return the resources that a fault could leave behind, while all workers are idle."""
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
