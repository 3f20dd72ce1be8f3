"""MobileNet: five stages of inverted bottlenecks, each layer with its own kernel and expansion (Once-for-all)."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nasenv.configuration import one_of
from nasenv.errors import InputError, counted
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import Images, Task
from nasenv.trial import Architecture

DEPTHS, KERNELS, EXPANSIONS = (2, 3, 4), (3, 5, 7), (3, 4, 6)
WIDTHS, RESOLUTIONS = (0.1, 0.15, 0.2), (1.0, 0.75, 0.5)  # of `small`
_MOST = max(DEPTHS)
_SMALLEST = 4  # side that `small` does not halve
_PARTS = 1 + 2 * _MOST  # decisions of a stage: its depth, then kernel and expansion of each layer


class _Stage(NamedTuple):
    """Holds what is given of a stage: channels at width 1, stride of its first layer, activation, attention."""

    channels: int
    stride: int
    activation: Callable[..., nn.Module]
    has_attention: bool  # squeeze-and-excitation


STAGES = (
    _Stage(24, 2, nn.ReLU, False),
    _Stage(40, 2, nn.ReLU, True),
    _Stage(80, 2, nn.Hardswish, False),
    _Stage(112, 1, nn.Hardswish, True),
    _Stage(160, 2, nn.Hardswish, True),
)
_STEM, _HEAD, _FEATURES = 16, 960, 1280  # channels at width 1
_REFERENCE = ("k3e4-k3e3", "k5e3-k5e3-k5e3", "k3e6-k3e3-k3e3-k3e3", "k3e6-k3e6", "k5e6-k5e6-k5e6")


class MobileNet(SearchSpace):
    """Search space of Once-for-all: MobileNetV3's five stages, with depth, kernels and expansions to choose.

    ## Decisions

    | decision | choices | valid |
    |---|---|---|
    | `width` | 0.1, 0.15, 0.2 times the channels | all; only in `small`, 1 in `ofa` |
    | `resolution` | 1, 0.75, 0.5 times the picture's sides | those that give another size; as the width |
    | `stage{s}.depth` | 2, 3, 4 | all |
    | `stage{s}.layer{i}.kernel` | 3, 5, 7 | those that fit; 3 always does |
    | `stage{s}.layer{i}.expansion` | 3, 4, 6 | all |

    s = 1 .. 5 and i = 1 .. 4. Layers beyond the depth have one valid choice, the first. A kernel k fits a map whose
    smaller side is n if k <= 2 n - 1: its outer weights would only see padding otherwise. No two architectures are the
    same network.

    ``ofa`` has (9^2 + 9^3 + 9^4)^5 = 21,758,655,492,572,485,851 architectures on pictures of 224x224, as published;
    ``small`` has 6.5 x 10^19 on 8x8.

    ## Network

    3x3 convolution to 16 channels with stride 2 and hard swish; a separable convolution with a skip; the stages, to 24,
    40, 80, 112 and 160 channels, whose first layers have stride 2 but in the fourth; 1x1 convolution to 960 channels,
    global average, a linear map to 1280 features without bias, linear layer. A layer is an inverted bottleneck: 1x1
    convolution to ``expansion`` times its channels, depthwise convolution, squeeze-and-excitation in stages 2, 4 and 5,
    1x1 convolution, and a skip where shapes agree. All convolutions have batch norm; activations are ReLU in stages 1
    and 2 and hard swish beyond. Channels times ``width`` are rounded to multiples of 8, 8 or more. In ``small``, a
    map is halved only where its smaller side would be above 4 at the whole resolution, and a lower resolution averages
    pixels before all else.

    Input: (n, channels, height, width) float32. Output: (n, task.outputs).

    The reference is MobileNetV3-Large, its expansions of 2.3 and 2.5 taken as 3; in ``small`` at a width of 0.2.

    ## Text

    ``k3e4-k3e3|k5e3-k5e3-k5e3|..``: kernel and expansion of each layer, by stages; in ``small`` after ``w0.2r1.0|``.

    Args:
        preset: ``small`` for pictures of 8x8 to 32x32; ``ofa``, the published networks, for those of 224x224.
        task: images; by default of 1x8x8 in 10 classes, as scikit-learn's digits are, and for ``ofa`` ImageNet's.

    Raises:
        InputError: an unknown preset.

    Example:
        >>> import torch
        >>> MobileNet("ofa").size
        21758655492572485851
        >>> space = MobileNet()
        >>> architecture = space.from_text("w0.1r1.0|k3e4-k3e3|k5e3-k5e3|k3e6-k3e3-k3e3|k3e6-k3e6|k5e6-k5e6")
        >>> space.build(architecture)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    References:
        Cai et al. 2020 (Once-for-all), https://arxiv.org/abs/1908.09791; Howard et al. 2019 (MobileNetV3),
        https://arxiv.org/abs/1905.02244.
    """

    def __init__(self, preset: Literal["small", "ofa"] = "small", task: Task | None = None) -> None:
        self.preset = one_of("preset", preset, ("small", "ofa"))
        is_small = self.preset == "small"
        default = Task(Images((1, 8, 8)), outputs=10) if is_small else Task(Images((3, 224, 224)), outputs=1000)
        decisions = [Decision("width", WIDTHS), Decision("resolution", RESOLUTIONS)] if is_small else []
        self._first = len(decisions)  # the decision at which stages begin
        for s in range(1, len(STAGES) + 1):
            decisions.append(Decision(f"stage{s}.depth", DEPTHS))
            for i in range(1, _MOST + 1):
                decisions.append(Decision(f"stage{s}.layer{i}.kernel", KERNELS))
                decisions.append(Decision(f"stage{s}.layer{i}.expansion", EXPANSIONS))
        super().__init__(decisions, (task or default).check_inputs(Images, "MobileNet"))
        resolutions = RESOLUTIONS if is_small else (1.0,)
        self._sizes = [tuple(math.ceil(share * side) for side in self.task.shape[1:]) for share in resolutions]
        self._resolution_mask = np.array([size not in self._sizes[:c] for c, size in enumerate(self._sizes)])
        self._strides = self._strides_for(min(self.task.shape[1:]))
        sides = np.array([_sides(min(size), self._strides) for size in self._sizes])
        self._kernel_mask = np.maximum(2 * sides[..., None] - 1, KERNELS[0]) >= KERNELS  # (resolution, stage, 2, C)

    def _strides_for(self, side: int) -> list[int]:
        """Return the strides of the first convolution and of the stages, for pictures whose smaller side is this."""
        strides = []
        for stride in (2, *(stage.stride for stage in STAGES)):
            strides.append(stride if self.preset == "ofa" or side > _SMALLEST else 1)
            side = math.ceil(side / strides[-1])
        return strides

    @property
    def size(self) -> int:
        """Return the number of valid architectures."""
        total = 0
        for is_valid, stages in zip(self._resolution_mask, self._kernel_mask.sum(axis=-1).tolist(), strict=True):
            product = len(WIDTHS) if self._first else 1
            for first, later in stages:
                product *= sum(len(EXPANSIONS) ** depth * first * later ** (depth - 1) for depth in DEPTHS)
            total += product if is_valid else 0
        return total

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C), for n prefixes of t decisions, (n, t)."""
        stage, part = divmod(prefixes.shape[1] - self._first, _PARTS)
        layer, is_expansion = divmod(part - 1, 2)  # both count from 0
        valid: NDArray[np.bool_]
        if part and not is_expansion and stage >= 0:
            resolutions = prefixes[:, 1] if self._first else np.zeros(len(prefixes), dtype=np.int64)
            valid = self._kernel_mask[resolutions, stage, min(layer, 1)]
        elif self.decisions[prefixes.shape[1]].name == "resolution":
            valid = np.broadcast_to(self._resolution_mask, (len(prefixes), self.max_choices)).copy()
        else:
            valid = super().mask(prefixes)
        if stage >= 0 and layer >= DEPTHS[0]:
            depths = prefixes[:, self._first + stage * _PARTS]
            valid[depths < layer - DEPTHS[0] + 1, 1:] = False
        return valid

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return also depth, and sums of kernels and of expansions, of each stage, in units of the most, (n, 15)."""
        rows = np.array(architectures, dtype=np.int64).reshape(-1, self.num_decisions)
        stages = rows[:, self._first :].reshape(len(rows), len(STAGES), _PARTS)
        depth = np.array(DEPTHS)[stages[..., 0]]
        is_there = np.arange(_MOST) < depth[..., None]
        sums = [depth / _MOST]
        for choices, taken in ((KERNELS, stages[..., 1::2]), (EXPANSIONS, stages[..., 2::2])):
            sums.append((np.array(choices)[taken] * is_there).sum(axis=2) / (_MOST * max(choices)))
        return super().feature_parts(architectures) | {"stages": np.concatenate(sums, axis=1)}

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        width, resolution, stages = self._parts(architecture)
        channels = _rounded(_STEM * width)
        modules: dict[str, nn.Module] = {}
        if resolution:
            modules["resolution"] = nn.AdaptiveAvgPool2d(self._sizes[resolution])
        modules["stem"] = _conv_bn(self.task.shape[0], channels, 3, self._strides[0], nn.Hardswish)
        modules["block"] = InvertedBottleneck(channels, channels, 3, 1, 1, nn.ReLU, has_attention=False)
        for s, (given, layers) in enumerate(zip(STAGES, stages, strict=True), 1):
            outputs, stage = _rounded(given.channels * width), OrderedDict[str, nn.Module]()
            for i, (kernel, expansion) in enumerate(layers, 1):
                stride = self._strides[s] if i == 1 else 1
                stage[f"layer{i}"] = InvertedBottleneck(
                    channels, outputs, kernel, expansion, stride, given.activation, given.has_attention
                )
                channels = outputs
            modules[f"stage{s}"] = nn.Sequential(stage)
        head, features = _rounded(_HEAD * width), _rounded(_FEATURES * width)
        modules["head"] = _conv_bn(channels, head, 1, 1, nn.Hardswish)
        modules["pool"] = GlobalAveragePool()
        modules["features"] = nn.Sequential(nn.Linear(head, features, bias=False), nn.Hardswish())
        return nn.Sequential(OrderedDict(modules, classifier=nn.Linear(features, self.task.outputs)))

    def reference(self) -> Architecture:
        """Return MobileNetV3-Large, as far as its expansions and, on small pictures, kernels are in the space."""
        stages = [_read_stage(text) for text in _REFERENCE]
        row = self._architecture([WIDTHS.index(0.2), 0] if self._first else [], stages)
        masks = self.masks(np.array([row]))[0]
        return tuple(c if valid[c] else int(np.flatnonzero(valid)[-1]) for c, valid in zip(row, masks, strict=True))

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the layers decided so far with their channels, and the head once all is decided."""
        width, resolution, stages = self._parts(prefix)
        nodes = ["input\n" + "x".join(map(str, self.task.shape))]
        if resolution:
            nodes.append("average to\n" + "x".join(map(str, self._sizes[resolution])))
        nodes += [
            f"conv 3x3\n{_channels(_STEM * width)}" + ", half the map" * (self._strides[0] == 2),
            f"separable conv 3x3\n{_channels(_STEM * width)}",
        ]
        for s, (given, layers) in enumerate(zip(STAGES, stages, strict=False), 1):
            for i, (kernel, expansion) in enumerate(layers, 1):
                label = f"stage {s}\nkernel {kernel}, expansion {expansion}\n{_channels(given.channels * width)}"
                nodes.append(label + ", half the map" * (i == 1 and self._strides[s] == 2))
        if len(prefix) == self.num_decisions:
            nodes += [
                f"conv 1x1\n{_channels(_HEAD * width)}",
                "global average pool",
                f"linear\n{counted(_rounded(_FEATURES * width), 'feature')}",
                f"linear\n{counted(self.task.outputs, 'output')}",
            ]
        return Diagram(tuple(nodes), tuple((i, i + 1, "") for i in range(len(nodes) - 1)))

    def to_text(self, architecture: Architecture) -> str:
        """Return kernel and expansion of each layer by stages, ``k3e4-k3e3|...``; first, in small, ``w0.2r1.0``."""
        width, resolution, stages = self._parts(architecture)
        first = [f"w{width}r{RESOLUTIONS[resolution]}"] if self._first else []
        return "|".join([*first, *("-".join(f"k{k}e{e}" for k, e in layers) for layers in stages)])

    def from_text(self, text: str) -> Architecture:
        """Return the architecture that ``to_text`` wrote; raise InputError for any other text."""
        parts, first = text.strip().split("|"), list[int]()
        stages = [_read_stage(part) for part in parts[-len(STAGES) :]]
        is_right = len(parts) == len(STAGES) + bool(self._first) and all(len(stage) in DEPTHS for stage in stages)
        if self._first and is_right:
            names = {f"w{w}r{r}": [i, j] for i, w in enumerate(WIDTHS) for j, r in enumerate(RESOLUTIONS)}
            first = names.get(parts[0], [])
        if not is_right or len(first) != self._first:
            example = "|".join([f"w{WIDTHS[0]}r1.0"] * bool(self._first) + list(_REFERENCE))
            raise InputError(
                f"{text!r} is no architecture of this MobileNet; expected five stages of 2 to 4 layers, such as "
                f"{example}, kernels of {KERNELS} and expansions of {EXPANSIONS}"
                + (f", widths of {WIDTHS} and resolutions of {RESOLUTIONS}" if self._first else "")
            )
        return self.check(self._architecture(first, stages))

    def _architecture(self, first: list[int], stages: Sequence[Sequence[tuple[int, int]]]) -> Architecture:
        """Return the architecture of these first choices, and kernels and expansions by stage."""
        row = list(first)
        for layers in stages:
            choices = [c for k, e in layers for c in (KERNELS.index(k), EXPANSIONS.index(e))]
            row += [DEPTHS.index(len(layers)), *choices, *[0] * (2 * _MOST - len(choices))]
        return tuple(row)

    def _parts(self, prefix: Sequence[int]) -> tuple[float, int, list[list[tuple[int, int]]]]:
        """Return width, index of the resolution, and kernel and expansion of the layers decided so far, by stage."""
        width, resolution = (*prefix[:2], 0, 0)[:2] if self._first else (0, 0)
        stages = []
        for start in range(self._first, len(prefix), _PARTS):
            stage = prefix[start : start + _PARTS]
            choices = stage[1 : 1 + 2 * DEPTHS[stage[0]]]
            pairs = zip(choices[::2], choices[1::2], strict=False)
            stages.append([(KERNELS[k], EXPANSIONS[e]) for k, e in pairs])
        return WIDTHS[width] if self._first else 1.0, resolution, stages


