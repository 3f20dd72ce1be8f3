"""Layers that PyTorch lacks, or that train faster here than PyTorch's."""

import torch
from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """Averages each channel over the pixels: (n, channels, height, width) -> (n, channels).

    It is what ``nn.AdaptiveAvgPool2d(1)`` and ``x.mean((2, 3))`` compute, but for the memory layout of the gradient:
    theirs is not the channels_last in which networks are trained here, and every operation before pays for it on the
    CPU: a ReLU and its pool take 1.2 to 5 times as long, forward and backward.
    """

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the means, (n, channels)."""
        return torch.mean(x_nchw.permute(0, 2, 3, 1).flatten(1, 2), dim=1)


class OneChannelPool(nn.Module):
    """Applies ``pool`` to images of one channel, in the memory layout in which that is fast.

    Of one channel, both memory layouts are the same numbers in the same places; but PyTorch's pools take 2 to 6 times
    as long where the strides say channels_last, and a 1x1 convolution 20 times as long where they do not. So the pool
    is shown the one, and what comes after it the other.

    Args:
        pool: a max or average pool.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the pooled images, (n, 1, h, w), of images (n, 1, height, width)."""
        pooled: Tensor = self.pool(x_nchw.squeeze(1).unsqueeze(1))
        return pooled.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
