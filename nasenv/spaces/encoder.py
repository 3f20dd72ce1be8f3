"""Encoder: transformer encoders that read a picture patch by patch; in the presets of AutoFormer, layer by layer."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nasenv.configuration import integer, one_of
from nasenv.errors import counted
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import Images, Task
from nasenv.trial import Architecture

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "swish": nn.SiLU}
_HEAD_DIM = 64  # of AutoFormer, whatever the hidden_dim
_MAX_DISTANCE = 14  # of AutoFormer, in patches: those further apart share a relative position
_PATCHES = ((16, 2), (65, 4))  # sides below, and the patches that they are cut into
_LARGEST_PATCH = 16  # of ViT and AutoFormer at 224x224


@dataclass(frozen=True)
class _Preset:
    """Holds what is chosen once for the network, what for each layer, and what is given."""

    network: Mapping[str, tuple[Any, ...]]
    layer: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    is_autoformer: bool = False  # heads of 64, relative positions, a class token; made for ImageNet


def _autoformer(depths: range, widths: range, heads: range, ratios: tuple[float, ...], base: int) -> _Preset:
    """Return the space of Table 1 of the paper; the reference has DeiT's proportions, ``base`` heads in each layer."""
    return _Preset(
        network={"num_layers": tuple(depths), "hidden_dim": tuple(widths)},
        layer={"num_heads": tuple(heads), "mlp_ratio": ratios},
        fixed={"activation": "gelu", "dropout": 0.0},
        reference={
            "num_layers": depths[0],
            "hidden_dim": base * _HEAD_DIM,
            "num_heads": base,
            "mlp_ratio": 4.0,
        },
        is_autoformer=True,
    )


