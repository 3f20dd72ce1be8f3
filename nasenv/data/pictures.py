"""Picture files are inspected, decoded and brought to one size and colour by Pillow, for all splits by one rule."""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from statistics import median
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nasenv.data.source import SMALLEST, Labels, RawData, Samples, listed, needed_memory
from nasenv.errors import InputError, counted
from nasenv.files import in_megabytes, spare_memory
from nasenv.task import COLOURS

Resize: TypeAlias = Literal["crop", "pad", "stretch"]
Size: TypeAlias = tuple[int, int]  # height and width
Content: TypeAlias = Path | bytes | None
_T = TypeVar("_T")

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
"""The formats of Pillow that hold pixels; an EPS, say, is a program, which Ghostscript would run."""

_RAW = frozenset((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"))
"""Endings of cameras' raw files: Pillow reads some of them as TIFF, a thumbnail of the picture."""

_NOT_READ = _RAW | {".avif", ".eps", ".heic", ".heif", ".hif", ".jxl", ".psd", ".svg"}
_LARGEST_FILE = 500_000_000  # bytes of one picture
_QUICK = 50_000_000  # pixels that are decoded in about a second
_SILENT_SECONDS = 2.0
_NAMES = 3  # of files in a message
_LARGE = 96 * 96  # pixels
_PROPOSED = 64  # pixels, at most, of a size that a message proposes


@dataclass(frozen=True)
class Preprocessing:
    """Says how pictures become arrays.

    Args:
        size: height and width of all of them; None for their own, which must then be one.
        resize: how others come to that size, see `nasenv.Data`; None if they may not.
        channels: 1 (grey), 3 (colour) or 4 (with alpha); None for as many as the picture that has most; an alpha that
            is opaque everywhere does not count.
        skip_unreadable: whether pictures that cannot be read are left out; they are refused otherwise.
        prefix: what stands before the names of options in messages.
    """

    size: Size | None = None
    resize: Resize | None = "crop"
    channels: int | None = None
    skip_unreadable: bool = False
    prefix: str = "--data."


@dataclass(frozen=True)
class Picture:
    """Describes a picture that is not decoded yet.

    Args:
        name: its file relative to its folder, or its row in a table.
        content: returns its file, or its bytes.
        size: height and width, as EXIF turns it; (0, 0) where it cannot be read.
        channels: 1 (grey), 3 (colour) or 4 (with alpha, which may prove opaque).
        dtype: uint8, or of grey ones uint16, int32 or float32.
        reduced: whether Pillow reads its colours of 16 bits as 8 bits.
        fault: why it cannot be read; empty if it can, as far as its header says.
    """

    name: str
    content: Callable[[], Content]
    size: Size = (0, 0)
    channels: int = 1
    dtype: DTypeLike = np.uint8
    reduced: bool = False
    fault: str = ""


@dataclass(frozen=True)
class PictureSplit:
    """Holds the pictures of one split, and their labels where they have them; ``name`` is the split's in messages."""

    name: str
    pictures: Sequence[Picture]
    labels: Labels | None


def is_picture_name(name: str) -> bool:
    """Return whether a file's ending is one of pictures, also of those that Pillow does not read."""
    from PIL import Image

    ending = PurePath(name).suffix.lower()
    return ending in _NOT_READ or Image.registered_extensions().get(ending) in _FORMATS


def inspect(name: str, content: Callable[[], Content]) -> Picture:
    """Return what the header of a picture says, or why it cannot be read."""
    try:
        with _opened(name, content()) as opened:
            kind, described = opened.mode, f"{opened.tile}"
            deep = {"I": np.int32, "F": np.float32}.get(kind, np.uint16 if kind.startswith("I;16") else None)
            colours = 4 if opened.has_transparency_data else 3
            return Picture(
                name,
                content,
                _upright_size(opened),
                1 if deep or kind in ("1", "L") else colours,
                deep or np.uint8,
                reduced=deep is None and ";16" in described,
            )
    except Exception as error:  # decoders raise all sorts
        return Picture(name, content, fault=reason(error))


def raw_data(
    place: str,
    splits: Mapping[str, PictureSplit],
    how: Preprocessing,
    label_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> RawData:
    """Return the decoded pictures of each split, with their labels; what was done to them is added to the notes.

    Args:
        place: name in messages.
        splits: train, and perhaps validation and test.
        how: one rule for all of them.
        label_names: as of `RawData`.
        notes: what is known already.

    Raises:
        InputError: pictures that cannot be read, that have several sizes, or more pixels than memory.
    """
    images, kept, done = _decode(place, [p for part in splits.values() for p in part.pictures], how)
    samples, begin = {}, 0
    for name, part in splits.items():
        numbers = np.array([n - begin for n in kept if begin <= n < begin + len(part.pictures)], dtype=np.int64)
        start = sum(n < begin for n in kept)
        labels = None if part.labels is None else part.labels[numbers]
        files = tuple(part.pictures[n].name for n in numbers)
        samples[name] = Samples(part.name, images[start : start + len(numbers)], labels, files)
        begin += len(part.pictures)
    return RawData(samples["train"], samples.get("validation"), samples.get("test"), label_names, (*notes, *done))


def timed(what: str, items: Sequence[_T]) -> Iterator[_T]:
    """Yield the items; after two seconds, and then ever more rarely, print how many are done and the time left."""
    started, due = time.monotonic(), _SILENT_SECONDS
    for done, item in enumerate(items):
        if (seconds := time.monotonic() - started) > due and done:
            left = seconds / done * (len(items) - done)
            print(f"{what}: {done:,} of {len(items):,} done, about {left:.0f} s left", file=sys.stderr, flush=True)
            due = 2 * seconds
        yield item


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or of its cause; the type's name if the message is empty."""
    return next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)


@dataclass(frozen=True)
class _Target:
    """Says what each picture becomes."""

    size: Size
    channels: int
    dtype: DTypeLike
    resize: Resize

    def array(self, picture: Picture, most: int) -> tuple[NDArray[Any], int]:
        """Return a picture as (h, w, c), and its own channels, without an alpha that is opaque everywhere.

        Raise an exception if it cannot be decoded within ``most`` bytes of memory.
        """
        from PIL import ImageOps

        if picture.fault:
            raise ValueError(picture.fault)
        with _opened(picture.name, picture.content()) as opened:
            if picture.size != self.size:
                opened.draft(None, (2 * max(self.size),) * 2)  # a JPEG is then decoded at a fraction of its size
            needed = needed_memory(opened.width * opened.height * len(opened.getbands()), 4)
            if needed > most:
                raise ValueError(
                    f"its {opened.width}x{opened.height} pixels take {in_megabytes(needed)}, over half of free memory"
                )
            upright = ImageOps.exif_transpose(opened)
            if picture.size == self.size != upright.size[::-1]:
                raise ValueError(f"it is of {_by(upright.size[::-1])}, and its header says {_by(picture.size)}")
            channels = picture.channels
            if channels == 4 and upright.convert("RGBA").getchannel("A").getextrema() == (255, 255):
                channels = 1 if upright.mode == "LA" else 3
            fitted = self._fitted(self._coloured(upright, np.dtype(picture.dtype)))
        array = np.asarray(fitted).astype(self.dtype, copy=False).reshape(*self.size, -1)
        return array.repeat(self.channels // array.shape[-1], axis=2), channels

    def _coloured(self, picture: Any, dtype: np.dtype[Any]) -> Any:
        if dtype != np.uint8:  # of 16 bits, in any order of bytes
            return picture.convert("F" if dtype.kind == "f" else "I")
        return picture.convert({1: "L", 3: "RGB", 4: "RGBA"}[self.channels])

    def _fitted(self, picture: Any) -> Any:
        from PIL import Image, ImageOps

        box, bilinear = self.size[::-1], Image.Resampling.BILINEAR  # with antialiasing, as torchvision resizes
        if picture.size == box:
            return picture
        if self.resize == "stretch":
            return picture.resize(box, bilinear)
        return (ImageOps.fit if self.resize == "crop" else ImageOps.pad)(picture, box, bilinear)


def _decode(
    place: str, pictures: Sequence[Picture], how: Preprocessing
) -> tuple[NDArray[Any], list[int], tuple[str, ...]]:
    """Return pictures as (n, c, h, w), the numbers of those that could be read, and what was done to them."""
    good = [picture for picture in pictures if not picture.fault]
    faults = [picture for picture in pictures if picture.fault]
    if not good:
        raise _refusal(place, "", faults, len(pictures), how)
    target, problem = _target(place, good, how)
    if problem and sum(height * width for height, width in (p.size for p in good)) > _QUICK:
        raise _refusal(place, problem, faults, len(pictures), how)
    spare = _spare_memory(place, len(good), target, how)
    images, kept, faults = np.empty((len(good), *target.size, target.channels), target.dtype), list[int](), []
    read: list[Picture] = []
    for number, picture in enumerate(timed(f"{place}: pictures read", pictures)):
        try:
            images[len(kept)], channels = target.array(picture, spare)
            kept.append(number)
            read.append(replace(picture, channels=channels))
        except Exception as error:  # decoders raise all sorts
            faults.append(replace(picture, fault=reason(error)))
    if problem or not kept or (faults and not how.skip_unreadable):
        raise _refusal(place, problem, faults, len(pictures), how)
    target = replace(target, channels=how.channels or max(picture.channels for picture in read))
    done = _notes(read, faults, target)
    if how.size is None and target.size[0] * target.size[1] > _LARGE:
        done = (*done, f"pictures of this size train slowly; {how.prefix}size {_PROPOSED} would make them smaller")
    return images[: len(kept), ..., : target.channels].transpose(0, 3, 1, 2), kept, done


def _target(place: str, pictures: Sequence[Picture], how: Preprocessing) -> tuple[_Target, str]:
    """Return what the pictures become, and what stands against it; then another size will do, to find other faults."""
    deep = [picture for picture in pictures if picture.dtype != np.uint8]
    channels = how.channels or max(picture.channels for picture in pictures)
    if deep and (len(deep) < len(pictures) or channels == 4):
        other = next((p.name for p in pictures if p.dtype == np.uint8), "others")
        raise InputError(
            f"{place} mixes pictures of 8 bits ({other}) and of more ({deep[0].name}); convert them to one kind first"
        )
    kinds = {np.dtype(picture.dtype).kind for picture in pictures}
    dtype = np.float32 if "f" in kinds else np.int32 if "i" in kinds else pictures[0].dtype
    sizes = sorted({picture.size for picture in pictures}, key=lambda size: (size[0] * size[1], size))
    smallest, problem = min(min(size) for size in sizes), ""
    small = 2 ** int(np.log2(median(min(picture.size) for picture in pictures)))
    proposed = min(max(small, 2 * SMALLEST), _PROPOSED)
    if how.size is not None and how.resize is None and sizes != [how.size]:
        problem = (
            f"the model takes pictures of {_by(how.size)}, these are of {_span(sizes)}; add {how.prefix}resize crop"
        )
    elif how.size is None and len(sizes) > 1:
        problem = (
            f"the pictures have {len(sizes)} sizes, {_span(sizes)} (height x width), and must have one; add "
            f"{how.prefix}size {proposed} ({how.prefix}resize says how: crop keeps the centre, pad and stretch all)"
        )
    elif how.size is None and smallest < SMALLEST:
        problem = (
            f"pictures must be of {SMALLEST}x{SMALLEST} or more, these are of {_by(sizes[0])}; add {how.prefix}size "
            f"{proposed}"
        )
    size = how.size or ((proposed, proposed) if problem else sizes[0])
    return _Target(size, channels, dtype, how.resize or "crop"), problem


def _refusal(place: str, problem: str, faults: Sequence[Picture], n: int, how: Preprocessing) -> InputError:
    if not problem and [picture.name for picture in faults] == [place]:  # one file alone
        return InputError(f"{place} cannot be read: {faults[0].fault}")
    parts = [problem] if problem else []
    if faults and (not how.skip_unreadable or not problem):
        skip = f"; to leave them out, add {how.prefix}skip_unreadable true" if len(faults) < n else ""
        parts.append(_unreadable(faults, n) + skip)
    return InputError(f"{place}: {'; '.join(parts)}")


def _unreadable(faults: Sequence[Picture], n: int) -> str:
    named = listed([f"{picture.name} ({picture.fault})" for picture in faults], _NAMES)
    return f"{len(faults):,} of {counted(n, 'picture')} cannot be read: {named}"


def _spare_memory(place: str, n: int, target: _Target, how: Preprocessing) -> int:
    """Return the memory that one picture may take while it is decoded; raise InputError if all take too much."""
    spare = spare_memory() // 2
    height, width = target.size
    needed = needed_memory(n * height * width * target.channels, np.dtype(target.dtype).itemsize)
    if needed > spare:
        raise InputError(
            f"{place}: {counted(n, 'picture')} of {height}x{width} pixels need {in_megabytes(needed)} of memory, half "
            f"of what is free is {in_megabytes(spare)}; add {how.prefix}size {_PROPOSED}, or give fewer"
        )
    return spare - needed


def _notes(pictures: Sequence[Picture], faults: Sequence[Picture], target: _Target) -> tuple[str, ...]:
    """Return in words what was done to pictures."""
    notes = [f"skipped: {_unreadable(faults, len(pictures) + len(faults))}"] if faults else []
    if other := [picture.size for picture in pictures if picture.size != target.size]:
        sizes = sorted(set(other), key=lambda size: (size[0] * size[1], size))
        notes.append(f"resized ({target.resize}): {counted(len(other), 'picture')} of {_span(sizes)}")
    kinds = sorted(Counter(p.channels for p in pictures if p.channels != target.channels).items())
    if kinds:
        each = " and ".join(counted(n, f"{COLOURS[channels]} picture") for channels, n in kinds)
        lost = ", whose transparency is dropped" if kinds[-1][0] == 4 else ""
        notes.append(f"read as {COLOURS[target.channels]}: {each}{lost}")
    if reduced := sum(picture.reduced for picture in pictures):
        notes.append(f"read with 8 bits a colour: {counted(reduced, 'picture')} of 16")
    return tuple(notes)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _span(sizes: Sequence[Size]) -> str:
    return _by(sizes[0]) + (f" to {_by(sizes[-1])}" if len(sizes) > 1 else "")


@contextmanager
def _opened(name: str, content: Content) -> Iterator[Any]:
    """Yield a picture whose header has been read; raise ValueError for what is no picture that Pillow reads."""
    from PIL import Image, UnidentifiedImageError

    if content is None:
        raise ValueError("there is no picture")
    if isinstance(content, Path):
        if not content.is_file():
            raise ValueError("there is no such file")
        if content.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it is larger than {in_megabytes(_LARGEST_FILE)}")
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # those that this Pillow was built with
    ending = PurePath(name).suffix.lower()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        try:
            opened = Image.open(content if isinstance(content, Path) else BytesIO(content), formats=formats)
        except UnidentifiedImageError:
            unread = f"Pillow does not read {ending}; convert it, for example to PNG"
            raise ValueError(unread if ending in _NOT_READ else "it is no picture of a known format") from None
        with opened:
            if ending in _RAW:
                raise ValueError(f"of {ending}, Pillow reads a thumbnail; convert it, for example to JPEG")
            yield opened


def _upright_size(picture: Any) -> Size:
    """Return height and width after the rotation that EXIF asks for; a PNG's is not looked for behind its pixels."""
    exif = picture.getexif() if picture.format != "PNG" or "exif" in picture.info else {}
    height, width = picture.height, picture.width
    return (width, height) if exif.get(0x0112) in (5, 6, 7, 8) else (height, width)
