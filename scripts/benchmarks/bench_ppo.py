"""Measures proposals a second of PPO on a table, against the same PPO on single environments.

Both ways are Stable-Baselines3's unmodified PPO with nasenv's settings, 16 architectures an update as one batch: ours
in a search, as the agent `StableBaselines` runs it (`PPO` without its guidance), the plain way on a DummyVecEnv of
`ArchitectureEnv`. Pairs alternate, on one core, and the ratio is taken within pairs. Beside it is the share of our time
that is not `PPO.train`, the library's update.
"""

import argparse
import time
from typing import Any

import torch
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from nasenv import ArchitectureEnv, Budget, Search, SearchSpace, TableEvaluator
from nasenv.agents import PPO, StableBaselines
from nasenv.training import one_thread
from scripts.benchmarks.bench import at_least, goal, run, shown, spread, table
from scripts.benchmarks.bench_env import problems

_RATES = {10: 650.0, 4: 1400.0}  # the goals, by epochs an update
_SHARE = 0.15
_ARCHITECTURES = 16


class Timed(SB3PPO):
    """Runs PPO, and counts the seconds that updates take, over all its instances."""

    training = 0.0

    def train(self) -> None:
        """Update the policy as the library does."""
        started = time.perf_counter()
        super().train()
        Timed.training += time.perf_counter() - started


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table and the goals; return them with their figures."""
    evaluator = [*problems(arguments.nas_bench_201).values()][-1]
    space = evaluator.space
    figures: dict[str, Any] = {}
    with one_thread(torch.device("cpu")):
        for epochs in _RATES:
            pairs = [_pair(space, evaluator, epochs, n, arguments.updates) for n in range(arguments.pairs + 1)][1:]
            figures[str(epochs)] = {key: spread(pair[key] for pair in pairs) for key in pairs[0]}
    heads = ["epochs an update", "n", "DummyVecEnv", "nasenv's PPO", "ratio", "not train(), %"]
    keys = ("plain", "ours", "ratio", "percent")
    rows = [[name, str(f["ours"]["n"]), *(shown(f[key]) for key in keys)] for name, f in figures.items()]
    title = f"Proposals a second, {type(space).__name__}'s table, one core, median (min - max)"
    tables, goals = [table(title, heads, rows)], []
    for epochs, least in _RATES.items():
        rate, percent = (figures[str(epochs)][key]["median"] for key in ("ours", "percent"))
        goals.append(goal(f"{epochs} epochs: proposals a second", rate, rate >= least, asked=f"{least:g} or more"))
        met = percent < 100 * _SHARE
        goals.append(goal(f"{epochs} epochs: percent not train()", percent, met, asked=f"under {100 * _SHARE:g}"))
    return {"epochs": figures, "tables": tables, "goals": goals}


def _pair(space: SearchSpace, evaluator: TableEvaluator, epochs: int, number: int, updates: int) -> dict[str, float]:
    """Return proposals a second of both ways from one seed, their ratio, and the share of time outside ``train``."""
    settings = PPO(num_envs=_ARCHITECTURES, n_epochs=epochs).settings_for(_search(space, evaluator, number, updates))
    rates = {}
    for way in ("plain", "ours") if number % 2 else ("ours", "plain"):
        search = _search(space, evaluator, number, updates)
        started, Timed.training = time.perf_counter(), 0.0
        if way == "ours":
            search.agent = StableBaselines(Timed, settings=settings, num_envs=_ARCHITECTURES)
            search.run()
        else:
            env = DummyVecEnv([lambda search=search: ArchitectureEnv(search)] * _ARCHITECTURES)
            Timed("MlpPolicy", env, seed=number, device="cpu", **settings).learn(
                updates * _ARCHITECTURES * space.num_decisions
            )
        seconds = time.perf_counter() - started
        rates[way] = search.history.proposals / seconds
        if way == "ours":
            percent = 100 * (1 - Timed.training / seconds)
    return rates | {"ratio": rates["ours"] / rates["plain"], "percent": percent}


def _search(space: SearchSpace, evaluator: TableEvaluator, seed: int, updates: int) -> Search:
    """Return a search with so many updates; repeats are charged, so that its budget counts proposals."""
    return Search(space, evaluator, budget=Budget(updates * _ARCHITECTURES, charge_repeats=True), seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=at_least(1), default=7, help="default: %(default)s")
    parser.add_argument("--updates", type=at_least(1), default=100, help="of a search; default: %(default)s")
    parser.add_argument("--nas_bench_201", metavar="FILE", help="a table of import_benchmark, instead of ours")
    run(parser, measure)
