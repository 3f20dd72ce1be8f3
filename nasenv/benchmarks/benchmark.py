"""The base class of published benchmarks: how they are obtained, read and verified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from nasenv.errors import InputError
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture

_TOLERANCE = 1e-4  # of a maximum, an accuracy in [0, 1]: papers round to 0.01 points
_BUILT = 20  # networks whose parameters are counted


@dataclass(frozen=True)
class Rows:
    """Holds the rows of a benchmark for n architectures.

    Args:
        architectures: (n,), texts of the architectures, as their space writes them.
        columns: numbers (n,) by column name, as `nasenv.tables.table` wants them: accuracies in [0, 1].
    """

    architectures: Sequence[str]
    columns: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, numbers: Mapping[str, Mapping[str, float]]) -> Self:
        """Return rows from numbers by architecture and column."""
        names = next(iter(numbers.values()), {})
        return cls(list(numbers), {name: [row[name] for row in numbers.values()] for name in names})


@dataclass(frozen=True)
class Published:
    """Holds published facts about a benchmark's rows for one data set, by which they are verified.

    Args:
        rows: how many there are.
        maxima: the largest value of some columns, accuracies in [0, 1].
    """

    rows: int
    maxima: Mapping[str, float]


class Benchmark(ABC):
    """Reads and verifies a published table of measured architectures.

    Attributes:
        name: name on the command line.
        source: what `read` takes, and where a user gets it; one line.
        published: published facts by data set, the default first.
        options: how the table is looked up where that is not the default of `nasenv.evaluators.table.TableEvaluator`:
            its options, so that a search is paid for, charged and reported as the published ones were.
        notes: remarks on the numbers for users, one line each.
        needs_trust: why reading a source means trusting it; empty where it does not.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    published: ClassVar[Mapping[str, Published]]
    options: ClassVar[Mapping[str, str]] = {}
    notes: ClassVar[Sequence[str]]
    needs_trust: ClassVar[str] = ""

    @abstractmethod
    def space(self, dataset: str) -> SearchSpace:
        """Return the space of the rows."""

    def space_options(self, dataset: str) -> Mapping[str, Any]:
        """Return the options that the space needs for the data set's table."""
        return {}

    @abstractmethod
    def read(self, dataset: str, source: Path | None) -> Rows:
        """Return a source's rows, not yet verified; raise InputError if it is missing or cannot be read.

        Where ``needs_trust`` is not empty, ask before: a crafted source can run commands.
        """

    def verify(self, dataset: str, rows: Rows) -> list[str]:
        """Verify the rows against what is published, and return the verified facts, a line each.

        Raises:
            InputError: the rows are not those that were published; the message says what is different.
        """
        known, space = self.published[dataset], self.space(dataset)
        architectures = [space.from_text(text) for text in rows.architectures]
        distinct = len({*architectures})
        if len(architectures) != known.rows or distinct != known.rows:
            raise self.refusal(dataset, f"expected {known.rows:,} distinct architectures, got {distinct:,}")
        for column, expected in known.maxima.items():
            if abs(found := float(np.nanmax(rows.columns[column])) - expected) > _TOLERANCE:
                raise self.refusal(
                    dataset, f"expected a highest {column} of {expected:.5f}, got {found + expected:.5f}"
                )
        maxima = ", ".join(f"{column} {value:.2%}" for column, value in known.maxima.items())
        lines = [f"{known.rows:,} distinct architectures of {type(space).__name__}", f"known maxima: {maxima}"]
        return [*lines, self.verify_networks(dataset, space, architectures, rows)]

    def verify_networks(
        self, dataset: str, space: SearchSpace, architectures: Sequence[Architecture], rows: Rows
    ) -> str:
        """Compare the parameters of some networks with the published numbers, and return what was verified."""
        for i in np.linspace(0, len(architectures) - 1, _BUILT).astype(int).tolist():
            with torch.device("meta"):
                built = sum(p.numel() for p in space.build(architectures[i]).parameters())
            if built != (published := rows.columns["params"][i]):
                raise self.refusal(
                    dataset, f"{rows.architectures[i]} has {published:,.0f} params, its network in nasenv {built:,}"
                )
        return f"{_BUILT} networks that nasenv builds have the published number of parameters"

    def no_source(self, what: str, source: Path | None) -> InputError:
        """Return the error for a missing or wrong ``--source``, which says where to get it."""
        got = "" if source is None else f", got {source}"
        return InputError(f"{self.name} needs --source {what}{got}: {self.source}")

    def refusal(self, dataset: str, reason: str) -> InputError:
        """Return the error for a source that differs from what was published."""
        return InputError(f"this is not {self.name} for {dataset} as published: {reason}; source: {self.source}")
