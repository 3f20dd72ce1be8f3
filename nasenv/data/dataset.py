"""A data set is loaded from a named source or from the user's files, split in three, and encoded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nasenv.configuration import flag, integer, number, one_of
from nasenv.data.arrays import raw_arrays, read_digits, read_mnist5k, read_npz
from nasenv.data.folder import list_folder, read_folder
from nasenv.data.hub import read_hub
from nasenv.data.pictures import Preprocessing, Resize, Size, is_picture_name
from nasenv.data.source import SMALLEST, Labels, RawData, Samples, listed
from nasenv.data.split import Split, check_counts, stratified
from nasenv.data.summary import classes_text, loaded_text, split_text
from nasenv.errors import InputError, counted, nearest
from nasenv.files import user_path
from nasenv.task import Encoding, Images, Inputs, Task, statistics_of

Stamp: TypeAlias = tuple[tuple[str, int, int], ...]
_NAMED: dict[str, Callable[[], RawData]] = {"digits": read_digits, "mnist5k": read_mnist5k}
_PICTURES: dict[str, Callable[[str, bool, Preprocessing], RawData]] = {"folder": read_folder, "hub": read_hub}
_PLACES = {"npz": "FILE", "folder": "DIR", "hub": "NAME"}
_LARGEST_SIZE = 4096  # pixels, height and width
_NAMES = 6  # of classes in a message
_LARGEST_SHARE = 0.4  # with it, three samples of a class always reach all three splits


@dataclass(frozen=True)
class Data:
    """Names a data source and how it is split into training, validation and test samples.

    A split that the source has beside its training samples is kept. The others are drawn from the training samples,
    from each class the same share and at least one sample, by a generator of their own: the same on every machine and
    in every search.

    Args:
        source: ``digits``; ``mnist5k``; ``npz:FILE`` with x, (n, h, w), (n, h, w, c) or (n, c, h, w) where c is 1, 3 or
            4, and y, (n,) integers or strings, perhaps x_val, y_val, x_test, y_test; ``folder:DIR`` with a sub-folder
            of pictures for each class; ``hub:NAME`` of the Hugging Face Hub, or a path to parquet files.
        split_seed: seed of the split.
        validation_share: share of each class for validation, above 0 and at most 0.4.
        test_share: share of each class for the test, above 0 and at most 0.4.
        size: size of all pictures of a folder or the Hub, such as 32, or 32x48 for height and width; by default their
            own, which must then be one.
        resize: how pictures come to that size: crop keeps the aspect ratio and cuts off what is outside the centre, pad
            keeps it and adds black borders, stretch does not keep it.
        skip_unreadable: whether pictures that cannot be read are left out, and named; by default they are refused.

    Raises:
        InputError: a share, a seed or a size that is not such.
    """

    source: str = "digits"
    split_seed: int = 0
    validation_share: float = 0.2
    test_share: float = 0.2
    size: int | str | None = None
    resize: Resize = "crop"
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        for option in ("validation_share", "test_share"):
            expected = f"above 0 and at most {_LARGEST_SHARE}"
            number(option, getattr(self, option), lambda share: 0.0 < share <= _LARGEST_SHARE, expected)
        integer("split_seed", self.split_seed, least=0)
        one_of("resize", self.resize, get_args(Resize))
        flag("skip_unreadable", self.skip_unreadable)
        if self.size is not None:
            height, width = _size(self.size)
            object.__setattr__(self, "size", f"{height}x{width}")

    def load(self) -> Dataset:
        """Return the data set; raise InputError if the source is unknown or its data cannot be used."""
        return _load(self, _stamp(self.source))

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how pictures become arrays."""
        size = None if self.size is None else _size(self.size)
        return Preprocessing(size, self.resize, skip_unreadable=self.skip_unreadable)


