"""Measurements on disk, shared by searches and processes."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Measurement
from nasenv.spaces.space import Architecture

_SCHEMA = 1
_BUSY_SECONDS = 60.0  # how long a write waits for those of other processes


class Cache:
    """A SQLite database of measurements.

    The key is (space fingerprint, evaluator fingerprint, fidelity, architecture), so that nothing is ever taken for a
    measurement of another problem. Several processes may use one file (WAL mode). What would perhaps end otherwise if
    tried again (a timeout, out of memory) is not kept.

    Args:
        path: the file, made with its folders where missing; ":memory:" for one that lives as long as this object.

    Raises:
        InputError: a file that is not such a database, is from a newer version, or cannot be written.
    """

    def __init__(self, path: str | Path = "runs/cache.db") -> None:
        self.path = str(path)
        try:
            if self.path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._refusal(error) from error
        except InputError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._use_wal()
        self._db.execute("PRAGMA synchronous=NORMAL")
        with self._transaction():  # one process makes the table; a file that may only be read is refused here
            self._make_table()

    def _use_wal(self) -> None:
        """Switch to WAL. SQLite waits for other processes wherever it may, but not here, so this does."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _make_table(self) -> None:
        version = self._version()
        if version > _SCHEMA:
            raise InputError(f"cache {self.path} is from a newer nasenv (schema {version}, this one knows {_SCHEMA})")
        if version == 0:
            (tables,) = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if tables:
                raise InputError(f"cache {self.path} is the database of another program; give another file")
            self._db.execute(
                "CREATE TABLE measurements (space TEXT, evaluator TEXT, fidelity REAL, architecture TEXT,"
                " measurement TEXT NOT NULL, PRIMARY KEY (space, evaluator, fidelity, architecture)) WITHOUT ROWID"
            )
            self._db.execute(f"PRAGMA user_version={_SCHEMA}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:  # commits, or takes all back where it fails
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _refusal(self, error: Exception) -> InputError:
        return InputError(f"cache {self.path}: {error}; give another file with --cache, or none with --cache none")

    def find(
        self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]
    ) -> dict[Architecture, Measurement]:
        """Return the measurements known of these architectures; space and evaluator are fingerprints.

        Raises:
            InputError: the file is damaged, or gone.
        """
        query = "SELECT measurement FROM measurements WHERE space=? AND evaluator=? AND fidelity=? AND architecture=?"
        known = {}
        try:
            for architecture in architectures:
                row = self._db.execute(query, (space, evaluator, fidelity, _key(architecture))).fetchone()
                if row is not None:
                    known[architecture] = Measurement.from_json(json.loads(row[0]))
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise self._refusal(error) from error
        return known

    def add(
        self, space: str, evaluator: str, fidelity: float, measurements: Mapping[Architecture, Measurement]
    ) -> None:
        """Keep measurements in one transaction; the first one of an architecture stays.

        Raises:
            InputError: the file cannot be written any more (a full disk, say).
        """
        rows = [
            (space, evaluator, fidelity, _key(architecture), json.dumps(measurement.to_json()))
            for architecture, measurement in measurements.items()
            if measurement.repeatable
        ]
        if not rows:
            return
        try:
            with self._transaction():
                self._db.executemany("INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM measurements").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _key(architecture: Architecture) -> str:
    return ",".join(map(str, architecture))
