"""Picture files are read from a folder, or from a data set of the Hugging Face Hub; this needs the extra ``hub``."""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.data.source import SMALLEST, RawData, Samples, as_nchw, needed_memory
from nasenv.errors import InputError
from nasenv.files import in_megabytes, open_file, read_whole, spare_memory, user_path

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
"""The formats of Pillow that hold pixels; an EPS, say, is a program, which Ghostscript would run."""

_AT_ONCE = 64  # rows of a parquet file
_LARGEST_FILE = 500_000_000  # bytes of one picture
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_LABEL_TYPES = {"bool", "string", "large_string"} | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}


def read_folder(place: str, labelled: bool) -> RawData:
    """Return the pictures of a folder with one sub-folder a class, or with DIR/train/CLASS and DIR/test/CLASS.

    The layout is ``imagefolder`` of https://huggingface.co/docs/datasets/image_load, but for its rules for splits: it
    takes any path with "test" among its words for test data, a picture ``eye test.png`` too.
    """
    path = user_path(place)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; expected one with a sub-folder of pictures for each class")
    _hugging_face()  # which brings Pillow
    from PIL import Image

    endings = Image.registered_extensions()
    if not any(file.suffix.lower() in endings for file in path.rglob("*")):
        raise InputError(
            f"{path} holds no pictures (links to folders are not followed); expected a sub-folder for each class"
        )
    here = glob.escape(str(path.absolute()))
    files = {name: f"{here}/{name}/**" for name in _split_folders(path)} or {"train": f"{here}/**"}
    return _raw_data(place, _load(place, "imagefolder", data_files=files), "", labelled, path)


def _split_folders(path: Path) -> list[str]:
    """Return the sub-folders if each is a split that holds class folders; else an empty list."""
    known = {alias for aliases in _SPLITS.values() for alias in aliases}
    folders = [folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    are_splits = all(f.name in known and any(below.is_dir() for below in f.iterdir()) for f in folders)
    return sorted(f.name for f in folders) if are_splits else []


def read_hub(place: str, labelled: bool) -> RawData:
    """Return a data set of the Hugging Face Hub, or of local parquet files; none of its code is run.

    Args:
        place: name or path, then ``#COLUMN`` where the labels are in a column of several that could be meant.
        labelled: whether the samples must have labels.
    """
    name, _, column = place.partition("#")
    path = user_path(name)
    if path.is_file():
        return _raw_data(place, _read_parquet(place, path), column, labelled)
    if path.is_dir():
        return _raw_data(place, _load(place, "parquet", data_dir=str(path)), column, labelled)
    return _raw_data(place, _load(place, name), column, labelled)


def _load(place: str, path: str, **files: Any) -> Mapping[str, Any]:
    """Load a data set; local files without progress bars."""
    datasets = _hugging_face()
    hidden = bool(files) and not datasets.are_progress_bars_disabled()
    if hidden:
        datasets.disable_progress_bars()
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(path, **files)
    except Exception as error:  # whatever the readers of its many formats raise
        raise InputError(f"cannot load {place}: {_reason(error)}") from error
    finally:
        if hidden:
            datasets.enable_progress_bars()
    return splits


def _read_parquet(place: str, path: Path) -> Mapping[str, Any]:
    """Return the samples of one parquet file, read in pieces, so that memory is not exceeded."""
    datasets = _hugging_face()
    from pyarrow import Table, parquet  # type: ignore[import-untyped]  # which datasets needs too

    most = spare_memory() // 4
    try:
        with open_file(path) as file, parquet.ParquetFile(file) as source:
            batches: list[Any] = []
            for batch in source.iter_batches(batch_size=_AT_ONCE):
                most -= batch.nbytes
                if most < 0:
                    raise ValueError("it takes more than a quarter of free memory")
                batches.append(batch)
            table = Table.from_batches(batches, source.schema_arrow)
        return {"train": datasets.Dataset(datasets.table.InMemoryTable(table))}
    except Exception as error:  # Arrow's and datasets' own, of many kinds
        raise InputError(f"cannot load {place}: {_reason(error)}") from error


def read_picture(place: str) -> RawData:
    """Return a single picture, from its file, without a label; raise InputError if it cannot be read."""
    arrays, _ = _decoded(place, [{"bytes": None, "path": str(user_path(place))}], None)
    return RawData(Samples(place, as_nchw(place, _stacked(place, arrays)), None, (place,)))


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message, or of its cause; the type's name if the message is empty."""
    return next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)


def _hugging_face() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("folder: and hub: need the package datasets: pip install 'nasenv[hub]'") from None
    return datasets


def _raw_data(
    place: str, splits: Mapping[str, Any], column: str, labelled: bool, folder: Path | None = None
) -> RawData:
    first = next(iter(splits.values()))
    picture = _picture_column(place, first.features)
    label = _label_column(place, first.features, column, labelled)
    names = getattr(first.features[label], "names", None) if label else None
    samples = {
        split: _samples(f"{place} ({found})", splits[found], picture, label, names, folder)
        for split, found in _splits_of(place, splits).items()
    }
    return RawData(**samples, label_names=tuple(names) if names else None)


def _splits_of(place: str, names: Collection[str]) -> dict[str, str]:
    """Return the names of the train, validation and test splits; a single split is train, whatever its name."""
    if len(names) == 1:
        return {"train": next(iter(names))}
    found = {split: next((a for a in aliases if a in names), None) for split, aliases in _SPLITS.items()}
    if found["train"] is None:
        raise InputError(f"{place} has no split 'train'; it has {', '.join(names)}")
    return {split: name for split, name in found.items() if name is not None}


