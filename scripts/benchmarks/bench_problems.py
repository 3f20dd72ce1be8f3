"""The problems of the training benchmarks: three data sets, each with fixed architectures.

The architectures were drawn once, from seed 0. Every other one is the space's hand-made reference or one of its
neighbours; those between are random architectures that the plain loop brings to half of the validation data or more,
from a seed that is not scored. Most random chains are left out so: four in five have under a tenth of the reference's
FLOPs, and many learn nothing. On mnist5k architectures have at most a quarter of the reference's FLOPs, on the others
at most as many: larger ones cannot be trained as often as a benchmark must.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

from nasenv import Architecture, ChainCNN, Dataset, NASBench201, SearchSpace, TrainingEvaluator, load_dataset
from scripts.benchmarks.bench import at_least

_DIGITS = """
    conv3x16|conv3x16|max_pool3|conv3x32|conv3x32|conv3x32
    conv5x16|conv3x16
    conv3x16|conv3x16|max_pool3|conv3x32|conv3x32|sep_conv3x32
    conv5x16|max_pool5|conv5x16
    conv3x8|conv3x16|max_pool3|conv3x32|conv3x32|conv3x32
    avg_pool5|conv5x16+skip|sep_conv3x16+skip|conv3x8+skip|avg_pool5+skip|max_pool3
    conv3x16|conv3x16|max_pool3|sep_conv3x32|conv3x32|conv3x32
    max_pool3|sep_conv5x32|conv3x16+skip
    conv3x16|conv3x16|max_pool3|conv3x32|conv3x32
    conv5x16|conv1x8|conv3x32|sep_conv5x8+skip|avg_pool5|conv3x16
    conv3x16|conv3x16|max_pool3|conv3x8|conv3x32|conv3x32
    avg_pool5|conv5x32+skip|identity+skip|conv5x32|avg_pool5|conv1x16
"""
_MNIST5K = """
    max_pool3|conv3x16|max_pool3|conv3x32|conv3x32|conv3x32
    conv5x16|max_pool3+skip|conv3x32|avg_pool5|sep_conv5x32
    avg_pool3|conv3x16|max_pool3|conv3x32|conv3x32|conv3x32
    conv3x8|max_pool5|conv1x32+skip|sep_conv5x32+skip
    conv3x16|max_pool3|max_pool3|conv3x32|conv3x32|conv3x32
    avg_pool5|conv5x32|sep_conv3x8+skip|identity+skip|conv5x32
"""
_CELLS = """
    |nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|
    |skip_connect~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|avg_pool_3x3~0|avg_pool_3x3~1|skip_connect~2|
    |nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|
    |skip_connect~0|+|none~0|avg_pool_3x3~1|+|nor_conv_1x1~0|nor_conv_3x3~1|avg_pool_3x3~2|
    |nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|
    |nor_conv_1x1~0|+|skip_connect~0|skip_connect~1|+|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_3x3~2|
"""


@dataclass(frozen=True)
class Problem:
    """Holds a space, its data, a recipe, and the architectures that the benchmarks train.

    Args:
        name: of the row in a table.
        space: whose networks.
        data: on which.
        epochs: of a training.
        batch_size: examples a step.
        texts: the architectures, one a line.
        goal: evaluations a second on the processor, times those of the plain way.
        aim: what is hoped for.
    """

    name: str
    space: SearchSpace
    data: Dataset
    epochs: int
    batch_size: int
    texts: str
    goal: float
    aim: float

    @property
    def examples(self) -> int:
        """Return the number of examples that one training sees, without incomplete batches."""
        return self.epochs * (len(self.data.train) // self.batch_size) * self.batch_size

    def architectures(self, most: int | None = None) -> list[Architecture]:
        """Return the architectures, or the first ``most`` of them."""
        return [self.space.from_text(text) for text in self.texts.split()][:most]

    def evaluator(self, device: str) -> TrainingEvaluator:
        """Return a `TrainingEvaluator` with this problem's epochs and batch size."""
        length = {"epochs": self.epochs, "batch_size": self.batch_size}
        return TrainingEvaluator(self.space, self.data, devices=device, **length)


def _digits() -> Problem:
    data = load_dataset("digits")
    return Problem("chain CNN, digits", ChainCNN(task=data.task), data, 5, 64, _DIGITS, goal=2.4, aim=5)


def _mnist5k() -> Problem:
    data = load_dataset("mnist5k")
    return Problem("chain CNN, mnist5k", ChainCNN(task=data.task), data, 2, 128, _MNIST5K, goal=2.2, aim=4)


def _cells() -> Problem:
    data = load_dataset("digits")
    space = NASBench201(channels=16, cells=1, task=data.task)
    return Problem("NAS-Bench-201 cells, digits", space, data, 5, 64, _CELLS, goal=2.2, aim=4)


PROBLEMS: dict[str, Callable[[], Problem]] = {"digits": _digits, "mnist5k": _mnist5k, "cells": _cells}


def selected(arguments: argparse.Namespace) -> list[Problem]:
    """Return the problems that the options select, with the epochs that they give."""
    problems = [PROBLEMS[name]() for name in arguments.problems]
    return [replace(problem, epochs=arguments.epochs or problem.epochs) for problem in problems]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select architectures, problems, epochs and device."""
    names = ",".join(PROBLEMS)
    device = "cpu, cuda, cuda:N, or auto: cuda where there is one; default: %(default)s"
    parser.add_argument("--problems", type=_names, default=[*PROBLEMS], help=f"some of {names}; default: all")
    parser.add_argument(
        "--architectures", type=at_least(1), metavar="N", help="the first of each problem; default: all"
    )
    parser.add_argument("--epochs", type=at_least(1), metavar="N", help="of each training; default: the problem's")
    parser.add_argument("--device", default="auto", help=device)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in PROBLEMS:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(PROBLEMS)}, got {name!r}")
    return names
