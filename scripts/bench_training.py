"""Evaluations a second on digits, against a plain PyTorch loop that does the same.

The plain loop is what a practised user writes first: DataLoader and TensorDataset, AdamW under OneCycleLR, one
training at a time with torch on all cores, contiguous tensors, the default optimizer implementation, scored by a
DataLoader loop. It has our epochs, batch size, peak rate, weight decay and number of steps (the last, incomplete batch
is left out). OneCycleLR, because a constant rate is the weaker baseline in so few epochs; ``--ablation`` shows it.

Speed: pairs of (plain, ours) on the same random designs, new ones each pair, the order changing from pair to pair;
the ratio is taken within pairs. Ours is the whole of ``TrainingEvaluator.evaluate``: also batch normalisation's
statistics taken again, FLOPs counted, and the way to the workers and back.

Accuracy: both are scored on validation data with the same number of seeds, on the space's hand-made reference, on the
random designs of the first pair, and on that quarter of these which the plain loop trains best.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from bench import at_least, cores, goal, run, shown, spread, table
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nasenv import Architecture, ChainCNN, Dataset, Measurement, Split, TrainingEvaluator, load_dataset
from nasenv.evaluators.training import RECIPES
from nasenv.evaluators.workers import WorkerPool

GOAL_RATIO = 2.3
GOAL_POINTS = -0.5
RECIPE = RECIPES["digits"]
_CONSTANT_RATE = 1e-3  # AdamW's default
_SCORING_BATCH = 256


@dataclass(frozen=True)
class Way:
    """How the plain loop is run; without the switches it is the plain way, each of them is a step towards ours."""

    threads: int = 1
    one_cycle: bool = True
    resident: bool = False
    fused: bool = False
    channels_last: bool = False


class PlainLoop:
    """Trains a design from a seed in some way, and returns its validation accuracy."""

    def __init__(self, space: ChainCNN, data: Dataset) -> None:
        self.space, self.data = space, data

    def __call__(self, job: tuple[Architecture, int, Way]) -> float:
        """Train as the job says, and score."""
        design, seed, way = job
        torch.set_num_threads(way.threads)
        torch.manual_seed(seed)
        model = self.space.build(design)
        if way.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        train = _Resident(self.data.train, way.channels_last) if way.resident else _loader(self.data.train)
        steps = RECIPE.epochs * len(train)
        rate = RECIPE.learning_rate if way.one_cycle else _CONSTANT_RATE
        decay = RECIPE.weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay, fused=way.fused or None)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps) if way.one_cycle else None
        for _ in range(RECIPE.epochs):
            for images, labels in train:
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if schedule is not None:
                    schedule.step()
        return self._score(model)

    @torch.no_grad()
    def _score(self, model: nn.Module) -> float:
        model.eval()
        validation = TensorDataset(self.data.validation.images, self.data.validation.labels)
        loader = DataLoader(validation, _SCORING_BATCH)
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader) / len(validation)


def _loader(split: Split) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(split.images, split.labels), RECIPE.batch_size, shuffle=True, drop_last=True)


class _Resident:
    """The batches of a loader, each gathered at once from the whole tensor."""

    def __init__(self, split: Split, channels_last: bool) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._images, self._labels = split.images.contiguous(memory_format=layout), split.labels

    def __len__(self) -> int:
        return len(self._labels) // RECIPE.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._labels))
        for rows in torch.split(order, RECIPE.batch_size)[: len(self)]:
            yield self._images[rows], self._labels[rows]


class Contest:
    """Both ways, ready to train the same designs.

    Args:
        ours: the evaluator, started.
        plain: the plain loop in this process.
        pool: the plain loop in as many workers of one thread as ours has.
    """

    def __init__(self, ours: TrainingEvaluator, plain: PlainLoop, pool: WorkerPool[Any, float]) -> None:
        self._ours, self._plain, self._pool = ours, plain, pool

    def ours(self, designs: Sequence[Architecture]) -> list[float]:
        """Return the accuracies, (n,), by the evaluator."""
        return [_checked(m) for m in self._ours.evaluate(designs)]

    def plain(self, designs: Sequence[Architecture], way: Way, seed: int = 0) -> list[float]:
        """Return the accuracies, (n,), by the plain loop, one training at a time."""
        return [self._plain((a, seed, way)) for a in designs]

    def side_by_side(self, designs: Sequence[Architecture], way: Way, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Return the accuracies, (seeds, n), by the plain loop in workers."""
        accuracies = self._pool.map([(a, seed, way) for seed in seeds for a in designs], _failed)
        return np.reshape(accuracies, (len(seeds), len(designs)))

    def ours_by_seed(self, designs: Sequence[Architecture], seeds: Sequence[int]) -> NDArray[np.float64]:
        """Return the accuracies, (seeds, n), by the evaluator, whose final training is as long as the search's."""
        return np.array([[_checked(m) for m in row] for row in self._ours.confirm(designs, seeds)]).T


