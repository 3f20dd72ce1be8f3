"""ChainCNN: a chain of layers, each with its own operation, kernel and width, some with a skip connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nasenv.configuration import integer, is_integer
from nasenv.errors import InputError, counted
from nasenv.spaces.layers import GlobalAveragePool, OneChannelPool
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import Images, Task
from nasenv.trial import Architecture

KERNELS = (1, 3, 5)
KERNELS_OF = {"conv": (1, 3, 5), "sep_conv": (3, 5), "max_pool": (3, 5), "avg_pool": (3, 5), "identity": (1,)}
OPERATIONS = tuple(KERNELS_OF)
_IS_WIDE = np.array([o in ("conv", "sep_conv") for o in OPERATIONS])
_IS_POOL = np.array([o in ("max_pool", "avg_pool") for o in OPERATIONS])

_Layer = tuple[int, int, int, int]  # choices of operation, kernel, width, skip
_IDENTITY: _Layer = (OPERATIONS.index("identity"), 0, 0, 0)  # changes nothing: its output is its input


class ChainCNN(SearchSpace):
    """Search space of chains of 1 to ``max_layers`` layers; the depth is chosen first, then layer by layer.

    ## Decisions

    | decision | choices | valid |
    |---|---|---|
    | `depth` | 1 .. max_layers | all |
    | `layer{i}.operation` | conv, sep_conv, max_pool, avg_pool, identity | those with a kernel that fits |
    | `layer{i}.kernel` | 1, 3, 5 | conv: all, sep_conv and pools: 3 and 5, identity: 1; where it fits |
    | `layer{i}.width` | widths | conv and sep_conv: all; pools and identity keep their width: the first |
    | `layer{i}.skip` | no, yes | yes: not in layer 1, nor after an identity without skip (it adds a tensor to itself) |

    i = 1 .. max_layers, so T = 1 + 4 max_layers. Layers beyond the depth have one valid choice, the first, everywhere.
    A kernel k fits a map whose smaller side is s if k <= 2 s - 1: its outer weights would only see padding otherwise.
    So sep_conv and pools need s >= 2. A pool halves both sides, rounded up.

    ## Network

    Let y_0 be the input and y_i the output of layer i. Layer i is given y_{i-1}, with skip y_{i-1} + project(y_{i-2}),
    "from the layer before the last"; project is nothing where shapes agree, else 1x1 convolution (stride 2 after a
    pool) and BatchNorm. conv: convolution, BatchNorm, ReLU; sep_conv: depthwise and 1x1 convolution, BatchNorm, ReLU;
    both with stride 1 and same padding. Pools have stride 2. At the end: global average pool, linear layer.

    Input: (n, channels, height, width) float32. Output: (n, task.outputs).

    ## Equivalent architectures

    An identity without skip changes nothing, and no skip follows it, so the canonical architecture leaves it out.

    ## Text

    ``conv3x32|max_pool3|sep_conv5x16+skip|identity``: operation, kernel, "x" and width where there is one, "+skip".

    Args:
        max_layers: the most layers, 1 or more.
        widths: numbers of output channels of conv and sep_conv, distinct. The default is small on purpose: 5 epochs on
            scikit-learn's digits then take 0.1 s for an average architecture and 0.4 s for the reference, on one core.
        task: images of any sizes from 1; by default of 1x8x8 in 10 classes, as scikit-learn's digits are.

    Raises:
        InputError: max_layers below 1; no widths, or widths that are not distinct positive integers.

    Example:
        >>> import torch
        >>> space = ChainCNN(max_layers=3)
        >>> architecture = space.from_text("conv3x16|max_pool3|sep_conv5x32+skip")
        >>> architecture
        (2, 0, 1, 1, 0, 2, 1, 0, 0, 1, 2, 2, 1)
        >>> space.build(architecture)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    References:
        Zoph & Le 2017, Neural Architecture Search with Reinforcement Learning, https://arxiv.org/abs/1611.01578;
        Baker et al. 2017 (MetaQNN), Designing Neural Network Architectures using Reinforcement Learning,
        https://arxiv.org/abs/1611.02167.

    ## Versions

    - 1: first version.
    """

    def __init__(
        self,
        max_layers: int = 6,
        widths: Sequence[int] = (8, 16, 32),
        task: Task | None = None,
    ) -> None:
        given = tuple(widths) if isinstance(widths, Iterable) else ()
        if not given or not all(map(is_integer, given)) or len(set(given)) != len(given):
            raise InputError(f"widths must be one or more distinct positive integers, got {widths!r}")
        self.max_layers = integer("max_layers", max_layers)
        self.widths = tuple(int(w) for w in given)
        decisions = [Decision("depth", tuple(range(1, self.max_layers + 1)))]
        for i in range(1, self.max_layers + 1):
            decisions += [
                Decision(f"layer{i}.operation", OPERATIONS),
                Decision(f"layer{i}.kernel", KERNELS),
                Decision(f"layer{i}.width", self.widths),
                Decision(f"layer{i}.skip", ("no", "yes")),
            ]
        super().__init__(decisions, (task or Task(Images((1, 8, 8)), outputs=10)).check_inputs(Images, "ChainCNN"))
        self._make_mask_tables()
        self._make_layer_names()

    def _make_mask_tables(self) -> None:
        """Tabulate all masks by the state that they depend on; ``mask`` looks them up."""
        sides = [min(self.task.shape[1:])]  # the smaller side of the map after 0, 1, ... pools
        while sides[-1] > 1:
            sides.append((sides[-1] + 1) // 2)
        fits = [[[k in ks and k <= 2 * side - 1 for k in KERNELS] for ks in KERNELS_OF.values()] for side in sides]
        self._kernel_masks = self._padded(fits)  # (pools, operation, C)
        self._operation_masks = self._padded(np.any(fits, axis=2))  # (pools, C)
        self._width_masks = self._padded(_IS_WIDE[:, None] | (np.arange(len(self.widths)) == 0))  # (operation, C)
        self._skip_masks = self._padded([[True, False], [True, True]])  # (whether a skip means anything, C)

    def _padded(self, masks: Any) -> NDArray[np.bool_]:
        """Return masks (..., choices) padded with False to (..., C)."""
        array = np.asarray(masks, dtype=bool)
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, self.max_choices - array.shape[-1])])

    def _make_layer_names(self) -> None:
        """Make the tables from a layer's choices to its name, such as ``sep_conv5x32+skip``, and back."""
        self._names: dict[_Layer, str] = {}
        for o, k, w, s in product(range(len(OPERATIONS)), range(len(KERNELS)), range(len(self.widths)), range(2)):
            if KERNELS[k] in KERNELS_OF[OPERATIONS[o]] and (w == 0 or _IS_WIDE[o]):
                kernel = "" if o == _IDENTITY[0] else KERNELS[k]
                width = f"x{self.widths[w]}" if _IS_WIDE[o] else ""
                self._names[o, k, w, s] = f"{OPERATIONS[o]}{kernel}{width}{'+skip' if s else ''}"
        self._layers_by_name = {name: layer for layer, name in self._names.items()}

    @property
    def size(self) -> int:
        """Return the number of valid architectures, counted by dynamic programming over the layers."""
        total = 0
        counts = Counter({(0, True): 1})  # the input behaves as such an identity: no skip after it
        for _ in range(self.max_layers):
            longer: Counter[tuple[int, bool]] = Counter()
            for (pools, no_skip), count in counts.items():
                skips = 1 if no_skip else 2
                for o in np.flatnonzero(self._operation_masks[pools]):
                    variants = int(self._kernel_masks[pools, o].sum() * self._width_masks[o].sum())
                    longer[pools + int(_IS_POOL[o]), False] += count * skips * variants
                longer[pools, False] -= count  # of the identities counted above, these are without skip
                longer[pools, True] += count
            counts = longer
            total += counts.total()
        return total

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C), for n prefixes of t decisions, (n, t)."""
        if prefixes.shape[1] == 0:
            return super().mask(prefixes)
        layer, part = divmod(prefixes.shape[1] - 1, 4)  # layer counts from 0 here
        operations = prefixes[:, 1::4]
        valid: NDArray[np.bool_]
        if part == 0:
            valid = self._operation_masks[_IS_POOL[operations].sum(axis=1)]
        elif part == 1:
            valid = self._kernel_masks[_IS_POOL[operations[:, :layer]].sum(axis=1), operations[:, layer]]
        elif part == 2:
            valid = self._width_masks[operations[:, layer]]
        elif layer == 0:
            valid = self._skip_masks[np.zeros(len(prefixes), dtype=np.int64)]
        else:
            meant = (operations[:, layer - 1] != _IDENTITY[0]) | (prefixes[:, 4 * layer] == 1)
            valid = self._skip_masks[meant.astype(np.int64)]
        valid[prefixes[:, 0] < layer] = self._skip_masks[0]  # beyond the depth
        return valid

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices were valid at each decision of n architectures, (n, T) -> (n, T, C)."""
        layers = rows[:, 1:].reshape(len(rows), self.max_layers, 4)
        operations, skips = layers[..., 0], layers[..., 3]
        pools = np.minimum(_IS_POOL[operations].cumsum(axis=1) - _IS_POOL[operations], len(self._operation_masks) - 1)
        has_skip = np.zeros_like(pools)  # whether a skip means anything
        has_skip[:, 1:] = (operations[:, :-1] != _IDENTITY[0]) | (skips[:, :-1] == 1)
        parts = (self._operation_masks[pools], self._kernel_masks[pools, operations], self._width_masks[operations])
        masks = np.stack([*parts, self._skip_masks[has_skip]], axis=2)  # (n, layers, 4, C)
        masks[rows[:, :1] < np.arange(self.max_layers)] = self._skip_masks[0]  # beyond the depth
        depth = np.broadcast_to(np.arange(self.max_choices) < self.max_layers, (len(rows), 1, self.max_choices))
        return np.concatenate([depth, masks.reshape(len(rows), -1, self.max_choices)], axis=1)

    def _are_valid(self, rows: NDArray[np.int64]) -> bool:
        """Return whether all rows, (n, T) int64, are valid architectures."""
        if not ((rows >= 0) & (rows < self.num_choices)).all():
            return False
        return bool(np.take_along_axis(self.masks(rows), rows[..., None], axis=2).all())

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the architecture without identity layers that have no skip; one identity if nothing else is left.

        Where such a layer j is left out, layer j+1 has no skip, and the skip of layer j+2 reads y_j = y_{j-1}, which
        is the layer before the last of the shorter chain too. Maps keep their sizes, so what was valid stays so.
        """
        layers = self._layers(architecture)
        return self._architecture([layer for layer in layers if layer != _IDENTITY] or [_IDENTITY])

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        layers, shortcuts = nn.ModuleDict(), nn.ModuleDict()
        before, last = self.task.shape[0], self.task.shape[0]  # channels of y_{i-2} and y_{i-1}
        pooled = False  # whether y_{i-1} is half as large as y_{i-2}
        for i, (o, k, w, s) in enumerate(self._layers(architecture), 1):
            if s:
                shortcuts[f"layer{i}"] = _shortcut(before, last, stride=2 if pooled else 1)
            width = self.widths[w] if _IS_WIDE[o] else last
            layers[f"layer{i}"] = _operation(OPERATIONS[o], KERNELS[k], last, width)
            before, last, pooled = last, width, bool(_IS_POOL[o])
        return ChainNetwork(layers, shortcuts, nn.Linear(last, self.task.outputs))

    def reference(self) -> Architecture:
        """Return a network after VGG (https://arxiv.org/abs/1409.1556): pairs of 3x3 convolutions, pools between.

        The width grows from pair to pair up to the largest, maps shrink to no less than 3 pixels a side, and three
        convolutions, or as many as max_layers leaves, are the end.
        """
        side, widths = min(self.task.shape[1:]), sorted(self.widths)
        pools = max(0, (side - 1).bit_length() - 2)  # so many until the side is 4 or less
        depth = min(self.max_layers, 3 * (pools + 1))
        last_pair = (depth - 1) // 3
        names = []
        for i in range(depth):
            width = widths[max(0, len(widths) - 1 - last_pair + i // 3)]
            is_pool = i % 3 == 2 and i < depth - 1
            names.append("max_pool3" if is_pool else f"conv{3 if side > 1 else 1}x{width}")
        return self.from_text("|".join(names))

    def to_text(self, architecture: Architecture) -> str:
        """Return the layers in order, such as ``conv3x32|max_pool3|sep_conv5x16+skip|identity``."""
        return "|".join(self._names[layer] for layer in self._layers(architecture))

    def from_text(self, text: str) -> Architecture:
        """Return the architecture that ``to_text`` wrote; raise InputError for any other text."""
        names = [name.strip() for name in text.split("|")]
        if len(names) > self.max_layers:
            layers = counted(len(names), "layer")
            raise InputError(f"{text!r} has {layers}, this ChainCNN has at most {self.max_layers}")
        for name in names:
            if name not in self._layers_by_name:
                raise InputError(
                    f"{text!r}: {name!r} is no layer of this ChainCNN; expected layers such as conv3x{self.widths[0]}, "
                    f"sep_conv5x{self.widths[-1]}+skip, max_pool3, identity, with widths of {self.widths}"
                )
        return self.check(self._architecture([self._layers_by_name[name] for name in names]))

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the layers decided so far, the last one perhaps in part, and the head once all are decided."""
        nodes = ["input\n" + "x".join(map(str, self.task.shape))]
        edges: list[tuple[int, int, str]] = []
        layers = self._layers(prefix)
        for i, choices in enumerate(layers, start=1):
            nodes.append(self._box(choices))
            edges.append((i - 1, i, ""))
            if choices[3:] == (1,):
                edges.append((i - 2, i, "skip"))
        if layers and len(layers) == prefix[0] + 1 and len(layers[-1]) == 4:
            edges += [(len(layers), len(nodes), ""), (len(nodes), len(nodes) + 1, "")]
            nodes += ["global average pool", f"linear\n{counted(self.task.outputs, 'output')}"]
        return Diagram(tuple(nodes), tuple(edges))

    def _box(self, choices: Sequence[int]) -> str:
        """Return the label of a layer's box, given one to four of its choices."""
        operation = choices[0]
        text = OPERATIONS[operation]
        if len(choices) > 1 and operation != _IDENTITY[0]:
            kernel = KERNELS[choices[1]]
            text += f" {kernel}x{kernel}"
        if len(choices) > 2 and _IS_WIDE[operation]:
            text += f"\n{counted(self.widths[choices[2]], 'channel')}"
        return text

    def _layers(self, prefix: Sequence[int]) -> list[Any]:
        """Return the choices of each layer within the depth: four a layer, fewer in the last of a prefix."""
        end = min(len(prefix), 1 + 4 * (prefix[0] + 1)) if prefix else 0
        return [tuple(prefix[t : min(t + 4, end)]) for t in range(1, end, 4)]

    def _architecture(self, layers: Sequence[_Layer]) -> Architecture:
        """Return the architecture with these layers."""
        choices = [choice for layer in layers for choice in layer]
        return (len(layers) - 1, *choices, *[0] * (4 * self.max_layers - len(choices)))


class ChainNetwork(nn.Module):
    """Computes the network of a ChainCNN architecture: (n, channels, height, width) float32 -> (n, task.outputs).

    Args:
        layers: modules by name, in order; each reads the output of the one before.
        shortcuts: by the name of the layer that has the skip: what is applied to the output of the layer before the
            last, before it is added to that of the last.
        classifier: maps the means of the last layer's channels, (n, width), to the outputs.
    """

    def __init__(self, layers: nn.ModuleDict, shortcuts: nn.ModuleDict, classifier: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.shortcuts = shortcuts
        self.pool = GlobalAveragePool()
        self.classifier = classifier

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the outputs, (n, outputs)."""
        before, last = images_nchw, images_nchw
        for name, layer in self.layers.items():
            joined = last + self.shortcuts[name](before) if name in self.shortcuts else last
            before, last = last, layer(joined)
        logits: Tensor = self.classifier(self.pool(last))
        return logits


def _operation(operation: str, kernel: int, channels: int, width: int) -> nn.Module:
    """Return the module that maps ``channels`` to ``width`` channels."""
    padding = kernel // 2
    if operation in ("max_pool", "avg_pool"):
        pool = (
            nn.MaxPool2d(kernel, stride=2, padding=padding)
            if operation == "max_pool"
            else nn.AvgPool2d(kernel, stride=2, padding=padding, count_include_pad=False)
        )
        return OneChannelPool(pool) if channels == 1 else pool
    if operation == "identity":
        return nn.Identity()
    if operation == "conv":
        convolutions = [nn.Conv2d(channels, width, kernel, padding=padding, bias=False)]
    else:
        depthwise = nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False)
        convolutions = [depthwise, nn.Conv2d(channels, width, 1, bias=False)]
    return nn.Sequential(*convolutions, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    """Return the module that adapts a skip to ``width`` channels and, with stride 2, to half the height and width."""
    if channels == width and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
