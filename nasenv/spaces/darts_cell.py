"""DARTSCell: a normal and a reduction cell of four nodes, each the sum of two operations on earlier nodes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, permutations, product
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nasenv.configuration import integer
from nasenv.errors import InputError
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import CIFAR10, Images, Task
from nasenv.trial import Architecture

OPERATIONS = (  # in the order of the published list, without ``none``, which no genotype holds
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
CELLS = ("normal", "reduce")
NODES = (2, 3, 4, 5)  # 0 and 1 are the outputs of the two cells before
PAIRS = {node: tuple(combinations(range(node), 2)) for node in NODES}  # the inputs that a node can have
_LENGTH = 11  # decisions of a cell: two operations of each node, and the inputs of all but the first
_SMALL = 16  # pixels a side
_LONGEST_TEXT = 4_000  # characters of a genotype; published ones have about 550

_Edge = tuple[int, int, int]  # node, input, index of the operation


class DARTSCell(SearchSpace):
    """Search space of the cells of DARTS (Liu et al. 2019, https://arxiv.org/abs/1806.09055).

    A cell has two inputs, 0 and 1, the outputs of the cells before, and four nodes, 2 to 5. A node is the sum of two
    operations on two different earlier nodes; the cell's output is all four nodes, concatenated. There is a normal cell
    and one that halves the map, ``reduce``.

    ==============================  ====================================================================
    decision                        choices
    ==============================  ====================================================================
    ``CELL.nodeJ.inputs``           node 3: 0+1, 0+2, 1+2; node 4: 6 pairs; node 5: 10 pairs; node 2 has
                                    no such decision, its inputs are 0 and 1
    ``CELL.nodeJ.operation1``       what is done to the first input of the pair: max_pool_3x3,
                                    avg_pool_3x3, skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3,
                                    dil_conv_5x5; never ``none``, as in published genotypes
    ``CELL.nodeJ.operation2``       what is done to the second input: the same choices
    ==============================  ====================================================================

    CELL is normal, then reduce; J = 2 .. 5, in order: 22 decisions. Every choice is always valid, which makes
    (180 x 7^8)^2 = 1.08 x 10^18 architectures. Convolutions are ReLU, convolutions, batch norm: sep_conv twice a
    depthwise and a 1x1 convolution, dil_conv once, its kernel dilated by 2.

    Cells that differ in nothing but the numbers of their nodes are the same network, in which channels have changed
    places. There are 1.46 x 10^17 classes. The representative has the first wiring, and of this the first operations.

    The network is the published one, without auxiliary head and drop path, which belong to a training: 3x3 convolution
    with 3 x ``channels`` outputs and batch norm, then the cells; those after a third and two thirds of them are
    reduction cells, which double the channels; then global average and a linear layer. Odd sizes of a map are halved
    rounded up.

    The text form is the genotype as DARTS and later papers print it. It is read in either order of a node's inputs.

    The reference is a chain of residual blocks (https://arxiv.org/abs/1512.03385): every node adds a sep_conv_3x3 of
    the node before to the node before that one.

    Args:
        channels: channels of a node in the first cells; 36 as published. The defaults of both are small on purpose.
        cells: number of cells, 3 or more; 20 as published.
        stem_stride: stride of the first convolution; 1 as published. By default 1 for maps of up to 16 pixels, else 2.
        task: images; by default CIFAR-10's, as published.

    Raises:
        InputError: channels or stride below 1, fewer than 3 cells.

    Example:
        >>> space = DARTSCell(task=Task(Images((1, 8, 8)), outputs=10))
        >>> print(space.to_text(space.reference()))
        Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 1), ('sep_conv_3x3', 2),
        ('skip_connect', 2), ('sep_conv_3x3', 3), ('skip_connect', 3), ('sep_conv_3x3', 4)], normal_concat=[2, 3, 4, 5],
        reduce=[...], reduce_concat=[2, 3, 4, 5])
        >>> space.build(space.reference())(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, channels: int = 8, cells: int = 3, stem_stride: int | None = None, task: Task | None = None
    ) -> None:
        super().__init__(list(_decisions()), (task or CIFAR10).check_inputs(Images, "DARTSCell"))
        self.channels, self.cells = integer("channels", channels), integer("cells", cells, least=3)
        small = min(self.task.shape[1:]) <= _SMALL
        self.stem_stride = (1 if small else 2) if stem_stride is None else integer("stem_stride", stem_stride)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the architecture with the nodes of both cells in the order of the representative."""
        return _first_of_class(architecture[:_LENGTH]) + _first_of_class(architecture[_LENGTH:])

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        return _Network(_cells(architecture), self.channels, self.cells, self.stem_stride, self.task)

    def reference(self) -> Architecture:
        """Return a chain of residual blocks, each a sep_conv_3x3 of the node before plus the one before that."""
        skip, convolution = OPERATIONS.index("skip_connect"), OPERATIONS.index("sep_conv_3x3")
        cell = [edge for j in NODES for edge in ((j, j - 2, skip), (j, j - 1, convolution))]
        return 2 * _decided(cell)

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return which operation is on which edge, how often, and how often on a random path to a node.

        edges: (n, 196), a column for every edge of both cells and operation; counts: (n, 14); paths: (n, 14), the mean
        number of times that each operation is met from an input of the cell to a node, where a node takes either of its
        inputs with the same probability, summed over the nodes.
        """
        rows = np.array(architectures, dtype=np.int64).reshape(-1, 2 * _LENGTH)
        codes = np.stack([_edge_codes(cells) for cells in np.split(rows, 2, axis=1)], axis=1)  # (n, 2, 14, 7)
        parts = {"edges": codes, "counts": codes.sum(axis=2), "paths": _path_counts(codes)}
        return {name: part.reshape(len(rows), -1) for name, part in parts.items()}

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return both cells, one below the other, with the nodes that are decided."""
        nodes: list[str] = []
        arrows: list[tuple[int, int, str]] = []
        for name, edges in _cells(prefix).items():
            if not edges and name != CELLS[0]:
                break
            start = len(nodes)
            nodes += [f"{name} 0\noutput of the cell before the last", f"{name} 1\noutput of the last cell"]
            for node in dict.fromkeys(j for j, _, _ in edges):
                own = [(i, OPERATIONS[o]) for j, i, o in edges if j == node]
                nodes.append("\n".join([f"{name} {node}", *(f"{operation} of {i}" for i, operation in own)]))
                arrows += [(start + i, start + node, "") for i, _ in own]
            if len(edges) == 2 * len(NODES):
                nodes.append(f"{name} output\n2, 3, 4 and 5, concatenated")
                arrows += [(start + j, len(nodes) - 1, "") for j in NODES]
        return Diagram(tuple(nodes), tuple(arrows))

    def to_text(self, architecture: Architecture) -> str:
        """Return the published form, ``Genotype(normal=[(operation, input), ...], normal_concat=[2, 3, 4, 5], ...``."""
        cells = {name: [(OPERATIONS[o], i) for _, i, o in edges] for name, edges in _cells(architecture).items()}
        return f"Genotype({', '.join(f'{name}={cell}, {name}_concat={list(NODES)}' for name, cell in cells.items())})"

    def from_text(self, text: str) -> Architecture:
        """Return the architecture of a published genotype; raise InputError for any other text."""
        fields, row = _fields(text), list[int]()
        for name in CELLS:
            if fields[f"{name}_concat"] not in (list(NODES), NODES):
                raise InputError(f"{_shown(text)}: a DARTSCell concatenates nodes 2 to 5, its {name}_concat others")
            row += _read_cell(name, fields[name], text)
        return tuple(row)


class _Network(nn.Module):
    """Computes the network of a normal and a reduction cell: (n, channels, height, width) -> (n, task.outputs)."""

    def __init__(
        self, edges: Mapping[str, Sequence[_Edge]], channels: int, cells: int, stem_stride: int, task: Task
    ) -> None:
        super().__init__()
        width = 3 * channels
        conv = nn.Conv2d(task.shape[0], width, 3, stem_stride, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width))
        self.cells = nn.ModuleList()
        before, last, was_reduced = width, width, False
        for i in range(cells):
            is_reduced = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if is_reduced else 1
            self.cells.append(_Cell(CELLS[is_reduced], edges[CELLS[is_reduced]], (before, last), channels, was_reduced))
            before, last, was_reduced = last, len(NODES) * channels, is_reduced
        self.pool = GlobalAveragePool()
        self.classifier = nn.Linear(last, task.outputs)

    def forward(self, x_nchw: Tensor) -> Tensor:
        before = last = self.stem(x_nchw)
        for cell in self.cells:
            before, last = last, cell(before, last)
        out: Tensor = self.classifier(self.pool(last))
        return out


class _Cell(nn.Module):
    """Computes a cell: the outputs of the two cells before -> (n, 4 width, h, w); a reduction cell halves h and w."""

    def __init__(
        self, name: str, edges: Sequence[_Edge], inputs: tuple[int, int], width: int, was_reduced: bool
    ) -> None:
        super().__init__()
        self.name, self.sources = name, [i for _, i, _ in edges]
        self.preprocess0 = _Halving(inputs[0], width) if was_reduced else _relu_conv_bn(inputs[0], width)
        self.preprocess1 = _relu_conv_bn(inputs[1], width)
        strides = [2 if name == "reduce" and i < NODES[0] else 1 for i in self.sources]
        made = [_operation(OPERATIONS[o], width, s) for (_, _, o), s in zip(edges, strides, strict=True)]
        pairs = [{"operation1": a, "operation2": b} for a, b in zip(made[::2], made[1::2], strict=True)]
        nodes = {f"node{j}": nn.ModuleDict(pair) for j, pair in zip(NODES, pairs, strict=True)}
        self.add_module(name, nn.ModuleDict(nodes))

    def forward(self, before_nchw: Tensor, last_nchw: Tensor) -> Tensor:
        values = [self.preprocess0(before_nchw), self.preprocess1(last_nchw)]
        sources = iter(self.sources)
        for operations in self.get_submodule(self.name).children():
            first, second = (operation(values[next(sources)]) for operation in operations.children())
            values.append(first + second)
        return torch.cat(values[NODES[0] :], dim=1)


class _Halving(nn.Module):
    """Halves a map without losing pixels: (n, inputs, h, w) -> (n, outputs, h / 2, w / 2), odd sizes rounded up.

    Half of the outputs are of the pixels at even places, the others of those at odd places.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x_nchw: Tensor) -> Tensor:
        x_nchw = functional.relu(x_nchw)
        height, width = x_nchw.shape[2:]
        shifted = functional.pad(x_nchw, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        out: Tensor = self.norm(torch.cat([self.even(x_nchw), self.odd(shifted)], dim=1))
        return out


def _operation(name: str, width: int, stride: int) -> nn.Module:
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else _Halving(width, width)
    kernel = int(name[-1])
    if name.startswith("dil_conv"):
        return nn.Sequential(*_separable(width, kernel, stride, dilation=2))
    return nn.Sequential(*_separable(width, kernel, stride), *_separable(width, kernel))


def _separable(width: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False)
    return [nn.ReLU(), depthwise, nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)]


