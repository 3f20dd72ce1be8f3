"""Steps of a check on a GPU: each runs in a process of its own, has a limit, and those after one that failed go on."""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from scripts.benchmarks.bench import run, table

Figures = dict[str, Any]
Measure = Callable[[str], Iterator[tuple[str, Any]]]
_PATIENCE = 10  # times the seconds of a step, where it is tried out
_ENDING_SECONDS = 5  # for a process that has told all of its figures
_IMPORTED = ["nasenv.evaluators.training", "sklearn.datasets", "torch._dynamo"]  # once for all steps


@dataclass(frozen=True)
class Step:
    """Describes a part of a check.

    Args:
        measure: takes the device, cuda or cpu, and yields figures by name; those that it has yielded are kept where it
            fails or is cut off.
        seconds: after which it is cut off.
        around: context in which its process is started and ended.
    """

    measure: Measure
    seconds: float
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def check(description: str, steps: Mapping[str, Step], summary: Callable[[Figures], Figures]) -> None:
    """Run a check as the command line says, and write its record as the other benchmarks do.

    The exit code is 1 where a step failed; the record has what was measured all the same.

    Args:
        description: of the check.
        steps: by name, in order.
        summary: prints and returns tables and goals of the figures of the steps; a step that failed may lack some.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries it out, in tiny sizes")
    parser.add_argument("--steps", nargs="+", choices=steps, default=[*steps], help="default: all")
    failed: list[str] = []

    def measure(arguments: argparse.Namespace) -> Figures:
        figures: Figures = {}
        rows: dict[str, Figures] = {}
        for name in arguments.steps:
            step = steps[name]
            if arguments.device == "cpu":  # which may be busy
                step = replace(step, seconds=_PATIENCE * step.seconds)
            figures[name], rows[name] = _run(name, step, arguments.device)
        failed.extend(name for name, row in rows.items() if row["exit_code"] != 0)
        return {"steps": rows, **figures, "tables": [_table(rows)], "summary": summary(figures)}

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended
    run(parser, measure)
    parser.exit(int(bool(failed)))


def wait_for(device: str) -> None:
    """Wait until the device has done all of its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def memory_mib(device: str) -> float:
    """Return the MiB that are in use on the GPU, by all processes; on a processor those of this process."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**20
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _run(name: str, step: Step, device: str) -> tuple[Figures, Figures]:
    """Run a step; return its figures, and its exit code and seconds. The code of one that was cut off is -9."""
    print(f"\n== {name}, at most {step.seconds:g} s", flush=True)
    context = multiprocessing.get_context("forkserver")  # which is not in the way of a GPU
    context.set_forkserver_preload(_IMPORTED)
    receiving, sending = context.Pipe(duplex=False)
    began, figures = time.monotonic(), {}
    with step.around():
        process = context.Process(target=_measure, args=(step.measure, device, sending, dict(os.environ)), name=name)
        process.start()
        sending.close()
        try:
            for key, figure in _received(receiving, began + step.seconds):
                figures[key] = figure
                print(f"[{time.monotonic() - began:5.1f} s] {key}: {_shown(figure)}", flush=True)
            process.join(max(0.1, min(_ENDING_SECONDS, began + step.seconds - time.monotonic())))
        finally:
            _end(process)
    seconds = time.monotonic() - began
    print(f"{name}: exit code {process.exitcode} after {seconds:.1f} s", flush=True)
    return figures, {"exit_code": process.exitcode, "seconds": round(seconds, 1), "at_most": step.seconds}


def _measure(measure: Measure, device: str, connection: Connection, environment: Mapping[str, str]) -> None:
    """Do a step in this process, and send its figures."""
    os.setpgrp()  # so that it can be ended with the processes that it starts
    os.environ.update(environment)  # the server has that of its start
    for named in measure(device):
        connection.send(named)


def _received(connection: Connection, until: float) -> Iterator[tuple[str, Any]]:
    with suppress(EOFError):
        while connection.poll(max(0.0, until - time.monotonic())):
            yield connection.recv()


def _end(process: Any) -> None:
    """End a process, where it goes on, and those that it left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # one that has no group yet
    process.join()


def _shown(figure: Any) -> str:
    if isinstance(figure, float):
        return f"{figure:.4g}"
    if isinstance(figure, dict):
        return ", ".join(f"{key} {_shown(value)}" for key, value in figure.items())
    return str(figure)


def _table(rows: Mapping[str, Figures]) -> Figures:
    cells = [[name, *(f"{row[key]:g}" for key in ("exit_code", "seconds", "at_most"))] for name, row in rows.items()]
    return table("Steps", ["step", "exit code", "seconds", "at most"], cells)
