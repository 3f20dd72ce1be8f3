"""Looks architectures up in a table of measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import digest, number
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.tables.table import Table, read_table
from nasenv.trial import Architecture, Measurement, Trial

_VERSION = 1  # counted up when the same table comes to give another measurement
_SECONDS = "train_seconds"
_METRICS = ("params", "flops", "latency_ms")
_LISTED = 8  # a space of at most so many times the rows is listed to read its texts; else they are read one by one


class TableEvaluator(Evaluator):
    """Looks up what was measured beforehand; `nasenv.tables.table` defines the file format.

    Everything is a look-up, so seeds make no difference: a search's trial gives ``val_column``, or below fidelity 1
    that of ``fidelities``, a confirm trial ``final_val_column``, a test trial ``test_column``. The columns of a search
    and of its end may be those after 12 and after 200 epochs, say. A row whose cell is empty is a trial that failed.

    Args:
        space: the space whose architectures stand in the table.
        table: a CSV file, plain or gzipped, or the name of a table that is shipped: chain_cnn_digits.
        val_column: score on validation data that the search is paid for.
        final_val_column: score on validation data after the final training; that of ``val_column`` where not given.
        test_column: score on test data; null where the table has none, and tests then fail, saying so.
        seconds_column: training seconds of a search. Null, or a table without train_seconds, is 0 seconds.
        metric_columns: other metrics that an agent is told; by default those of params, flops and latency_ms
            that the table has. Other columns are out of its reach.
        canonical: look up the canonical architecture instead of the one proposed, where the table has one row for each
            class of equivalent ones. Of several rows of a class, that of the canonical one counts, else the first.
        fidelities: column of each fidelity below 1, as {0.06: val_accuracy_12_epochs}; its seconds are so large a share
            of ``seconds_column``.

    Raises:
        InputError: no such table or column; a fidelity outside (0, 1); or, with the number of the line, an architecture
            of another space or given twice, a score outside the metric's range, negative seconds, a cell that is no
            number.
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
        fidelities: dict[float, str] | None = None,
    ) -> None:
        super().__init__(space)
        space = space.whole
        self.canonical, self._fidelities = canonical, dict(fidelities or {})
        for fidelity in self._fidelities:
            number("fidelities", fidelity, lambda f: 0.0 < f < 1.0, "shares between 0 and 1, each with a column")
        self._final, self._test = final_val_column or val_column, test_column
        scores = [val_column, self._final, test_column, *self._fidelities.values()]
        numbers = [*(metric_columns or ()), *({seconds_column} - {_SECONDS, None})]
        wanted = [name for name in scores if name is not None]
        found = read_table(table, wanted, [str(name) for name in numbers], space.task.metric)
        self._path, self._columns = found.path, found.columns
        self._rows = self._by_architecture(_architectures(space, found))
        self._keys: dict[Architecture, Architecture] = {}  # of the others, that which is looked up for each
        metrics = [n for n in _METRICS if n in found.columns] if metric_columns is None else list(metric_columns)
        self._metrics = _rows_of({name: found.columns[name] for name in metrics}, len(found.lines))
        self._seconds = _seconds(found, seconds_column)
        seconds = self._seconds.tolist()
        self._measurements = {a: self._measurement(row, val_column, seconds[row]) for a, row in self._rows.items()}
        columns = [val_column, self._final, test_column, seconds_column, metrics]
        self._key = [_VERSION, found.digest, *columns, canonical, sorted(self._fidelities.items())]

    def fingerprint(self) -> str:
        """Return a short hash of the table's text, the columns and a subclass's source."""
        return digest([*self._key, self.source_digest()])

    def fidelity(self, wanted: float) -> float:
        """Return the fidelity nearest to ``wanted`` that the table has a column for."""
        return min((*self._fidelities, 1.0), key=lambda fidelity: abs(fidelity - wanted))

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return the metrics of an architecture in the table."""
        return self._metrics[self._row(architecture)]

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the measurement of each trial.

        Raises:
            InputError: an architecture that the table does not have.
        """
        known = self._measurements
        try:  # in a search, nearly always
            found = [known[t.architecture] for t in trials if t.purpose == "search" and t.fidelity == 1.0]
        except KeyError:
            found = []
        return found if len(found) == len(trials) else [self._look_up(trial) for trial in trials]

    def _look_up(self, trial: Trial) -> Measurement:
        if trial.purpose == "confirm":
            return self._measurement(self._row(trial.architecture), self._final, 0.0)
        if trial.purpose == "test":
            lacking = f"the table has no {self._test or 'test score'} of this architecture"
            return self._found(self._row(trial.architecture), self._test, lacking)
        if trial.fidelity == 1.0:
            return self._measurements[self._key_of(trial.architecture)]
        row = self._row(trial.architecture)
        column = self._fidelities[trial.fidelity]
        return self._measurement(row, column, trial.fidelity * float(self._seconds[row]))

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture whose row is looked up: this one, or with ``canonical`` the canonical one."""
        return self.space.canonical(architecture) if self.canonical else architecture

    def all_measurements(self) -> Sequence[Measurement]:
        """Return the measurements of all rows; with ``canonical``, one for each equivalence class."""
        return list(self._measurements.values())

    def _by_architecture(self, architectures: Sequence[Architecture]) -> dict[Architecture, int]:
        """Return the row number, from 0, of each architecture that can be looked up."""
        rows: dict[Architecture, int] = {}
        for row, architecture in enumerate(architectures):
            key = self.representative(architecture)
            if key not in rows or architecture == key:
                rows[key] = row
        return rows

    def _row(self, architecture: Architecture) -> int:
        return self._rows[self._key_of(architecture)]

    def _key_of(self, architecture: Architecture) -> Architecture:
        """Return the architecture whose row is looked up for this one; raise InputError if there is none."""
        if architecture in self._rows:
            return architecture
        if architecture in self._keys:
            return self._keys[architecture]
        key = self.representative(self.space.check(architecture))
        if key not in self._rows:
            known = not self.canonical and self.space.canonical(key) in self._rows
            hint = "; its canonical architecture has one: give canonical=true" if known else ""
            raise InputError(f"table {self._path} has no row of the architecture {self.space.to_text(key)}{hint}")
        self._keys[architecture] = key
        return key

    def _measurement(self, row: int, column: str, seconds: float) -> Measurement:
        return self._found(row, column, f"the evaluation failed: {column} is empty in the table", seconds)

    def _found(self, row: int, column: str | None, lacking: str, seconds: float = 0.0) -> Measurement:
        """Return the measurement of a row's cell; an empty cell is a failed trial."""
        score = math.nan if column is None else float(self._columns[column][row])
        known, error = (None, lacking) if math.isnan(score) else (score, None)
        return Measurement(known, error, seconds, self._metrics[row])


