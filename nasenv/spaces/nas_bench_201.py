"""NAS-Bench-201: cells of four nodes and six edges, each edge with one of five operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from nasenv.configuration import integer
from nasenv.errors import InputError
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import CIFAR10, Images, Task
from nasenv.trial import Architecture

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # from node, to node; in the order of the official string
NAMES = tuple(f"{i}>{j}" for i, j in EDGES)  # of the decisions
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # all ways from node 0 to node 3, by their edges
_DIGITS = len(OPERATIONS) - 1  # skip, as 0, and what does something
_TEXT = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


class NASBench201(SearchSpace):
    """Search space of the 15,625 cells of NAS-Bench-201 (Dong & Yang 2020, https://arxiv.org/abs/2001.00326).

    A cell has four nodes: node 0 is its input, node 3 its output, and a node is the sum of what its incoming
    edges bring from earlier nodes.

    ========  ====================================  =================================================
    step      decision                              choices
    ========  ====================================  =================================================
    0 to 5    ``0>1 0>2 1>2 0>3 1>3 2>3``: what     none, skip_connect, nor_conv_1x1, nor_conv_3x3
              the edge from node i to node j does   (ReLU, convolution, batch norm), avg_pool_3x3
    ========  ====================================  =================================================

    Every choice is always valid. The network is the published one: 3x3 convolution with ``channels`` outputs and
    batch norm, then three stages of ``cells`` equal cells, with a residual block between stages that halves the
    map and doubles the channels, then batch norm, ReLU, global average and a linear layer.

    All edges own their parameters, as published, but an edge that brings nothing to the cell's output is not
    computed: its parameters get no gradient. A convolution of nothing is nothing here, while the published one
    brings its learned batch norm bias; that keeps the architectures of one class equal.

    Architectures with the same published "unique string" are equivalent: 6,466 classes. The representative is the first
    in the order of the choices. Members of a class can differ in parameters: on edges that lead nowhere, and because
    the string does not tell one convolution that is used twice from two convolutions of one input.

    The reference is the residual block that the paper compares with. The text form is the official string.

    Args:
        channels: channels of the first stage; 16 as published.
        cells: cells in each stage; 5 as published.
        task: images; by default CIFAR-10's, as published.

    Raises:
        InputError: a size that is not positive.

    Example:
        >>> space = NASBench201(channels=4, cells=1, task=Task(Images((1, 8, 8)), outputs=10))
        >>> space.to_text(space.reference())
        '|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|'
        >>> space.build(space.reference())(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int = 16,
        cells: int = 5,
        task: Task | None = None,
    ) -> None:
        super().__init__(
            [Decision(name, OPERATIONS) for name in NAMES], (task or CIFAR10).check_inputs(Images, "NASBench201")
        )
        self.channels, self.cells = integer("channels", channels), integer("cells", cells)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the first architecture, in the order of the choices, of this one's published equivalence class."""
        return cast(Architecture, tuple(_representatives()[architecture].tolist()))

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return also which operation sequences lie on a path from node 0 to node 3, (n, 64).

        The path encoding of White et al. 2021 (BANANAS, https://arxiv.org/abs/1910.11858), but for skips, which are no
        operations here: so equal cells have equal paths.
        """
        rows = np.array(architectures, dtype=np.int64).reshape(-1, len(EDGES))
        codes = np.zeros((len(rows), _DIGITS**3))  # a column for every sequence of up to three operations
        for path in _PATHS:
            sequence = np.zeros(len(rows), dtype=np.int64)
            for edge in path:
                digit = rows[:, edge] - 1  # 0 skip, then the others; -1 none
                sequence = np.where(digit > 0, _DIGITS * sequence + digit, sequence)
            joined = np.flatnonzero((rows[:, path] > 0).all(axis=1))
            codes[joined, sequence[joined]] = 1.0
        return super().feature_parts(architectures) | {"paths": codes}

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        operations = [OPERATIONS[c] for c in architecture]
        width = self.channels
        layers: list[nn.Module] = [nn.Conv2d(self.task.shape[0], width, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), *(_Cell(operations, width) for _ in range(self.cells))]
        for _ in range(2):
            layers += [_ResidualBlock(width), *(_Cell(operations, 2 * width) for _ in range(self.cells))]
            width *= 2
        layers += [nn.BatchNorm2d(width), nn.ReLU(), GlobalAveragePool()]
        return nn.Sequential(*layers, nn.Linear(width, self.task.outputs))

    def reference(self) -> Architecture:
        """Return the residual block of He et al. 2016 (https://arxiv.org/abs/1512.03385), the paper's baseline."""
        return self.from_text("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|")

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the four nodes and the edges decided so far, without edges of ``none``."""
        decided = [(i, j, OPERATIONS[c]) for (i, j), c in zip(EDGES, prefix, strict=False)]
        return Diagram(("input", "1", "2", "output"), tuple(edge for edge in decided if edge[2] != "none"))

    def to_text(self, architecture: Architecture) -> str:
        """Return the official string, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
        return _TEXT.format(*(OPERATIONS[c] for c in architecture))

    def from_text(self, text: str) -> Architecture:
        """Return the architecture of an official string; raise InputError for any other text."""
        pattern = re.escape(_TEXT).replace(r"\{\}", "([^|~]*)")
        found = re.fullmatch(pattern, text.strip())
        if found is None:
            raise InputError(f"{text!r}: expected a cell written as {_TEXT.replace('{}', 'OPERATION')}")
        for name in found.groups():
            if name not in OPERATIONS:
                raise InputError(f"{text!r}: expected operations of {', '.join(OPERATIONS)}, got {name!r}")
        return tuple(OPERATIONS.index(name) for name in found.groups())


class _Cell(nn.Module):
    """Computes one cell, (n, width, h, w) -> the same shape, along the edges that reach its output."""

    def __init__(self, operations: Sequence[str], width: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({NAMES[e]: _operation(name, width) for e, name in enumerate(operations)})
        self.live = _live_edges(operations)

    def forward(self, x_nchw: torch.Tensor) -> torch.Tensor:
        nodes = {0: x_nchw}
        for e in self.live:
            i, j = EDGES[e]
            brought = self.edges[NAMES[e]](nodes[i])
            nodes[j] = nodes[j] + brought if j in nodes else brought
        return nodes[3] if 3 in nodes else torch.zeros_like(x_nchw)


def _live_edges(operations: Sequence[str]) -> list[int]:
    """Return the indices of the edges on paths from node 0 to node 3 that no ``none`` interrupts."""
    open_edges = [e for e, name in enumerate(operations) if name != "none"]
    fed = {0}
    for e in open_edges:  # the order of EDGES is topological
        if EDGES[e][0] in fed:
            fed.add(EDGES[e][1])
    wanted = {3}
    for e in reversed(open_edges):
        if EDGES[e][1] in wanted:
            wanted.add(EDGES[e][0])
    return [e for e in open_edges if EDGES[e][0] in fed and EDGES[e][1] in wanted]


class _ResidualBlock(nn.Module):
    """Computes the block between stages, (n, width, h, w) -> (n, 2 width, h / 2, w / 2), odd sizes rounded up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_relu_conv_bn(width, 2 * width, 3, stride=2), _relu_conv_bn(2 * width, 2 * width, 3))
        self.project = nn.Conv2d(width, 2 * width, 1, bias=False)

    def forward(self, x_nchw: torch.Tensor) -> torch.Tensor:
        halved = functional.avg_pool2d(x_nchw, 2, ceil_mode=True)
        out: torch.Tensor = self.body(x_nchw) + self.project(halved)
        return out


def _operation(name: str, width: int) -> nn.Module:
    if name.startswith("nor_conv"):
        return _relu_conv_bn(width, width, kernel=int(name[-1]))
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity()


def _relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(outputs))


@cache
def _representatives() -> NDArray[np.int64]:
    """Return the representative of every cell, (5, 5, 5, 5, 5, 5, 6): the last axis holds its six choices."""
    first: dict[str, Architecture] = {}
    cells = product(range(len(OPERATIONS)), repeat=len(EDGES))
    rows = [first.setdefault(_unique_string(cell), cell) for cell in cells]
    return np.array(rows).reshape((len(OPERATIONS),) * len(EDGES) + (len(EDGES),))


def _unique_string(architecture: Architecture) -> str:
    """Return the string of what node 3 computes, by which the official code identifies equivalence classes.

    A node is the sorted sum of its edges; ``#`` stands for nothing, and a sum of nothings is (officially) not nothing.
    """
    nodes = ["0", "", "", ""]
    for j in (1, 2, 3):
        terms = [_term(nodes[EDGES[e][0]], OPERATIONS[architecture[e]]) for e in range(6) if EDGES[e][1] == j]
        nodes[j] = "+".join(sorted(terms))
    return nodes[3]


def _term(source: str, operation: str) -> str:
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"
