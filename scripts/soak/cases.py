"""The spaces for random walks: several configurations each, with independent rules of what is valid.

A rule says of whole architectures which of them are valid. It is made from the card of the space (its docstring) and
shares no code with the masks, which look at unfinished architectures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasenv import (
    ChainCNN,
    ChoiceSpace,
    DARTSCell,
    Encoder,
    Images,
    MobileNet,
    NASBench201,
    NASBenchGraph,
    NASBenchMacro,
    ResNet,
    SearchSpace,
    SyntheticSpace,
    Task,
)

Rows = NDArray[np.int64]
Rule = Callable[[SearchSpace, Rows], NDArray[np.bool_]]


@dataclass(frozen=True)
class Case:
    """Holds one configuration of a space.

    Args:
        name: the space and what is particular here.
        space: the space.
        rule: says which rows of choices, (n, T), each within its decision's range, are valid architectures: (n,).
        builds: whether it builds networks.
        merges: whether equivalent architectures are the very same network, with the same parameters in the same order.
    """

    name: str
    space: SearchSpace
    rule: Rule
    builds: bool = True
    merges: bool = True


def cases() -> list[Case]:
    """Return all configurations: the shipped defaults, and small ones that can be listed."""
    square, odd, dot = Task(Images((1, 8, 8)), 10), Task(Images((3, 5, 9)), 5), Task(Images((1, 1, 1)), 2)
    chains = {
        "2 layers, 4x4": ChainCNN(2, (4, 8), Task(Images((1, 4, 4)), 3)),
        "3 layers, one width, 5x9": ChainCNN(3, (4,), odd),
        "4 layers, one pixel": ChainCNN(4, (4, 6, 8), dot),
        "6 layers, as shipped": ChainCNN(),
        "12 layers, 32x32": ChainCNN(12, (2, 4, 8, 3), Task(Images((3, 32, 32)), 10)),
    }
    few = {"operations": ("gcn", "sage", "arma", "fc", "skip")}
    return [
        *(Case(f"ChainCNN, {name}", space, chain_rule) for name, space in chains.items()),
        Case(
            "ChoiceSpace, divisors", _choices({"width": (8, 9, 12, 16), "parts": (1, 2, 3, 4)}, divides), divides_rule
        ),
        Case("ChoiceSpace, depth", _choices({f"w{i}": (4, 8, 16) for i in range(6)}, *narrowing()), narrowing_rule),
        Case(
            "ChoiceSpace, mixed",
            _choices({"a": ("x,y", "x=z", "-"), "b": (None, True, 1.5, (1, "q")), "c": (7,)}),
            free,
        ),
        Case("DARTSCell, 2 channels", DARTSCell(2, task=square), free, merges=False),
        Case("DARTSCell, 5x9", DARTSCell(1, 4, task=odd), free, merges=False),
        Case("Encoder, as shipped", Encoder(), encoder_rule),
        Case("Encoder, classic", Encoder("classic"), encoder_rule),
        Case("Encoder, AutoFormer-tiny, 5x9", Encoder("autoformer_tiny", task=odd), encoder_rule),
        Case("MobileNet, as shipped", MobileNet(), mobile_net_rule),
        Case("MobileNet, 28x28", MobileNet(task=Task(Images((1, 28, 28)), 10)), mobile_net_rule),
        Case("MobileNet, one pixel", MobileNet(task=dot), mobile_net_rule),
        Case("MobileNet, published, 5x9", MobileNet("ofa", odd), mobile_net_rule, builds=False),  # made for 224x224
        Case("NASBench201, 2 channels", NASBench201(2, 1, square), free, merges=False),
        Case("NASBench201, 5x9", NASBench201(3, 1, odd), free, merges=False),
        Case("NASBenchMacro, 2 channels", NASBenchMacro(2, 4, square), free),
        Case("NASBenchMacro, one pixel", NASBenchMacro(1, 3, dot), free),
        Case("NASBenchGraph", NASBenchGraph(), graph_rule, builds=False),
        Case("NASBenchGraph, 5 operations", NASBenchGraph(**few), graph_rule, builds=False),
        Case("NASBenchGraph, no skip", NASBenchGraph(("gat", "gin")), graph_rule, builds=False),
        Case("ResNet", ResNet(task=square), stages_rule),
        Case("ResNet, one pixel", ResNet(task=dot), stages_rule),
        Case("ResNet, regnetx", ResNet("regnetx"), stages_rule, builds=False),
        Case("SyntheticSpace, 30 decisions", SyntheticSpace(), free, builds=False),
        Case("SyntheticSpace, 2 layers", SyntheticSpace(2, ("a", "b", "c"), (1, 5)), free, builds=False),
    ]


def free(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return that every row is valid."""
    return np.ones(len(rows), dtype=np.bool_)


