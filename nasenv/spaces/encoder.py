"""Encoder: transformer encoders that read a picture patch by patch; in the presets of AutoFormer, layer by layer."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasenv.configuration import integer, one_of
from nasenv.errors import counted
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.spaces.transformer import (
    ACTIVATIONS,
    EncoderLayer,
    PatchEmbedding,
    TokenMean,
    glorot_linear,
    relative_positions,
)
from nasenv.task import Images, Task
from nasenv.trial import Architecture

_HEAD_DIM = 64  # of AutoFormer, whatever the hidden_dim
_PATCHES = ((16, 2), (65, 4))  # sides below, and the patches that they are cut into
_LARGEST_PATCH = 16  # of ViT and AutoFormer at 224x224


@dataclass(frozen=True)
class _Preset:
    """Holds what is chosen once for the network, what for each layer, what is given, and the reference."""

    network: Mapping[str, tuple[Any, ...]]
    layer: Mapping[str, tuple[Any, ...]]
    fixed: Mapping[str, Any]
    reference: Mapping[str, Any]
    is_autoformer: bool = False  # heads of 64, relative positions, a class token; made for ImageNet


def _autoformer(depths: range, widths: range, heads: range, ratios: tuple[float, ...], usual_heads: int) -> _Preset:
    """Return the choices of Table 1 of the paper; the reference has DeiT's proportions."""
    return _Preset(
        network={"num_layers": tuple(depths), "hidden_dim": tuple(widths)},
        layer={"num_heads": tuple(heads), "mlp_ratio": ratios},
        fixed={"activation": "gelu", "dropout": 0.0},
        reference=dict(num_layers=depths[0], hidden_dim=_HEAD_DIM * usual_heads, num_heads=usual_heads, mlp_ratio=4.0),
        is_autoformer=True,
    )


PRESETS = {
    "classic": _Preset(
        network={
            "num_layers": (6, 8, 12),
            "hidden_dim": (256, 512, 768),
            "num_heads": (4, 8, 12),
            "activation": tuple(ACTIVATIONS),
            "dropout": (0.1, 0.2, 0.3),
        },
        layer={},
        fixed={"mlp_ratio": 4},
        reference=dict(num_layers=12, hidden_dim=768, num_heads=12, activation="gelu", dropout=0.1),
    ),
    "small": _Preset(
        network={
            "num_layers": (1, 2, 3, 4),
            "hidden_dim": (16, 24, 32, 48, 64),
            "num_heads": (1, 2, 3, 4, 6, 8),
            "mlp_ratio": (1, 2, 4),
            "activation": tuple(ACTIVATIONS),
            "dropout": (0.0, 0.1, 0.2),
        },
        layer={},
        fixed={},
        reference=dict(num_layers=2, hidden_dim=48, num_heads=3, mlp_ratio=4, activation="gelu", dropout=0.0),
    ),
    "autoformer_tiny": _autoformer(range(12, 15), range(192, 241, 24), range(3, 5), (3.5, 4.0), 3),
    "autoformer_small": _autoformer(range(12, 15), range(320, 449, 64), range(5, 8), (3.0, 3.5, 4.0), 6),
    "autoformer_base": _autoformer(range(14, 17), range(528, 625, 48), range(8, 11), (3.0, 3.5, 4.0), 9),
}


