"""The training data, and their batches in a fresh random order at each pass; no batch needs the host."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nasenv.data.split import Split
from nasenv.training.recipe import Recipe


def channels_last(images_nchw: Tensor) -> Tensor:
    """Return images, (n, c, h, w), whose strides say that channels lie innermost.

    PyTorch takes an image of one channel to be in either layout, leaves its strides as they are, and then chooses by
    them: a network whose first convolution is 1x1 would run in the slow layout throughout.
    """
    return images_nchw.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


class Batches:
    """The training data, batch after batch.

    Images are kept as one (n, height, width, channels) tensor, so a batch is one gather whose result is in the
    channels_last layout that convolutions like best; a random crop and flip ride on the same gather. Other inputs are
    kept as they are.

    Args:
        data: inputs (n, *shape), images of (c, h, w) among them, and targets (n, ...).
        recipe: batch size and augmentation.
        generator: draws the orders and the augmentation, a whole pass at once; on the device of the data.
    """

    def __init__(self, data: Split, recipe: Recipe, generator: torch.Generator) -> None:
        self._targets, self._generator = data.targets, generator
        self._are_images = data.inputs.ndim == 4
        self._inputs = channels_last(data.inputs).permute(0, 2, 3, 1) if self._are_images else data.inputs
        self._shape = len(data) // recipe.batch_of(len(data)), recipe.batch_of(len(data))
        self.device = device = data.targets.device
        self._order = torch.empty(self._shape, dtype=torch.int64, device=device)
        self._pad, self._flip = 0, False
        if self._are_images and recipe.augment != "none":
            self._prepare_augmentation(recipe.augment == "crop_flip")

    def _prepare_augmentation(self, flip: bool) -> None:
        _, height, width, _ = self._inputs.shape
        self._flip, self._pad = flip, max(1, min(height, width) // 8)
        self._inputs = F.pad(self._inputs, (0, 0, self._pad, self._pad, self._pad, self._pad))
        self._ys, self._xs = torch.arange(height, device=self.device), torch.arange(width, device=self.device)
        self._drawn = torch.empty((*self._shape, 3), dtype=torch.int64, device=self.device)  # y, x, whether mirrored

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        return self._shape[0]

    def shuffle(self) -> None:
        """Draw the order of the next pass and its augmentation, in place."""
        order = torch.randperm(len(self._targets), generator=self._generator, device=self.device)
        self._order.copy_(order[: self._order.numel()].view(self._shape))
        if self._pad:
            self._drawn[..., :2].random_(2 * self._pad + 1, generator=self._generator)
        if self._flip:
            self._drawn[..., 2].random_(2, generator=self._generator)

    def batch(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (b, *shape) and targets (b, ...) of a batch of this pass; number, (1,), is on the device."""
        rows = self._order.index_select(0, number)[0]
        inputs = self._cropped(rows, number) if self._pad else self._inputs.index_select(0, rows)
        targets = self._targets.index_select(0, rows)
        return (inputs.permute(0, 3, 1, 2) if self._are_images else inputs), targets

    def _cropped(self, rows: Tensor, number: Tensor) -> Tensor:
        y, x, mirrored = self._drawn.index_select(0, number)[0][..., None].unbind(1)  # (b, 1) each
        ys, xs = y + self._ys, x + self._xs
        if self._flip:
            xs = torch.where(mirrored == 1, xs.flip(1), xs)
        return self._inputs[rows[:, None, None], ys[:, :, None], xs[:, None, :]]
