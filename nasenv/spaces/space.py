"""A search space defines an agent's decisions, which choices are valid, and the network that they build."""

from __future__ import annotations

import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from nasenv.configuration import Configurable, digest, import_path
from nasenv.errors import InputError, counted
from nasenv.spaces.actions import redirected
from nasenv.spaces.features import counts, one_hot, thermometer
from nasenv.task import Task
from nasenv.trial import Architecture


@dataclass(frozen=True)
class Decision:
    """Defines one decision of an agent by its name and its choices in order."""

    name: str
    choices: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) != len(self.choices):
            raise InputError(f"decision {self.name!r} needs one or more distinct choices, got {self.choices!r}")


@dataclass(frozen=True)
class Diagram:
    """Describes a picture of an architecture: boxes in the order of the data flow, and arrows between them.

    nodes: the text in each box; edges: (from, to, label), indices into nodes.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]


class SearchSpace(Configurable, ABC):
    """Defines the architectures that an agent can make by T decisions, each of at most C choices.

    A subclass passes its decisions and its task to ``super().__init__`` and implements ``build``; it overrides ``mask``
    if some choices can be invalid, and ``canonical`` if several architectures are the same network. The task is a
    constructor argument, so masks can depend on it. On the command line the task comes from the data; a space that is
    not trained has a default task.

    Args:
        decisions: the T decisions, in the order in which they are taken.
        task: kind of input and its shape, number of outputs, metric.

    Raises:
        InputError: something else than a task, two decisions of one name.
    """

    most_listed: int = 10_000_000  # architectures, in memory
    version = 1  # counted up when `build` comes to mean another network: old measurements are then not taken for new

    def __init__(self, decisions: Sequence[Decision], task: Task) -> None:
        check_task(type(self).__name__, task)
        names = [d.name for d in decisions]
        if not names or len(set(names)) != len(names):
            raise InputError(f"a space needs one or more decisions of distinct names, got {names}")
        self.decisions = tuple(decisions)
        self.task = task
        if "task" in self._arguments:  # one that is left out is the same space as the one that is meant
            self._arguments["task"] = task
        self.num_choices: NDArray[np.int64] = np.array([len(d.choices) for d in decisions])  # (T,)
        self.is_product = type(self).mask is SearchSpace.mask  # every choice is always valid

    @property
    def own_code(self) -> str | None:
        """Return what ``--space`` names: the import path of a user's code; None for a space that comes with nasenv."""
        return None if type(self).__module__.startswith("nasenv.") else import_path(type(self))

    @property
    def num_decisions(self) -> int:
        """Return T, the number of decisions of every architecture."""
        return len(self.decisions)

    @cached_property
    def max_choices(self) -> int:
        """Return C, the largest number of choices of a decision."""
        return int(self.num_choices.max())

    @property
    def size(self) -> int | None:
        """Return the number of valid architectures; None above ``most_listed`` if the space has no formula for it."""
        if self.is_product:
            return math.prod(map(len, self._ranges))
        rows = self._enumerated()
        return None if rows is None else len(rows)

    @property
    def whole(self) -> SearchSpace:
        """Return the space whose networks are measured: itself, or the one of which it is a part."""
        return self

    # What a subclass says

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C), for n prefixes of t decisions, (n, t) with t < T.

        At least one choice is valid after every valid prefix; exactly choice 0 where the decision no longer matters.
        """
        n, t = prefixes.shape
        row = np.arange(self.max_choices) < self.num_choices[t]
        return np.broadcast_to(row, (n, self.max_choices)).copy()

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the representative of the architectures equivalent to this one; only that one is trained."""
        return architecture

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, *task.shape) float32 -> (n, task.outputs).

        Its modules are named by the decision that made them, such as ``layer3``, so that weights can be followed.
        """

    def reference(self) -> Architecture | None:
        """Return a hand-made architecture that a search's winner is compared with; None if there is none."""
        return None

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return feature matrices (n, d) of n architectures by name; similar architectures have close rows.

        A model such as `GaussianProcess` takes two architectures for alike where they are close in all parts. It is
        given canonical architectures. A space adds what it knows of its networks,
        ``super().feature_parts(architectures) | {"depth": ...}``, in whatever unit: what counts is a distance beside
        that of two random architectures.

        Here: the choice taken at each decision (one-hot); how often each was taken over decisions of the same choices;
        numbers in order, such as widths, by how far they are from each other (thermometer). A decision that was not
        open, having one valid choice, makes no difference in the first two.
        """
        rows = np.array(architectures, dtype=np.int64).reshape(-1, self.num_decisions)
        choices, is_open = [d.choices for d in self.decisions], self.masks(rows).sum(axis=2) > 1
        parts = {
            "choices": one_hot(choices, rows, is_open),
            "counts": counts(choices, rows, is_open),
            "order": thermometer(choices, rows),
        }
        return {name: part for name, part in parts.items() if part.shape[1]}

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the picture of an architecture that may be incomplete."""
        taken = self._meaningful(prefix)
        nodes = ("input", *(f"{name}\n{choice}" for name, choice in taken))
        if len(prefix) == self.num_decisions:
            nodes += ("output",)
        return Diagram(nodes, tuple((i, i + 1, "") for i in range(len(nodes) - 1)))

    # What every space can do

    def fingerprint(self) -> str:
        """Return a short hash of everything that defines the space; equal spaces have equal ones."""
        decisions = [[d.name, [str(c) for c in d.choices]] for d in self.decisions]
        return digest([self.identity(), self.version, decisions, self.source_digest()])

    def redirect(self, prefixes: NDArray[np.int64], actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the choices (n,) that n actions stand for after n prefixes (n, t).

        A valid action means itself; an invalid action a means the (a mod k)-th of the k valid choices, so that an
        agent without masks never wastes a step.
        """
        return redirected(self.mask(prefixes), actions)

    def features(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the features of n architectures, (n, d): all ``feature_parts`` of their canonical forms, joined.

        Equal networks have equal features.
        """
        parts = self.feature_parts([self.canonical(a) for a in architectures])
        return np.concatenate(list(parts.values()), axis=1)

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices were valid at each decision of n architectures, (n, T) -> (n, T, C)."""
        if self.is_product:
            open_ = np.arange(self.max_choices) < self.num_choices[:, None]
            return np.broadcast_to(open_, (len(rows), *open_.shape))
        return np.stack([self.mask(rows[:, :t]) for t in range(self.num_decisions)], axis=1)

    def complete(self, choices: ArrayLike, taken: int = 0) -> list[Architecture]:
        """Return n valid architectures from n rows of T choices, (n, T); invalid choices are redirected.

        Args:
            choices: rows of choices, (n, T).
            taken: number of decisions, from the first, that are known to be valid.
        """
        rows = np.array(choices, dtype=np.int64, ndmin=2)
        if self.is_product:
            return to_architectures(np.where((rows >= 0) & (rows < self.num_choices), rows, rows % self.num_choices))
        for t in range(taken, self.num_decisions):
            rows[:, t] = self.redirect(rows[:, :t], rows[:, t])
        return to_architectures(rows)

    def sample(self, n: int, rng: np.random.Generator) -> list[Architecture]:
        """Return n random architectures: at each decision, every valid choice is equally likely."""
        if self.is_product:
            return to_architectures(rng.integers(self.num_choices, size=(n, self.num_decisions)))
        rows = np.zeros((n, self.num_decisions), dtype=np.int64)
        for t in range(self.num_decisions):
            keys = np.where(self.mask(rows[:, :t]), rng.random((n, self.max_choices)), -1.0)
            rows[:, t] = keys.argmax(axis=1)
        return to_architectures(rows)

    def all_architectures(self) -> NDArray[np.int64]:
        """Return all valid architectures, (size, T), in the order of their choices.

        Raises:
            InputError: there are more than ``most_listed``.
        """
        rows = self._enumerated()
        if rows is None:
            raise InputError(
                f"{type(self).__name__} has too many architectures to list, more than {self.most_listed:,}"
            )
        return rows

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """Return the architectures that differ by one decision, without repeats.

        Later choices that the change makes invalid are redirected.
        """
        rows = [
            (*architecture[:t], choice, *architecture[t + 1 :])
            for t, others in enumerate(self._others_along(architecture))
            for choice in others
        ]
        if self.is_product:
            return rows
        return [a for a in dict.fromkeys(self.complete(rows) if rows else ()) if a != architecture]

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Return a random neighbour: one of the decisions that can change, changed to one of its other choices."""
        others = self._others_along(architecture)
        open_decisions = [t for t, choices in enumerate(others) if choices]
        if not open_decisions:
            return architecture
        t = open_decisions[rng.integers(len(open_decisions))]
        choice = others[t][rng.integers(len(others[t]))]
        row = (*architecture[:t], choice, *architecture[t + 1 :])
        return row if self.is_product else self.complete(row, taken=t + 1)[0]

    def check(self, architecture: Sequence[int]) -> Architecture:
        """Return the architecture as a tuple of ints; raise InputError if it is not valid in this space."""
        try:
            row = tuple(operator.index(c) for c in architecture)
        except TypeError:
            raise InputError(
                f"an architecture of {type(self).__name__} is a sequence of integers, the indices of its choices, "
                f"got {architecture!r}"
            ) from None
        if len(row) != self.num_decisions:
            name, expected = type(self).__name__, counted(self.num_decisions, "decision")
            raise InputError(f"an architecture of {name} has {expected}, got {len(row)}")
        if all(map(operator.contains, self._ranges, row)) and self._are_valid(np.array([row])):
            return row
        for t, valid in enumerate(self._masks_along(row)):
            if not (0 <= row[t] < self.max_choices and valid[row[t]]):
                allowed = [self.decisions[t].choices[c] for c in np.flatnonzero(valid)]
                raise InputError(
                    f"choice {row[t]} is not valid for decision {self.decisions[t].name!r} of "
                    f"{type(self).__name__}; valid here: {allowed} "
                    f"(indices {np.flatnonzero(valid).tolist()})"
                )
        return row

    def check_all(self, architectures: Sequence[Sequence[int]] | NDArray[np.integer[Any]]) -> list[Architecture]:
        """Return the architectures as tuples of ints; raise InputError for the first that is not valid.

        Many at once take hardly longer than one.
        """
        if len(architectures) < 2:
            return [self.check(architecture) for architecture in architectures]
        try:
            rows = np.asarray(architectures)
        except ValueError:  # of several lengths
            rows = np.zeros(0)
        regular = rows.ndim == 2 and rows.shape[1] == self.num_decisions and np.issubdtype(rows.dtype, np.integer)
        if regular and self._are_valid(rows.astype(np.int64)):
            return to_architectures(rows)
        return [self.check(architecture) for architecture in architectures]

    def to_text(self, architecture: Architecture) -> str:
        """Return ``name=choice,name=choice``, leaving out decisions that had one valid choice."""
        return ",".join(f"{name}={choice}" for name, choice in self._meaningful(architecture))

    def from_text(self, text: str) -> Architecture:
        """Return the architecture that ``to_text`` wrote; raise InputError for any other text."""
        names_next = "|".join(re.escape(d.name) for d in self.decisions)  # a comma can stand inside a choice
        parts = re.split(rf",(?=(?:{names_next})=)", text)
        given = {name: choice for name, _, choice in (part.partition("=") for part in parts if part)}
        row: list[int] = []
        for decision in self.decisions:
            valid = np.flatnonzero(self.mask(np.array([row], dtype=np.int64).reshape(1, -1))[0])
            names = {str(decision.choices[c]): int(c) for c in valid}
            if len(valid) == 1 and decision.name not in given:
                row.append(int(valid[0]))
                continue
            choice = given.pop(decision.name, None)
            if choice not in names:
                raise InputError(f"{text!r}: expected {decision.name} of {', '.join(names)}, got {choice}")
            row.append(names[choice])
        if given:
            raise InputError(f"{text!r}: {type(self).__name__} does not ask for {', '.join(given)} here")
        return tuple(row)

    def _meaningful(self, prefix: Sequence[int]) -> list[tuple[str, Hashable]]:
        """Return (name, choice) of the decisions taken at which more than one choice was valid."""
        masks = self._masks_along(prefix)
        pairs = zip(self.decisions, prefix, masks, strict=False)
        return [(d.name, d.choices[c]) for d, c, valid in pairs if valid.sum() > 1]

    def _enumerated(self) -> NDArray[np.int64] | None:
        """Return all valid architectures, (size, T); None if there are more than ``most_listed``."""
        rows = np.zeros((1, 0), dtype=np.int64)
        for _ in range(self.num_decisions):
            parents, choices = np.nonzero(self.mask(rows))
            if len(parents) > self.most_listed:
                return None
            rows = np.column_stack([rows[parents], choices])
        return rows

    @cached_property
    def _ranges(self) -> list[range]:
        return [range(k) for k in self.num_choices.tolist()]

    @cached_property
    def _other_choices(self) -> list[list[list[int]]]:
        """Return the other choices of decision t if c is taken, as [t][c], in a space without constraints."""
        return [[[c for c in choices if c != taken] for taken in choices] for choices in self._ranges]

    def _others_along(self, architecture: Architecture) -> list[list[int]]:
        """Return the valid choices, other than the one taken, at each decision of an architecture."""
        if self.is_product:
            return [others[c] for others, c in zip(self._other_choices, architecture, strict=True)]
        masks = self._masks_along(architecture)
        pairs = zip(masks, architecture, strict=True)
        return [[c for c in np.flatnonzero(valid).tolist() if c != taken] for valid, taken in pairs]

    def _are_valid(self, rows: NDArray[np.int64]) -> bool:
        """Return whether all rows, (n, T) int64, are valid architectures."""
        if not ((rows >= 0) & (rows < self.num_choices)).all():
            return False
        steps = range(0 if self.is_product else self.num_decisions)
        every = np.arange(len(rows))
        return all(self.mask(rows[:, :t])[every, rows[:, t]].all() for t in steps)

    def _masks_along(self, prefix: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
        """Yield the mask (C,) at each of the decisions taken so far, computed on demand."""
        for t in range(len(prefix)):
            yield self.mask(np.array(prefix[:t], dtype=np.int64).reshape(1, t))[0]


def check_task(space: str, task: object) -> None:
    """Raise InputError unless the task of a space, named by its class, is one."""
    if not isinstance(task, Task):
        raise InputError(f"{space}: task must be a nasenv.Task, such as data.task, got {task!r}")


def to_architectures(rows: NDArray[np.int64]) -> list[Architecture]:
    """Return the rows, (n, T), as tuples of ints."""
    return list(map(tuple, rows.tolist()))
