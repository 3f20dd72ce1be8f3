"""The evaluator that looks up: an architecture is worth what a table says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import digest
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator, Measurement, TestResult
from nasenv.spaces.space import Architecture, SearchSpace, to_architectures
from nasenv.tables.table import Table, read_table

_VERSION = 1  # counted up when the same table comes to give another measurement
_SECONDS = "train_seconds"
_METRICS = ("params", "flops", "latency_ms")
_LISTED = 8  # a space of at most so many times the rows is listed to read its texts; else they are read one by one


class TableEvaluator(Evaluator):
    """Says of an architecture what was measured beforehand; its file format is that of `nasenv.tables.table`.

    Everything is a look-up, so seeds make no difference: ``evaluate`` gives ``val_column``, ``confirm`` gives
    ``final_val_column``, ``test`` gives ``test_column``. The columns of a search and of its end may be those after 12
    and after 200 epochs, say. A row whose validation accuracy is empty is an evaluation that failed.

    Args:
        space: the space whose designs stand in the table.
        table: a CSV file, plain or gzipped, or the name of a table that is shipped: chain_cnn_digits.
        val_column: validation accuracy that the search is paid for.
        final_val_column: validation accuracy after the final training; that of ``val_column`` where not given.
        test_column: test accuracy; null where the table has none, and tests then fail, saying so.
        seconds_column: what the training of a search cost. Null, or a table without train_seconds, is 0 seconds.
        metric_columns: what else an agent is told of a design; by default those of params, flops and latency_ms that
            the table has. Other columns are out of its reach.
        canonical: look up the canonical design instead of the one proposed, where the table has one row for each class
            of equivalent designs. Of several rows of a class, that of the canonical design counts, else the first.

    Raises:
        InputError: no such table or column; or, with the number of the line, a design of another space or given twice,
            an accuracy outside [0, 1], negative seconds, a cell that is no number.
    """

    trains = False

    def __init__(
        self,
        space: SearchSpace,
        table: str = "chain_cnn_digits",
        val_column: str = "val_accuracy",
        final_val_column: str | None = None,
        test_column: str | None = "test_accuracy",
        seconds_column: str | None = _SECONDS,
        metric_columns: Sequence[str] | None = None,
        canonical: bool = False,
    ) -> None:
        super().__init__(space)
        self.canonical = canonical
        final = final_val_column or val_column
        accuracies = [name for name in (val_column, final, test_column) if name is not None]
        numbers = [*(metric_columns or ()), *({seconds_column} - {_SECONDS, None})]
        found = read_table(table, accuracies, [str(name) for name in numbers])
        self._path = found.path
        self._rows = self._by_design(_designs(space, found))
        self._keys: dict[Architecture, Architecture] = {}  # of the other designs, that which is looked up for each
        missing = np.full(len(found.lines), math.nan)
        self._final = found.columns[final]
        self._tests = missing if test_column is None else found.columns[test_column]
        self._without_test = f"the table has no {test_column or 'test accuracy'} of this design"
        metrics = [n for n in _METRICS if n in found.columns] if metric_columns is None else list(metric_columns)
        self._metrics = _rows_of({name: found.columns[name] for name in metrics}, len(found.lines))
        self._seconds = _seconds(found, seconds_column)
        values, seconds = found.columns[val_column].tolist(), self._seconds.tolist()
        self._without_val = f"the evaluation failed: {val_column} is empty in the table"
        self._measurements = {a: self._measurement(row, values[row], seconds[row]) for a, row in self._rows.items()}
        self._key = [_VERSION, found.digest, val_column, final, test_column, seconds_column, metrics, canonical]

    def fingerprint(self) -> str:
        """Return a short hash of the table's text, the columns and a subclass's source."""
        return digest([*self._key, self.source_digest()])

    def evaluate(self, architectures: Sequence[Architecture], fidelity: float = 1.0) -> list[Measurement]:
        """Return what the table says of each design.

        Raises:
            InputError: a design that the table does not have; a fidelity below 1.
        """
        if fidelity != 1.0:
            raise InputError(f"a table knows the full training alone, fidelity 1; got {fidelity}")
        measurements = self._measurements
        try:
            return [measurements[a] for a in architectures]
        except KeyError:
            return [measurements[self._key_of(a)] for a in architectures]

    def confirm(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[list[Measurement]]:
        """Return the validation accuracy after the final training; its seconds are not known, and are 0."""
        rows = [self._row(a) for a in architectures]
        return [[self._measurement(row, float(self._final[row]), 0.0)] * len(seeds) for row in rows]

    def test(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[list[TestResult]]:
        """Return the test accuracy; there is no model."""
        return [[self._test_result(self._row(a))] * len(seeds) for a in architectures]

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the design whose row is looked up: this very one, with ``canonical`` the canonical one."""
        return self.space.canonical(architecture) if self.canonical else architecture

    def all_measurements(self) -> Sequence[Measurement]:
        """Return what the table says of all its designs; with ``canonical``, of one for each class."""
        return list(self._measurements.values())

    def _by_design(self, designs: Sequence[Architecture]) -> dict[Architecture, int]:
        """Return the row, from 0, of each design that can be looked up."""
        rows: dict[Architecture, int] = {}
        for row, design in enumerate(designs):
            key = self.representative(design)
            if key not in rows or design == key:
                rows[key] = row
        return rows

    def _row(self, architecture: Architecture) -> int:
        return self._rows[self._key_of(architecture)]

    def _key_of(self, architecture: Architecture) -> Architecture:
        """Return the design that has a row for this one."""
        if architecture in self._rows:
            return architecture
        if architecture in self._keys:
            return self._keys[architecture]
        key = self.representative(self.space.check(architecture))
        if key not in self._rows:
            known = not self.canonical and self.space.canonical(key) in self._rows
            hint = "; its canonical design has one: give canonical=true" if known else ""
            raise InputError(f"table {self._path} has no row of the design {self.space.to_text(key)}{hint}")
        self._keys[architecture] = key
        return key

    def _measurement(self, row: int, value: float, seconds: float) -> Measurement:
        if math.isnan(value):
            return Measurement(None, self._without_val, seconds, metrics=self._metrics[row])
        return Measurement(value, None, seconds, metrics=self._metrics[row])

    def _test_result(self, row: int) -> TestResult:
        value = float(self._tests[row])
        if math.isnan(value):
            return TestResult(None, self._without_test, metrics=self._metrics[row])
        return TestResult(value, metrics=self._metrics[row])


