"""What the benchmarks share: their options, the setting that a figure needs, its spread, and tables to be pasted."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nasenv import InputError
from nasenv.provenance import processor

_QUIET = 0.5  # load, the mean of the last minute
_PACKAGES = ("nasenv", "torch", "numpy", "stable_baselines3", "gymnasium")


def run(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Print the setting, measure, and write the figures to ``--json`` where it is given; bad input exits with 2.

    Args:
        parser: of the benchmark's own options.
        measure: prints its tables and returns its figures as plain JSON values.
    """
    parser.add_argument("--json", type=Path, metavar="FILE", help="write setting and figures here too")
    arguments = parser.parse_args()
    try:
        if arguments.json:
            arguments.json.write_text("")  # a path that cannot be written is told now, not after minutes
        described = setting()
        print(*(f"{name}: {value}" for name, value in described.items()), sep="\n", flush=True)
        if os.getloadavg()[0] > _QUIET:
            print("warning: the machine is not idle; other work slows loops of several threads most", flush=True)
        figures = measure(arguments)
    except (InputError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"setting": described, "figures": figures}, indent=1) + "\n")


def setting() -> dict[str, str]:
    """Return what the figures were measured on."""
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    gpu = {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": f"{processor()}, {cores()} cores, load {os.getloadavg()[0]:.2f} at the start",
        **gpu,
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, {versions}",
    }


def cores() -> int:
    """Return the number of cores that this process may use; evaluators start as many workers."""
    return len(os.sched_getaffinity(0))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return n, median, min and max."""
    numbers = [float(v) for v in values]
    return {"n": len(numbers), "median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def shown(spread_of: Mapping[str, float], form: str = ".3g") -> str:
    """Return ``median (min - max)`` of what `spread` gave, in a format."""
    return "{median:{form}} ({min:{form}} - {max:{form}})".format(**spread_of, form=form)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table under its title."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    print(f"\n{title}\n")
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |", flush=True)


def goal(what: str, value: float, met: bool, form: str = ".3g") -> dict[str, Any]:
    """Print whether a goal is met; return it for the figures."""
    print(f"\ngoal: {what}: {'met' if met else 'NOT met'} ({value:{form}})", flush=True)
    return {"goal": what, "value": value, "met": met}


def at_least(smallest: int) -> Callable[[str], int]:
    """Return the type of an option that is an integer of this or more."""

    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"expected an integer of {smallest} or more, got {text}")
        return int(text)

    return parsed
