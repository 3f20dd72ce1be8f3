"""ResNet: residual networks whose widths and depths follow from five numbers, by the rules of RegNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from nasenv.configuration import one_of
from nasenv.errors import counted
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import CIFAR10, Images, Task
from nasenv.trial import Architecture

_MULTIPLE = 8  # widths are multiples of it
_MOST_STAGES = 4
_SMALL = 16  # pixels a side


class _Preset(NamedTuple):
    """Holds the grid, and what is the same in all networks."""

    grid: dict[str, tuple[float, ...]]
    reference: tuple[float, ...]  # w0, wa, wm, group_width, depth
    fewest_stages: int
    stem_width: int
    first_stride: int  # of the first stage


PRESETS = {
    "small": _Preset(
        {
            "w0": (8, 16, 24, 32),
            "wa": (2, 4, 6, 8, 12, 16, 24),
            "wm": (1.5, 2.0, 2.5, 3.0),
            "group_width": (4, 8, 16, 32),
            "depth": (2, 3, 4, 5, 6, 7, 8),
        },
        reference=(16, 8, 2.0, 16, 6),
        fewest_stages=2,
        stem_width=16,
        first_stride=1,
    ),
    "regnetx": _Preset(
        {
            "w0": (24, 32, 40, 48, 56, 64, 80, 96),
            "wa": (16, 20, 24.48, 28, 32, 35.73, 36.44, 36.97, 40, 44, 48),
            "wm": (2.0, 2.24, 2.28, 2.49, 2.54, 2.75, 3.0),
            "group_width": (8, 16, 24, 32, 40, 48),
            "depth": (12, 13, 14, 16, 18, 20, 22, 24, 26, 28),
        },
        reference=(64, 28, 2.0, 32, 16),
        fewest_stages=4,
        stem_width=32,
        first_stride=2,
    ),
}


class ResNet(SearchSpace):
    """Search space of residual networks by the rules of RegNet (Radosavovic et al. 2020).

    Source: Designing Network Design Spaces, CVPR 2020, https://arxiv.org/abs/2003.13678.

    ================  =====================================  ===================================================
    decision          ``preset: small``                      ``preset: regnetx``
    ================  =====================================  ===================================================
    ``w0``            8, 16, 24, 32                          24, 32, 40, 48, 56, 64, 80, 96
    ``wa``            2, 4, 6, 8, 12, 16, 24                 16, 20, 24.48, 28, 32, 35.73, 36.44, 36.97, 40, 44,
                                                             48
    ``wm``            1.5, 2, 2.5, 3                         2, 2.24, 2.28, 2.49, 2.54, 2.75, 3
    ``group_width``   4, 8, 16, 32                           8, 16, 24, 32, 40, 48
    ``depth``         2 .. 8                                 12, 13, 14, 16, 18, 20, 22, 24, 26, 28
    ----------------  -------------------------------------  ---------------------------------------------------
    stages            2 to 4                                 4
    stem              16 channels; stride 1 for maps of up   32 channels, stride 2
                      to 16 pixels, else 2
    stride, stage 1   1                                      2
    architectures     2,492, which are 1,782 networks        16,740, which are 13,384 networks
    ================  =====================================  ===================================================

    Block j = 0, 1, ... of ``depth`` is w0 + wa j wide, rounded to the nearest w0 wm^k, k an integer, in the logarithm,
    and then to a multiple of 8. Blocks of one width are a stage. A stage's width is rounded to a multiple of its group
    width, which is ``group_width`` or, if that is less, the width itself. Choices that lead to another number of stages
    than the table says are not valid.

    A block is a 1x1, a grouped 3x3 and a 1x1 convolution of the same width, each with batch norm, added to its input,
    which a 1x1 convolution with batch norm takes to its shape where that differs; ReLU after the first two and after
    the sum. The first block of the second and later stages halves the map, rounded up. Before the blocks stands the
    stem, a 3x3 convolution with batch norm and ReLU, after them global average and a linear layer.

    Choices that come to the same stages are the same network. The representative is the first in the order of choices.

    RegNetX-200MF, 400MF, 600MF and 800MF are members of ``regnetx``. The reference doubles the width from stage to
    stage, as the networks of He et al. 2016 (https://arxiv.org/abs/1512.03385) do.

    Args:
        preset: small, for pictures of 8x8 to 32x32 pixels, or regnetx, for those of 224x224.
        task: images; by default CIFAR-10's.

    Raises:
        InputError: another preset.

    Example:
        >>> space = ResNet("regnetx", Task(Images((3, 224, 224)), outputs=1000))
        >>> architecture = space.from_text("w0=24,wa=36.44,wm=2.49,group_width=8,depth=13")  # RegNetX-200MF
        >>> stages = space.stages([architecture])
        >>> stages.widths.tolist(), stages.depths.tolist()
        ([[24, 56, 152, 368]], [[1, 1, 4, 7]])
    """

    def __init__(self, preset: Literal["small", "regnetx"] = "small", task: Task | None = None) -> None:
        self.preset = one_of("preset", preset, list(PRESETS))
        self._preset = PRESETS[self.preset]
        decisions = [Decision(name, choices) for name, choices in self._preset.grid.items()]
        super().__init__(decisions, (task or CIFAR10).check_inputs(Images, "ResNet"))
        small = min(self.task.shape[1:]) <= _SMALL
        self._stem_stride = 1 if self.preset == "small" and small else 2

    @property
    def size(self) -> int:
        """Return the number of valid architectures."""
        return int(_tables(self.preset)[0].sum())

    def stages(self, architectures: Sequence[Architecture]) -> Stages:
        """Return the stages of the networks of n architectures."""
        rows = np.array(architectures, dtype=np.int64).reshape(-1, self.num_decisions)
        return stages(*(np.array(d.choices)[column] for d, column in zip(self.decisions, rows.T, strict=True)))

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C), for n prefixes of t decisions, (n, t)."""
        n, t = prefixes.shape
        table = _mask_tables(self.preset)[t]
        return table[tuple(prefixes.T)] if t else np.repeat(table[None], n, axis=0)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the first architecture, in the order of the choices, whose network has the same stages."""
        return cast(Architecture, tuple(_tables(self.preset)[1][architecture].tolist()))

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return also what the choices come to: width and depth of each stage, and the costs.

        stages: (n, 8), widths and depths of four stages, 0 where there is none; costs: (n, 2), logarithms of the number
        of weights in the blocks, and of their multiply-adds where the fourth stage's map has one pixel.
        """
        found = self.stages(architectures)
        shape = np.concatenate([np.log2(np.maximum(found.widths, 1)), found.depths], axis=1)
        weights = found.depths * found.widths * (2 * found.widths + 9 * found.group_widths)  # (n, stages)
        pixels = 4.0 ** np.arange(_MOST_STAGES - 1, -1, -1)
        costs = np.log2(np.stack([weights.sum(axis=1), weights @ pixels], axis=1))
        return super().feature_parts(architectures) | {"stages": shape, "costs": costs}

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        width = self._preset.stem_width
        stem = _conv_bn(self.task.shape[0], width, 3, self._stem_stride)
        blocks = OrderedDict[str, nn.Module]()
        for k, (outputs, depth, group_width) in enumerate(self._stages_of(architecture)):
            for i in range(depth):
                stride = (2 if k else self._preset.first_stride) if i == 0 else 1
                blocks[f"block{len(blocks) + 1}"] = _Block(width, outputs, stride, group_width)
                width = outputs
        modules = {"stem": nn.Sequential(*stem, nn.ReLU(inplace=True)), "depth": nn.Sequential(blocks)}
        head = {"pool": GlobalAveragePool(), "classifier": nn.Linear(width, self.task.outputs)}
        return nn.Sequential(OrderedDict(modules | head))

    def reference(self) -> Architecture:
        """Return a network that doubles its width from stage to stage."""
        return tuple(d.choices.index(c) for d, c in zip(self.decisions, self._preset.reference, strict=True))

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the decisions taken, and the stages once all are."""
        if len(prefix) < self.num_decisions:
            return super().diagram(prefix)
        nodes = ["input\n" + "x".join(map(str, self.task.shape))]
        nodes.append(f"conv 3x3\n{counted(self._preset.stem_width, 'channel')}")
        for k, (width, depth, group_width) in enumerate(self._stages_of(tuple(prefix)), 1):
            halves = ", half the map" if k > 1 or self._preset.first_stride > 1 else ""
            nodes.append(f"stage {k}\n{counted(depth, 'block')}{halves}\n{width} channels in groups of {group_width}")
        nodes += ["global average pool", f"linear\n{counted(self.task.outputs, 'output')}"]
        return Diagram(tuple(nodes), tuple((i, i + 1, "") for i in range(len(nodes) - 1)))

    def _stages_of(self, architecture: Architecture) -> list[tuple[int, int, int]]:
        """Return width, depth and group width of each stage."""
        columns = (column[0].tolist() for column in self.stages([architecture])[:3])
        return [stage for stage in zip(*columns, strict=True) if stage[0]]


class Stages(NamedTuple):
    """Holds the stages of n networks; a stage that a network does not have is 0 in all.

    Args:
        widths: channels of each stage, (n, 4).
        depths: blocks of each stage, (n, 4).
        group_widths: channels of a group of each stage's 3x3 convolutions, (n, 4).
        number: number of stages by the rules, (n,); those after the fourth are left out above.
    """

    widths: NDArray[np.int64]
    depths: NDArray[np.int64]
    group_widths: NDArray[np.int64]
    number: NDArray[np.int64]


def stages(w0: ArrayLike, wa: ArrayLike, wm: ArrayLike, group_width: ArrayLike, depth: ArrayLike) -> Stages:
    """Return the stages of n networks by the rules of RegNet, see `ResNet`.

    Halves are rounded to the even neighbour, as in the authors' code (https://github.com/facebookresearch/pycls).

    Args:
        w0: initial width, a positive number, or n of them.
        wa: slope of the line of widths, 0 or more.
        wm: quotient of widths, more than 1.
        group_width: largest number of channels of a group.
        depth: number of blocks.
    """
    start, slope, quotient, group, blocks = (np.array(v, ndmin=1)[:, None] for v in (w0, wa, wm, group_width, depth))
    j = np.arange(blocks.max())
    k = np.round(np.log((start + slope * j) / start) / np.log(quotient))
    widths = np.round(start * quotient**k / _MULTIPLE).astype(np.int64) * _MULTIPLE  # (n, blocks)
    inside = j < blocks
    begins = inside & (np.diff(widths, axis=1, prepend=0) != 0)
    number = begins.sum(axis=1)
    stage = np.where(inside, begins.cumsum(axis=1), 0)[:, None] == np.arange(1, _MOST_STAGES + 1)[:, None]
    depths = stage.sum(axis=2)
    raw = (stage * widths[:, None]).max(axis=2)  # (n, 4)
    group_widths = np.minimum(group, raw)
    groups = np.round(raw / np.maximum(group_widths, 1)).astype(np.int64)
    return Stages(groups * group_widths, depths, group_widths, number)


@cache
def _tables(preset: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which architectures of a grid are valid, an axis a decision, and their representatives, on a last axis."""
    choices = list(PRESETS[preset].grid.values())
    shape = tuple(map(len, choices))
    rows = np.indices(shape).reshape(len(shape), -1)  # (decisions, architectures) in the order of the choices
    found = stages(*(np.array(c)[row] for c, row in zip(choices, rows, strict=True)))
    valid = (found.number >= PRESETS[preset].fewest_stages) & (found.number <= _MOST_STAGES)
    networks = np.where(valid[:, None], np.concatenate(found[:3], axis=1), -1)
    _, first, members = np.unique(networks, axis=0, return_index=True, return_inverse=True)
    return valid.reshape(shape), rows.T[first[members]].reshape(*shape, len(shape))


@cache
def _mask_tables(preset: str) -> list[NDArray[np.bool_]]:
    """Return which choices are valid next by the choices taken, an axis a decision, and C on the last axis."""
    valid = _tables(preset)[0]
    goes_on = [np.asarray(valid.any(axis=tuple(range(t + 1, valid.ndim)))) for t in range(valid.ndim)]
    most = max(valid.shape)
    return [np.pad(g, [(0, 0)] * (g.ndim - 1) + [(0, most - g.shape[-1])]) for g in goes_on]


class _Block(nn.Module):
    """Computes a residual block: (n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up."""

    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(*_conv_bn(inputs, outputs, 1), nn.ReLU(inplace=True)),
            *(*_conv_bn(outputs, outputs, 3, stride, outputs // group_width), nn.ReLU(inplace=True)),
            *_conv_bn(outputs, outputs, 1),
        )
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Sequential(*_conv_bn(inputs, outputs, 1, stride)) if changes else nn.Identity()

    def forward(self, x_nchw: Tensor) -> Tensor:
        return functional.relu(self.body(x_nchw) + self.shortcut(x_nchw), inplace=True)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]