class Encoder(SearchSpace):
    """Search space of transformer encoders that read pictures as sequences of patches (ViT).

    ## Decisions

    | decision | `classic` | `small` | `autoformer_tiny` | `autoformer_small` | `autoformer_base` |
    |---|---|---|---|---|---|
    | `num_layers` | 6, 8, 12 | 1, 2, 3, 4 | 12, 13, 14 | 12, 13, 14 | 14, 15, 16 |
    | `hidden_dim` | 256, 512, 768 | 16, 24, 32, 48, 64 | 192, 216, 240 | 320, 384, 448 | 528, 576, 624 |
    | `num_heads` | 4, 8, 12 | 1, 2, 3, 4, 6, 8 | | | |
    | `mlp_ratio` | (4) | 1, 2, 4 | | | |
    | `activation` | gelu, swish | gelu, swish | (gelu) | (gelu) | (gelu) |
    | `dropout` | 0.1, 0.2, 0.3 | 0, 0.1, 0.2 | (0) | (0) | (0) |
    | `layer{i}.num_heads` | | | 3, 4 | 5, 6, 7 | 8, 9, 10 |
    | `layer{i}.mlp_ratio` | | | 3.5, 4 | 3, 3.5, 4 | 3, 3.5, 4 |
    | architectures | 126 | 1,728 | 1.1 x 10^9 | 7.7 x 10^13 | 6.2 x 10^15 |

    Of ``num_heads``, those are valid that divide ``hidden_dim``. Layers beyond ``num_layers`` have one valid choice,
    the first. What stands in brackets is not chosen. No two architectures are the same network.

    ## Network

    Patches of ``patch`` x ``patch`` pixels become tokens of ``hidden_dim`` numbers by a linear map, to which learned
    positions are added; sides that the patch does not divide are filled up with zeros. Then ``num_layers`` times
    x + attention(norm(x)) and x + MLP(norm(x)), with a hidden layer of ``mlp_ratio`` times ``hidden_dim`` in the MLP;
    layer norm, mean over the tokens, linear layer. Dropout follows the positions and every linear map in a layer but
    that of queries, keys and values.

    The presets of AutoFormer have the paper's choices (its Table 1) and network: queries, keys and values of 64
    numbers a head, relative positions of keys and values in each layer, and a class token that the mean leaves out.
    Its dropped paths are a matter of training, and left out. Such networks want a small learning rate: on digits,
    ``--evaluator.learning_rate 0.0005`` trains the reference of `autoformer_tiny`, and the default of 0.01 does not.

    Input: (n, channels, height, width) float32. Output: (n, task.outputs).

    The reference has the proportions of ViT-Base (`classic`: is it) and of DeiT (`autoformer_tiny`, `autoformer_small`:
    is DeiT-Ti and DeiT-S with relative positions): an MLP ratio of 4, gelu; in `small`, two layers of 48.

    Args:
        preset: the choices.
        patch: side of a patch in pixels; by default 2 where the smaller side of the pictures is below 16, 4 up to 64,
            and 16 beyond, as published.
        task: images; by default of 1x8x8 in 10 classes, as scikit-learn's digits are, and for the presets of
            AutoFormer ImageNet's.

    Raises:
        InputError: an unknown preset; a patch that is not a positive integer.

    Example:
        >>> import torch
        >>> space = Encoder()
        >>> space.size, Encoder("classic").size
        (1728, 126)
        >>> architecture = space.reference()
        >>> space.to_text(architecture)
        'num_layers=2,hidden_dim=48,num_heads=3,mlp_ratio=4,activation=gelu,dropout=0.0'
        >>> space.build(architecture)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    References:
        Dosovitskiy et al. 2021 (ViT), https://arxiv.org/abs/2010.11929; Touvron et al. 2021 (DeiT),
        https://arxiv.org/abs/2012.12877; Chen et al. 2021 (AutoFormer), https://arxiv.org/abs/2107.00651.
    """

    def __init__(
        self,
        preset: Literal["classic", "small", "autoformer_tiny", "autoformer_small", "autoformer_base"] = "small",
        patch: int | None = None,
        task: Task | None = None,
    ) -> None:
        self.preset = one_of("preset", preset, list(PRESETS))
        self._choices = PRESETS[self.preset]
        default = ((3, 224, 224), 1000) if self._choices.is_autoformer else ((1, 8, 8), 10)
        task = (task or Task(Images(default[0]), outputs=default[1])).check_inputs(Images, "Encoder")
        self._depths = np.array(self._choices.network["num_layers"])
        decisions = [Decision(name, choices) for name, choices in self._choices.network.items()]
        for i in range(1, self._depths.max() + 1):
            decisions += [Decision(f"layer{i}.{name}", choices) for name, choices in self._choices.layer.items()]
        super().__init__(decisions, task)
        self.patch = integer("patch", _patch(min(task.shape[1:])) if patch is None else patch)
        self.grid = tuple(math.ceil(side / self.patch) for side in task.shape[1:])  # rows, columns of patches
        self._divides = self._heads_that_divide()

    def _heads_that_divide(self) -> NDArray[np.bool_]:
        """Return which choices of ``num_heads`` are valid, (choices of hidden_dim, C), where it is chosen once."""
        widths = np.array(self._choices.network["hidden_dim"])[:, None]
        heads = np.array(self._choices.network.get("num_heads", ()), dtype=np.int64)
        return np.pad(widths % heads == 0, ((0, 0), (0, self.max_choices - len(heads))))

    @property
    def size(self) -> int:
        """Return the number of valid architectures."""
        network, layer = self._choices.network, self._choices.layer
        widths_and_heads = int(self._divides.sum()) if "num_heads" in network else len(network["hidden_dim"])
        others = [len(network[name]) for name in ("mlp_ratio", "activation", "dropout") if name in network]
        of_a_layer: int = math.prod(map(len, layer.values()))  # 1 where all layers are alike
        of_layers: int = sum(of_a_layer**depth for depth in network["num_layers"])
        return widths_and_heads * math.prod(others) * of_layers

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C), for n prefixes of t decisions, (n, t)."""
        t = prefixes.shape[1]
        if self.decisions[t].name == "num_heads":
            return self._divides[prefixes[:, 1]]
        mask = super().mask(prefixes)
        if t >= len(self._choices.network):
            layer = (t - len(self._choices.network)) // len(self._choices.layer)  # counts from 0 here
            mask[self._depths[prefixes[:, 0]] <= layer, 1:] = False
        return mask

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return also the logarithms of the numbers of weights in attention and in MLPs, (n, 2)."""
        rows = np.array(architectures, dtype=np.int64).reshape(-1, self.num_decisions)
        depth, width = self._depths[rows[:, :1]], self._taken(rows, "hidden_dim")
        layers = np.arange(self._depths.max()) < depth if self._choices.layer else depth  # how often each column counts
        inner = _HEAD_DIM * self._taken(rows, "num_heads") if self._choices.is_autoformer else width
        hidden = width * self._taken(rows, "mlp_ratio")
        attention, mlps = (layers * 4 * width * inner).sum(axis=1), (layers * 2 * width * hidden).sum(axis=1)
        weights = np.stack([attention, mlps], axis=1)
        return super().feature_parts(architectures) | {"weights": np.log(weights)}

    def _taken(self, rows: NDArray[np.int64], name: str) -> NDArray[Any]:
        """Return what n architectures have taken for a name, (n, layers) or (n, 1); what is given where not chosen."""
        columns = [t for t, d in enumerate(self.decisions) if d.name.rpartition(".")[2] == name]
        if not columns:
            return np.full((len(rows), 1), self._choices.fixed[name])
        return np.array(self.decisions[columns[0]].choices)[rows[:, columns]]

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        width, choices = self._layers(architecture)
        channels, has_class = self.task.shape[0], self._choices.is_autoformer
        relative = relative_positions(*self.grid) if has_class else None
        layers: dict[str, nn.Module] = {
            f"layer{i}": EncoderLayer(width, self._head_dim(width, layer), **layer, relative=relative)
            for i, layer in enumerate(choices, 1)
        }
        modules: dict[str, nn.Module] = {
            "patches": PatchEmbedding(channels, width, self.patch, self.grid, has_class, choices[0]["dropout"]),
            "num_layers": nn.Sequential(OrderedDict(layers)),
            "norm": nn.LayerNorm(width),
            "pool": TokenMean(skipped=int(has_class)),
            "classifier": glorot_linear(width, self.task.outputs),
        }
        return nn.Sequential(OrderedDict(modules))

    def reference(self) -> Architecture:
        """Return the encoder of the proportions of ViT or DeiT, or a small one."""
        depth, row = self._choices.reference["num_layers"], list[int]()
        for d in self.decisions:
            layer, _, name = d.name.rpartition(".")
            is_beyond = bool(layer) and int(layer.removeprefix("layer")) > depth
            row.append(0 if is_beyond else d.choices.index(self._choices.reference[name]))
        return self.check(row)

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the patches, the layers with what is decided of them so far, and the head once all is decided."""
        rows, columns = self.grid
        nodes = [
            "input\n" + "x".join(map(str, self.task.shape)),
            f"patches of {self.patch}x{self.patch}\n{counted(rows * columns, 'token')}",
        ]
        width, layers = self._layers(prefix)
        if width:
            nodes[1] += f" of {width}"
        nodes += [f"layer {i}" + _described(width, layer) for i, layer in enumerate(layers, 1)]
        if len(prefix) == self.num_decisions:
            nodes += ["layer norm, mean of tokens", f"linear\n{counted(self.task.outputs, 'output')}"]
        return Diagram(tuple(nodes), tuple((i, i + 1, "") for i in range(len(nodes) - 1)))

    def _layers(self, prefix: Sequence[int]) -> tuple[int, list[dict[str, Any]]]:
        """Return the hidden_dim, 0 where it is not decided, and by name what is known of each layer decided so far."""
        named: dict[str, Any] = {d.name: d.choices[c] for d, c in zip(self.decisions, prefix, strict=False)}
        depth, width = named.pop("num_layers", 0), named.pop("hidden_dim", 0)
        if not self._choices.layer:
            return width, [{**self._choices.fixed, **named} for _ in range(depth)]
        layers = []
        for i in range(1, depth + 1):
            chosen = {name: named[key] for name in self._choices.layer if (key := f"layer{i}.{name}") in named}
            if chosen:
                layers.append({**self._choices.fixed, **chosen})
        return width, layers

    def _head_dim(self, width: int, layer: Mapping[str, Any]) -> int:
        return _HEAD_DIM if self._choices.is_autoformer else width // int(layer["num_heads"])


def _patch(side: int) -> int:
    """Return the side of a patch for pictures whose smaller side is this."""
    return next((patch for below, patch in _PATCHES if side < below), _LARGEST_PATCH)


def _hidden(width: int, layer: Mapping[str, Any]) -> int:
    """Return the size of the MLP's hidden layer."""
    return int(layer["mlp_ratio"] * width)


def _described(width: int, layer: Mapping[str, Any]) -> str:
    """Return in words what is known of a layer."""
    words = []
    if "num_heads" in layer:
        words.append(f"\n{counted(layer['num_heads'], 'head')}")
    if width and "mlp_ratio" in layer:
        words.append(f"\nMLP of {_hidden(width, layer)} {layer.get('activation', '')}".rstrip())
    if layer.get("dropout"):
        words.append(f"\ndropout {layer['dropout']}")
    return "".join(words)