class InvertedBottleneck(nn.Module):
    """Computes a layer of MobileNetV3, (n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up.

    Without an expansion there is no 1x1 convolution before the depthwise one. The input is added where shapes agree.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        expansion: int,
        stride: int,
        activation: Callable[..., nn.Module],
        has_attention: bool,
    ) -> None:
        super().__init__()
        hidden = _rounded(inputs * expansion)
        parts = OrderedDict[str, nn.Module]()
        if expansion > 1:
            parts["expand"] = _conv_bn(inputs, hidden, 1, 1, activation)
        parts["depthwise"] = _conv_bn(hidden, hidden, kernel, stride, activation, groups=hidden)
        if has_attention:
            parts["attention"] = SqueezeExcitation(hidden)
        parts["project"] = _conv_bn(hidden, outputs, 1, 1, None)
        self.body = nn.Sequential(parts)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the layer's output."""
        out: Tensor = self.body(x_nchw)
        return x_nchw + out if self.is_residual else out


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in [0, 1] that reads the means of all (Hu et al. 2018, https://arxiv.org/abs/1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _rounded(channels // 4)
        gate = (nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Hardsigmoid())
        self.gate = nn.Sequential(GlobalAveragePool(), *gate)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the scaled maps, (n, channels, h, w)."""
        gates: Tensor = self.gate(x_nchw)
        return x_nchw * gates[:, :, None, None]


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int, activation: Callable[..., nn.Module] | None, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *([activation(inplace=True)] if activation else []))


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8 that is 8 or more and no less than nine tenths of the channels."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _channels(channels: float) -> str:
    return counted(_rounded(channels), "channel")


def _sides(side: int, strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return the smaller side of the map that the first and the later layers of each stage read."""
    sides = []
    for stride in strides:
        sides.append((side, math.ceil(side / stride)))
        side = sides[-1][1]
    return sides[1:]


def _read_stage(text: str) -> list[tuple[int, int]]:
    """Return kernel and expansion of each layer of a text; nothing where it is of another form."""
    layers: list[Any] = [re.fullmatch(r"k([357])e([346])", layer) for layer in text.split("-")]
    return [(int(layer[1]), int(layer[2])) for layer in layers] if all(layers) else []
