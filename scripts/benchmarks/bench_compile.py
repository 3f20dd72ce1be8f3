"""Measures when torch.compile pays: the seconds that it takes, and the epochs after which they are regained.

The hand-made reference of each problem is trained as it is and compiled, alternating, on one thread or the GPU. A
compiled training's first epoch holds the compilation, the epochs of a second training do not. Nothing comes from a
cache of compiled code: the networks that a search trains at its end were never compiled before. Where a compiled
epoch is no faster, compiling never pays.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nasenv import ChainCNN, NASBench201, SearchSpace, Task, load_dataset
from nasenv.training import Recipe, fit, one_thread, seeded
from scripts.benchmarks.bench import at_least, run, shown, spread, table

_PROBLEMS: dict[str, tuple[str, int, Callable[[Task], SearchSpace]]] = {
    "chain, digits": ("digits", 64, lambda task: ChainCNN(task=task)),
    "chain, mnist5k": ("mnist5k", 128, lambda task: ChainCNN(task=task)),
    "cells, digits": ("digits", 64, lambda task: NASBench201(16, 1, task)),
}
_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table and return its figures."""
    figures = {}
    torch.compiler.config.force_disable_caches = True
    warnings.filterwarnings("ignore", message=".*force disabled by torch.compiler.config")  # once a network
    with one_thread(_DEVICE):
        for name in arguments.problems:
            figures[name] = _compared(*_PROBLEMS[name], arguments.rounds, arguments.epochs)
    heads = ["reference", "n", "compiling, s", "an epoch, ms", "compiled, ms", "pays after epochs"]
    shown_as = table("torch.compile, median (min - max)", heads, [_row(name, f) for name, f in figures.items()])
    return {"networks": figures, "tables": [shown_as]}


def _compared(dataset: str, batch_size: int, make: Callable[[Task], SearchSpace], rounds: int, epochs: int) -> Any:
    """Return the spreads of compile times and of epochs both ways, and the epochs until compiling has paid."""
    data = load_dataset(dataset).to(_DEVICE)
    space = make(data.task)

    def train(model: nn.Module, length: int, compiled: bool) -> float:
        generator = torch.Generator(_DEVICE).manual_seed(0)
        started = time.perf_counter()
        fit(model, data.task, data.train, Recipe(length, batch_size), generator, compiled=compiled)
        if _DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds: dict[str, list[float]] = {"compiling": [], "plain": [], "compiled": []}
    for _ in range(rounds):
        torch._dynamo.reset()
        with seeded(0, _DEVICE):
            model = space.build(space.reference()).to(_DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        train(model, 1, False)
        seconds["plain"].append(train(model, epochs, False) / epochs)
        first = train(model, 1, True)
        seconds["compiled"].append(train(model, epochs, True) / epochs)
        seconds["compiling"].append(first - seconds["compiled"][-1])
    figures: dict[str, Any] = {way: spread(values) for way, values in seconds.items()}
    gained = figures["plain"]["median"] - figures["compiled"]["median"]
    return figures | {"pays_after": figures["compiling"]["median"] / gained if gained > 0 else None}


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    milliseconds = [shown({k: 1e3 * v for k, v in figures[way].items()}) for way in ("plain", "compiled")]
    pays = figures["pays_after"]
    return [
        *(name, str(figures["plain"]["n"]), shown(figures["compiling"]), *milliseconds),
        "never" if pays is None else f"{math.ceil(pays)}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=_PROBLEMS, default=[*_PROBLEMS], help="default: all")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="default: %(default)s")
    parser.add_argument("--epochs", type=at_least(1), default=5, help="of a training; default: %(default)s")
    run(parser, measure)
