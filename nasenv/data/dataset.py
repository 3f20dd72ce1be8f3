"""Named or user data -> tensors: a fixed train / validation / test split, normalised, with a fingerprint."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from nasenv.data.arrays import read_digits, read_mnist5k, read_npz
from nasenv.data.pictures import read_folder, read_hub
from nasenv.data.source import Labels, RawData, Samples
from nasenv.errors import InputError
from nasenv.files import user_path

Stamp: TypeAlias = tuple[tuple[str, int, int], ...]
_NAMED: dict[str, Callable[[], RawData]] = {"digits": read_digits, "mnist5k": read_mnist5k}
_KINDS: dict[str, Callable[[str, bool], RawData]] = {"npz": read_npz, "folder": read_folder, "hub": read_hub}
_FORMS = {"npz": "npz:FILE", "folder": "folder:DIR", "hub": "hub:NAME"}
_LARGEST_SHARE = 0.4  # with it, three samples of a class always reach all three splits


@dataclass(frozen=True)
class Split:
    """Images, (n, c, h, w) float32, normalised and contiguous, and their classes, (n,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Three splits of one classification problem.

    Args:
        name: the source that it was loaded from.
        train: what a network is fitted to during a search.
        validation: what a search sees of a network's worth.
        test: what nothing sees before the search is over.
        mean: of each channel, over the training split, in the user's units.
        std: the same; 1 for a channel that is constant.
        class_names: the user's labels as text, in sorted order; class i is the i-th.
        fingerprint: hash of all pixels and labels of the three splits.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, c, h, w = self.train.images.shape
        return c, h, w

    @property
    def num_classes(self) -> int:
        """Number of classes, two or more."""
        return len(self.class_names)

    @property
    def training_and_validation(self) -> Split:
        """What the winner of a search is finally fitted to; still normalised by the training split."""
        parts = (self.train, self.validation)
        return Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with its tensors on a device."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **splits)

    def normalise(self, images: Tensor) -> Tensor:
        """Return images, (n, c, h, w) in the user's units, as networks take them."""
        return normalised(images, self.mean, self.std)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images, (n, c, h, w), as float32 with each channel less its mean and by its standard deviation."""
    shift, scale = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (mean, std))
    return ((images.float() - shift) / scale).contiguous()


def load_dataset(
    source: str = "digits", split_seed: int = 0, validation_share: float = 0.2, test_share: float = 0.2
) -> Dataset:
    """Return a data set in three splits.

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
        InputError: an unknown source, or data that cannot be used; the message says why.
    """
    for option, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0.0 < share <= _LARGEST_SHARE:
            raise InputError(f"{option} must be above 0 and at most {_LARGEST_SHARE}, got {share}")
    if not isinstance(split_seed, int | np.integer) or split_seed < 0:
        raise InputError(f"split_seed must be an integer of 0 or more, got {split_seed!r}")
    return _load(source, _stamp(source), split_seed, validation_share, test_share)


def load_images(source: str) -> tuple[Tensor, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return images, (n, c, h, w) float32 in the user's units, their labels as text and the names of their files.

    They are the test samples where the source tells them apart, all samples otherwise. None stands for labels or files
    that they do not have.

    Args:
        source: as for ``load_dataset``; labels can be missing.

    Raises:
        InputError: an unknown source, or data that cannot be used; the message says why.
    """
    raw = _read(source, labelled=False)
    samples = raw.test or raw.train
    images = torch.from_numpy(np.ascontiguousarray(samples.images, dtype=np.float32))
    return images, None if samples.labels is None else _texts(raw, samples.labels), samples.files


@lru_cache(maxsize=2)  # reading the command line and running it load once
def _load(source: str, stamp: Stamp, split_seed: int, validation_share: float, test_share: float) -> Dataset:
    raw = _read(source, labelled=True)
    classes = np.unique(_labels(raw.train))
    names = _texts(raw, classes)
    whole = _encoded(raw.train, classes)
    lacking = [share for part, share in ((raw.validation, validation_share), (raw.test, test_share)) if part is None]
    _check_counts(whole, names, needed=len(lacking) + 1)
    train, *drawn = _stratified(whole, lacking, split_seed)
    validation, test = (_encoded(p, classes) if p else drawn.pop(0) for p in (raw.validation, raw.test))
    mean, std = _statistics(train.images)
    fitted = [Split(normalised(s.images, mean, std), s.labels) for s in (train, validation, test)]
    fingerprint = _fingerprint((train, validation, test))
    return Dataset(source, fitted[0], fitted[1], fitted[2], mean, std, names, fingerprint)


def _stamp(source: str) -> Stamp:
    """Return path, time and size of each file that a source reads: other files are other data."""
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
            raise InputError(f"{kind}: names no data; expected {_FORMS[kind]}")
        return _KINDS[kind](place, labelled)
    known = [*_NAMED, *(f"{k}:" for k in _KINDS)]
    near = difflib.get_close_matches(source, known, n=3) or known
    raise InputError(f"unknown data set {source!r}; did you mean {', '.join(near)}?")


def _texts(raw: RawData, labels: Labels) -> tuple[str, ...]:
    return tuple(str(v) if raw.label_names is None else raw.label_names[v] for v in labels)


def _labels(samples: Samples) -> Labels:
    if samples.labels is None:
        raise InputError(f"{samples.name} has no labels; they are needed to train")
    return samples.labels


def _encoded(samples: Samples, classes: Labels) -> Split:
    """Return images in the user's units, and labels as indices into the sorted classes of the training samples."""
    labels = _labels(samples)
    if (labels.dtype.kind == "U") != (classes.dtype.kind == "U"):
        raise InputError(f"labels of {samples.name} are {labels.dtype}, those of the training samples {classes.dtype}")
    unseen = labels[~np.isin(labels, classes)].tolist()
    if unseen:
        raise InputError(f"{samples.name} has {len(unseen)} labels that no training sample has, {unseen[0]!r} first")
    images = torch.from_numpy(np.ascontiguousarray(samples.images, dtype=np.float32))
    return Split(images, torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64)))


