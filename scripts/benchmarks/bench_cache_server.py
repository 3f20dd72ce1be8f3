"""Measures a PostgreSQL cache under the load of many searches, and what is lost when its server is killed.

Each client is a process that does as a search on a machine of its own does: it looks for 16 architectures, claims them,
and adds each when its turn has come. One more search finds what others have measured, one architecture at a time: those
are the hits. All are on one machine here, the server too, so the clients run at a lower priority than server and hits.
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasenv import Cache, InputError, Trial
from nasenv.cache.keys import ProblemKey
from scripts.benchmarks.bench import at_least, goal, run, table
from scripts.benchmarks.bench_cache import measurement
from scripts.benchmarks.postgresql_server import Server, execute, programs

GOAL_RATE, GOAL_MS = 1000.0, 2.0
_PROBLEM = ProblemKey("a space's fingerprint", "an evaluator's")
_BATCH = 16  # architectures that the default agents propose at a time
_FILLED = 1000  # rows of a transaction of the first filling
_HITS = 200.0  # a second
_SOME = 100  # measurements that a client has at hand
_LOW_PRIORITY = 10  # as a niceness
_DOWN_SECONDS = 1.0  # between a kill and the next start
_PACE = 1.05 * GOAL_RATE  # of the clients, who keep to it by the clock and fall a little short


class Client(NamedTuple):
    """Describes the work of one client."""

    number: int
    url: str
    rows: int  # there before
    rate: float  # measurements a second
    seconds: float
    adds: bool = True  # else it finds


class Done(NamedTuple):
    """Holds what one client did: the number of measurements added, and the seconds of its calls, (n,)."""

    plan: Client
    added: int
    seconds: float
    cpu_seconds: float
    took: dict[str, NDArray[np.float64]]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the cost of calls under load and what was lost, and return them."""
    with _served(arguments) as (url, server):
        rows = _fill(url, arguments.rows)
        if server:
            server.execute("CHECKPOINT")  # that the load does not have to write what was filled in
        used = server.cpu_seconds if server else 0.0
        quiet = _load(_plans(arguments, url, rows, 0), None, 0)
        server_cores = (server.cpu_seconds - used) / arguments.seconds if server else None
        stormy = _load(_plans(arguments, url, rows, arguments.clients + 1), server, arguments.kills) if server else []
        lost = _lost(url, [*quiet, *stormy])
    rate = sum(done.added / done.seconds for done in quiet)
    calls = [*quiet[0].took, *quiet[-1].took]
    took = {call: 1000 * np.concatenate([done.took[call] for done in quiet if call in done.took]) for call in calls}
    cores = f"cores in use: clients {sum(done.cpu_seconds / done.seconds for done in quiet):.2f}"
    cores += f", server {server_cores:.2f}" if server_cores is not None else ""
    title = f"{arguments.clients} clients, {rate:.0f} measurements a second written, {rows:,} rows before; {cores}"
    shown = table(
        title,
        ["ms a call", "calls a second", "median", "99th percentile", "max"],
        [
            [call, f"{len(times) / arguments.seconds:.0f}", *(f"{q:.2f}" for q in np.quantile(times, [0.5, 0.99, 1]))]
            for call, times in took.items()
        ],
    )
    hit = float(np.quantile(took["hit"], 0.99))
    kills = arguments.kills if server else 0
    told = f"0 of {sum(done.added for done in [*quiet, *stormy]):,}, the server killed {kills} times"
    goals = [
        goal("measurements a second", rate, rate >= GOAL_RATE, ".0f", f"at least {GOAL_RATE:.0f}"),
        goal("ms of a hit at the 99th percentile", hit, hit < GOAL_MS, ".2f", f"under {GOAL_MS:g}"),
        goal("measurements lost", lost, lost == 0, ".0f", told),
    ]
    return {"rows": rows, "rate": rate, "lost": lost, "tables": [shown], "goals": goals}


@contextlib.contextmanager
def _served(arguments: argparse.Namespace) -> Iterator[tuple[str, Server | None]]:
    """Yield the URL of a server, and the server itself if it is our own and may be killed."""
    if arguments.url:
        yield arguments.url, None
        return
    try:
        programs()
    except FileNotFoundError as error:
        raise InputError(f"{error}, or give --url postgresql://user@host:port/database") from error
    settings = {"max_connections": f"{2 * arguments.clients + 20}", "shared_buffers": "1GB", "max_wal_size": "4GB"}
    with TemporaryDirectory(prefix="nasenv-postgresql-", dir=arguments.folder) as folder:
        server = Server(Path(folder), **settings)
        try:
            yield server.url, server
        finally:
            server.stop()


def _fill(url: str, rows: int) -> int:
    """Add rows until there are so many; return how many there are."""
    rng = np.random.default_rng(0)
    some = [measurement(rng) for _ in range(_FILLED)]
    with Cache(url) as cache:
        started = time.monotonic()
        for first in range(0, rows, _FILLED):
            cache.add(_PROBLEM, {_architecture(first + k): some[k] for k in range(min(_FILLED, rows - first))})
        execute(url, "VACUUM ANALYZE nasenv.measurements")  # which the server would do by itself a minute later
        print(f"{rows:,} rows added in {time.monotonic() - started:.0f} s", flush=True)
        return len(cache)