def _picture_column(place: str, features: Mapping[str, Any]) -> str:
    found = [name for name, feature in features.items() if _is_picture(feature)]
    if len(found) != 1:
        raise InputError(f"{place} needs one column of images, it has {len(found)} among {', '.join(features)}")
    return found[0]


def _is_picture(feature: Any) -> bool:
    """Return whether a column holds pictures, declared as such or as pandas writes them."""
    undeclared = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    return undeclared or isinstance(feature, _hugging_face().Image)


def _label_column(place: str, features: Mapping[str, Any], column: str, labelled: bool) -> str | None:
    """Return the label column: the one asked for, else the only one of classes, named label, or of a label's type."""
    if column in features:
        return column
    if column:
        raise InputError(f"{place}: there is no column {column!r}; there are {', '.join(features)}")
    datasets = _hugging_face()
    plain = [n for n, f in features.items() if isinstance(f, datasets.Value) and f.dtype in _LABEL_TYPES]
    classes = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    for candidates in (classes, [n for n in plain if n == "label"], plain):
        if len(candidates) == 1:
            return candidates[0]
    if not labelled:
        return None
    raise InputError(
        f"cannot tell which column of {place} holds the labels ({', '.join(features)}): "
        "a folder needs two or more sub-folders, one a class, and every picture in one of them; "
        "of other data, name it as in hub:NAME#COLUMN"
    )


def _samples(
    name: str, split: Any, picture: str, label: str | None, names: list[str] | None, folder: Path | None
) -> Samples:
    labels = None if label is None else _label_array(name, split, label)
    if labels is not None and names and (labels.dtype.kind != "i" or not set(labels.tolist()) <= {*range(len(names))}):
        raise InputError(f"{name}: some samples have no label in column {label!r}, or one without a name")
    pictures = split.cast_column(picture, _hugging_face().Image(decode=False))[picture]
    arrays, files = _decoded(name, pictures, folder)
    return Samples(name, as_nchw(name, _stacked(name, arrays)), labels, None if None in files else tuple(files))


def _label_array(name: str, split: Any, label: str) -> NDArray[Any]:
    try:
        return np.array(list(split[label]))
    except ValueError:
        raise InputError(f"{name}: column {label!r} holds lists, and no label for each sample") from None


def _decoded(name: str, pictures: Iterable[Any], folder: Path | None) -> tuple[list[NDArray[Any]], list[Any]]:
    """Return each picture as an array (h, w, c), and the name of its file relative to ``folder``.

    Args:
        name: name in messages.
        pictures: ``bytes``, or else ``path``, of each; of animated ones, the first frame counts.
        folder: folder of the files; None if they are rows of a table.
    """
    arrays: list[NDArray[Any]] = []
    files: list[Any] = []
    spare = spare_memory() // 2
    for number, picture in enumerate(pictures):
        path = picture["path"]
        files.append(os.path.relpath(path, folder) if folder is not None else path)
        try:
            arrays.append(_array(_content(picture), spare))
        except Exception as error:  # decoders raise all sorts
            which = number if files[-1] is None else f"{number}, {files[-1]},"
            raise InputError(f"{name}: image {which} cannot be read: {_reason(error)}") from error
        spare -= needed_memory(arrays[-1].size, arrays[-1].itemsize)
    return arrays, files


def _stacked(name: str, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return pictures of one size as (n, h, w, c): grey if all are grey, with alpha if one has it, else RGB."""
    sizes = sorted({a.shape[:2] for a in arrays})
    if len(sizes) > 1:
        smallest, largest = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
        raise InputError(
            f"{name} has images of {len(sizes)} sizes, {smallest} to {largest}; resize them to one size first"
        )
    if len({a.dtype for a in arrays}) > 1:
        raise InputError(f"{name} mixes images of 8 bits and of more; convert them to one kind first")
    channels = max((a.shape[2] for a in arrays), default=1)
    return np.stack([_widened(a, channels) for a in arrays]) if arrays else np.zeros((0, SMALLEST, SMALLEST, 1))


def _content(picture: Mapping[str, Any]) -> bytes:
    """Return the bytes of a picture: those in the data, or those of the file that they name; nothing is downloaded."""
    content, path = picture["bytes"], picture["path"]
    return content if isinstance(content, bytes) else read_whole(Path(path), _LARGEST_FILE)


def _array(content: bytes, most: int) -> NDArray[Any]:
    """Return a picture file as (h, w, c), rotated as its EXIF data say; raise ValueError above ``most`` bytes."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # which datasets needs too

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # those that this Pillow was built with
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        try:
            opened = Image.open(io.BytesIO(content), formats=formats)
        except UnidentifiedImageError:
            raise ValueError(f"it is none of {', '.join(formats)}") from None
        with opened as picture:
            needed = needed_memory(picture.width * picture.height * len(picture.getbands()), 4)
            if needed > most:
                raise ValueError(
                    f"with its {picture.width}x{picture.height} pixels, the images take {in_megabytes(needed - most)} "
                    "more memory than half of what is free; give fewer or smaller ones"
                )
            return _channels(ImageOps.exif_transpose(picture))


def _channels(picture: Any) -> NDArray[Any]:
    """Return a picture as (h, w, c): c is 1 for grey, 3 for colour, 4 for colour with alpha."""
    if picture.mode in ("L", "I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)[:, :, None]
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))[:, :, None]
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _widened(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return (h, w, c) with that many channels: grey is repeated, and alpha becomes opaque."""
    if array.shape[2] == 1 and channels > 1:
        array = array.repeat(3, axis=2)
    if array.shape[2] < channels:
        array = np.concatenate([array, np.full_like(array[:, :, :1], 255)], axis=2)
    return array
