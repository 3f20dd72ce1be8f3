"""Constraints on what a network may cost: one that breaks any is not trained, and ranks below all that keep them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from nasenv.errors import InputError, counted, nearest
from nasenv.evaluators.evaluator import Evaluator
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Measurement

_SYNTAX = re.compile(r"([^\s<>=]+)\s*(<=|>=)\s*([^\s<>=]+)")
_SAMPLED = 32  # random members that are looked at before the members around them
_MOST_COSTS = 600  # architectures whose costs are counted before a search, at about 10 ms each
_DIGITS = 6
_FARTHEST = 1e300  # an excess, so that sums are finite


@dataclass(frozen=True)
class Constraint:
    """Limits a cost of a network, such as its number of parameters.

    Args:
        metric: a cost that the evaluator knows without training: params, flops, memory_mb.
        relation: <= or >=.
        bound: the limit, a positive number.

    Raises:
        InputError: another relation, or a bound that is not a positive, finite number.

    >>> limit = Constraint.parse("params<=1e5")
    >>> str(limit), limit.excess(90_000), limit.excess(120_000)
    ('params<=100000', 0.0, 0.2)
    """

    metric: str
    relation: Literal["<=", ">="]
    bound: float

    def __post_init__(self) -> None:
        if self.relation not in ("<=", ">="):
            raise InputError(f"constraints: expected <= or >= after {self.metric}, got {self.relation!r:.80}")
        if not (self.bound > 0 and math.isfinite(self.bound)):
            raise InputError(f"constraints: the limit of {self.metric} must be a positive number, got {self.bound}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the constraint in a text such as params<=1e5; raise InputError if it is none."""
        found = _SYNTAX.fullmatch(text.strip())
        try:
            if found is None:
                raise ValueError
            bound = float(found[3])
        except ValueError:
            expected = "expected metric<=number or metric>=number, such as params<=1e5"
            raise InputError(f"constraints: {expected}, got {text.strip()!r:.80}") from None
        return cls(found[1], "<=" if found[2] == "<=" else ">=", bound)

    def excess(self, value: float) -> float:
        """Return how far a value is beyond the limit, as a share of it; 0 where it keeps it."""
        beyond = value - self.bound if self.relation == "<=" else self.bound - value
        return min(max(0.0, beyond / self.bound), _FARTHEST)

    def broken(self, value: float) -> str:
        """Return as text that a value breaks the limit.

        >>> Constraint("params", "<=", 1e5).broken(120_000)
        'params 120,000 > 100,000'
        """
        shown, bound = f"{value:,.{_DIGITS}g}", f"{self.bound:,.{_DIGITS}g}"
        if "e" in shown + bound or shown == bound or float(value).is_integer():
            shown, bound = _plain(value, ","), _plain(self.bound, ",")
        return f"{self.metric} {shown} {'>' if self.relation == '<=' else '<'} {bound}"

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{_plain(self.bound)}"


Given: TypeAlias = Sequence[str | Constraint] | str | None
"""Constraints as users give them: params<=1e5, or several in one text, or a list."""


def parse_constraints(given: Given) -> tuple[Constraint, ...]:
    """Return the constraints that are given, each once.

    Raises:
        InputError: a text that is no constraint; two limits of one metric on the same side, or none between them.

    >>> [str(limit) for limit in parse_constraints("[params<=1e5, flops<=2e7]")]
    ['params<=100000', 'flops<=20000000']
    """
    found: dict[Constraint, None] = {}
    for one in [given] if isinstance(given, str | Constraint) else given or ():
        if isinstance(one, Constraint):
            found[one] = None
        elif isinstance(one, str):
            found |= dict.fromkeys(map(Constraint.parse, _split(one)))
        else:
            raise InputError(f"constraints: expected texts such as params<=1e5, got {one!r:.80}")
    for (metric, relation), n in Counter((limit.metric, limit.relation) for limit in found).items():
        if n > 1:
            raise InputError(f"constraints: {metric} has {n} limits {relation}; give one")
    least = {limit.metric: limit.bound for limit in found if limit.relation == ">="}
    for limit in found:
        if limit.relation == "<=" and limit.bound < least.get(limit.metric, 0.0):
            raise InputError(f"constraints: no network keeps both {limit} and {limit.metric}>={least[limit.metric]:g}")
    return tuple(found)


def _split(text: str) -> list[str]:
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
        if not inner.strip():
            return []
    return inner.split(",")


def _plain(value: float, grouping: str = "") -> str:
    """Return a number with all its digits, a whole one without a point."""
    return f"{int(value):{grouping}}" if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


@dataclass(frozen=True)
class Look:
    """Holds what is known of an architecture that is looked at and not trained.

    Args:
        measurement: its costs as metrics, and the constraints that it breaks as error.
        violation: the sum of the relative excesses; 0 where its costs are unknown, so that it failed.
    """

    measurement: Measurement
    violation: float