@dataclass(frozen=True)
class Dataset:
    """Holds the training, validation and test splits of a data set, encoded, and its task.

    Args:
        name: name in messages: the source that it was loaded from.
        task: the task that networks are built for.
        train: split that networks are trained on in a search; encoded, as are the others.
        validation: split that networks are scored on in a search.
        test: split that is not used before the search is over.
        encoding: conversion between the user's units and a network's.
        fingerprint: hash of all inputs and targets of the three splits.
        source: how it was loaded; None where it was made of arrays.
        values: the least and the largest number among the inputs, in the user's units.
        notes: what was left out, skipped, resized or converted when it was loaded, in words.
    """

    name: str
    task: Task
    train: Split
    validation: Split
    test: Split
    encoding: Encoding
    fingerprint: str
    source: Data | None = None
    values: tuple[float, float] = (0.0, 0.0)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """Return in three lines at most what was loaded: source, kind, number, values; classes; what was left out."""
        splits = (self.train, self.validation, self.test)
        inputs = self.task.inputs.described(sum(map(len, splits))) if self.task.inputs else ""
        first, *notes = loaded_text(self.name, inputs, self.values, self.notes).splitlines()
        if self.task.kind == "classification":
            counts = [torch.bincount(split.targets, minlength=self.task.outputs).tolist() for split in splits]
            return "\n".join((first, classes_text(self.encoding.class_names, counts), *notes))
        return "\n".join((first, split_text([*map(len, splits)]), *notes))

    @property
    def training_and_validation(self) -> Split:
        """Return training and validation samples together, on which the winner of a search is trained at the end."""
        parts = (self.train, self.validation)
        return Split(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with its tensors on a device."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **splits)

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        validation: tuple[Any, Any] | None = None,
        test: tuple[Any, Any] | None = None,
        split_seed: int = 0,
        validation_share: float = 0.2,
        test_share: float = 0.2,
        name: str = "arrays",
    ) -> Dataset:
        """Return a data set of pictures made of arrays, lists or tensors.

        Args:
            x: pictures, (n, h, w), (n, h, w, c) or (n, c, h, w) where c is 1, 3 or 4.
            y: their classes, (n,) integers or strings.
            validation: other pictures and classes for validation; by default a share of the first.
            test: other pictures and classes for the test; by default a share of the first.
            split_seed: seed of the split, as of `Data`.
            validation_share: that share of each class, where none are given.
            test_share: likewise.
            name: name in messages.

        Raises:
            InputError: arrays of another shape or kind, or classes that cannot be split.
        """
        pairs = {"train": ("x", x, y)}
        for split, pair in (("validation", validation), ("test", test)):
            if pair is not None:
                pairs[split] = (f"x of {split}", *_pair(pair))
        data = Data(name, split_seed, validation_share, test_share)
        return replace(_divided(raw_arrays(pairs), data), source=None)

    @classmethod
    def of_numbers(
        cls, name: str, inputs: Inputs, splits: Sequence[tuple[ArrayLike, ArrayLike]], metric: str = "r2"
    ) -> Dataset:
        """Return a regression data set made of arrays.

        Args:
            name: name in messages.
            inputs: kind and shape of one input.
            splits: for training, validation and test: inputs (n, *shape) and targets (n, targets) or (n,), numbers.
            metric: r2 or neg_rmse.

        Raises:
            InputError: arrays of another shape, or numbers that are not finite.
        """
        parts = [Split(_numbers(name, x), _numbers(name, y).reshape(len(np.asarray(y)), -1)) for x, y in splits]
        task = Task(inputs, parts[0].targets.shape[1], "regression", metric)
        for part in parts:
            if part.inputs.shape[1:] != task.shape or len(part.inputs) != len(part.targets):
                raise InputError(
                    f"{name}: expected inputs (n, {task.shape}) and as many targets, got {part.inputs.shape}"
                )
        encoding = Encoding(*statistics_of(parts[0].inputs), (), *statistics_of(parts[0].targets))
        train, validation, test = (Split(encoding.inputs(p.inputs), encoding.targets(p.targets)) for p in parts)
        values = _range(*(part.inputs for part in parts))
        return cls(name, task, train, validation, test, encoding, _fingerprint(parts), None, values)


def load_dataset(source: str = "digits", split_seed: int = 0) -> Dataset:
    """Return a data set in three splits; `Data` describes the sources and has more options."""
    return Data(source, split_seed).load()


