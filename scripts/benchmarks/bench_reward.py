"""Measures how reliable rewards are: the correlation of two seeds' rankings, by the length of the training.

For each data set and length, the same random architectures (distinct by representative) are trained with two evaluator
seeds. Spearman's rho of the two lists of validation accuracies says how much of a reward is the architecture and how
much is luck; its 95 % interval is the percentile bootstrap over architectures. The default lengths are to reach 0.9.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

import nasenv
from nasenv.evaluators.training import OTHER_RECIPE, RECIPES
from nasenv.trial import Architecture
from scripts.benchmarks.bench import at_least, goal, run, shown, spread, table

GOAL = 0.9
DATASETS = ("digits", "mnist5k")
_SEEDS = (0, 1)
_RESAMPLES = 2000


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print a table a data set; return the figures by data set and length."""
    return {dataset: _measure_dataset(dataset, arguments) for dataset in arguments.dataset}


def _measure_dataset(dataset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    data = nasenv.load_dataset(dataset)
    space = nasenv.ChainCNN(task=data.task)
    architectures = _distinct(space, arguments.architectures, np.random.default_rng(0))
    default = RECIPES.get(dataset, OTHER_RECIPE).epochs
    lengths = sorted(set(arguments.epochs or (max(1, default // 2), default, 2 * default)))
    chance = _chance_level(data.validation.targets.numpy())
    measured: dict[int, list[_Column]] = {epochs: [] for epochs in lengths}
    for seed in _SEEDS:
        with nasenv.TrainingEvaluator(space, data, epochs=lengths[-1], seed=seed) as evaluator:
            for epochs in lengths:
                measured[epochs].append(_Column(evaluator, architectures, epochs / lengths[-1]))
    figures = {str(epochs): _figures(columns, chance) for epochs, columns in measured.items()}
    title = f"ChainCNN on {dataset}, {len(architectures)} random architectures, two seeds; * is the default"
    heads = ["epochs", "rho [95 %]", "between seeds", "accuracy", "at chance", "training s", "wall s", "failed"]
    table(title, heads, [_row(epochs, f, epochs == str(default)) for epochs, f in figures.items()])
    if str(default) in figures:
        rho = figures[str(default)]["rho"]
        figures[str(default)]["goals"] = [goal(f"rho of {GOAL} or more at {default} epochs", rho, rho >= GOAL)]
    return figures


class _Column:
    """Holds architectures measured with one seed and length: rewards, training seconds, (n,), and wall seconds."""

    def __init__(self, evaluator: nasenv.Evaluator, architectures: Sequence[Architecture], fidelity: float) -> None:
        started = time.perf_counter()
        measurements = evaluator.measure([nasenv.Trial(a, fidelity) for a in architectures])
        self.wall_seconds = time.perf_counter() - started
        self.rewards = np.array([m.score or 0.0 for m in measurements])  # none right where the training failed
        self.train_seconds = [m.train_seconds for m in measurements]
        self.failed = sum(m.error is not None for m in measurements)


def _figures(columns: Sequence[_Column], chance: float) -> dict[str, Any]:
    rewards = np.stack([c.rewards for c in columns])  # (seeds, n)
    rows = np.random.default_rng(0).integers(rewards.shape[1], size=(_RESAMPLES, rewards.shape[1]))
    resampled = spearman(rewards[0][rows], rewards[1][rows])
    return {
        "designs": rewards.shape[1],
        "rho": float(spearman(rewards[0], rewards[1])),
        "rho_95": np.quantile(resampled, [0.025, 0.975]).tolist(),
        "median_difference": float(np.median(np.abs(rewards[0] - rewards[1]))),
        "accuracy": {"mean": float(rewards.mean()), **spread(rewards.mean(axis=0))},
        "at_chance": float((rewards.mean(axis=0) <= chance).mean()),
        "train_seconds": spread(s for c in columns for s in c.train_seconds),
        "wall_seconds": sum(c.wall_seconds for c in columns) / rewards.size,
        "failed": sum(c.failed for c in columns),
    }


def _row(epochs: str, figures: dict[str, Any], is_default: bool) -> list[str]:
    low, high = figures["rho_95"]
    accuracy, seconds = figures["accuracy"], figures["train_seconds"]
    return [
        f"{epochs}{' *' if is_default else ''}",
        f"{figures['rho']:.3f} [{low:.3f}, {high:.3f}]",
        f"{figures['median_difference']:.4f}",
        f"mean {accuracy['mean']:.3f}, {shown(accuracy, '.3f')}",
        f"{figures['at_chance']:.0%}",
        shown(seconds),
        f"{figures['wall_seconds']:.3g}",
        str(figures["failed"]),
    ]


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank correlation over the last axis, (..., n) and (..., n) -> (...); ties share their mean rank."""
    x, y = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (rankdata(a, axis=-1), rankdata(b, axis=-1)))
    correlation: NDArray[np.float64] = (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return correlation


def _distinct(space: nasenv.SearchSpace, n: int, rng: np.random.Generator) -> list[Architecture]:
    """Return n random architectures, no two of them equivalent, each as its representative."""
    architectures: dict[Architecture, None] = {}
    for _ in range(100):
        architectures |= dict.fromkeys(space.canonical(a) for a in space.sample(n, rng))
        if len(architectures) >= n:
            return list(architectures)[:n]
    raise nasenv.InputError(
        f"{type(space).__name__} gave no {n} distinct architectures; ask for fewer with --architectures"
    )


def _chance_level(labels: NDArray[np.int64]) -> float:
    """Return the accuracy that predicting the commonest class stays below in 95 of 100 samples of this size."""
    share = np.bincount(labels).max() / len(labels)
    return float(share + 1.645 * np.sqrt(share * (1 - share) / len(labels)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=DATASETS, help="default: %(default)s")
    parser.add_argument("--epochs", nargs="+", type=at_least(1), help="default: the data set's, half and double")
    parser.add_argument("--architectures", type=at_least(8), default=48, help="default: %(default)s")
    run(parser, measure)