class Constraints:
    """Decides by its costs whether an architecture is evaluated.

    Costs are a pure function of an architecture's representative (`Evaluator.costs`), and are computed once for each.

    Args:
        limits: the constraints; none lets every architecture be evaluated.
        evaluator: knows the costs.

    Attributes:
        texts: the constraints as texts; none if every architecture is evaluated.
    """

    def __init__(self, limits: Sequence[Constraint], evaluator: Evaluator) -> None:
        self._limits, self._evaluator = tuple(limits), evaluator
        self.texts = [str(limit) for limit in limits]
        self._looks: dict[Architecture, Look | None] = {}

    def look(self, architecture: Architecture) -> Look | None:
        """Return what an architecture is answered with that is not to be trained; None for one to be evaluated.

        Raises:
            InputError: the evaluator does not know the architecture.
        """
        if not self._limits:
            return None
        own = self._evaluator.representative(architecture)
        if own not in self._looks:
            self._looks[own] = self._judged(own)
        return self._looks[own]

    def violation(self, architecture: Architecture) -> float | None:
        """Return the violation of an architecture that is looked at; None for one to be evaluated."""
        look = self.look(architecture)
        return None if look is None else look.violation

    def keeps(self, costs: Mapping[str, float]) -> bool:
        """Return whether some costs are known to keep all constraints."""
        return all(limit.metric in costs and limit.excess(costs[limit.metric]) == 0.0 for limit in self._limits)

    def learn(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take the costs of looks from a journal's entries, as counting them again would take its time."""
        for entry in entries if self._limits else ():
            costs = entry["metrics"]
            if "violation" in entry and all(limit.metric in costs for limit in self._limits):
                with suppress(InputError):  # an architecture of another space, which the replay refuses
                    architecture = self._evaluator.space.check(entry["architecture"])
                    self._looks[self._evaluator.representative(architecture)] = self._look_of(costs)

    def check(self, space: SearchSpace, start: Sequence[Architecture]) -> None:
        """Check, before a search, that the evaluator knows the costs, and that some architecture keeps the constraints.

        Looked at are the architectures to start from, the space's reference, a random sample, and then, from the one
        that is least far off, ever nearer neighbours, until one keeps the constraints.

        Raises:
            InputError: a metric that the evaluator does not know; or none of these architectures keeps the constraints.
        """
        if not self._limits:
            return
        known: dict[Architecture, Look] = {}
        for architecture in _candidates(space, start):
            look = self._look_if_known(architecture)
            if look is None:
                return
            known[architecture] = look
        broken = {a: look for a, look in known.items() if look.violation > 0}
        if not broken:
            raise self._unknown(list(known.items()))
        self._check_nearby(space, broken, len(known))

    def _look_if_known(self, architecture: Architecture) -> Look | None:
        """Return as `look` does; an architecture that the evaluator does not know is one of unknown costs."""
        try:
            return self.look(architecture)
        except InputError as error:
            return Look(Measurement(None, str(error)), 0.0)

    def _check_nearby(self, space: SearchSpace, broken: Mapping[Architecture, Look], counted_costs: int) -> None:
        """Raise InputError if no architecture that neighbours lead to keeps the constraints."""
        here = min(broken, key=lambda a: broken[a].violation)
        nearest_look, left = broken[here], iter(space.neighbours(here))
        for _ in range(_MOST_COSTS):
            other = next(left, None)
            if other is None:
                raise InputError(
                    f"constraints: no architecture of {type(space).__name__} was found that keeps "
                    f"{', '.join(self.texts)}, among {counted(counted_costs, 'architecture')}; the nearest has "
                    f"{nearest_look.measurement.error} ({space.to_text(here)}); relax the limit, or give an "
                    "architecture within it to start from"
                )
            look = self._look_if_known(other)
            if look is None:
                return
            counted_costs += 1
            if 0 < look.violation < nearest_look.violation:
                here, nearest_look, left = other, look, iter(space.neighbours(other))

    def _unknown(self, looks: Sequence[tuple[Architecture, Look]]) -> InputError:
        """Return the error for costs of which none was known for any of these architectures."""
        name = type(self._evaluator).__name__
        metrics = (metric for _, look in looks for metric in look.measurement.metrics)
        known = list(dict.fromkeys([*metrics, *self._evaluator.further_costs()]))
        lacking = [limit.metric for limit in self._limits if limit.metric not in known]
        if known and lacking:
            return InputError(f"constraints: {name} knows no cost {lacking[0]}; nearest: {nearest(lacking[0], known)}")
        return InputError(f"constraints: {looks[0][1].measurement.error}; they need an evaluator that knows costs")

    def _costs(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs of an architecture, of those that take longer only what is limited."""
        costs, further = dict(self._evaluator.costs(architecture)), self._evaluator.further_costs()
        wanted = [limit.metric for limit in self._limits if limit.metric in further and limit.metric not in costs]
        return costs | {metric: further[metric](architecture) for metric in wanted}

    def _judged(self, architecture: Architecture) -> Look | None:
        name = type(self._evaluator).__name__
        try:
            costs = self._costs(architecture)
            values = {metric: float(value) for metric, value in costs.items()}
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # a user's network may raise anything when it is built
            said = " ".join(str(error).split())[:300]
            return Look(Measurement(None, f"its costs cannot be counted: {type(error).__name__}: {said}"), 0.0)
        lacking = [limit.metric for limit in self._limits if not math.isfinite(values.get(limit.metric, math.nan))]
        if lacking:
            metrics = {metric: value for metric, value in costs.items() if math.isfinite(values[metric])}
            which = "this architecture's costs" if not metrics else f"{', '.join(lacking)} of this architecture"
            return Look(Measurement(None, f"{name} does not know {which}", metrics=metrics), 0.0)
        return self._look_of(costs)

    def _look_of(self, costs: Mapping[str, float]) -> Look | None:
        values = {limit: float(costs[limit.metric]) for limit in self._limits}
        broken = {limit: value for limit, value in values.items() if limit.excess(value) > 0.0}
        if not broken:
            return None
        reason = ", ".join(limit.broken(value) for limit, value in broken.items())
        violation = math.fsum(limit.excess(value) for limit, value in broken.items())
        return Look(Measurement(None, reason, metrics=costs), violation)


def _candidates(space: SearchSpace, start: Sequence[Architecture]) -> Iterator[Architecture]:
    """Yield architectures that a search may begin with, then random ones."""
    yield from start
    if (reference := space.reference()) is not None:
        yield reference
    yield from space.sample(_SAMPLED, np.random.default_rng(0))
