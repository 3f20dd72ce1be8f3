"""Picture files: a folder of them, or a data set in the layout of the Hugging Face Hub; needs the extra ``hub``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.sources.source import RawData, Samples, as_nchw

_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LABEL_TYPES = {"bool", "string", "large_string"} | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}


def read_folder(place: str, labelled: bool) -> RawData:
    """Return the pictures in a folder that has one sub-folder a class; also DIR/train/CLASS, DIR/test/CLASS.

    The layout is ``imagefolder`` of https://huggingface.co/docs/datasets/image_load, with its rules for split names.
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; expected one with a sub-folder of pictures for each class")
    return _raw_data(place, _load(place, "imagefolder", data_dir=str(path)), "", labelled)


def read_hub(place: str, labelled: bool) -> RawData:
    """Return a data set of the Hugging Face Hub, or a local parquet file or folder of such; no code of it is run.

    Args:
        place: name or path, then ``#COLUMN`` where the labels are in a column of several that could be meant.
        labelled: whether the samples must have labels.
    """
    name, _, column = place.partition("#")
    path = Path(name).expanduser()
    if path.is_file():
        splits = _load(place, "parquet", data_files=str(path))
    else:
        splits = _load(place, str(path) if path.is_dir() else name)
    return _raw_data(place, splits, column, labelled)


def _load(place: str, path: str, **options: str) -> Mapping[str, Any]:
    try:
        splits: Mapping[str, Any] = _hugging_face().load_dataset(path, **options)
    except InputError:
        raise
    except Exception as error:  # whatever the readers of its many formats raise
        reason = str(error.__cause__ or error).strip() or type(error).__name__
        raise InputError(f"cannot load {place}: {reason.splitlines()[0]}") from error
    return splits


def _hugging_face() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("folder: and hub: need the package datasets: pip install 'nasenv[hub]'") from None
    return datasets


def _raw_data(place: str, splits: Mapping[str, Any], column: str, labelled: bool) -> RawData:
    first = next(iter(splits.values()))
    picture = _picture_column(place, first.features)
    label = _label_column(place, first.features, column, labelled)
    names = getattr(first.features[label], "names", None) if label else None
    samples = {}
    for split, aliases in _SPLITS.items():
        found = next((a for a in aliases if a in splits), None)
        if split == "train" and found is None and len(splits) == 1:
            found = next(iter(splits))
        if found is not None:
            samples[split] = _samples(f"{place} ({found})", splits[found], picture, label, names)
    if "train" not in samples:
        raise InputError(f"{place} has no split 'train'; it has {', '.join(splits)}")
    return RawData(**samples, label_names=tuple(names) if names else None)


def _picture_column(place: str, features: Mapping[str, Any]) -> str:
    found = [name for name, feature in features.items() if _is_picture(feature)]
    if len(found) != 1:
        raise InputError(f"{place} needs one column of images, it has {len(found)} among {', '.join(features)}")
    return found[0]


def _is_picture(feature: Any) -> bool:
    """Return whether a column holds pictures, declared as such or not (files that pandas wrote)."""
    undeclared = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    return undeclared or isinstance(feature, _hugging_face().Image)


def _label_column(place: str, features: Mapping[str, Any], column: str, labelled: bool) -> str | None:
    """Return the column asked for; else the only one of classes, or named label, or of integers or strings."""
    if column in features:
        return column
    datasets = _hugging_face()
    plain = [n for n, f in features.items() if isinstance(f, datasets.Value) and f.dtype in _LABEL_TYPES]
    classes = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    for candidates in (classes, [n for n in plain if n == "label"], plain):
        if len(candidates) == 1 and not column:
            return candidates[0]
    if not labelled and not column:
        return None
    raise InputError(
        f"cannot tell which column of {place} holds the labels ({', '.join(features)}): "
        "a folder needs two or more sub-folders, one a class; of other data, name it as in hub:NAME#COLUMN"
    )


def _samples(name: str, split: Any, picture: str, label: str | None, names: list[str] | None) -> Samples:
    labels = None if label is None else np.array(list(split[label]))
    if labels is not None and names and (labels.dtype.kind != "i" or labels.min() < 0):
        raise InputError(f"{name}: some samples have no label in column {label!r}")
    pictures = split.cast_column(picture, _hugging_face().Image())[picture]
    return Samples(name, as_nchw(name, _stacked(name, pictures)), labels)


def _stacked(name: str, pictures: Iterable[Any]) -> NDArray[Any]:
    """Return pictures of one size as (n, h, w, c): grey where all are, with alpha where one has it, else RGB."""
    arrays: list[NDArray[Any]] = []
    try:
        arrays.extend(_array(p) for p in pictures)
    except Exception as error:  # decoders raise all sorts
        raise InputError(f"{name}: image {len(arrays)} cannot be read: {str(error).splitlines()[0]}") from error
    sizes = sorted({a.shape[:2] for a in arrays})
    if len(sizes) > 1:
        smallest, largest = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
        raise InputError(
            f"{name} has images of {len(sizes)} sizes, {smallest} to {largest}; resize them to one size first"
        )
    if len({a.dtype for a in arrays}) > 1:
        raise InputError(f"{name} mixes images of 8 bits and of more; convert them to one kind first")
    channels = max(a.shape[2] for a in arrays)
    return np.stack([_widened(a, channels) for a in arrays])


def _array(picture: Any) -> NDArray[Any]:
    """Return a picture as (h, w, c): 1 channel for grey, 3 for colour, 4 for colour with alpha; nothing is dropped."""
    if picture.mode in ("L", "I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)[:, :, None]
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))[:, :, None]
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _widened(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return (h, w, c) with that many channels: grey repeated, alpha opaque."""
    if array.shape[2] == 1 and channels > 1:
        array = array.repeat(3, axis=2)
    if array.shape[2] < channels:
        array = np.concatenate([array, np.full_like(array[:, :, :1], 255)], axis=2)
    return array
