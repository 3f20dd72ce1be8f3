"""Transformer encoders in parts: tokens from patches, attention with or without relative positions, layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "swish": nn.SiLU}
_MAX_DISTANCE = 14  # in patches, as in AutoFormer: those further apart share a relative position


class PatchEmbedding(nn.Module):
    """Computes tokens from patches, (n, channels, height, width) -> (n, tokens, width), and adds learned positions.

    Positions begin as large as what they are added to, standard normal. Where they begin near 0, a network that
    averages its tokens takes long to tell places apart: on digits, one network after 5 epochs had 77 % of the
    validation pictures right, and 95 % with large positions and the initial weights of `glorot_linear`.

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
        self.class_token = nn.Parameter(torch.randn(1, 1, width)) if has_class else None
        self.positions = nn.Parameter(torch.randn(1, int(has_class) + math.prod(grid), width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Return the tokens."""
        bottom, right = (self.patch * n - side for n, side in zip(self.grid, images_nchw.shape[2:], strict=True))
        if bottom or right:
            images_nchw = functional.pad(images_nchw, (0, right, 0, bottom))
        tokens = self.linear(images_nchw).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
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
            glorot_linear(width, hidden),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            glorot_linear(hidden, width),
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

    relative: Tensor | None

    def __init__(self, width: int, num_heads: int, head_dim: int, relative: Tensor | None = None) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, head_dim**-0.5
        self.qkv = glorot_linear(width, 3 * num_heads * head_dim)
        self.project = glorot_linear(num_heads * head_dim, width)
        self.register_buffer("relative", relative, persistent=False)
        if relative is not None:
            of_distance = (2, 2 * _MAX_DISTANCE + 2, head_dim)  # vertical and horizontal; 0 is that to the class token
            self.keys, self.values = (nn.Parameter(0.02 * torch.randn(of_distance)) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the weighted means of values, mapped to tokens."""
        n, length, _ = tokens.shape
        q, k, v = self.qkv(tokens).view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # n, heads, length, d
        if self.relative is None:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            vertical, horizontal = self.relative
            keys, values = (table[0][vertical] + table[1][horizontal] for table in (self.keys, self.values))
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


def relative_positions(rows: int, columns: int) -> Tensor:
    """Return the index of the vertical and of the horizontal distance of every two tokens, (2, tokens, tokens).

    Distances of more than 14 patches count as 14. The class token is the first; its distance to any has the index 0.
    """
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).flatten(1)
    distance = (place[:, None, :] - place[:, :, None]).clamp(-_MAX_DISTANCE, _MAX_DISTANCE)
    return functional.pad(distance + _MAX_DISTANCE + 1, (1, 0, 1, 0))


def glorot_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer of Glorot's initial weights, as in `torch.nn.MultiheadAttention`."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
