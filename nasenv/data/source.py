"""The format that every data source returns: images as NCHW arrays, with the user's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError, counted
from nasenv.task import Images

Labels: TypeAlias = NDArray[Any]  # (n,) integers, booleans or strings

CHANNELS = (1, 3, 4)
SMALLEST = 4  # pixels, height and width
_NOT_YET = "nasenv reads pictures only; for a regression on rows of numbers see Dataset.of_numbers"


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
            check_labels(self.name, self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def described(self) -> str:
        """Return the images in words, such as ``80 grey pictures of 8x8``."""
        return Images(self.images.shape[1:]).described(len(self))


@dataclass(frozen=True)
class RawData:
    """Holds the splits that a source has, in the user's units.

    Args:
        train: the training samples; where there is no other split, all samples.
        validation: None where it has to be split from the training samples.
        test: None where it has to be split from the training samples.
        label_names: text of label 0, 1, ...; None where a label speaks for itself.
        notes: what was left out, skipped, resized or converted, in words.
    """

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for other in (self.validation, self.test):
            if other is not None and other.images.shape[1:] != self.train.images.shape[1:]:
                raise InputError(
                    f"{other.name} has {other.described}, {self.train.name} has {self.train.described}; "
                    "they must be of one size and colour"
                )


def listed(names: Sequence[str], most: int) -> str:
    """Return the first names, joined by commas, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
    four = images[:, None] if images.ndim == 3 else images
    sizes = four.shape[1:]
    first, last = _plausible(sizes), _plausible(sizes[-1:] + sizes[:-1])
    if not (first or last):
        raise InputError(
            f"{name} must be (n, h, w), (n, h, w, c) or (n, c, h, w) with c of {CHANNELS} and images of at least "
            f"{SMALLEST}x{SMALLEST}, got shape {images.shape}{_other_kind(images.shape)}"
        )
    if first and last:
        raise InputError(
            f"{name} of shape {images.shape} can be read as (n, c, h, w) and as (n, h, w, c); pad or crop the images"
        )
    return four if first else four.transpose(0, 3, 1, 2)


def _plausible(sizes: tuple[int, ...]) -> bool:
    return len(sizes) == 3 and sizes[0] in CHANNELS and min(sizes[1:]) >= SMALLEST


def _other_kind(shape: tuple[int, ...]) -> str:
    """Return in words what data of a shape probably are, where they are no pictures."""
    if len(shape) == 2:
        return f": {counted(shape[0], 'row')} of {counted(shape[1], 'feature')}; {_NOT_YET}"
    if len(shape) == 3 and max(shape[1:]) >= SMALLEST:
        channels, length = sorted(shape[1:])
        return f": {shape[0]:,} series of {counted(channels, 'channel')} and length {length:,}; {_NOT_YET}"
    return ""


def as_labels(name: str, values: NDArray[Any]) -> Labels:
    """Return labels as integers, booleans or strings, (n,); those of (n, 1), as Keras gives them, and whole floats too.

    Raises:
        InputError: labels that are missing (nan, None), or no classes.
    """
    labels = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    missing = [i for i, label in enumerate(labels.ravel()) if _is_missing(label)] if labels.dtype.kind in "fO" else []
    if missing:
        raise InputError(
            f"{len(missing):,} of {counted(labels.size, 'label')} of {name} are missing "
            f"({labels.ravel()[missing[0]]}), the first is that of sample {missing[0]:,}; label or drop these samples"
        )
    if labels.dtype.kind == "O" and len({isinstance(label, str) for label in labels.flat}) == 1:
        try:
            labels = np.array(labels.tolist())
        except ValueError:  # lists of several lengths
            return labels
    if labels.dtype.kind == "f" and labels.ndim == 1:
        broken = np.flatnonzero(~(np.abs(labels) < 2**53) | (labels % 1 != 0))
        if len(broken):
            raise InputError(
                f"labels of {name} must be classes, integers or strings, got numbers such as {labels[broken[0]]}; for "
                "a regression see Dataset.of_numbers"
            )
        labels = labels.astype(np.int64)
    return labels


def _is_missing(label: Any) -> bool:
    return (
        label is None or type(label).__name__ in ("NAType", "NaTType") or (isinstance(label, float) and label != label)
    )


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


def check_labels(name: str, labels: Labels, n: int) -> None:
    """Raise InputError for labels that are not n integers, booleans or strings."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise InputError(
            f"labels of {name} must be one class a sample, got shape {labels.shape}; of one-hot, give y.argmax(axis=1)"
        )
    if labels.ndim != 1 or len(labels) != n:
        raise InputError(f"{name} has {counted(n, 'image')}, but its labels have shape {labels.shape}; expected ({n},)")
    if labels.dtype.kind not in "buiU":
        raise InputError(f"labels of {name} must be integers or strings, got dtype {labels.dtype}")
    try:
        "".join(labels.tolist() if labels.dtype.kind == "U" else []).encode()
    except (ValueError, SystemError):  # halves of surrogate pairs, numbers above the highest character
        raise InputError(f"labels of {name} hold characters that do not exist, so they are no texts") from None
