"""The format that every data source returns: images as NCHW arrays, with the user's own labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError, counted

Labels: TypeAlias = NDArray[Any]  # (n,) integers, booleans or strings

CHANNELS = (1, 3, 4)
SMALLEST = 4  # pixels, height and width


@dataclass(frozen=True)
class Samples:
    """Holds images and their labels as the user gave them, and checks them.

    Args:
        name: name in messages, such as ``x`` of a file.
        images: (n, c, h, w) numbers, finite.
        labels: (n,) integers, booleans or strings; None where there are none.
        files: names of the pictures' files; None if there are none.

    Raises:
        InputError: pixels that are not finite numbers, labels of another type, shape or number.
    """

    name: str
    images: NDArray[Any]
    labels: Labels | None
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_pixels(self.name, self.images)
        if self.labels is not None:
            _check_labels(self.name, self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class RawData:
    """Holds the splits that a source has, in the user's units.

    Args:
        train: the training samples; where there is no other split, all samples.
        validation: None where it has to be split from the training samples.
        test: None where it has to be split from the training samples.
        label_names: text of label 0, 1, ...; None where a label speaks for itself.
    """

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for other in (self.validation, self.test):
            if other is not None and other.images.shape[1:] != self.train.images.shape[1:]:
                raise InputError(
                    f"{other.name} has images of {other.images.shape[1:]} (channels, height, width), "
                    f"{self.train.name} of {self.train.images.shape[1:]}; they must be the same"
                )


def needed_memory(numbers: int, itemsize: int) -> int:
    """Return the bytes that arrays of numbers take while they are converted to float32, split and normalised."""
    return numbers * (itemsize + 3 * np.dtype(np.float32).itemsize)


def as_nchw(name: str, images: NDArray[Any]) -> NDArray[Any]:
    """Return images given as NHW, NHWC or NCHW as (n, c, h, w).

    Three axes are (n, h, w). Of four axes, the channels are the second or the last: the one that has 1, 3 or 4
    channels and leaves images of at least 4x4.

    Raises:
        InputError: no reading is possible, or both are, as with (n, 4, h, 4).
    """
    images = images[:, None] if images.ndim == 3 else images
    sizes = images.shape[1:]
    first, last = _plausible(sizes), _plausible(sizes[-1:] + sizes[:-1])
    if not (first or last):
        raise InputError(
            f"{name} must be (n, h, w), (n, h, w, c) or (n, c, h, w) with c of {CHANNELS} and images of at least "
            f"{SMALLEST}x{SMALLEST}, got shape {images.shape}"
        )
    if first and last:
        raise InputError(
            f"{name} of shape {images.shape} can be read as (n, c, h, w) and as (n, h, w, c); pad or crop the images"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _plausible(sizes: tuple[int, ...]) -> bool:
    return len(sizes) == 3 and sizes[0] in CHANNELS and min(sizes[1:]) >= SMALLEST


def _check_pixels(name: str, images: NDArray[Any]) -> None:
    if images.dtype.kind not in "buif":
        raise InputError(f"{name} must hold numbers (uint8 or float), got dtype {images.dtype}")
    if not len(images):
        raise InputError(f"{name} holds no images")
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):  # found as infinite
            broken = ~np.isfinite(images.astype(np.float32)).all(axis=(1, 2, 3))
        if broken.any():
            raise InputError(
                f"{name}: pixels are nan or infinite as float32 in {int(broken.sum())} of "
                f"{counted(len(images), 'image')}, the first is image {int(broken.argmax())}; repair or drop them"
            )


def _check_labels(name: str, labels: Labels, n: int) -> None:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise InputError(
            f"labels of {name} must be one class a sample, got shape {labels.shape}; of one-hot, give y.argmax(axis=1)"
        )
    if labels.ndim != 1 or len(labels) != n:
        raise InputError(f"{name} has {counted(n, 'image')}, but its labels have shape {labels.shape}; expected ({n},)")
    if labels.dtype.kind not in "buiU":
        hint = "; where they are whole numbers of classes, give y.astype(int)" if labels.dtype.kind == "f" else ""
        raise InputError(f"labels of {name} must be integers or strings, got dtype {labels.dtype}{hint}")
    try:
        "".join(labels.tolist() if labels.dtype.kind == "U" else []).encode()
    except (ValueError, SystemError):  # halves of surrogate pairs, numbers above the highest character
        raise InputError(f"labels of {name} hold characters that do not exist, so they are no texts") from None