def _architectures(space: SearchSpace, table: Table) -> list[Architecture]:
    """Return each row's architecture; raise InputError, with the line, for another space's text or a repeat."""
    size = space.size
    listed = size is not None and size <= _LISTED * len(table.lines)
    known = {space.to_text(a): a for a in to_architectures(space.all_architectures())} if listed else {}
    first: dict[Architecture, int] = {}
    for row, text in enumerate(table.architectures):
        architecture = known.get(text)
        if architecture is None:
            try:
                architecture = space.from_text(text)
            except InputError as error:
                raise table.error(row, f"no architecture of this {type(space).__name__}: {error}") from error
        if first.setdefault(architecture, row) != row:
            raise table.error(row, f"{text!r} is the architecture of line {table.lines[first[architecture]]}")
    return list(first)


def _seconds(table: Table, name: str | None) -> NDArray[np.float64]:
    """Return the training seconds of each row, (n,), 0 or more."""
    if name is None or name not in table.columns:
        return np.zeros(len(table.lines))
    seconds = table.columns[name]
    for row in np.flatnonzero(~(seconds >= 0)).tolist():
        raise table.error(row, f"{name} is {seconds[row]:g}; expected 0 or more seconds")
    return seconds


def _rows_of(columns: Mapping[str, NDArray[np.float64]], n: int) -> list[dict[str, float]]:
    """Return the n rows of some columns as dicts, without empty cells."""
    values: Iterable[tuple[float, ...]] = zip(*(c.tolist() for c in columns.values()), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in values] if columns else [{} for _ in range(n)]
    return [{k: v for k, v in row.items() if v == v} if any(v != v for v in row.values()) else row for row in rows]
