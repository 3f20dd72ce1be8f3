"""A data set is loaded from a named source or from the user's files, split in three, and encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nasenv.configuration import integer, number
from nasenv.data.arrays import read_digits, read_mnist5k, read_npz
from nasenv.data.pictures import read_folder, read_hub, read_picture
from nasenv.data.source import Labels, RawData, Samples
from nasenv.data.split import Split, check_counts, stratified
from nasenv.errors import InputError, counted, nearest
from nasenv.files import user_path
from nasenv.task import Encoding, Images, Inputs, Task, statistics_of

Stamp: TypeAlias = tuple[tuple[str, int, int], ...]
_NAMED: dict[str, Callable[[], RawData]] = {"digits": read_digits, "mnist5k": read_mnist5k}
_KINDS: dict[str, Callable[[str, bool], RawData]] = {"npz": read_npz, "folder": read_folder, "hub": read_hub}
_PLACES = {"npz": "FILE", "folder": "DIR", "hub": "NAME"}
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

    Raises:
        InputError: a share or a seed that is not such.
    """

    source: str = "digits"
    split_seed: int = 0
    validation_share: float = 0.2
    test_share: float = 0.2

    def __post_init__(self) -> None:
        for option in ("validation_share", "test_share"):
            expected = f"above 0 and at most {_LARGEST_SHARE}"
            number(option, getattr(self, option), lambda share: 0.0 < share <= _LARGEST_SHARE, expected)
        integer("split_seed", self.split_seed, least=0)

    def load(self) -> Dataset:
        """Return the data set; raise InputError if the source is unknown or its data cannot be used."""
        return _load(self, _stamp(self.source))


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
    """

    name: str
    task: Task
    train: Split
    validation: Split
    test: Split
    encoding: Encoding
    fingerprint: str
    source: Data | None = None

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
        return cls(name, task, train, validation, test, encoding, _fingerprint(parts))


def load_dataset(source: str = "digits", split_seed: int = 0) -> Dataset:
    """Return a data set in three splits; `Data` describes the sources and has more options."""
    return Data(source, split_seed).load()


def load_images(source: str) -> tuple[Tensor, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return images (n, c, h, w) float32 in the user's units, their labels as text, and the names of their files.

    They are the test samples where the source tells them apart, all samples otherwise. None stands for labels or files
    that they do not have.

    Args:
        source: as for ``load_dataset``, without labels too; or the file of a single picture.

    Raises:
        InputError: an unknown source, or data that cannot be used; the message says why.
    """
    raw = read_picture(source) if _is_picture(source) else _read(source, labelled=False)
    samples = raw.test or raw.train
    images = torch.from_numpy(np.ascontiguousarray(samples.images, dtype=np.float32))
    return images, None if samples.labels is None else _texts(raw, samples.labels), samples.files


@lru_cache(maxsize=2)  # reading the command line and running it load once
def _load(data: Data, stamp: Stamp) -> Dataset:
    raw = _read(data.source, labelled=True)
    classes = np.unique(_labels(raw.train))
    names = _texts(raw, classes)
    whole = _indexed(raw.train, classes)
    shares = ((raw.validation, data.validation_share), (raw.test, data.test_share))
    lacking = [share for part, share in shares if part is None]
    check_counts(whole, names, needed=len(lacking) + 1)
    train, *drawn = stratified(whole, lacking, data.split_seed)
    validation, test = (_indexed(p, classes) if p else drawn.pop(0) for p in (raw.validation, raw.test))
    encoding = Encoding(*statistics_of(train.inputs), names)
    fingerprint = _fingerprint((train, validation, test))
    train, validation, test = (Split(encoding.inputs(s.inputs), s.targets) for s in (train, validation, test))
    task = Task(Images(tuple(train.inputs.shape[1:])), len(names))
    return Dataset(data.source, task, train, validation, test, encoding, fingerprint, data)


def _stamp(source: str) -> Stamp:
    """Return path, modification time and size of each file of a source, to notice that files have changed."""
    kind, _, rest = source.partition(":")
    place = user_path(rest.partition("#")[0] if kind == "hub" else rest).absolute()
    files = sorted(place.rglob("*")) if kind in ("folder", "hub") and place.is_dir() else [place]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _read(source: str, labelled: bool) -> RawData:
    if source in _NAMED:
        return _NAMED[source]()
    kind, _, place = source.partition(":")
    if kind in _KINDS:
        if not place:
            raise InputError(f"{kind}: names no data; expected {kind}:{_PLACES[kind]}")
        return _KINDS[kind](place, labelled)
    known = [*_NAMED, *(f"{kind}:" for kind in _KINDS)]
    meant = f"folder:{source}" if user_path(source).is_dir() else nearest(source, known)
    meant = f"npz:{source}" if source.endswith(".npz") else meant
    raise InputError(f"unknown data set {source!r}; did you mean {meant}?")


def _is_picture(source: str) -> bool:
    """Return whether a source is the file of a single picture."""
    return source not in _NAMED and not source.endswith(".npz") and user_path(source).is_file()


def _texts(raw: RawData, labels: Labels) -> tuple[str, ...]:
    return tuple(str(v) if raw.label_names is None else raw.label_names[v] for v in labels)


def _labels(samples: Samples) -> Labels:
    if samples.labels is None:
        raise InputError(f"{samples.name} has no labels; they are needed to train")
    return samples.labels


def _indexed(samples: Samples, classes: Labels) -> Split:
    """Return images in the user's units, and labels as indices into the sorted classes of the training samples."""
    labels = _labels(samples)
    if (labels.dtype.kind == "U") != (classes.dtype.kind == "U"):
        raise InputError(f"labels of {samples.name} are {labels.dtype}, those of the training samples {classes.dtype}")
    unseen = labels[~np.isin(labels, classes)].tolist()
    if unseen:
        raise InputError(
            f"{samples.name} has {counted(len(unseen), 'label')} that no training sample has, {unseen[0]!r} first"
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
