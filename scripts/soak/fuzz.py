"""Gives every file reader damaged files and bombs: it must return a result or refuse them in one line.

Nothing but InputError may come out (SystemExit with code 2 after one line on stderr, of the command line), within
seconds, and what it says is one line that a terminal can show. Inputs are hypothesis's: the same for the same seed. A
reader that fails is told with the smallest input that it fails on.
"""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

from nasenv import InputError
from nasenv.errors import printable
from scripts.benchmarks.bench import cores, goal, table
from scripts.soak.readers import Reader, every_reader

_SLOWEST = timedelta(seconds=60)  # for one input, by the clock, on a machine that does other things too
_SHOWN = 600  # characters of a failure


def soak(inputs: int, seed: int) -> dict[str, Any]:
    """Give so many inputs to each reader, print a table, and return the figures; readers run side by side."""
    with every_reader() as readers:
        names = [reader.name for reader in readers]
    with ThreadPoolExecutor(cores()) as threads:
        figures = dict(zip(names, threads.map(_fuzzed_apart, names, repeat(inputs), repeat(seed)), strict=True))
    keys = ("inputs", "accepted", "refused", "seconds", "failure")
    rows = [[name, *(str(f[key]) for key in keys)] for name, f in figures.items()]
    table("Readers of files", ["reader", *keys], rows)
    failed, total = (sum(bool(f["failure"]) for f in figures.values()), sum(f["inputs"] for f in figures.values()))
    goals = [goal(f"{total:,} inputs for {len(figures)} readers: none failed", failed, not failed, "d")]
    return {"readers": figures, "goals": goals, "lost": failed}


def _fuzzed_apart(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Return the figures of one reader, fuzzed in a process of its own, which a library may crash."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(_fuzzed, name, inputs, seed).result()
    except BrokenProcessPool as error:
        counts = dict.fromkeys(("inputs", "accepted", "refused", "seconds"), 0)
        return {**counts, "failure": f"its process died: {error}"}


def _fuzzed(name: str, inputs: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    counts, failure = {True: 0, False: 0}, ""

    def counted(content: object) -> None:
        counts[accepts(reader, content)] += 1

    with every_reader() as readers:
        reader = next(reader for reader in readers if reader.name == name)
        started = time.perf_counter()
        try:
            check(reader, counted, inputs, seed)
        except Exception as error:  # whatever it raised that it should not
            failure = f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}"[:_SHOWN]
        seconds = round(time.perf_counter() - started)
    figures = {"inputs": sum(counts.values()), "accepted": counts[True], "refused": counts[False], "seconds": seconds}
    print(f"{name}: {figures}; {failure or 'no failure'}", flush=True)
    return {**figures, "failure": failure}


def check(reader: Reader, property_of: Callable[[Any], object], inputs: int, seed: int | None = None) -> None:
    """Hold so many inputs of a reader against a property, which raises where it does not hold; raise what it raised.

    Args:
        reader: whose inputs.
        property_of: is given each.
        inputs: number of them.
        seed: of the inputs; None are the same ones always.
    """
    quiet = settings(
        max_examples=inputs,
        database=None,
        deadline=_SLOWEST,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )

    @quiet
    @given(reader.inputs)
    def holds(content: Any) -> None:
        property_of(content)

    (holds if seed is None else seeded(seed)(holds))()


def accepts(reader: Reader, content: object) -> bool:
    """Return whether the reader takes the content, False where it refuses it as it should; raise where neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(content)
        except InputError as error:
            said = str(error)
            if not said or printable(said) != said:
                raise AssertionError(f"said {said!r}, which is not one line that can be printed") from error
            return False
    return True