def as_dataset(data: Any) -> Dataset:
    """Return a data set, loaded from a source where it is one, or made of arrays (x, y).

    Raises:
        InputError: something else, or data that cannot be used.
    """
    if isinstance(data, tuple | list):
        return Dataset.from_arrays(*_pair(data))
    wanted = Data(data) if isinstance(data, str) else data
    loaded = wanted.load() if isinstance(wanted, Data) else wanted
    if not isinstance(loaded, Dataset):
        raise InputError(
            f"data must be a source, such as digits or npz:FILE, a nasenv.Dataset or arrays (x, y), got {data!r:.100}"
        )
    return loaded


class LoadedImages(NamedTuple):
    """Holds images (n, c, h, w) float32 in the user's units, their labels as text, and the names of their files.

    None stands for labels or files that they do not have; ``summary`` says what was loaded.
    """

    images: Tensor
    labels: tuple[str, ...] | None
    files: tuple[str, ...] | None
    summary: str


def load_images(source: str, how: Preprocessing = Preprocessing()) -> LoadedImages:  # noqa: B008, it is frozen
    """Return the test images of a source where it tells them apart, all of its images otherwise.

    Args:
        source: as for ``load_dataset``, where labels can be missing; or the file of a picture.
        how: how pictures become arrays.

    Raises:
        InputError: an unknown source, or data that cannot be used; the message says why.
    """
    is_known = source in _NAMED or source.partition(":")[0] in _PLACES or source.endswith(".npz")
    is_picture = not is_known and user_path(source).is_file()
    raw = read_folder(source, False, how) if is_picture else _read(source, False, how)
    samples = raw.test or raw.train
    images = torch.from_numpy(np.ascontiguousarray(samples.images, dtype=np.float32))
    labels = None if samples.labels is None else _texts(raw, samples.labels)
    said = loaded_text(source, samples.described, _range(images), raw.notes)
    return LoadedImages(images, labels, samples.files, said)


@lru_cache(maxsize=2)  # reading the command line and running it load once
def _load(data: Data, stamp: Stamp) -> Dataset:
    return _divided(_read(data.source, True, data.preprocessing), data)


def _divided(raw: RawData, data: Data) -> Dataset:
    """Return the data set, with the splits that the source lacks drawn from its training samples."""
    classes = np.unique(_labels(raw.train))
    names = _texts(raw, classes)
    whole = _indexed(raw, raw.train, classes)
    shares = ((raw.validation, data.validation_share), (raw.test, data.test_share))
    lacking = [share for part, share in shares if part is None]
    check_counts(whole, names, needed=len(lacking) + 1)
    train, *drawn = stratified(whole, lacking, data.split_seed)
    validation, test = (_indexed(raw, p, classes) if p else drawn.pop(0) for p in (raw.validation, raw.test))
    encoding = Encoding(*statistics_of(train.inputs), names)
    fingerprint, values = _fingerprint((train, validation, test)), _range(train.inputs, validation.inputs, test.inputs)
    train, validation, test = (Split(encoding.inputs(s.inputs), s.targets) for s in (train, validation, test))
    task = Task(Images(tuple(train.inputs.shape[1:])), len(names))
    notes = (*raw.notes, *_lacking(raw, classes))
    return Dataset(data.source, task, train, validation, test, encoding, fingerprint, data, values, notes)


def _lacking(raw: RawData, classes: Labels) -> Iterator[str]:
    """Yield in words which classes the training samples, and given splits, hold no samples of."""
    for samples, expected in ((raw.train, raw.label_names), (raw.validation, None), (raw.test, None)):
        if samples is not None:
            held = set(_texts(raw, np.unique(_labels(samples))))
            if lacking := [name for name in expected or _texts(raw, classes) if name not in held]:
                yield f"{samples.name} has no samples of {listed(lacking, _NAMES)}"


