"""The blocks that a grammar puts together, and the structures in which they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nasenv.spaces.layers import GlobalAveragePool


def _relu_conv_bn(width: int, kernel: int, is_separable: bool = False) -> nn.Sequential:
    groups, pointwise = (width, [nn.Conv2d(width, width, 1, bias=False)]) if is_separable else (1, [])
    conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.ReLU(), conv, *pointwise, nn.BatchNorm2d(width))


class Zero(nn.Module):
    """Returns zeros of the shape of its input."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x_nchw)


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "conv1x1": lambda width: _relu_conv_bn(width, 1),
    "conv3x3": lambda width: _relu_conv_bn(width, 3),
    "conv5x5": lambda width: _relu_conv_bn(width, 5),
    "sep_conv3x3": lambda width: _relu_conv_bn(width, 3, is_separable=True),
    "sep_conv5x5": lambda width: _relu_conv_bn(width, 5, is_separable=True),
    "max_pool3x3": lambda width: nn.MaxPool2d(3, stride=1, padding=1),
    "avg_pool3x3": lambda width: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    "identity": lambda width: nn.Identity(),
    "zero": lambda width: Zero(),
    "reduce": lambda width: nn.Sequential(
        nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width)
    ),
}
"""Block -> a module of it, (n, width, h, w) -> the same shape, but for reduce -> (n, 2 width, h / 2, w / 2)."""


def in_network(inputs: int, channels: int, body: nn.Module, width: int, outputs: int) -> nn.Sequential:
    """Return the whole network: a convolution, the body, (n, channels, h, w) -> (n, width, ...), and a classifier."""
    first = [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
    return nn.Sequential(*first, body, nn.BatchNorm2d(width), nn.ReLU(), GlobalAveragePool(), nn.Linear(width, outputs))


class Sum(nn.Module):
    """Adds what several modules compute of one input."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(modules)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the sum, of the shape of the input."""
        first, *others = self.branches
        out: Tensor = first(x_nchw)
        for branch in others:
            out = out + branch(x_nchw)
        return out


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """Return the edges of a cell, from node and to node, in the order 0>1, 0>2, 1>2, 0>3, ... of NAS-Bench-201."""
    return [(start, end) for end in range(1, nodes) for start in range(end)]


class Cell(nn.Module):
    """Computes a graph of n nodes with an edge from each to every later one; a node is the sum of its edges.

    Args:
        nodes: their number.
        edges: those of `cell_edges`, in this order.
    """

    def __init__(self, nodes: int, edges: Sequence[nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(edges)
        self.ends = cell_edges(nodes)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return what the last node holds, of the shape of the input."""
        nodes = {0: x_nchw}
        for (start, end), edge in zip(self.ends, self.edges, strict=True):
            brought = edge(nodes[start])
            nodes[end] = nodes[end] + brought if end in nodes else brought
        return nodes[self.ends[-1][1]]
