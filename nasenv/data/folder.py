"""A folder of pictures is listed: a picture's class is the name of the folder that it lies in, and so is its split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import TypeAlias

import numpy as np

from nasenv.data.pictures import Picture, PictureSplit, Preprocessing, inspect, is_picture_name, raw_data, timed
from nasenv.data.source import RawData, listed
from nasenv.errors import InputError, counted
from nasenv.files import user_path

_Parts: TypeAlias = tuple[str, ...]  # of a path below a folder
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_SPLIT_NAME = re.compile(rf"({'|'.join(_SPLIT_OF)})[ _.-]*(set|split|data|images|pictures|photos|samples)?")
_SYSTEM = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
_NAMES = 4  # in a message
_LEFT_OUT = 6  # kinds of files in a note


@dataclass
class Listing:
    """Lists a folder.

    Args:
        files: parts of the path of each file below the folder, sorted.
        folders: those of each folder.
        left_out: what was not looked at, in words, with its number.
    """

    files: list[_Parts] = field(default_factory=list)
    folders: list[_Parts] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, in any of its usual spellings; None for other names.

    >>> split_of("train"), split_of("Training_Set"), split_of("val-set"), split_of("station")
    ('train', 'train', 'validation', None)
    """
    found = _SPLIT_NAME.fullmatch(name.strip().casefold())
    return _SPLIT_OF[found[1]] if found else None


def splits_by_name(place: str, names: Iterable[str]) -> dict[str, str]:
    """Return split -> the one of these names that stands for it; a single one is train, whatever its name.

    Raises:
        InputError: two names for one split, or several without train.
    """
    known = [name for name in names if split_of(name)]
    if len(known) == 1:
        return {"train": known[0]}
    found: dict[str, str] = {}
    for name in known:
        first = found.setdefault(str(split_of(name)), name)
        if first != name:
            raise InputError(
                f"{place} has {first} and {name} for the {split_of(name)} split; merge them, or move one away"
            )
    if known and "train" not in found:
        raise InputError(f"{place} has no training split; it has {', '.join(known)}")
    return found


def list_folder(folder: Path) -> Listing:
    """Return what lies below a folder, without hidden files and those of systems; links are followed, but in no circle.

    Raises:
        InputError: a folder that may not be read.
    """
    listing = Listing()
    stack: list[tuple[_Parts, tuple[tuple[int, int], ...]]] = [((), (_identity(folder),))]
    while stack:
        parts, above = stack.pop()
        try:
            entries = [*os.scandir(folder.joinpath(*parts))]
        except OSError as error:
            raise InputError(f"cannot list {folder.joinpath(*parts)}: {error.strerror}") from None
        for entry in entries:
            path = (*parts, entry.name)
            kind = _kind(entry)
            if entry.name.startswith(".") or entry.name in _SYSTEM:
                is_known = entry.name in _SYSTEM and kind == "folder"
                listing.left_out[f"{entry.name}/" if is_known else f"hidden {kind}"] += 1
            elif kind == "folder":
                identity = _identity(Path(entry.path))
                if identity in above:
                    listing.left_out[f"{'/'.join(path)}, a link to a folder above it"] += 1
                else:
                    listing.folders.append(path)
                    stack.append((path, (*above, identity)))
            elif kind == "file" or (kind == "broken link" and is_picture_name(entry.name)):  # it is refused later
                listing.files.append(path)
            else:
                listing.left_out[kind] += 1
    listing.files.sort()
    return listing


def read_folder(place: str, labelled: bool, how: Preprocessing) -> RawData:
    """Return the pictures of a folder with a sub-folder for each class, or with DIR/train/CLASS and DIR/test/CLASS.

    Files are pictures by what they hold; all others, also tables of labels, are left out, and counted in the notes.

    Args:
        place: the folder; where no labels are needed, also one picture.
        labelled: whether each picture must lie in the folder of a class.
        how: how pictures become arrays.

    Raises:
        InputError: no pictures, or folders that can be understood in two ways; the message says what to do.
    """
    path = user_path(place)
    if path.is_file() and not labelled:
        return raw_data(place, {"train": PictureSplit(place, [inspect(place, lambda: path)], None)}, how)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; expected one with a sub-folder of pictures for each class")
    listing = list_folder(path)
    pictures = _pictures(place, path, listing)
    if not pictures:
        held = f"it holds {_left_out(listing)}" if listing.left_out else "it is empty"
        raise InputError(f"{path} holds no pictures, {held}; expected a sub-folder of pictures for each class")
    folders = _split_folders(place, [*pictures], labelled)
    notes = []
    if labelled and split_of("".join(folders["train"])) not in (None, "train"):
        notes.append(f"{folders['train'][0]}/, the only split, is divided in three")
    elif not labelled and "test" in folders:
        notes.append(f"read: {folders['test'][0]}/ alone")
        folders = {"train": folders["test"]}
    labels = {split: _labels(place, folder, [*pictures], labelled) for split, folder in folders.items()}
    if labelled and len({*labels["train"].values()}) == 1:
        only = "/".join((place.rstrip("/"), *folders["train"], str(next(iter(labels["train"].values())))))
        raise InputError(
            f"{place} has pictures of one class alone, {only}, and a classifier needs two or more sub-folders, one a "
            f"class; where the classes are the folders in it, give folder:{only}"
        )
    _count_empty(listing, [*pictures], [*folders.values()])
    names = sorted({label for found in labels.values() for label in found.values() if label is not None})
    number = {name: i for i, name in enumerate(names)}
    if broken := [name for name in names if re.search("[\ud800-\udfff]", name)]:
        raise InputError(f"{place}: the name of the folder {broken[0]} is not UTF-8; rename it")
    splits = {
        split: PictureSplit(
            "/".join((place.rstrip("/"), *folder)),
            [pictures[parts] for parts in labels[split]],
            None
            if None in labels[split].values()
            else np.array([number[str(label)] for label in labels[split].values()]),
        )
        for split, folder in folders.items()
    }
    if listing.left_out:
        notes.append(f"left out: {_left_out(listing)}")
    return raw_data(place, splits, how, tuple(names), tuple(notes))


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "special file"
    except OSError:  # a link to itself, or to where one may not look
        kind = "special file"
    return "broken link" if kind == "special file" and entry.is_symlink() else kind


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _pictures(place: str, folder: Path, listing: Listing) -> dict[_Parts, Picture]:
    """Return the pictures among the files, also those that cannot be read; count the other files as left out."""
    pictures: dict[_Parts, Picture] = {}
    for parts in timed(f"{place}: files listed", listing.files):
        picture = inspect("/".join(parts), partial(folder.joinpath, *parts))
        if picture.fault and not is_picture_name(parts[-1]):
            listing.left_out[f"{PurePath(parts[-1]).suffix.lower() or 'unreadable'} file"] += 1
        else:
            pictures[parts] = picture
    return pictures