def _plans(arguments: argparse.Namespace, url: str, rows: int, first: int) -> list[Client]:
    rate = arguments.rate / arguments.clients
    adding = [Client(first + k, url, rows, rate, arguments.seconds) for k in range(arguments.clients)]
    return [*adding, Client(first + arguments.clients, url, rows, _HITS, arguments.seconds, adds=False)]


def _load(plans: list[Client], server: Server | None, kills: int) -> list[Done]:
    """Run all clients at once while the server is killed; return what they did."""
    gc.freeze()  # a collection in a client would copy all that PyTorch has
    context = multiprocessing.get_context("fork")  # 50 imports of PyTorch would take minutes
    with ProcessPoolExecutor(len(plans), mp_context=context) as pool:
        working: list[Future[Done]] = [pool.submit(_work, plan) for plan in plans]
        for _ in range(kills if server is not None else 0):
            time.sleep(plans[0].seconds / (kills + 1))
            server.kill()
            time.sleep(_DOWN_SECONDS)
            server.start()
        return [future.result() for future in working]


def _work(plan: Client) -> Done:
    """Work as one client for some seconds, on schedule as far as possible."""
    took: dict[str, list[float]] = {}
    with Cache(plan.url, waits=True) as cache:  # the server may be killed meanwhile
        started, used = time.monotonic(), time.process_time()
        added = _adds(plan, cache, took) if plan.adds else _finds(plan, cache, took)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - used
    return Done(plan, added, seconds, cpu_seconds, {call: np.array(times) for call, times in took.items()})


def _adds(plan: Client, cache: Cache, took: dict[str, list[float]]) -> int:
    """Look for, claim and add new architectures; return how many were added."""
    os.nice(_LOW_PRIORITY)
    rng = np.random.default_rng(plan.number)
    some = [measurement(rng) for _ in range(_SOME)]
    for turn in _turns(plan, rng):
        if turn % _BATCH == 0:
            batch = [_own(plan, turn + k) for k in range(_BATCH)]
            with _timed(took, f"find of {_BATCH}, misses"):
                found = cache.find(_PROBLEM, batch)
            with _timed(took, f"claim of {_BATCH}"):
                claimed = cache.claim(_PROBLEM, batch)
            assert (found, claimed) == ({}, set(batch)), "nobody else has or wants them"
        with _timed(took, "add"):
            cache.add(_PROBLEM, {batch[turn % _BATCH]: some[turn % _SOME]})
    return turn + 1


def _finds(plan: Client, cache: Cache, took: dict[str, list[float]]) -> int:
    """Find earlier measurements; return 0, the number added."""
    rng = np.random.default_rng(plan.number)
    for _ in _turns(plan, rng):
        known = _architecture(int(rng.integers(plan.rows)))
        with _timed(took, "hit"):
            found = cache.find(_PROBLEM, [known])
        assert known in found, "a measurement that was there before is not found"
    return 0


def _turns(plan: Client, rng: np.random.Generator) -> Iterator[int]:
    """Yield 0, 1, ... at the client's rate, each at a random moment of its interval; late ones at once."""
    started = time.monotonic()
    turn = 0
    while time.monotonic() < started + plan.seconds:
        time.sleep(max(0.0, started + (turn + rng.random()) / plan.rate - time.monotonic()))
        yield turn
        turn += 1


@contextlib.contextmanager
def _timed(took: dict[str, list[float]], call: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    took.setdefault(call, []).append(time.perf_counter() - started)


def _lost(url: str, done: list[Done]) -> int:
    """Return how many of the measurements that were added are not there."""
    added = [_own(does.plan, k) for does in done for k in range(does.added)]
    with Cache(url) as cache:
        batches = (added[i : i + _FILLED] for i in range(0, len(added), _FILLED))
        return sum(len(batch) - len(cache.find(_PROBLEM, batch)) for batch in batches)


def _own(plan: Client, number: int) -> Trial:
    """Return an architecture that no other client and no earlier run has used."""
    return Trial((6 + plan.number, *_architecture(number).architecture))


def _architecture(number: int) -> Trial:
    return Trial(tuple(number // 6**place % 6 for place in range(12)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="an empty database on a server that is there, which is not killed then")
    parser.add_argument("--folder", help="where a server of one's own keeps its data; default: the system's for such")
    parser.add_argument("--rows", type=at_least(1), default=1_000_000, help="there before; default: %(default)s")
    parser.add_argument("--clients", type=at_least(1), default=50, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=_PACE, help="measurements a second; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load; default: %(default)s")
    parser.add_argument("--kills", type=int, default=3, help="of the server in the second load; default: %(default)s")
    run(parser, measure)
