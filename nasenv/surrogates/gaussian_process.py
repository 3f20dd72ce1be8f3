"""A Gaussian process predicts what architectures are worth from those that a search has evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture

_JITTER = 1e-6  # variance added to a covariance, which rounding may have made indefinite
_PAIRS = 512  # of random architectures, whose distances tell the unit of a part of the features


class Kernel:
    """Computes the similarity of two architectures, in (0, 1]: the mean over feature parts of exp(-d^2 / (2 l^2)).

    d is the Euclidean distance of two architectures in a part (`SearchSpace.feature_parts`). The length l is the root
    mean square of the distances of random architectures, times ``length``, so that features may be of any unit.

    Args:
        space: the space of the architectures.
        length: length scale, in units of the distance of two random architectures.
        parts: names of the parts; all by default.

    Raises:
        InputError: a part that the space does not have.
    """

    def __init__(self, space: SearchSpace, length: float = 1.0, parts: Sequence[str] | None = None) -> None:
        self._space = space
        features = self._features(space.sample(2 * _PAIRS, _rng()))  # the same for every search in the space
        for name in parts or ():
            if name not in features:
                raise InputError(f"{type(space).__name__} has features {', '.join(features)}, not {name!r}")
        self._scales: dict[str, float] = {}
        for name in parts or features:
            square = ((features[name][:_PAIRS] - features[name][_PAIRS:]) ** 2).sum(axis=1).mean()
            self._scales[name] = 1.0 / (length * math.sqrt(2.0 * square)) if square > 0.0 else 0.0

    def embed(self, architectures: Sequence[Architecture]) -> list[NDArray[np.float64]]:
        """Return, by part, the features x of n architectures in units of sqrt(2) l, as [x, |x|^2, 1], (n, d + 2)."""
        features = self._features(architectures)
        parts = [scale * features[name] for name, scale in self._scales.items()]
        return [np.column_stack([x, (x**2).sum(axis=1), np.ones(len(x))]) for x in parts]

    def __call__(self, a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the similarity of each of n embedded architectures to each of m, (n, m)."""
        total = np.zeros((len(a[0]), len(b[0])), dtype=a[0].dtype)
        for x, y in zip(a, b, strict=True):
            minus_squared = np.hstack([2.0 * x[:, :-2], -x[:, -1:], -x[:, -2:-1]]) @ y.T  # 2 x y - |y|^2 - |x|^2
            total += np.exp(minus_squared, out=minus_squared)
        total /= len(a)
        return total

    def _features(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        return self._space.feature_parts([self._space.canonical(a) for a in architectures])


class Surrogate:
    """Predicts the scores of architectures and their uncertainty by Gaussian process regression.

    Rasmussen & Williams 2006, http://gaussianprocess.org/gpml, algorithm 2.1. The targets are the normal scores of
    the rewards' ranks among all that were observed, ties sharing a rank: their mean is 0, that of the best of 100 is
    2.6, and it makes no difference in what unit a reward is, or how bad a failure. Nothing is fitted.

    A new observation adds a row to the inverse of the covariance's Cholesky factor, O(n^2) instead of O(n^3), and a
    number to what is kept for each architecture of the pool, O(n). Beyond ``most`` observations, it is made anew from
    the best and the latest, a quarter of ``most`` each, so that its cost is bounded; ranks are among all.

    Args:
        space: the space of the architectures.
        pool: architectures whose predictions are kept up to date, for `pool_ucb`.
        noise: variance of an observation about the truth, where that of the truth over all architectures is 1.
        length: length scale of the `Kernel`.
        parts: feature parts of the `Kernel`.
        most: largest number of observations that it is conditioned on.
    """

    def __init__(
        self,
        space: SearchSpace,
        pool: Sequence[Architecture] = (),
        noise: float = 0.05,
        length: float = 1.0,
        parts: Sequence[str] | None = None,
        most: int = 1000,
    ) -> None:
        self._kernel, self._noise, self._most = Kernel(space, length, parts), noise, most
        self._rewards: dict[Architecture, float] = {}  # of all observed
        self._scores: dict[Architecture, float] = {}  # normal scores of these
        self._believed: dict[Architecture, float] = {}  # scores of those that are to be observed
        self._rows: list[Architecture] = []  # n of either, that it is conditioned on
        self._inverse = np.zeros((most, most))  # of the Cholesky factor, lower triangular; n rows and columns are used
        self._embedded = [np.zeros((most, part.shape[1])) for part in self._kernel.embed(space.sample(1, _rng()))]
        self._solved: NDArray[np.float64] = np.zeros(0)  # (n,), the inverse times the targets
        self._pool = _Pool(self._kernel, pool, most) if pool else None

    def observe(self, architectures: Sequence[Architecture], rewards: Sequence[float] | NDArray[np.float64]) -> None:
        """Add the rewards of n architectures; the reward of one observed before is replaced."""
        values = np.asarray(rewards, dtype=np.float64).tolist()
        self._rewards.update(zip(architectures, values, strict=True))
        self._scores = dict(zip(self._rewards, _normal_scores([*self._rewards.values()]).tolist(), strict=True))
        for architecture in architectures:
            self._believed.pop(architecture, None)
        self._condition(architectures)

    def believe(self, architectures: Sequence[Architecture]) -> None:
        """Assume the predicted rewards for n architectures until they are observed.

        The next of a batch then keep away from them (Ginsbourger et al. 2010, the kriging believer,
        https://doi.org/10.1007/978-3-642-10701-6_6).
        """
        new = [architecture for architecture in dict.fromkeys(architectures) if architecture not in self._rewards]
        if new:
            embedded = self._kernel.embed(new)
            self._believed.update(zip(new, self._predict(embedded)[0].tolist(), strict=True))
            self._condition(new, embedded)

    def predict(self, architectures: Sequence[Architecture]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the expected scores of m architectures and their standard deviations, (m,) each."""
        return self._predict(self._kernel.embed(architectures))

    def draws(self, architectures: Sequence[Architecture], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the scores of m architectures in n functions drawn from the process, (n, m); it takes O(m^3)."""
        embedded = self._kernel.embed(architectures)
        mean, solved = self._conditional(embedded)
        covariance = self._kernel(embedded, embedded) - solved.T @ solved
        covariance[np.diag_indices_from(covariance)] += _JITTER
        factor = np.linalg.cholesky(covariance)
        normal: NDArray[np.float64] = rng.standard_normal((n, len(architectures)))
        return mean + normal @ factor.T

    def left_out(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what is predicted of the n `targets` from the others, and its standard deviations, noise included.

        Rasmussen & Williams 2006, equations 5.10 to 5.12.
        """
        n = len(self._rows)
        inverse = self._inverse[:n, :n]
        precision: NDArray[np.float64] = (inverse**2).sum(axis=0)
        return self.targets() - inverse.T @ self._solved / precision, 1.0 / np.sqrt(precision)

    def targets(self) -> NDArray[np.float64]:
        """Return the n scores that the process is conditioned on, observed or assumed."""
        return np.array([self._believed[d] if d in self._believed else self._scores[d] for d in self._rows])

    def ucb(self, architectures: Sequence[Architecture], beta: float = 2.0) -> NDArray[np.float64]:
        """Return the upper confidence bounds of m architectures, (m,): expected score + beta standard deviations."""
        mean, deviation = self.predict(architectures)
        return mean + beta * deviation

    def pool_ucb(self, beta: float = 2.0) -> NDArray[np.float64]:
        """Return the upper confidence bounds of the architectures of the pool, in their order."""
        assert self._pool is not None
        return self._pool.ucb(self._solved, beta)

    def best(self, k: int) -> list[Architecture]:
        """Return the k observed architectures with the highest rewards, best first, the earlier first among equals."""
        return sorted(self._rewards, key=self._rewards.__getitem__, reverse=True)[:k]

    def _predict(self, embedded: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, solved = self._conditional(embedded)
        return mean, _deviation(1.0 - (solved**2).sum(axis=0))

    def _conditional(self, embedded: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the expected scores (m,), and the inverse factor times the covariances, (n, m)."""
        n = len(self._rows)
        alike = self._kernel([part[:n] for part in self._embedded], embedded)
        solved = self._inverse[:n, :n] @ alike
        return self._solved @ solved, solved

    def _condition(
        self, architectures: Sequence[Architecture], embedded: Sequence[NDArray[np.float64]] | None = None
    ) -> None:
        """Condition the process on architectures that it does not hold yet, and update the targets."""
        known = set(self._rows)
        new = [architecture for architecture in dict.fromkeys(architectures) if architecture not in known]
        if len(self._rows) + len(new) > self._most:
            new, self._rows, embedded = self._kept([*self._rows, *new]), [], None
        if new:
            self._extend(new, embedded if embedded and len(new) == len(architectures) else self._kernel.embed(new))
        n = len(self._rows)
        self._solved = self._inverse[:n, :n] @ self.targets()

    def _kept(self, architectures: Sequence[Architecture]) -> list[Architecture]:
        """Return the best and the latest of the architectures, in their order."""
        quarter = self._most // 4
        kept = {*self.best(quarter), *architectures[-quarter:]}
        return [architecture for architecture in architectures if architecture in kept]

    def _extend(self, architectures: Sequence[Architecture], new: Sequence[NDArray[np.float64]]) -> None:
        """Extend the inverse Cholesky factor by k rows, those of k embedded architectures, and update the pool."""
        n, k = len(self._rows), len(architectures)
        old = [part[:n] for part in self._embedded]
        inverse, crossed = self._inverse[:n, :n], self._kernel(old, new)
        below = inverse @ crossed  # (n, k), the factor's new rows
        corner = self._kernel(new, new) + self._noise * np.eye(k) - below.T @ below
        corner = np.linalg.inv(np.linalg.cholesky(corner))
        self._inverse[n : n + k, :n] = -corner @ (below.T @ inverse)
        self._inverse[n : n + k, n : n + k] = corner
        for part, rows in zip(self._embedded, new, strict=True):
            part[n : n + k] = rows
        self._rows += architectures
        if self._pool is not None:
            self._pool.extend(n, new, below, corner)


class _Pool:
    """Keeps the predictions for N architectures up to date, in single precision; N can be tens of thousands."""

    def __init__(self, kernel: Kernel, architectures: Sequence[Architecture], most: int) -> None:
        self._kernel = kernel
        self._embedded = [part.astype(np.float32) for part in kernel.embed(architectures)]
        size = most, len(architectures)
        self._solved = np.empty(size, dtype=np.float32)  # the inverse factor times the covariances
        self._variance: NDArray[Any] = np.ones(len(architectures), dtype=np.float32)

    def extend(
        self,
        n: int,
        new: Sequence[NDArray[np.float64]],
        below: NDArray[np.float64],
        corner: NDArray[np.float64],
    ) -> None:
        """Add k observations to the first n; later ones are dropped."""
        covariances = self._kernel([part.astype(np.float32) for part in new], self._embedded)  # (k, N)
        covariances -= below.T.astype(np.float32) @ self._solved[:n]
        rows = corner.astype(np.float32) @ covariances
        self._solved[n : n + len(rows)] = rows
        self._variance = (self._variance if n else 1.0) - (rows**2).sum(axis=0)

    def ucb(self, solved: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
        """Return the upper confidence bounds (N,) for targets multiplied by the inverse factor, (n,)."""
        mean = solved.astype(np.float32) @ self._solved[: len(solved)]
        return mean + beta * _deviation(self._variance)


def _normal_scores(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the normal quantiles of n values' ranks, (n,), ties sharing one; scipy.stats takes 40 MB to import.

    >>> _normal_scores([3.0, 1.0, 3.0]).round(3)
    array([ 0.431, -0.967,  0.431])
    """
    ordered = np.sort(values)
    below, not_above = (ordered.searchsorted(values, side) for side in ("left", "right"))
    from scipy.special import ndtri  # which takes a quarter of a second to import

    scores: NDArray[np.float64] = ndtri((below + not_above) / (2 * len(values)))
    return scores


def _rng() -> np.random.Generator:
    """Return a random generator that is the same in every search of a space."""
    return np.random.default_rng(0)


def _deviation(variance: NDArray[Any]) -> NDArray[Any]:
    """Return standard deviations; a variance that rounding made negative counts as 0."""
    deviation: NDArray[Any] = np.sqrt(np.maximum(variance, 0.0))
    return deviation
