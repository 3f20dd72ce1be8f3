"""Everything that a search has to survive, part after part, and one table of what came out, for BENCHMARKS.md.

| part | what is done |
|---|---|
| spaces | 1,000,000 random decision sequences through every space, 2,000 networks trained for a step |
| long | searches of 100,000 evaluations on a table: cost, memory, replay |
| kills | kill -9 at 100 random moments of searches by every agent, which are then started again |
| faults | worker processes that die, hang, raise, and run out of memory |
| fuzz | 100,000 damaged and hostile inputs for every reader of files |

All of it takes hours; ``--short`` is the same in a minute. The exit code is 1 where anything was lost.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from scripts.benchmarks.bench import at_least, goal, run, table

_SHORT = {
    "spaces": ["--sequences", "15000", "--builds", "36"],
    "long": ["--evaluations", "4000", "--agents", "EachOnce"],
    "kills": ["--kills", "2", "--evaluations", "32", "--agents", "PPO"],
}
"""The parts that have options, and those of the short form."""

_SHORT_FAULTS, _FAULTS = 12, 200
_SHORT_INPUTS, _INPUTS = 20, 100_000  # for each reader


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the parts, print the table of all goals, and return the figures of each part."""
    figures = {}
    for part in arguments.parts:
        started = time.perf_counter()
        print(f"\n# {part}", flush=True)
        figures[part] = PARTS[part](arguments)
        figures[part]["seconds"] = time.perf_counter() - started
    rows = [
        [part, g["goal"], f"{g['value']:.4g}", "yes" if g["met"] else "NO"]
        for part, f in figures.items()
        for g in f["goals"]
    ]
    table("the soak", ["part", "goal", "came out", "met"], rows)
    return figures


def _of_script(part: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Return what measures a part that has options of its own, in <part>.py."""

    def measured(arguments: argparse.Namespace) -> dict[str, Any]:
        script = importlib.import_module(f"scripts.soak.{part}")
        options = [*(_SHORT[part] if arguments.short else ()), "--seed", str(arguments.seed)]
        figures: dict[str, Any] = script.measure(script.options().parse_args(options))
        return figures

    return measured


def _faults(arguments: argparse.Namespace) -> dict[str, Any]:
    from scripts.soak.faults import soak_faults

    figures = soak_faults(_SHORT_FAULTS if arguments.short else _FAULTS, arguments.seed)
    wrong = [*figures["wrong"], *(f"{n} {name} left behind" for name, n in figures["left"].items() if n > 0)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    what = f"{sum(figures['faults'].values())} faults of workers: no other job lost, nothing left behind"
    return figures | {"goals": [goal(what, len(wrong), not wrong, "d")], "lost": len(wrong)}


def _fuzz(arguments: argparse.Namespace) -> dict[str, Any]:
    from scripts.soak.fuzz import fuzz  # hypothesis, which only tests need

    readers = fuzz(_SHORT_INPUTS if arguments.short else _INPUTS, arguments.seed)
    failures = [f"{name}: {f['failure']}" for name, f in readers.items() if f["failure"]]
    inputs = sum(f["inputs"] for f in readers.values())
    print(*failures, sep="\n", end="\n" if failures else "")
    what = f"{inputs:,} inputs for {len(readers)} readers: none failed"
    return {"readers": readers, "goals": [goal(what, len(failures), not failures, "d")], "lost": len(failures)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "spaces": _of_script("spaces"),
    "long": _of_script("long"),
    "kills": _of_script("kills"),
    "faults": _faults,
    "fuzz": _fuzz,
}


def options() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=lines)
    parser.add_argument("--parts", type=_parts, default=[*PARTS], metavar="A,B", help=f"default: {','.join(PARTS)}")
    parser.add_argument("--short", action="store_true", help="a minute instead of hours")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of everything that is random; default: 0")
    return parser


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return parts


def main() -> int:
    """Run, and return the exit code."""
    lost = []

    def counted(arguments: argparse.Namespace) -> dict[str, Any]:
        figures = measure(arguments)
        lost.extend(part["lost"] for part in figures.values())
        return figures

    run(options(), counted)
    return 1 if any(lost) else 0


if __name__ == "__main__":
    sys.exit(main())
