"""Layers that PyTorch lacks, or has in a form that trains slowly."""

import torch
from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """The mean of each channel over the pixels: (n, channels, height, width) -> (n, channels).

    It is what ``nn.AdaptiveAvgPool2d(1)`` and ``x.mean((2, 3))`` compute, but for the memory layout of the gradient:
    theirs is not the channels_last in which networks are trained here, and every operation before pays for it on the
    CPU: a ReLU and its pool take 1.2 to 5 times as long, forward and backward.
    """

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return the means, (n, channels)."""
        return torch.mean(x_nchw.permute(0, 2, 3, 1).flatten(1, 2), dim=1)
