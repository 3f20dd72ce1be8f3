"""Shared parts of the benchmarks: options, description of the machine, spreads, tables, goals, and files.

A benchmark's file is ``{"benchmark": NAME, "setting": {...}, "figures": {...}}``. What `table` and `goal` return lies
in lists named "tables" and "goals" anywhere in the figures: from those `write_benchmarks.py` writes the pages.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nasenv import InputError, __version__
from nasenv.provenance import processor, provenance

MEASURED = Path(__file__).parents[1] / "measured"
_QUIET = 0.5  # load, the mean of the last minute
_PACKAGES = ("torch", "numpy", "stable_baselines3", "gymnasium")


def run(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Print the machine, run the benchmark, and write the figures where the options say; bad input exits with 2.

    Args:
        parser: of the benchmark's own options; one without ``--device`` uses the processor alone.
        measure: prints its tables and returns its figures as plain JSON values.
    """
    parser.add_argument("--json", type=Path, metavar="FILE", help="write setting and figures here too")
    parser.add_argument("--keep", action="store_true", help="write them to scripts/measured too, for its pages")
    arguments = parser.parse_args()
    try:
        if arguments.json:
            arguments.json.write_text("")  # a path that cannot be written is told now, not after minutes
        described = setting(getattr(arguments, "device", "cpu"))
        print(*(f"{name}: {value}" for name, value in described.items()), sep="\n", flush=True)
        if os.getloadavg()[0] > _QUIET:
            print("warning: the machine is not idle; other work slows loops of several threads most", flush=True)
        record = {"benchmark": Path(parser.prog).stem, "setting": described, "figures": measure(arguments)}
        for path in [arguments.json] * bool(arguments.json) + [kept_at(record)] * arguments.keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
    except (InputError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def setting(device: str = "cpu") -> dict[str, str]:
    """Return the date, hardware and versions of a measurement; ``device`` is cpu, cuda, cuda:N, or auto."""
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M", time.gmtime()),
        "commit": provenance().get("nasenv commit", "none"),
        "kind": "gpu" if on_gpu else "cpu",
        "device": _gpus() if on_gpu else f"{processor()}, {cores()} cores",
        "processor": f"{processor()}, {cores()} cores, load {os.getloadavg()[0]:.2f} at the start",
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, nasenv {__version__}, {versions}",
    }


def kept_at(record: Mapping[str, Any], folder: Path = MEASURED) -> Path:
    """Return the path of a benchmark's record: there is one for each day and device, and the last is kept."""
    device = re.sub(r"[^a-z0-9]+", "-", record["setting"]["device"].lower()).strip("-")
    return folder / record["benchmark"] / f"{record['setting']['date'][:10]}-{device}.json"


def _gpus() -> str:
    if not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA device here; give --device cpu")
    count = torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name()}" if count > 1 else torch.cuda.get_device_name()


def cores() -> int:
    """Return the number of cores that this process may use, which is the evaluators' number of workers."""
    return len(os.sched_getaffinity(0))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return n, median, min and max of values."""
    numbers = [float(v) for v in values]
    return {"n": len(numbers), "median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def shown(spread_of: Mapping[str, float], form: str = ".3g") -> str:
    """Return a `spread` as text, ``median (min - max)``, in a format."""
    return "{median:{form}} ({min:{form}} - {max:{form}})".format(**spread_of, form=form)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Print a Markdown table under its title, and return it."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    print(f"\n{title}\n")
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |", flush=True)
    return {"title": title, "heads": [*heads], "rows": [[*row] for row in rows]}


def goal(what: str, value: float, met: bool, form: str = ".3g", asked: str = "") -> dict[str, Any]:
    """Print whether a goal is met, and return it.

    Args:
        what: is measured; the same from one run and device to the next, it is the head of a column of the history.
        value: that was measured.
        met: whether it is.
        form: in which the value is shown.
        asked: what was to be reached, where ``what`` does not say it.
    """
    shown_value = f"{value:{form}}"
    print(
        f"\ngoal: {', '.join(filter(None, (what, asked)))}: {'met' if met else 'NOT met'} ({shown_value})", flush=True
    )
    return {"goal": what, "asked": asked, "value": value, "shown": shown_value, "met": bool(met)}


def at_least(smallest: int) -> Callable[[str], int]:
    """Return an argparse type: an integer not below a limit."""

    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"expected an integer of {smallest} or more, got {text}")
        return int(text)

    return parsed
