"""Evaluations a second on digits, against a plain PyTorch loop that does the same.

The plain loop is what a practised user writes first: DataLoader and TensorDataset, AdamW under OneCycleLR, one
training at a time with torch on all cores, contiguous tensors, the default optimizer implementation, scored by a
DataLoader loop. It has our epochs, batch size, peak rate, weight decay and number of steps (the last, incomplete batch
is left out). OneCycleLR, because a constant rate is the weaker baseline in so few epochs; ``--ablation`` shows it.

Designs: a mix, half of it the space's hand-made reference and some of its neighbours, the other half random designs
that the plain loop brings to half of the validation data or more (with a seed that is not scored). Beside it random
designs as they are drawn, the first thing that a search meets: many are tiny or learn nothing. The goals are set for
the mix.

Speed: pairs of (plain, ours) on the same designs, the order changing from pair to pair; the ratio is taken within
pairs. The plain loop on one thread runs beside them: networks as small as these may be faster so, and torch's threads
wait by spinning, so that any other work on the machine slows two of them many times. Ours is the whole of
``TrainingEvaluator.evaluate``: also batch normalisation's statistics taken again, FLOPs counted, and the way to the
workers and back.

Accuracy: both are scored on validation data, with the same number of seeds.
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
_AROUND, _LEARNING, _DRAWN = "reference and neighbours", "random that learn", "random as drawn"
_MIX = "the mix"
_LEARNT = 0.5  # validation accuracy
_SCREENING_SEED = 10**6  # not one of those that are scored


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
        jobs = [(a, seed, way) for seed in seeds for a in designs]
        accuracies = dict(self._pool.stream(jobs, _failed))
        return np.reshape([accuracies[job] for job in jobs], (len(seeds), len(designs)))

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
    plain = PlainLoop(space, data)
    evaluator = TrainingEvaluator(space, data, final_epochs=RECIPE.epochs, device="cpu", workers=cores())
    with evaluator, contextlib.closing(WorkerPool(plain, cores(), timeout_seconds=600.0)) as pool:
        contest = Contest(evaluator, plain, pool)
        groups = _groups(contest, space, arguments.designs, rng)
        figures: dict[str, Any] = {"designs": {n: [space.to_text(d) for d in ds] for n, ds in groups.items()}}
        figures["speed"] = _speed(contest, _sets(groups), arguments.pairs)
        figures["accuracy"] = _accuracy(contest, groups, range(arguments.seeds))
        if arguments.ablation:
            figures["ablation"] = _ablation(contest, _sets(groups)[_MIX], range(arguments.rounds))
    return figures


def _groups(contest: Contest, space: ChainCNN, n: int, rng: np.random.Generator) -> dict[str, list[Architecture]]:
    """Return the designs: n/2 about the reference, n/2 random ones that learn, n random ones as they are drawn."""
    reference = space.canonical(space.reference())
    around = [space.canonical(a) for a in space.neighbours(reference)]
    others = [around[i] for i in rng.permutation(len(around))]
    good = list(dict.fromkeys([reference, *others]))[: n // 2]
    learning: list[Architecture] = []
    while len(learning) < n // 2:
        sampled = list(dict.fromkeys(space.canonical(a) for a in space.sample(n, rng)))
        accuracies = contest.side_by_side(sampled, Way(), [_SCREENING_SEED])[0]
        fresh = [a for a, score in zip(sampled, accuracies, strict=True) if score >= _LEARNT]
        learning = list(dict.fromkeys([*learning, *fresh]))[: n // 2]
    return {_AROUND: good, _LEARNING: learning, _DRAWN: space.sample(n, rng)}


def _sets(groups: dict[str, list[Architecture]]) -> dict[str, list[Architecture]]:
    """Return the mix that the goals are set for, and the random designs as they are drawn."""
    return {_MIX: groups[_AROUND] + groups[_LEARNING], _DRAWN: groups[_DRAWN]}


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _speed(contest: Contest, sets: dict[str, list[Architecture]], pairs: int) -> dict[str, Any]:
    rates = {name: _pairs(contest, designs, pairs) for name, designs in sets.items()}
    figures = {name: {key: spread(values) for key, values in r.items()} for name, r in rates.items()}
    heads = {
        "plain": f"plain loop, {cores()} threads",
        "plain_one_thread": "one thread",
        "ours": f"TrainingEvaluator, {cores()} workers",
        "ratio": "ours / plain",
        "ratio_one_thread": "ours / one thread",
    }
    rows = [[f"{name} ({len(sets[name])})", *(shown(f[key]) for key in heads)] for name, f in figures.items()]
    table(f"median (min - max) of {pairs} pairs, digits", ["evaluations a second", *heads.values()], rows)
    ratio = figures[_MIX]["ratio"]["median"]
    met = goal(f"{GOAL_RATIO} times the plain loop on the mix", ratio, ratio >= GOAL_RATIO)
    return {**figures, "pairs": rates, "goals": [met]}


def _pairs(contest: Contest, designs: Sequence[Architecture], pairs: int) -> dict[str, list[float]]:
    """Return evaluations a second of each way and ours against the plain ones, one a pair."""
    acts = {
        "plain": lambda: contest.plain(designs, Way(threads=cores())),
        "plain_one_thread": lambda: contest.plain(designs, Way()),
        "ours": lambda: contest.ours(designs),
    }
    rates: dict[str, list[float]] = {name: [] for name in acts}
    contest.plain(designs[:4], Way(threads=cores()))  # warm, both
    contest.ours(designs[:4])
    for number in range(pairs):
        for name in sorted(acts, reverse=number % 2 == 0):
            rates[name].append(len(designs) / _seconds(acts[name]))
    against = {"ratio": "plain", "ratio_one_thread": "plain_one_thread"}
    ours = np.array(rates["ours"])
    return rates | {ratio: (ours / np.array(rates[plain])).tolist() for ratio, plain in against.items()}


def _accuracy(contest: Contest, groups: dict[str, list[Architecture]], seeds: Sequence[int]) -> dict[str, Any]:
    designs = [a for group in groups.values() for a in group]
    names = np.array([name for name, group in groups.items() for _ in group])
    plain = contest.side_by_side(designs, Way(), seeds)  # (seeds, designs); threads change the speed alone
    ours = contest.ours_by_seed(designs, seeds)
    columns = {_MIX: names != _DRAWN, "the reference": np.arange(len(designs)) == 0}
    columns |= {name: names == name for name in groups}
    figures: dict[str, Any] = {}
    for name, of in columns.items():
        p, o = 100 * plain[:, of].mean(axis=1), 100 * ours[:, of].mean(axis=1)  # (seeds,), percent
        figures[name] = {"plain": _mean_std(p), "ours": _mean_std(o), "points": _mean_std(o - p)}
    forms = ("plain", "ours", "points")
    rows = [[name, *("{mean:.2f} ± {std:.2f}".format(**f[k]) for k in forms)] for name, f in figures.items()]
    heads = ["validation accuracy, %", "plain loop", "TrainingEvaluator", "points more"]
    table(f"mean ± standard deviation over {len(seeds)} seeds, {RECIPE.epochs} epochs", heads, rows)
    points = figures[_MIX]["points"]["mean"]
    met = goal(f"not lower by more than {-GOAL_POINTS} points on the mix", points, points >= GOAL_POINTS)
    return {**figures, "goals": [met]}


def _mean_std(values: NDArray[np.float64]) -> dict[str, float]:
    return {"n": len(values), "mean": float(values.mean()), "std": float(values.std(ddof=min(1, len(values) - 1)))}


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
    figures: list[dict[str, Any]] = [
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
    parser.add_argument("--designs", type=at_least(4), default=16, help="in either set; default: %(default)s")
    parser.add_argument("--seeds", type=at_least(1), default=10, help="seeds of the accuracies; default: %(default)s")
    parser.add_argument("--ablation", action="store_true", help="measure the steps from the plain loop to ours too")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="of the ablation; default: %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="draws the designs; default: %(default)s")
    return parser


if __name__ == "__main__":
    run(options(), measure)