def _stamp(source: str) -> Stamp:
    """Return path, modification time and size of each file of a source, to notice that files have changed."""
    kind, _, rest = source.partition(":")
    place = user_path(rest.partition("#")[0] if kind == "hub" else rest).absolute()
    listed = kind in _PICTURES and place.is_dir()
    files = [place.joinpath(*parts) for parts in list_folder(place).files] if listed else [place]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _read(source: str, labelled: bool, how: Preprocessing) -> RawData:
    kind, colon, place = source.partition(":")
    if source not in _NAMED and not (colon and kind in _PLACES):
        if not colon and ("/" in source or is_picture_name(source)) and not user_path(source).exists():
            raise InputError(f"{source}: no such file{'' if is_picture_name(source) else ' or folder'}")
        known = nearest(source, [*_NAMED, *(f"{kind}:" for kind in _PLACES)])
        meant = f"folder:{source}" if user_path(source).is_dir() else known
        meant = f"npz:{source}" if source.endswith(".npz") else meant
        raise InputError(f"unknown data set {source!r}; did you mean {meant}?")
    if colon and not place:
        raise InputError(f"{kind}: names no data; expected {kind}:{_PLACES[kind]}")
    if kind in _PICTURES:
        return _PICTURES[kind](place, labelled, how)
    raw = read_npz(place, labelled) if colon else _NAMED[source]()
    if how.size not in (None, raw.train.images.shape[2:]):
        height, width = how.size
        raise InputError(
            f"{source} holds {raw.train.described}, and arrays are not resized to {height}x{width}; resize them first, "
            "or give picture files by folder:"
        )
    return raw


def _size(size: Any) -> Size:
    """Return height and width of a size such as 32 or 32x48."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(size).strip().lower())
    height, width = map(int, (found[1], found[2] or found[1])) if found else (0, 0)
    if not SMALLEST <= min(height, width) <= max(height, width) <= _LARGEST_SIZE:
        raise InputError(
            f"size must be {SMALLEST} to {_LARGEST_SIZE:,}, or height and width such as 32x48, got {size!r}"
        )
    return height, width


def _pair(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        came = f"{len(pair)} values" if isinstance(pair, tuple | list) else type(pair).__name__
        raise InputError(f"expected two arrays, (x, y): pictures and their labels, got {came}")
    return pair[0], pair[1]


def _range(*inputs: Tensor) -> tuple[float, float]:
    return min(float(part.min()) for part in inputs), max(float(part.max()) for part in inputs)


def _texts(raw: RawData, labels: Labels) -> tuple[str, ...]:
    return tuple(str(v) if raw.label_names is None else raw.label_names[v] for v in labels)


def _labels(samples: Samples) -> Labels:
    if samples.labels is None:
        raise InputError(f"{samples.name} has no labels; they are needed to train")
    return samples.labels


def _indexed(raw: RawData, samples: Samples, classes: Labels) -> Split:
    """Return images in the user's units, and labels as indices into the sorted classes of the training samples."""
    labels = _labels(samples)
    if (labels.dtype.kind == "U") != (classes.dtype.kind == "U"):
        raise InputError(f"labels of {samples.name} are {labels.dtype}, those of the training samples {classes.dtype}")
    unseen = labels[~np.isin(labels, classes)]
    if len(unseen):
        raise InputError(
            f"{samples.name} has {counted(len(unseen), 'label')} that no training sample has, "
            f"{_texts(raw, unseen[:1])[0]!r} first; those have {listed(_texts(raw, classes), _NAMES)}"
        )
    images = torch.from_numpy(np.ascontiguousarray(samples.images, dtype=np.float32))
    return Split(images, torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64)))


def _numbers(name: str, values: ArrayLike) -> Tensor:
    numbers = torch.from_numpy(np.array(values, dtype=np.float32))
    if not torch.isfinite(numbers).all():
        raise InputError(f"{name} holds numbers that are not finite; repair or drop them")
    return numbers


def _fingerprint(splits: Sequence[Split]) -> str:
    """Return a hash of 16 hexadecimal digits of the splits in the user's units, the same on every machine."""
    sha = hashlib.sha256()
    for split in splits:
        sha.update(str(tuple(split.inputs.shape)).encode())
        sha.update(split.inputs.numpy().data)
        sha.update(split.targets.numpy().data)
    return sha.hexdigest()[:16]