def _check_counts(samples: Split, names: Sequence[str], needed: int) -> None:
    """Refuse one class, and classes that cannot be in each of the splits that are drawn from these samples."""
    if len(names) < 2:
        raise InputError(f"a classifier needs two or more classes, the training samples are all of {names[0]!r}")
    counts = torch.bincount(samples.labels, minlength=len(names))
    if counts.min() < needed:
        rarest = int(counts.argmin())
        raise InputError(
            f"each class needs {needed} or more training samples, to be in each of {needed} splits; "
            f"class {names[rarest]!r} has {int(counts[rarest])}"
        )


def _stratified(samples: Split, shares: Sequence[float], seed: int) -> list[Split]:
    """Return what is left, then a split of each share: of each class that share, at least one sample."""
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for value in range(int(samples.labels.max()) + 1):
        members = rng.permutation(np.flatnonzero(samples.labels.numpy() == value)).tolist()
        counts = [max(1, int(len(members) * share)) for share in shares]
        for part, count in zip(parts[1:], counts, strict=True):
            part += members[:count]
            members = members[count:]
        parts[0] += members
    return [Split(samples.images[sorted(part)], samples.labels[sorted(part)]) for part in parts]


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel; 1 for the deviation of a constant channel."""
    std, mean = torch.std_mean(images.double(), dim=(0, 2, 3), correction=0)
    return tuple(mean.tolist()), tuple(s if s > 0 else 1.0 for s in std.tolist())


def _fingerprint(splits: Sequence[Split]) -> str:
    """Return 16 hexadecimal digits; of the user's own pixels, whose bytes do not depend on a machine's arithmetic."""
    sha = hashlib.sha256()
    for split in splits:
        sha.update(str(tuple(split.images.shape)).encode())
        sha.update(split.images.numpy().data)
        sha.update(split.labels.numpy().data)
    return sha.hexdigest()[:16]