def _checked(measurement: Measurement) -> float:
    if measurement.val_accuracy is None:
        _failed(str(measurement.error), measurement.train_seconds)
    return measurement.val_accuracy


def _failed(reason: str, seconds: float) -> NoReturn:
    raise RuntimeError(f"a training failed after {seconds:.0f} s: {reason}")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables of speed and accuracy, and of the ablation where it is asked for; return their figures."""
    data = load_dataset("digits")
    space = ChainCNN(input_shape=data.input_shape, num_classes=data.num_classes)
    rng = np.random.default_rng(arguments.seed)
    batches = [space.sample(arguments.designs, rng) for _ in range(arguments.pairs)]
    plain = PlainLoop(space, data)
    evaluator = TrainingEvaluator(space, data, final_epochs=RECIPE.epochs, device="cpu", workers=cores())
    with evaluator, contextlib.closing(WorkerPool(plain, cores(), timeout_seconds=600.0)) as pool:
        contest = Contest(evaluator, plain, pool)
        figures = {"speed": _speed(contest, batches)}
        figures["accuracy"] = _accuracy(contest, space.reference(), batches[0], range(arguments.seeds))
        if arguments.ablation:
            figures["ablation"] = _ablation(contest, batches[0], range(arguments.rounds))
    return figures


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _speed(contest: Contest, batches: Sequence[Sequence[Architecture]]) -> dict[str, Any]:
    way = Way(threads=cores())
    contest.ours(batches[0][:4])  # warm, both
    contest.plain(batches[0][:4], way)
    rates: dict[str, list[float]] = {"plain": [], "ours": []}  # evaluations a second, one a pair
    for number, designs in enumerate(batches):
        acts = {"plain": lambda d=designs: contest.plain(d, way), "ours": lambda d=designs: contest.ours(d)}
        for name in sorted(acts, reverse=number % 2 == 0):
            rates[name].append(len(designs) / _seconds(acts[name]))
    ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
    figures = {name: spread(values) for name, values in [*rates.items(), ("ratio", ratios)]}
    rows = [
        [f"plain loop, {cores()} threads", shown(figures["plain"])],
        [f"TrainingEvaluator, {cores()} workers", shown(figures["ours"])],
        ["ratio within pairs", shown(figures["ratio"])],
    ]
    table(f"{len(batches)} pairs of {len(batches[0])} random designs, digits", ["", "evaluations a second"], rows)
    ratio = figures["ratio"]["median"]
    return {**figures, "pairs": rates, "goals": [goal(f"{GOAL_RATIO} times", ratio, ratio >= GOAL_RATIO)]}


def _accuracy(
    contest: Contest, reference: Architecture, sampled: Sequence[Architecture], seeds: Sequence[int]
) -> dict[str, Any]:
    designs = [reference, *sampled]
    plain = contest.side_by_side(designs, Way(), seeds)  # (seeds, designs); threads change the speed alone
    ours = contest.ours_by_seed(designs, seeds)
    best = 1 + np.argsort(-plain[:, 1:].mean(axis=0))[: max(1, len(sampled) // 4)]
    sets = {
        "the hand-made reference": [0],
        f"{len(sampled)} random designs": list(range(1, len(designs))),
        f"the {len(best)} best of them": best.tolist(),
    }
    figures: dict[str, Any] = {}
    rows, goals = [], []
    for name, columns in sets.items():
        p, o = 100 * plain[:, columns].mean(axis=1), 100 * ours[:, columns].mean(axis=1)  # (seeds,), percent
        figures[name] = {"plain": _mean_std(p), "ours": _mean_std(o), "points": _mean_std(o - p)}
        rows.append([name, *("{mean:.2f} ± {std:.2f}".format(**figures[name][k]) for k in ("plain", "ours", "points"))])
    heads = ["validation accuracy, %", "plain loop", "TrainingEvaluator", "points more"]
    table(f"mean ± standard deviation over {len(seeds)} seeds, {RECIPE.epochs} epochs", heads, rows)
    for name, f in figures.items():
        points = f["points"]["mean"]
        goals.append(goal(f"{name}: not lower by more than {-GOAL_POINTS} points", points, points >= GOAL_POINTS))
    return {**figures, "goals": goals}


def _mean_std(values: NDArray[np.float64]) -> dict[str, float]:
    return {"n": len(values), "mean": float(values.mean()), "std": float(values.std(ddof=1))}


def _ablation(contest: Contest, designs: Sequence[Architecture], rounds: Sequence[int]) -> list[dict[str, Any]]:
    """Measure the steps from the plain way to ours, each with those before it; every round goes through all."""
    both = Way(threads=cores())
    steps: dict[str, Callable[[int], Any]] = {
        f"plain loop, {cores()} threads": lambda r: contest.plain(designs, both, r),
        "... at a constant rate": lambda r: contest.plain(designs, Way(cores(), one_cycle=False), r),
        "one thread": lambda r: contest.plain(designs, Way(), r),
        f"+ {cores()} workers": lambda r: contest.side_by_side(designs, Way(), [r]),
        "+ resident data": lambda r: contest.side_by_side(designs, Way(resident=True), [r]),
        "+ fused AdamW": lambda r: contest.side_by_side(designs, Way(resident=True, fused=True), [r]),
        "+ channels_last": lambda r: contest.side_by_side(
            designs, Way(resident=True, fused=True, channels_last=True), [r]
        ),
        "TrainingEvaluator": lambda _: contest.ours(designs),
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    accuracies: dict[str, list[float]] = {name: [] for name in steps}
    for r in rounds:
        for name, act in steps.items():
            started = time.perf_counter()
            accuracy = float(np.mean(act(r)))
            rates[name].append(len(designs) / (time.perf_counter() - started))
            accuracies[name].append(accuracy)
    first = np.array(rates[next(iter(steps))])
    figures = [
        {"step": name, "rate": spread(rates[name]), "times_plain": spread(rates[name] / first),
         "accuracy": float(np.mean(accuracies[name]))}
        for name in steps
    ]  # fmt: skip
    heads = ["", "evaluations a second", "times the plain loop", "mean accuracy"]
    rows = [[f["step"], shown(f["rate"]), shown(f["times_plain"]), f"{f['accuracy']:.3f}"] for f in figures]
    table(f"steps from the plain loop, {len(designs)} designs, {len(rounds)} rounds", heads, rows)
    return figures


def options() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=at_least(1), default=7, help="default: %(default)s")
    parser.add_argument("--designs", type=at_least(4), default=16, help="designs a pair; default: %(default)s")
    parser.add_argument("--seeds", type=at_least(2), default=10, help="seeds of the accuracies; default: %(default)s")
    parser.add_argument("--ablation", action="store_true", help="measure the steps from the plain loop to ours too")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="of the ablation; default: %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="draws the designs; default: %(default)s")
    return parser


if __name__ == "__main__":
    run(options(), measure)
