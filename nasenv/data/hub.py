"""Pictures are read from a data set of the Hugging Face Hub, or from parquet files; this needs the package datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nasenv.data.folder import splits_by_name
from nasenv.data.pictures import Content, PictureSplit, Preprocessing, inspect, raw_data, reason, timed
from nasenv.data.source import Labels, RawData, as_labels, check_labels
from nasenv.errors import InputError, counted
from nasenv.files import open_file, spare_memory, user_path

_AT_ONCE = 64  # rows of a parquet file
_LABEL_TYPES = {"bool", "string", "large_string"} | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}


def read_hub(place: str, labelled: bool, how: Preprocessing) -> RawData:
    """Return a data set of the Hugging Face Hub, or of local parquet files; none of its code is run.

    Args:
        place: name or path, then ``#COLUMN`` where the labels are in a column of several that could be meant.
        labelled: whether the samples must have labels.
        how: how pictures become arrays.
    """
    name, _, column = place.partition("#")
    path = user_path(name)
    if path.is_file():
        return _raw_data(place, _read_parquet(place, path), column, labelled, how)
    if path.is_dir():
        with TemporaryDirectory() as cache:  # its files stay readable while they are open
            splits = _load(place, "parquet", data_dir=str(path), cache_dir=cache)
        return _raw_data(place, splits, column, labelled, how)
    return _raw_data(place, _load(place, name), column, labelled, how)


def _load(place: str, path: str, **files: Any) -> Mapping[str, Any]:
    """Load a data set; local files without progress bars."""
    if not files and os.path.expanduser("~").startswith("~") and "HF_HOME" not in os.environ:
        raise InputError(f"cannot load {place}: there is no home directory to keep it in; set HF_HOME to a folder")
    datasets = _hugging_face()
    hidden = bool(files) and not datasets.are_progress_bars_disabled()
    if hidden:
        datasets.disable_progress_bars()
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(path, **files)
    except Exception as error:  # whatever the readers of its many formats raise
        raise InputError(f"cannot load {place}: {reason(error)}") from error
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
        raise InputError(f"cannot load {place}: {reason(error)}") from error


def _hugging_face() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("hub: needs the package datasets: pip install datasets") from None
    return datasets


def _raw_data(place: str, splits: Mapping[str, Any], column: str, labelled: bool, how: Preprocessing) -> RawData:
    first = next(iter(splits.values()))
    picture = _picture_column(place, first.features)
    label = _label_column(place, first.features, column, labelled)
    names = getattr(first.features[label], "names", None) if label else None
    found = {"train": next(iter(splits))} if len(splits) == 1 else splits_by_name(place, splits)
    if not found:
        raise InputError(f"{place} has no training split; it has {', '.join(splits)}")
    if not labelled:
        found = {"train": found.get("test", found["train"])}
    others = [name for name in splits if name not in found.values()]
    notes = [f"left out: the splits {', '.join(others)}"] if others else []
    parts = {}
    for split, name in found.items():
        labels = None
        try:
            labels = _labels(f"{place} ({name})", splits[name], label, names) if label else None
        except InputError as error:
            if labelled:
                raise
            notes.append(f"labels are not used: {error}")
        parts[split] = _split(f"{place} ({name})", splits[name], picture, labels)
    return raw_data(place, parts, how, tuple(names) if names else None, tuple(notes))


def _split(name: str, rows: Any, picture: str, labels: Labels | None) -> PictureSplit:
    contents = rows.cast_column(picture, _hugging_face().Image(decode=False))[picture]
    pictures = [
        inspect((contents[row] or {}).get("path") or str(row), partial(_content, contents, row))
        for row in timed(f"{name}: rows listed", range(len(contents)))
    ]
    return PictureSplit(name, pictures, labels)


def _content(rows: Any, row: int) -> Content:
    """Return the bytes of a picture, or the file that its row names; nothing is downloaded."""
    picture = rows[row] or {}
    content, path = picture.get("bytes"), picture.get("path")
    return content if isinstance(content, bytes) else Path(path) if path else None


def _labels(name: str, rows: Any, column: str, names: list[str] | None) -> Labels:
    values = np.empty(len(rows), dtype=object)
    values[:] = list(rows[column])
    labels = as_labels(f"{name} in column {column!r}", values)
    check_labels(name, labels, len(values))
    unnamed = [i for i, value in enumerate(labels.tolist()) if value not in range(len(names))] if names else []
    if unnamed:
        raise InputError(
            f"{len(unnamed):,} of {counted(len(labels), 'label')} of {name} in column {column!r} have no name, the "
            f"first is that of sample {unnamed[0]:,}: {labels[unnamed[0]]}; label or drop these samples"
        )
    return labels


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
    named = [n for n in features if n == "label"]  # of any type, which is checked later
    classes = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    for candidates in (classes, named, plain):
        if len(candidates) == 1:
            return candidates[0]
    if not labelled:
        return None
    raise InputError(
        f"cannot tell which column of {place} holds the labels ({', '.join(features)}); name it as in hub:NAME#COLUMN"
    )
