"""NAS-Bench-Macro: eight layers in three stages, each an identity or one of two inverted bottlenecks."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from nasenv.configuration import integer
from nasenv.errors import InputError, counted
from nasenv.spaces.layers import GlobalAveragePool
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import CIFAR10, Images, Task
from nasenv.trial import Architecture

OPERATIONS = ("identity", "mb3_k3", "mb6_k5")  # in the order of the published digits
STAGES = (slice(0, 2), slice(2, 5), slice(5, 8))  # the layers of each; the first halves the map and doubles the width
_BOTTLENECKS = {1: (3, 3), 2: (6, 5)}  # choice: expansion, kernel
_FIRST = {stage.start for stage in STAGES}


class NASBenchMacro(SearchSpace):
    """Search space of the 6,561 networks of NAS-Bench-Macro (Su et al. 2021, https://arxiv.org/abs/2103.11922).

    ========  ==========================  ==================================================================
    step      decision                    choices
    ========  ==========================  ==================================================================
    0 to 7    ``layer1`` .. ``layer8``    identity, mb3_k3, mb6_k5: inverted bottleneck (MobileNetV2) with
                                          expansion 3 and kernel 3, or expansion 6 and kernel 5
    ========  ==========================  ==================================================================

    Every choice is always valid. The network is the published one: 3x3 convolution with ``channels`` outputs, batch
    norm, ReLU; stages of 2, 3 and 3 layers, the first of which halves the map (odd sizes rounded up) and doubles the
    channels; 1x1 convolution to ``features`` channels, batch norm, ReLU, global average and a linear layer.

    An identity that is first in its stage is a 1x1 convolution with batch norm. Any other does nothing, so
    architectures that differ in where those stand among the later layers of a stage are the same network: 3,969
    classes. The representative, as published, has them at the end of the stage.

    The reference is mb6_k5 everywhere: one block, and the depth all used, as in MobileNetV2
    (https://arxiv.org/abs/1801.04381). The text form is the published one, a digit a layer: ``02012100``.

    Args:
        channels: outputs of the first convolution; 32 as published.
        features: channels before the global average; 1280 as published.
        task: images; by default CIFAR-10's, as published.

    Raises:
        InputError: a size that is not a positive integer.

    Example:
        >>> import torch
        >>> space = NASBenchMacro(channels=4, features=16, task=Task(Images((1, 8, 8)), outputs=10))
        >>> space.to_text(space.canonical(space.from_text("02012001")))
        '02012010'
        >>> space.build(space.from_text("02012100"))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int = 32,
        features: int = 1280,
        task: Task | None = None,
    ) -> None:
        super().__init__(
            [Decision(f"layer{i}", OPERATIONS) for i in range(1, 9)],
            (task or CIFAR10).check_inputs(Images, "NASBenchMacro"),
        )
        self.channels = integer("channels", channels)
        self.head_width = integer("features", features)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the architecture with identities after a stage's first layer moved to the end of the stage."""
        choices: list[int] = []
        for stage in STAGES:
            first, *later = architecture[stage]
            choices += [first, *sorted(later, key=_is_identity)]
        return tuple(choices)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        width = self.channels
        modules: dict[str, nn.Module] = {"stem": _conv_bn_relu(self.task.shape[0], width, 3)}
        for i, (decision, choice) in enumerate(zip(self.decisions, architecture, strict=True)):
            if i in _FIRST:
                modules[decision.name] = _layer(choice, width, 2 * width, stride=2)
                width *= 2
            elif choice:
                modules[decision.name] = _layer(choice, width, width, stride=1)
        modules |= {"head": _conv_bn_relu(width, self.head_width, 1), "pool": GlobalAveragePool()}
        return nn.Sequential(OrderedDict(modules, classifier=nn.Linear(self.head_width, self.task.outputs)))

    def reference(self) -> Architecture:
        """Return the architecture with mb6_k5 in every layer."""
        return self.from_text("22222222")

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the layers decided so far, in order, with their numbers of output channels."""
        nodes = ["input\n" + "x".join(map(str, self.task.shape)), f"conv 3x3\n{counted(self.channels, 'channel')}"]
        width = self.channels
        for i, choice in enumerate(prefix):
            width *= 2 if i in _FIRST else 1
            name = "conv 1x1" if i in _FIRST and not choice else OPERATIONS[choice]
            nodes.append(f"{name}\n{counted(width, 'channel')}" + (", half the map" if i in _FIRST else ""))
        if len(prefix) == self.num_decisions:
            nodes += [
                f"conv 1x1\n{counted(self.head_width, 'channel')}",
                "global average pool",
                f"linear\n{counted(self.task.outputs, 'output')}",
            ]
        return Diagram(tuple(nodes), tuple((i, i + 1, "") for i in range(len(nodes) - 1)))

    def to_text(self, architecture: Architecture) -> str:
        """Return the published name, a digit a layer."""
        return "".join(map(str, architecture))

    def from_text(self, text: str) -> Architecture:
        """Return the architecture of a published name; raise InputError for any other text."""
        digits = text.strip()
        if re.fullmatch("[012]{8}", digits) is None:
            raise InputError(
                f"{text!r}: expected 8 digits, such as 02012100, one a layer: "
                + ", ".join(f"{c} {name}" for c, name in enumerate(OPERATIONS))
            )
        return tuple(map(int, digits))


class InvertedBottleneck(nn.Module):
    """Computes an inverted bottleneck, (n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up.

    The input is added where the shapes agree (Sandler et al. 2018, https://arxiv.org/abs/1801.04381).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.body = nn.Sequential(
            _conv_bn_relu(inputs, hidden, 1),
            _conv_bn_relu(hidden, hidden, kernel, stride, groups=hidden),
            _conv_bn(hidden, outputs, 1),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the block's output."""
        out: Tensor = self.body(x_nchw)
        return x_nchw + out if self.is_residual else out


def _is_identity(choice: int) -> bool:
    return choice == 0


def _layer(choice: int, inputs: int, outputs: int, stride: int) -> nn.Module:
    if _is_identity(choice):
        return _conv_bn(inputs, outputs, 1, stride)
    return InvertedBottleneck(inputs, outputs, stride, *_BOTTLENECKS[choice])


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*_conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU(inplace=True))