def _split_folders(place: str, pictures: Sequence[_Parts], labelled: bool) -> dict[str, _Parts]:
    """Return the folder of each split, or of all pictures as train where they are in class folders."""
    tops = [*dict.fromkeys(parts[0] for parts in pictures if len(parts) > 1)]
    splits = [top for top in tops if split_of(top)]
    if not splits:
        if labelled:
            _refuse_hidden_splits(place, tops)
        return {"train": ()}
    if others := [f"{parts[0]}/" if len(parts) > 1 else parts[0] for parts in pictures if parts[0] not in splits]:
        raise InputError(
            f"{place}: {_like_splits(splits)}, and beside lie pictures in {listed([*dict.fromkeys(others)], _NAMES)}; "
            "move those away, or if all are classes, rename what is called like a split"
        )
    found = splits_by_name(place, splits)
    flat = [top for top in splits if not any(len(parts) > 2 for parts in pictures if parts[0] == top)]
    if flat and labelled:
        rest = (
            f"move it away, or give folder:{place.rstrip('/')}/{found['train']}" if found["train"] not in flat else ""
        )
        raise InputError(
            f"{place}: {_like_splits(flat)} without folders of classes in it; "
            + (rest or "expected pictures in folders such as train/CLASS; a class that is called so has to be renamed")
        )
    return {split: (name,) for split, name in found.items()}


def _refuse_hidden_splits(place: str, tops: Sequence[str]) -> None:
    """Raise InputError for folders such as seg_train and seg_test, which are splits more probably than classes."""
    words = {top: {_SPLIT_OF.get(word) for word in re.split(r"[\W_]+", top.casefold())} - {None} for top in tops}
    if "train" in set().union(*words.values()) and len(set().union(*words.values())) > 1:
        called = [top for top, found in words.items() if found]
        raise InputError(
            f"{place}: {_named(called)} seem to be splits; rename them to train and test (or val), or if they are "
            "classes, to other names"
        )


def _labels(place: str, folder: _Parts, pictures: Sequence[_Parts], labelled: bool) -> dict[_Parts, str | None]:
    """Return the class of each picture below a folder, the name of the first folder in it; None if one lacks it."""
    depth = len(folder)
    found = {parts: parts[depth] if len(parts) > depth + 1 else None for parts in pictures if parts[:depth] == folder}
    loose = [parts for parts, label in found.items() if label is None]
    inner = [parts for parts in found if any(split_of(name) for name in parts[depth + 1 : -1])]
    if loose and labelled:
        raise InputError(
            f"{place}: {counted(len(loose), 'picture')} of {len(found):,} {'lies' if len(loose) == 1 else 'lie'} in no "
            f"class folder, {'/'.join(loose[0])} first; each class needs a sub-folder (tables of labels are not read)"
        )
    if inner and labelled:
        raise InputError(
            f"{place}: {'/'.join(inner[0][:-1])} is called like a split, and lies in the folder of a class; expected "
            "SPLIT/CLASS, such as train/cat; if it is no split, rename it"
        )
    return dict.fromkeys(found) if loose else found


def _count_empty(listing: Listing, pictures: Iterable[_Parts], splits: Sequence[_Parts]) -> None:
    """Count the folders that hold no pictures, where splits and classes are looked for, as left out."""
    occupied = {parts[:length] for parts in pictures for length in range(1, len(parts))}
    for folder in sorted(listing.folders):
        if folder not in occupied and (len(folder) == 1 or folder[:-1] in splits):
            listing.left_out[f"{'/'.join(folder)}/ (no pictures)"] += 1


def _left_out(listing: Listing) -> str:
    counts = sorted(listing.left_out.items(), key=lambda item: (item[0].endswith(")"), item[0]))
    return listed(
        [counted(n, what) if what.endswith(("file", "folder", "link")) else what for what, n in counts], _LEFT_OUT
    )


def _named(folders: Sequence[str]) -> str:
    return listed([f"{folder}/" for folder in folders], _NAMES)


def _like_splits(folders: Sequence[str]) -> str:
    return f"{_named(folders)} {'is called like a split' if len(folders) == 1 else 'are called like splits'}"
