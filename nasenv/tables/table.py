"""Tables of measured architectures: one CSV format, and the tables that nasenv ships.

A table is a CSV file, plain or gzipped (known by its content), UTF-8, with a header and a line for each architecture:

| column | what stands in it |
|---|---|
| `architecture` | the architecture as its space's ``to_text`` writes it; no two lines have the same |
| `val_accuracy` | validation accuracy in [0, 1]; an empty cell is an evaluation that failed |
| `test_accuracy` | test accuracy in [0, 1]; an empty cell is one that failed or was not made |
| `train_seconds` | what the training that led to `val_accuracy` cost, in seconds |
| `params`, `flops`, ... | whatever else is numeric; texts (notes, say) may stand in further columns |

Only `architecture` has to have this name: whoever reads the table says which columns hold the rest, so that there can
be, say, `val_accuracy_12_epochs` and `val_accuracy_200_epochs`. A column whose name ends in `_percent` holds percent
and is divided by 100 when it is read.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError, nearest
from nasenv.files import in_megabytes, open_file, spare_memory, user_path, write_whole
from nasenv.task import METRICS

ARCHITECTURE = "architecture"
_SHIPPED = Path(__file__).parent
_GZIP = b"\x1f\x8b"  # how a gzipped file begins
_SHARE = 16  # a table's text may take this part of the spare memory: its cells take many times as much
_MOST_COLUMNS = 1000


@dataclass(frozen=True)
class Table:
    """Holds a table of n architectures in memory.

    Args:
        path: the file.
        digest: hash of its text: equal for equal tables, gzipped or not.
        lines: (n,), the line of the file on which each architecture stands, for messages.
        architectures: (n,), texts of the architectures, distinct.
        columns: numbers (n,) by column name: those asked for, and all others that hold only numbers; nan is an
            empty cell.
    """

    path: Path
    digest: str
    lines: tuple[int, ...]
    architectures: tuple[str, ...]
    columns: Mapping[str, NDArray[np.float64]]

    def error(self, row: int, reason: str) -> InputError:
        """Return the InputError for a row (from 0), which names file and line."""
        return InputError(f"{self.path}, line {self.lines[row]}: {reason}")


def shipped() -> list[str]:
    """Return the names of the tables that come with nasenv."""
    return sorted(path.name.removesuffix(".csv.gz") for path in _SHIPPED.glob("*.csv.gz"))


def read_table(
    table: str | Path, scores: Sequence[str] = (), numbers: Sequence[str] = (), metric: str = "accuracy"
) -> Table:
    """Return a table with all its numeric columns.

    Args:
        table: a file, or the name of a shipped table.
        scores: columns that must be there and hold scores, or empty cells.
        numbers: columns that must be there and hold a finite number in each row.
        metric: metric of the scores, which are checked against its range, where that is known.

    Raises:
        InputError: no such table or column; not a table; an architecture given twice; a score outside the metric's
            range, a cell that should be a number and is none. The message names the line.
    """
    path = _find(table)
    text = _text(path)
    names, lines, rows = _parse(path, text)
    for name in (ARCHITECTURE, *scores, *numbers):
        if name not in names:
            raise InputError(f"table {path} has no column {name!r}; it has {nearest(name, names)}")
    cells = dict(zip(names, zip(*rows, strict=True), strict=True))
    found = Table(path, hashlib.sha256(text.encode()).hexdigest(), lines, cells.pop(ARCHITECTURE), {})
    _check_distinct(found)
    columns = {name: _column(found, name, cells[name], name in {*scores, *numbers}) for name in cells}
    for name in scores:
        _check_scores(found, name, columns[name], metric)
    for name in numbers:
        if len(empty := np.flatnonzero(np.isnan(columns[name]))):
            raise found.error(int(empty[0]), f"{name} is empty; expected a number")
    kept = {name: column for name, column in columns.items() if column is not None}
    return Table(path, found.digest, lines, found.architectures, kept)


def write_table(path: str | Path, architectures: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> None:
    """Write a table atomically; equal tables give equal files.

    Args:
        path: the file; gzipped where the name ends in .gz.
        architectures: (n,), texts of the architectures, distinct.
        columns: numbers (n,) by column name, in the order to write; None or nan is an empty cell.
            Those with ``accuracy`` in their name and no ``_percent`` at its end are in [0, 1].

    Raises:
        InputError: columns of unequal length, an architecture given twice, an accuracy outside [0, 1], a file that
            cannot be written.
    """
    path = Path(path)
    values = {name: _numbers(name, column) for name, column in columns.items()}
    for name, column in values.items():
        if name == ARCHITECTURE or len(column) != len(architectures):
            raise InputError(f"column {name}: expected {len(architectures)} numbers, one a row, got {len(column)}")
    made = Table(path, "", tuple(range(2, len(architectures) + 2)), tuple(architectures), values)
    _check_distinct(made)
    for name, column in values.items():
        if "accuracy" in name and not name.endswith("_percent"):
            _check_scores(made, name, column, "accuracy")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([ARCHITECTURE, *values])
    writer.writerows(zip(architectures, *(map(_cell, column.tolist()) for column in values.values()), strict=True))
    data = text.getvalue().encode()
    write_whole(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _find(table: str | Path) -> Path:
    if str(table) in shipped():
        return _SHIPPED / f"{table}.csv.gz"
    path = user_path(table)
    if not path.is_file():
        raise InputError(f"table {table}: no such file, nor a shipped table; shipped are {', '.join(shipped())}")
    return path


def _text(path: Path) -> str:
    most = spare_memory() // _SHARE
    try:
        with open_file(path) as file:
            zipped = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if zipped else file as plain:
                data = plain.read(most + 1 if zipped else min(most, os.fstat(file.fileno()).st_size) + 1)
        if len(data) > most:
            raise InputError(
                f"table {path} is larger than {in_megabytes(most)}, 1/{_SHARE} of the memory that is free; "
                "it is no table, or one for a larger machine"
            )
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"table {path} cannot be read as CSV, plain or gzipped: {error}") from error


def _parse(path: Path, text: str) -> tuple[list[str], tuple[int, ...], list[list[str]]]:
    """Return the header, and the line number and the cells of every other line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, rows = [], []
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(names) > _MOST_COLUMNS:
            raise InputError(f"{path}, line 1: a table has at most {_MOST_COLUMNS} columns, got {len(names)}")
        for row in reader:
            if row:
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a line of CSV: {error}") from error
    if len(set(names)) != len(names):
        raise InputError(f"{path}, line 1: a column is named twice: {', '.join(names)}")
    if not rows:
        raise InputError(f"table {path}: expected a header and a line for each architecture, got the header only")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            raise InputError(f"{path}, line {line}: expected {len(names)} cells as in the header, got {len(row)}")
    return names, tuple(lines), rows


