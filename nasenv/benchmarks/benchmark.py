"""A published benchmark: where a user gets it, how it is read, and what is known of it to hold a reading against."""

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
    """What a benchmark says of n architectures.

    Args:
        architectures: (n,), texts of the architectures, as their space writes them.
        columns: by name, (n,) numbers each, as `nasenv.tables.table` wants them: accuracies in [0, 1].
    """

    architectures: Sequence[str]
    columns: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, numbers: Mapping[str, Mapping[str, float]]) -> Self:
        """Return the rows of numbers by column by architecture."""
        names = next(iter(numbers.values()), {})
        return cls(list(numbers), {name: [row[name] for row in numbers.values()] for name in names})


@dataclass(frozen=True)
class Published:
    """What is known of a benchmark's rows for one data set.

    Args:
        rows: how many there are.
        maxima: the largest value of some columns, accuracies in [0, 1].
    """

    rows: int
    maxima: Mapping[str, float]


class Benchmark(ABC):
    """A table of measured architectures that others published.

    Attributes:
        name: what a user calls it.
        source: what `read` takes, and where a user gets it; one line.
        published: by data set, the default first.
        options: how the table is looked up where that is not the default of `nasenv.evaluators.table.TableEvaluator`:
            its options, so that a search is paid for, charged and reported as the published ones were.
        notes: what a user has to know of the numbers, one line each.
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
        """Return the options of the space without which a table for the data set is not of it."""
        return {}

    @abstractmethod
    def read(self, dataset: str, source: Path | None) -> Rows:
        """Return what a source says, not yet verified; raise InputError where it is missing or cannot be read.

        Where ``needs_trust`` is not empty, ask before: a crafted source can run commands.
        """

    def verify(self, dataset: str, rows: Rows) -> list[str]:
        """Return what was found as it should be, a line each.

        Raises:
            InputError: the rows are not those that were published; the message says what is different.
        """
        known, space = self.published[dataset], self.space(dataset)
        architectures = [space.from_text(text) for text in rows.architectures]
        if len(architectures) != known.rows or len({*architectures}) != known.rows:
            raise self.refusal(
                dataset, f"expected {known.rows:,} distinct architectures, got {len({*architectures}):,}"
            )
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
        """Compare the parameters of some networks of the space with those published; return what was found."""
        for i in np.linspace(0, len(architectures) - 1, _BUILT).astype(int).tolist():
            with torch.device("meta"):
                built = sum(p.numel() for p in space.build(architectures[i]).parameters())
            if built != (published := rows.columns["params"][i]):
                raise self.refusal(
                    dataset, f"{rows.architectures[i]} has {published:,.0f} params, its network in nasenv {built:,}"
                )
        return f"{_BUILT} networks that nasenv builds have the published number of parameters"

    def no_source(self, what: str, source: Path | None) -> InputError:
        """Return the error that a missing or wrong ``--source`` is refused with, which says where to get it."""
        got = "" if source is None else f", got {source}"
        return InputError(f"{self.name} needs --source {what}{got}: {self.source}")

    def refusal(self, dataset: str, reason: str) -> InputError:
        """Return the error that a source is refused with which is not what was published."""
        return InputError(f"this is not {self.name} for {dataset} as published: {reason}; source: {self.source}")