def chain_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows are valid by the docstring of ChainCNN, from the first layer to the last."""
    depth = rows[:, 0] + 1
    side = np.full(len(rows), min(space.task.shape[1:]))
    idle = np.ones(len(rows), dtype=np.bool_)  # the input has nothing before it that a skip could bring
    valid = np.ones(len(rows), dtype=np.bool_)
    for i in range((rows.shape[1] - 1) // 4):
        layer = rows[:, 1 + 4 * i : 5 + 4 * i]
        conv, separable, pool, identity = (np.isin(layer[:, 0], kind) for kind in ([0], [1], [2, 3], [4]))
        kernel = np.array([1, 3, 5])[layer[:, 1]]
        kernel_fits = np.where(identity, kernel == 1, conv | (kernel > 1)) & (kernel <= 2 * side - 1)
        width_fits = conv | separable | (layer[:, 2] == 0)
        skip_fits = (layer[:, 3] == 0) | ~idle
        inside = i < depth
        valid &= np.where(inside, kernel_fits & width_fits & skip_fits, ~layer.any(axis=1))
        side = np.where(pool & inside, (side + 1) // 2, side)
        idle = identity & (layer[:, 3] == 0)
    return valid


def stages_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have two to four stages, or four, by the docstring of ResNet."""
    choices = [np.array(d.choices, dtype=float) for d in space.decisions]
    start, slope, quotient, _, depth = (c[row] for c, row in zip(choices, rows.T, strict=True))
    stages, last = np.zeros(len(rows)), np.zeros(len(rows))
    for j in range(int(depth.max())):
        step = np.rint(np.log1p(slope * j / start) / np.log(quotient))
        width = 8 * np.rint(start * quotient**step / 8)
        stages += (width != last) & (j < depth)
        last = width
    fewest = {2.0: 2, 12.0: 4}[choices[4][0]]
    return np.asarray((stages >= fewest) & (stages <= 4))


def encoder_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have heads that divide the width, and the first choice in layers beyond the depth."""
    names = [d.name for d in space.decisions]
    depth, width = (np.array(space.decisions[t].choices)[rows[:, t]] for t in range(2))
    valid = np.ones(len(rows), dtype=np.bool_)
    for t, name in enumerate(names):
        if name == "num_heads":
            valid &= width % np.array(space.decisions[t].choices)[rows[:, t]] == 0
        elif name.startswith("layer"):
            valid &= (int(name.partition(".")[0].removeprefix("layer")) <= depth) | (rows[:, t] == 0)
    return valid


def mobile_net_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows are valid by the docstring of MobileNet, stage by stage."""
    sides = np.array(space.task.shape[1:])
    whole, valid = np.full(len(rows), sides.min()), np.ones(len(rows), dtype=np.bool_)
    side, first = whole, 0
    if space.decisions[0].name == "width":
        sizes = [tuple(np.ceil(share * sides)) for share in (1.0, 0.75, 0.5)]
        valid &= np.array([size not in sizes[:c] for c, size in enumerate(sizes)])[rows[:, 1]]
        side, first = np.array([min(size) for size in sizes], dtype=np.int64)[rows[:, 1]], 2
    for stage, stride in enumerate((2, 2, 2, 2, 1, 2)):  # the first is the stem
        halves = (stride == 2) & ((whole > 4) | (first == 0))
        before, whole = side, np.where(halves, -(-whole // 2), whole)
        side = np.where(halves, -(-side // 2), side)
        for layer in range(4 * (stage > 0)):
            t = first + 9 * (stage - 1)
            kernel, expansion = rows[:, t + 1 + 2 * layer], rows[:, t + 2 + 2 * layer]
            reads = before if layer == 0 else side
            fits = (kernel == 0) | (3 + 2 * kernel <= 2 * reads - 1)
            valid &= np.where(layer < 2 + rows[:, t], fits, (kernel == 0) & (expansion == 0))
    return valid


def graph_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have a node that does something."""
    names = np.array(space.decisions[1].choices)
    return (names[rows[:, 1:]] != "skip").any(axis=1)


def divides(width: int, parts: int) -> bool:
    """Return whether the parts are of equal width."""
    return width % parts == 0


def divides_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows keep `divides`."""
    width, parts = (np.array(d.choices)[column] for d, column in zip(space.decisions, rows.T, strict=True))
    return width % parts == 0


def narrowing() -> list[Callable[..., bool]]:
    """Return constraints that join six decisions: no layer is wider than the one before, but for the fourth."""
    return [
        lambda w0, w1: w1 <= w0,
        lambda w1, w2: w2 <= w1,
        lambda w3, w4: w4 <= w3,
        lambda w4, w5: w5 <= w4,
        lambda w5, w0: w5 != w0,  # reads a later decision first
    ]


def narrowing_rule(space: SearchSpace, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows keep `narrowing`."""
    falls = rows[:, 1:] <= rows[:, :-1]
    return falls[:, [0, 1, 3, 4]].all(axis=1) & (rows[:, 5] != rows[:, 0])


def build(task: Task, **choices: Any) -> nn.Module:
    """Return a perceptron whose width follows from the choices that are whole numbers."""
    width = 1 + sum(c for c in choices.values() if type(c) is int)
    layers = [nn.Linear(int(np.prod(task.shape)), width), nn.ReLU(), nn.Linear(width, task.outputs)]
    return nn.Sequential(nn.Flatten(), *layers)


def _choices(choices: Mapping[str, tuple[Any, ...]], *constraints: Callable[..., bool]) -> ChoiceSpace:
    return ChoiceSpace(choices, build, constraints, task=Task(Images((1, 4, 4)), 3))