def _check_distinct(table: Table) -> None:
    first: dict[str, int] = {}
    for row, text in enumerate(table.architectures):
        if first.setdefault(text, row) != row:
            raise table.error(row, f"{text!r} stands on line {table.lines[first[text]]} already")


def _column(table: Table, name: str, cells: Sequence[str], asked: bool) -> Any:
    """Return a column's values, (n,), nan for an empty cell, divided by 100 if they are in per cent.

    One that is not asked for may hold texts; None then.
    """
    column = np.array([_number(cell) if cell else math.nan for cell in cells])
    wrong = [row for row in np.flatnonzero(~np.isfinite(column)).tolist() if cells[row]]
    if wrong and asked:
        came = cells[wrong[0]]
        raise table.error(
            wrong[0], f"{name} is {came!r}; expected a finite number, or an empty cell where there is none"
        )
    if wrong:
        return None
    return column / 100 if name.endswith("_percent") else column


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _check_scores(table: Table, name: str, column: NDArray[np.float64], metric: str) -> None:
    """Raise InputError, with the line, for a score that the metric cannot have."""
    if metric not in METRICS:
        return
    lowest, highest = METRICS[metric].lowest, METRICS[metric].highest
    outside = np.flatnonzero((column < (-math.inf if lowest is None else lowest)) | (column > highest))
    if len(outside):
        factor = 100 if name.endswith("_percent") else 1
        wanted = f"{factor * highest:g} or less" if lowest is None else f"{factor * lowest:g} to {factor * highest:g}"
        hint = "; a column in percent has a name that ends in _percent" if factor == 1 and highest == 1.0 else ""
        shown = factor * float(column[outside[0]])
        raise table.error(int(outside[0]), f"{name} is {shown:g}; expected {wanted}{hint}")


def _numbers(name: str, column: Sequence[float | None]) -> NDArray[np.float64]:
    try:
        values = np.array([math.nan if v is None else v for v in column], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"column {name}: expected a number or None for each architecture") from None
    if values.ndim != 1 or np.isinf(values).any():
        raise InputError(f"column {name}: expected one finite number or None for each architecture")
    return values


def _cell(value: float) -> str:
    """Return the shortest text that reads back as the same number; an empty text for nan."""
    return "" if math.isnan(value) else repr(value).removesuffix(".0")
