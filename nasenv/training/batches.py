"""The training data, and their batches in a fresh random order at each pass; no batch needs the host."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nasenv.data.dataset import Split
from nasenv.training.recipe import Recipe


def channels_last(images_nchw: Tensor) -> Tensor:
    """Return images, (n, c, h, w), whose strides say that channels lie innermost.

    PyTorch takes an image of one channel to be in either layout, leaves its strides as they are, and then chooses by
    them: a network whose first convolution is 1x1 would run in the slow layout throughout.
    """
    return images_nchw.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


class Batches:
    """The training data, batch after batch.

    They are kept as one (n, height, width, channels) tensor, so a batch is one gather whose result is in the
    channels_last layout that convolutions like best; a random crop and flip ride on the same gather.

    Args:
        data: images (n, c, h, w), labels (n,).
        recipe: batch size and augmentation.
        generator: draws the orders and the augmentation, a whole pass at once; on the device of the data.
    """

    def __init__(self, data: Split, recipe: Recipe, generator: torch.Generator) -> None:
        self._images_nhwc = channels_last(data.images).permute(0, 2, 3, 1)
        self._labels = data.labels
        self._generator = generator
        size = min(recipe.batch_size, len(data))
        self._shape = len(data) // size, size
        self._flip = recipe.augment == "crop_flip"
        _, height, width, _ = self._images_nhwc.shape
        self._pad = 0 if recipe.augment == "none" else max(1, min(height, width) // 8)
        if self._pad:
            self._images_nhwc = F.pad(self._images_nhwc, (0, 0, self._pad, self._pad, self._pad, self._pad))
        self.device = device = data.labels.device
        self._ys, self._xs = torch.arange(height, device=device), torch.arange(width, device=device)
        self._order = torch.empty(self._shape, dtype=torch.int64, device=device)
        self._drawn = torch.empty((*self._shape, 3), dtype=torch.int64, device=device)  # y, x, whether mirrored

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        return self._shape[0]

    def shuffle(self) -> None:
        """Draw the order of the next pass and its augmentation, in place."""
        order = torch.randperm(len(self._labels), generator=self._generator, device=self._labels.device)
        self._order.copy_(order[: self._order.numel()].view(self._shape))
        if self._pad:
            self._drawn[..., :2].random_(2 * self._pad + 1, generator=self._generator)
        if self._flip:
            self._drawn[..., 2].random_(2, generator=self._generator)

    def batch(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (b, c, h, w) and labels (b,) of a batch of this pass; its number, (1,), is on the device."""
        rows = self._order.index_select(0, number)[0]
        images_nhwc = self._cropped(rows, number) if self._pad else self._images_nhwc.index_select(0, rows)
        return images_nhwc.permute(0, 3, 1, 2), self._labels.index_select(0, rows)

    def _cropped(self, rows: Tensor, number: Tensor) -> Tensor:
        y, x, mirrored = self._drawn.index_select(0, number)[0][..., None].unbind(1)  # (b, 1) each
        ys, xs = y + self._ys, x + self._xs
        if self._flip:
            xs = torch.where(mirrored == 1, xs.flip(1), xs)
        return self._images_nhwc[rows[:, None, None], ys[:, :, None], xs[:, None, :]]