def _designs(space: SearchSpace, table: Table) -> list[Architecture]:
    """Return the design of each row; raise InputError, with the line, on a text of another space or a repeat."""
    size = space.size
    listed = size is not None and size <= _LISTED * len(table.lines)
    known = {space.to_text(a): a for a in to_architectures(space.designs())} if listed else {}
    first: dict[Architecture, int] = {}
    for row, text in enumerate(table.architectures):
        design = known.get(text)
        if design is None:
            try:
                design = space.from_text(text)
            except InputError as error:
                raise table.error(row, f"no design of this {type(space).__name__}: {error}") from error
        if first.setdefault(design, row) != row:
            raise table.error(row, f"{text!r} is the design of line {table.lines[first[design]]}")
    return list(first)


def _seconds(table: Table, name: str | None) -> NDArray[np.float64]:
    """Return what each row's training cost, (n,), 0 or more."""
    if name is None or name not in table.columns:
        return np.zeros(len(table.lines))
    seconds = table.columns[name]
    for row in np.flatnonzero(~(seconds >= 0)).tolist():
        raise table.error(row, f"{name} is {seconds[row]:g}; expected 0 or more seconds")
    return seconds


def _rows_of(columns: Mapping[str, NDArray[np.float64]], n: int) -> list[dict[str, float]]:
    """Return the n rows of some columns, without empty cells."""
    values: Iterable[tuple[float, ...]] = zip(*(c.tolist() for c in columns.values()), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in values] if columns else [{} for _ in range(n)]
    return [{k: v for k, v in row.items() if v == v} if any(v != v for v in row.values()) else row for row in rows]
