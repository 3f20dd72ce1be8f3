"""Measures decisions a second of the vector environment on a table, beside Gymnasium's SyncVectorEnv.

A step gives observations, masks and, at the end of the episodes, rewards of all architectures. Actions are drawn
beforehand. Both environments take the same actions, one after the other, several times over; the ratio is that of the
two rates of one round.
"""

import argparse
import time
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from nasenv import ArchitectureEnv, ArchitectureVectorEnv, Budget, ChainCNN, NASBench201, Search, TableEvaluator
from nasenv.spaces.space import SearchSpace
from scripts.benchmarks.bench import at_least, goal, run, shown, spread, table

GOAL_RATE, GOAL_RATIO = 5e6, 50.0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print decisions a second and the ratio; return them."""
    figures, rows, goals = {}, [], []
    for name, evaluator in problems(arguments.nas_bench_201).items():
        rounds = [_round(evaluator, arguments.architectures, arguments.episodes) for _ in range(arguments.rounds)]
        ours, sync = (spread(r[k] for r in rounds) for k in ("ours", "sync"))
        ratio = spread(r["ours"] / r["sync"] for r in rounds)
        figures[name] = {"decisions_per_second": ours, "sync_decisions_per_second": sync, "ratio": ratio}
        rows.append([name, f"{ours['n']}", *(shown(x) for x in (ours, sync, ratio))])
        goals += [
            goal(f"{name}: 5,000,000 decisions a second", ours["median"], ours["median"] >= GOAL_RATE),
            goal(f"{name}: 50 times SyncVectorEnv", ratio["median"], ratio["median"] >= GOAL_RATIO),
        ]
    heads = ["table", "n", "ArchitectureVectorEnv, decisions/s", "SyncVectorEnv, decisions/s", "ratio"]
    shown_as = table(f"{arguments.architectures} architectures side by side, median (min - max)", heads, rows)
    return {"problems": figures, "tables": [shown_as], "goals": goals}


def problems(nas_bench_201: str | None) -> dict[str, TableEvaluator]:
    """Return the tables by name: the one that is shipped, and NAS-Bench-201's where its file is given."""
    problems = {"chain_cnn_digits (T = 13)": TableEvaluator(ChainCNN(max_layers=3, widths=(16,)))}
    if nas_bench_201 is not None:
        columns = {"val_column": "val_accuracy_200_epochs", "test_column": None}
        problems["nas-bench-201 (T = 6)"] = TableEvaluator(NASBench201(), nas_bench_201, **columns)
    return problems


def _round(evaluator: TableEvaluator, architectures: int, episodes: int) -> dict[str, float]:
    """Return decisions a second of both environments, in fresh searches that evaluate the same architectures."""
    space = evaluator.space
    steps = episodes * space.num_decisions
    actions = np.random.default_rng(0).integers(0, space.max_choices, (steps, architectures))
    env = ArchitectureVectorEnv(_search(space, evaluator), architectures)
    ours = _rate(env, actions)
    shared = _search(space, evaluator)
    sync = SyncVectorEnv([lambda: ArchitectureEnv(shared)] * architectures, autoreset_mode=AutoresetMode.SAME_STEP)
    few = actions[: 2 * space.num_decisions]  # it is slow, and its rate does not depend on the number of episodes
    return {"ours": ours, "sync": _rate(sync, few)}


def _search(space: SearchSpace, evaluator: TableEvaluator) -> Search:
    return Search(space, evaluator, budget=Budget(evaluations=None, repeats_per_evaluation=1_000_000))


def _rate(env: VectorEnv[Any, Any, Any], actions: np.ndarray[Any, Any]) -> float:
    env.reset()
    started = time.perf_counter()
    for chosen in actions:
        env.step(chosen)
    return actions.size / (time.perf_counter() - started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architectures", type=at_least(1), default=1024, help="default: %(default)s")
    parser.add_argument("--episodes", type=at_least(2), default=60, help="default: %(default)s")
    parser.add_argument("--rounds", type=at_least(1), default=7, help="default: %(default)s")
    parser.add_argument("--nas_bench_201", metavar="FILE", help="a table of import_benchmark, to be measured on too")
    run(parser, measure)
