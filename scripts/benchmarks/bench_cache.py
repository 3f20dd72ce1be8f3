"""Measures what a cache hit costs: measurements like a search's, in a SQLite file on disk."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nasenv import Cache, ChainCNN, Measurement, TrainingEvaluator, Trial
from nasenv.cache.keys import ProblemKey
from scripts.benchmarks.bench import at_least, goal, run, table

GOAL_US = 100.0
_BATCH = 16  # architectures that the default agents propose at a time
_TRAINED = 500


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the cost of hits, misses and additions; return it in microseconds an architecture."""
    space = ChainCNN()
    rng = np.random.default_rng(0)
    architectures = _architectures(space, 2 * arguments.rows, rng)
    known, unknown = architectures[: arguments.rows], architectures[arguments.rows :]
    problem = ProblemKey(space.fingerprint(), TrainingEvaluator(space, "digits").fingerprint())
    shuffled = [known[i] for i in rng.permutation(len(known))]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "cache.db"
        with Cache(path) as cache:
            added = [{a: measurement(rng) for a in batch} for batch in _batches(known)]
            figures = {f"add, {_BATCH} at a time": _cost(lambda batch: cache.add(problem, batch), added)}
        with Cache(path) as cache:  # opened anew, as a second search does
            single = [[a] for a in shuffled]
            figures["hit"] = _cost(lambda batch: cache.find(problem, batch), single)
            figures[f"hit, {_BATCH} at a time"] = _cost(lambda batch: cache.find(problem, batch), _batches(shuffled))
            figures["miss"] = _cost(lambda batch: cache.find(problem, batch), [[a] for a in unknown])
            found = len(cache.find(problem, known))
            rows = len(cache)
            size = path.stat().st_size
            trained = [{a: measurement(rng)} for a in unknown[:_TRAINED]]
            figures["claim and add, on the disk"] = _cost(lambda batch: _train(cache, problem, batch), trained)
    assert found == rows == arguments.rows, (found, rows)
    heads = ["µs an architecture", "n", "median", "99th percentile", "min", "max"]
    names = ("median", "p99", "min", "max")
    table(
        f"cache of {rows} rows, {size / rows:.0f} bytes a row",
        heads,
        [[what, f"{f['n']:.0f}", *(f"{f[k]:.1f}" for k in names)] for what, f in figures.items()],
    )
    hit = figures["hit"]["median"]
    met = goal(f"a hit under {GOAL_US:.0f} µs at the median", hit, hit < GOAL_US)
    return {"rows": rows, "bytes_a_row": size / rows, "microseconds": figures, "goals": [met]}


def _train(cache: Cache, problem: ProblemKey, trained: dict[Trial, Measurement]) -> None:
    """Do what a search does around a training."""
    assert cache.claim(problem, trained) == trained.keys()
    cache.add(problem, trained)


def _cost(act: Callable[[Any], object], batches: Iterable[Any]) -> dict[str, float]:
    """Return n, median, 99th percentile, min and max of the time of ``act(batch)``, in microseconds an architecture."""
    times = []
    for batch in batches:
        started = time.perf_counter_ns()
        act(batch)
        times.append((time.perf_counter_ns() - started) / 1000 / len(batch))
    low, median, p99, high = np.quantile(times, [0, 0.5, 0.99, 1]).tolist()
    return {"n": len(times), "median": median, "p99": p99, "min": low, "max": high}


def _architectures(space: ChainCNN, n: int, rng: np.random.Generator) -> list[Trial]:
    """Return trials of n distinct representatives with the most layers, of which there are enough."""
    architectures: dict[Trial, None] = {}
    while len(architectures) < n:
        sampled = (space.canonical(a) for a in space.sample(n, rng))
        architectures |= dict.fromkeys(Trial(a) for a in sampled if a[0] >= space.max_layers - 2)
    return list(architectures)[:n]


def measurement(rng: np.random.Generator) -> Measurement:
    """Return a measurement like `TrainingEvaluator`'s on digits: five epochs, floats with all digits."""
    metrics = {"params": int(rng.integers(100, 50_000)), "flops": int(rng.integers(10_000, 5_000_000))}
    curve = tuple(np.sort(2.3 * rng.random(5))[::-1].tolist())
    return Measurement(rng.integers(36, 360) / 359, train_seconds=0.1 + rng.random(), metrics=metrics, curve=curve)


def _batches(architectures: list[Trial]) -> list[list[Trial]]:
    return [architectures[i : i + _BATCH] for i in range(0, len(architectures), _BATCH)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=at_least(_BATCH), default=10_000, help="default: %(default)s")
    parser.add_argument("--folder", help="where the file lies while it is measured; default: the system's for such")
    run(parser, measure)
