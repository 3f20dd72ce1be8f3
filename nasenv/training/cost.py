"""Predicts how long trainings take from those that have ended, so that the longest can start first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


class TrainingCost:
    """Predicts the cost of a training by ridge regression on the one-hot decisions of its architecture.

    The order in which trainings begin changes no measurement; with the longest first, workers do not wait for one that
    began last (longest processing time first: Graham 1969, https://doi.org/10.1137/0117039). No network is built.

    Args:
        space: the space of the architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(space.num_choices)])
        size = int(self._offsets[-1]) + 1
        self._products: NDArray[np.float64] = np.eye(size)  # of the features seen, with the ridge
        self._targets: NDArray[np.float64] = np.zeros(size)

    def add(self, architecture: Architecture, seconds: float) -> None:
        """Add the observed cost of a training."""
        (features,) = self._features([architecture])
        self._products += np.outer(features, features)
        self._targets += features * seconds

    def longest_first(self, architectures: Sequence[Architecture]) -> list[int]:
        """Return the indices of the architectures by falling predicted cost; equal ones keep their order."""
        expected = self._features(architectures) @ np.linalg.solve(self._products, self._targets)
        return [int(i) for i in np.argsort(-expected, kind="stable")]

    def _features(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the one-hot decisions and a constant 1, (n, sum of choices + 1)."""
        features = np.zeros((len(architectures), len(self._targets)))
        rows = np.array(architectures, dtype=np.int64).reshape(-1, len(self._offsets) - 1)  # (n, T)
        features[np.arange(len(rows))[:, None], self._offsets[:-1] + rows] = 1.0
        features[:, -1] = 1.0
        return features