def _relu_conv_bn(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _decisions() -> Iterator[Decision]:
    for cell, node in product(CELLS, NODES):
        if len(PAIRS[node]) > 1:
            yield Decision(f"{cell}.node{node}.inputs", tuple(f"{a}+{b}" for a, b in PAIRS[node]))
        yield Decision(f"{cell}.node{node}.operation1", OPERATIONS)
        yield Decision(f"{cell}.node{node}.operation2", OPERATIONS)


def _place(node: int) -> int:
    """Return where a node's two operations stand among the decisions of a cell; just before stand its inputs."""
    return 3 * (node - NODES[0])


def _cells(prefix: Sequence[int]) -> dict[str, list[_Edge]]:
    """Return the edges decided so far, two a node, of the normal and the reduction cell."""
    return {name: _edges(half) for name, half in zip(CELLS, (prefix[:_LENGTH], prefix[_LENGTH:]), strict=True)}


def _edges(decided: Sequence[int]) -> list[_Edge]:
    edges: list[_Edge] = []
    for node in (j for j in NODES if _place(j) < len(decided)):
        at = _place(node)
        pair = PAIRS[node][decided[at - 1] if at else 0]
        edges += [(node, i, o) for i, o in zip(pair, decided[at : at + 2], strict=False)]
    return edges


def _decided(edges: Sequence[_Edge]) -> Architecture:
    """Return the decisions of a cell from its edges, two a node, by ascending inputs."""
    row: list[int] = []
    for (node, first, operation1), (_, second, operation2) in zip(edges[::2], edges[1::2], strict=True):
        pair = PAIRS[node].index((first, second))
        row += [operation1, operation2] if node == NODES[0] else [pair, operation1, operation2]
    return tuple(row)


def _first_of_class(cell: Architecture) -> Architecture:
    """Return the representative of a cell's decisions under all orders of its nodes."""
    wiring, orders = _renumberings()[cell[2], cell[5], cell[8]]
    extended = (*cell, *wiring)
    return orders[0](extended) if len(orders) == 1 else min(order(extended) for order in orders)


@cache
def _renumberings() -> dict[Architecture, tuple[Architecture, list[itemgetter[Any]]]]:
    """Return, for all 180 wirings, the choices of inputs, the first wiring of their class and all ways to it.

    A way takes a cell's decisions, followed by the first wiring, to the decisions of the renumbered cell.
    """
    table = {}
    for wiring in product(*(range(len(PAIRS[j])) for j in NODES[1:])):
        found: dict[Architecture, dict[Architecture, None]] = {}
        for order in permutations(NODES):
            renumbered = _renumbered(wiring, order)
            if renumbered is not None:
                found.setdefault(renumbered[0], {})[renumbered[1]] = None
        first = min(found)
        table[wiring] = first, [itemgetter(*places) for places in found[first]]
    return table


def _renumbered(wiring: Architecture, order: Sequence[int]) -> tuple[Architecture, Architecture] | None:
    """Return the wiring if the nodes stand in another order, and where its decisions stood; None if it is not possible.

    It is not possible where a node would come before one of its inputs.
    """
    pairs = {j: PAIRS[j][w] for j, w in zip(NODES, (0, *wiring), strict=True)}
    number = {0: 0, 1: 1, **{old: new for new, old in zip(NODES, order, strict=True)}}
    renumbered: list[int] = []
    places: list[int] = []
    for new, old in zip(NODES, order, strict=True):
        a, b = (number[i] for i in pairs[old])
        if max(a, b) >= new:
            return None
        if new != NODES[0]:
            places.append(_LENGTH + len(renumbered))
            renumbered.append(PAIRS[new].index((min(a, b), max(a, b))))
        places += [_place(old) + (a > b), _place(old) + (a < b)]
    return tuple(renumbered), tuple(places)


def _edge_codes(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return which operation is on which edge of cells, (n, 11) -> (n, 14, 7), edges by node and input."""
    codes = np.zeros((len(cells), sum(NODES), len(OPERATIONS)))
    every = np.arange(len(cells))
    for node in NODES:
        at = _place(node)
        inputs = np.array(PAIRS[node])[cells[:, at - 1] if at else 0 * every]  # (n, 2)
        for k in range(2):
            codes[every, sum(range(NODES[0], node)) + inputs[:, k], cells[:, at + k]] = 1.0
    return codes


def _path_counts(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean number of each operation on the paths to a node, summed over nodes, (..., 14, 7) -> (..., 7)."""
    means = [np.zeros_like(codes[..., 0, :])] * NODES[0]
    for node in NODES:
        start = sum(range(NODES[0], node))
        steps = codes[..., start : start + node, :]  # (..., node, 7)
        met = steps + np.stack(means, axis=-2) * steps.sum(axis=-1, keepdims=True)
        means.append(met.sum(axis=-2) / 2)
    return np.asarray(np.sum(means, axis=0))


def _fields(text: str) -> dict[str | None, Any]:
    """Return the four fields of a genotype; nothing in the text is executed."""
    try:
        call = ast.parse(text.strip() if len(text) <= _LONGEST_TEXT else "", mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Genotype" or call.args:
            raise ValueError
        fields = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
        if set(fields) != {*CELLS, *(f"{name}_concat" for name in CELLS)}:
            raise ValueError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"{_shown(text)}: expected a genotype, Genotype(normal=[('sep_conv_3x3', 1), ...], "
            "normal_concat=[2, 3, 4, 5], reduce=[...], reduce_concat=[2, 3, 4, 5])"
        ) from None
    return fields


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, or of ``range(2, 6)``, as which some papers write the nodes."""
    return list(NODES) if ast.unparse(node) == "range(2, 6)" else ast.literal_eval(node)


def _read_cell(name: str, listed: Any, text: str) -> Architecture:
    """Return the decisions of a genotype's cell, whose edges are listed one by one or two by two."""
    try:
        listed = [edge for node in listed for edge in node] if len(listed) == len(NODES) else listed
        edges = [(2 + k // 2, i, OPERATIONS.index(operation)) for k, (operation, i) in enumerate(listed)]
        if len(edges) != 2 * len(NODES):
            raise ValueError
        return _decided(sorted(edges))
    except (TypeError, ValueError):
        raise InputError(
            f"{_shown(text)}: {name} of a DARTSCell has 8 pairs (operation, input), two on different earlier nodes for "
            f"each of the nodes 2 to 5, and operations of {', '.join(OPERATIONS)}; got {_shown(str(listed))}"
        ) from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
