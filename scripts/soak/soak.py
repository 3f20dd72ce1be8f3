"""Runs all robustness tests, part after part, and tabulates the results for BENCHMARKS.md.

| part | what is done | size |
|---|---|---|
| spaces | random decision sequences through every space, and a network trained for a step in 500 | sequences |
| long | searches on a table: cost, memory, replay | evaluations |
| kills | kill -9 at random moments of searches by every agent, which are then started again | kills |
| faults | worker processes that die, hang, raise, and run out of memory | faults |
| fuzz | damaged files, and some that bombs are made of, for every reader | inputs of each reader |

All of it takes hours; ``--short`` is the same in a minute. The exit code is 1 where anything was lost.
"""

import argparse
import importlib
import sys
import time
from typing import Any, NamedTuple

from nasenv import InputError
from scripts.benchmarks.bench import at_least, run, table


class Part(NamedTuple):
    """Describes the extent of a part, and its agents in the short form, if it has agents."""

    size: int
    short: int
    short_agents: tuple[str, ...] = ()


PARTS = {  # each is a module beside this one
    "spaces": Part(1_000_000, 9_000),
    "long": Part(100_000, 2_000, ("EachOnce",)),
    "kills": Part(100, 2, ("PPO",)),
    "faults": Part(200, 12),
    "fuzz": Part(100_000, 20),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the parts, print the table of all goals, and return the figures of each part."""
    figures = {}
    for name in arguments.parts:
        started = time.perf_counter()
        print(f"\n# {name}", flush=True)
        figures[name] = _measured(name, arguments)
        figures[name]["seconds"] = time.perf_counter() - started
    rows = [
        [name, g["goal"], f"{g['value']:.4g}", "yes" if g["met"] else "NO"]
        for name, f in figures.items()
        for g in f["goals"]
    ]
    table("the soak", ["part", "goal", "came out", "met"], rows)
    return figures


def _measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a part: its goals, what was lost, and more."""
    part = PARTS[name]
    module: Any = importlib.import_module(f"scripts.soak.{name}")  # fuzz needs hypothesis, the others do not
    size = arguments.size or (part.short if arguments.short else part.size)
    chosen = ()
    if part.short_agents:
        chosen = arguments.agents or (part.short_agents if arguments.short else tuple(module.AGENTS))
        if unknown := set(chosen) - module.AGENTS.keys():
            raise InputError(f"--agents {', '.join(sorted(unknown))}: {name} has {', '.join(module.AGENTS)}")
    figures: dict[str, Any] = module.soak(size, arguments.seed, *([chosen] if chosen else []))
    return figures


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

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=_parts, default=[*PARTS], metavar="A,B", help=f"default: {','.join(PARTS)}")
    parser.add_argument("--short", action="store_true", help="a minute instead of hours")
    parser.add_argument("--size", type=at_least(1), help="of each part, instead of its own")
    parser.add_argument("--agents", nargs="+", help="of kills and long; default: all")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of everything that is random; default: 0")
    run(parser, counted)
    return 1 if any(lost) else 0


if __name__ == "__main__":
    sys.exit(main())