PRESETS: dict[str, _Preset] = {
    "classic": _Preset(
        network={
            "num_layers": (6, 8, 12),
            "hidden_dim": (256, 512, 768),
            "num_heads": (4, 8, 12),
            "activation": tuple(ACTIVATIONS),
            "dropout": (0.1, 0.2, 0.3),
        },
        fixed={"mlp_ratio": 4},
        reference={"num_layers": 12, "hidden_dim": 768, "num_heads": 12, "activation": "gelu", "dropout": 0.1},
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
        reference={
            "num_layers": 2,
            "hidden_dim": 48,
            "num_heads": 3,
            "mlp_ratio": 4,
            "activation": "gelu",
            "dropout": 0.0,
        },
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
    | architectures | 126 | 1,728 | 1.1 x 10^9 | 7.7 x 10^13 | 6.3 x 10^15 |

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
    Its dropped paths are a matter of training, and left out.

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
        once = math.prod(
            len(d.choices) for d in self.decisions[1 : len(self._choices.network)] if d.name != "num_heads"
        )
        if "num_heads" in self._choices.network:
            once = once // len(self._divides) * int(self._divides.sum())
        of_a_layer = math.prod(map(len, self._choices.layer.values()))
        return once * sum(of_a_layer**depth for depth in self._depths.tolist())

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
        weights = np.stack(
            [(layers * 4 * width * inner).sum(axis=1), (layers * 2 * width * hidden).sum(axis=1)], axis=1
        )
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
        has_class = self._choices.is_autoformer
        relative = _relative_positions(*self.grid) if has_class else None
        layers = OrderedDict(
            (f"layer{i}", EncoderLayer(width, self._head_dim(width, layer), **layer, relative=relative))
            for i, layer in enumerate(choices, 1)
        )
        return nn.Sequential(
            OrderedDict(
                patches=PatchEmbedding(
                    self.task.shape[0], width, self.patch, self.grid, has_class, choices[0]["dropout"]
                ),
                num_layers=nn.Sequential(layers),
                norm=nn.LayerNorm(width),
                pool=TokenMean(skipped=int(has_class)),
                classifier=nn.Linear(width, self.task.outputs),
            )
        )

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


class PatchEmbedding(nn.Module):
    """Computes tokens from patches, (n, channels, height, width) -> (n, tokens, width), and adds learned positions.

    Args:
        channels: of the pictures.
        width: numbers in a token.
        patch: side of a patch in pixels.
        grid: rows and columns of patches.
        has_class: whether a learned class token comes first.
        dropout: share of the numbers that are dropped in training.
    """

    def __init__(
        self, channels: int, width: int, patch: int, grid: tuple[int, ...], has_class: bool, dropout: float
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.linear = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if has_class else None
        self.positions = nn.Parameter(0.02 * torch.randn(1, int(has_class) + math.prod(grid), width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the tokens."""
        bottom, right = (self.patch * n - side for n, side in zip(self.grid, images_nchw.shape[2:], strict=True))
        if bottom or right:
            images_nchw = functional.pad(images_nchw, (0, right, 0, bottom))
        tokens = self.linear(images_nchw).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        out: Tensor = self.dropout(tokens + self.positions)
        return out


class EncoderLayer(nn.Module):
    """Computes a layer of a transformer encoder, (n, tokens, width) -> (n, tokens, width), norms first.

    Args:
        width: numbers in a token.
        head_dim: numbers of a query, key and value in each head.
        num_heads: heads of the attention.
        mlp_ratio: size of the MLP's hidden layer, in units of ``width``.
        activation: name of the MLP's activation.
        dropout: share of the numbers that are dropped in training.
        relative: indices of relative positions, see `Attention`.
    """

    def __init__(
        self,
        width: int,
        head_dim: int,
        num_heads: int,
        mlp_ratio: float,
        activation: str,
        dropout: float,
        relative: Tensor | None = None,
    ) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, head_dim, relative)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens after attention and MLP."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class Attention(nn.Module):
    """Computes self-attention of several heads, (n, tokens, width) -> (n, tokens, width).

    Args:
        width: numbers in a token.
        num_heads: heads.
        head_dim: numbers of a query, key and value in each head.
        relative: (2, tokens, tokens), the index of the vertical and of the horizontal distance of every two tokens;
            learned vectors by these indices are then added to keys and values (Shaw et al. 2018,
            https://arxiv.org/abs/1803.02155, in two dimensions).
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, relative: Tensor | None = None) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * num_heads * head_dim)
        self.project = nn.Linear(num_heads * head_dim, width)
        self.register_buffer("relative", relative, persistent=False)
        if relative is not None:
            of_distance = (2, 2 * _MAX_DISTANCE + 2, head_dim)  # vertical and horizontal; 0 is that to the class token
            self.keys, self.values = (nn.Parameter(0.02 * torch.randn(of_distance)) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the weighted means of values, mapped to tokens."""
        n, length, _ = tokens.shape
        q, k, v = (
            self.qkv(tokens).view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        )  # (n, heads, length, d)
        if self.relative is None:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            keys, values = (
                table[0][self.relative[0]] + table[1][self.relative[1]] for table in (self.keys, self.values)
            )
            similar = q @ k.transpose(2, 3) + torch.einsum("nhid,ijd->nhij", q, keys)
            weights = functional.softmax(self.scale * similar, dim=3)
            mixed = weights @ v + torch.einsum("nhij,ijd->nhid", weights, values)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


class TokenMean(nn.Module):
    """Averages tokens, (n, tokens, width) -> (n, width), without the first ``skipped`` ones."""

    def __init__(self, skipped: int = 0) -> None:
        super().__init__()
        self.skipped = skipped

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the means."""
        return tokens[:, self.skipped :].mean(dim=1)


def _patch(side: int) -> int:
    """Return the side of a patch for pictures whose smaller side is this."""
    return next((patch for below, patch in _PATCHES if side < below), _LARGEST_PATCH)


def _relative_positions(rows: int, columns: int) -> Tensor:
    """Return the index of the vertical and of the horizontal distance of every two tokens, (2, tokens, tokens).

    Distances of more than 14 patches count as 14. The class token is the first; its distance to any has the index 0.
    """
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).flatten(1)
    distance = (place[:, None, :] - place[:, :, None]).clamp(-_MAX_DISTANCE, _MAX_DISTANCE)
    return functional.pad(distance + _MAX_DISTANCE + 1, (1, 0, 1, 0))


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
