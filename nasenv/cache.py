"""Measurements on disk, shared by searches and processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from nasenv.database import Database
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Measurement
from nasenv.files import parse_json
from nasenv.leases import IS_KEY, KEY_COLUMNS, KEY_NAMES, TABLES, Key, Leases
from nasenv.spaces.space import Architecture

_SCHEMA = 2  # 1 had no leases
_MEASUREMENTS = (
    f"CREATE TABLE measurements ({KEY_COLUMNS}, measurement TEXT NOT NULL, PRIMARY KEY ({KEY_NAMES})) WITHOUT ROWID"
)


class Cache:
    """A SQLite database of measurements.

    The key is (space fingerprint, evaluator fingerprint, fidelity, architecture), so that nothing is ever taken for a
    measurement of another problem. Several processes may use one file (WAL mode). What would perhaps end otherwise if
    tried again (a timeout, out of memory) is not kept. An object is to be used in the thread that made it.

    So that no two processes train the same design, claim what is missing, and wait for what others are training:

        while missing:
            mine = cache.claim(*problem, missing)
            ...  # train mine; add each when it is done, or release it
            found |= cache.find(*problem, missing)
            missing = [architecture for architecture in missing if architecture not in found]
            if missing and not mine:
                time.sleep(0.2)

    A claim ends with `add`, `release` or `close`, and some ten seconds after its process died.

    Args:
        path: the file, made with its folders where missing; ":memory:" for one that lives as long as this object.

    Raises:
        InputError: a file that is not such a database, is from a newer version, or cannot be written. This and all
            else waits while other searches write, and for a minute where another program holds the file.
    """

    def __init__(self, path: str | Path = "runs/cache.db") -> None:
        self._database = Database(path)
        self.path = self._database.path
        self._leases = Leases(self._database)
        try:
            self._database.read(self._version_at_once)  # before anything of another program's file is changed
            self._database.use_wal()
            self._database.write(self._make_tables)
        except InputError:
            self._database.close()
            raise

    def _version_at_once(self, connection: sqlite3.Connection) -> None:
        """See to it that another process does not make the tables between two looks at the file."""
        with connection:
            connection.execute("BEGIN")
            self._version(connection)

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the schema of the file, 0 for an empty one; refuse what is not ours."""
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "measurements" not in tables if version else tables:
            raise InputError(f"cache {self.path} is the database of another program; give another file with --cache")
        if version > _SCHEMA:
            raise InputError(
                f"cache {self.path} is from a newer nasenv (schema {version}, this one knows {_SCHEMA}): install that,"
                " or give another file with --cache"
            )
        return version

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)  # again, as another process may have made them meanwhile
        for statement in {0: (_MEASUREMENTS, *TABLES), 1: TABLES}.get(version, ()):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={_SCHEMA}")  # always: a file that may only be read is refused here

    def find(
        self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]
    ) -> dict[Architecture, Measurement]:
        """Return the measurements known of these architectures; space and evaluator are fingerprints.

        Raises:
            InputError: the file is damaged, or gone.
        """
        query = f"SELECT measurement FROM measurements WHERE {IS_KEY}"
        keys = {architecture: _key(space, evaluator, fidelity, architecture) for architecture in architectures}
        rows = self._database.read(lambda c: {a: c.execute(query, key).fetchone() for a, key in keys.items()})
        return {a: self._measurement(keys[a], row[0]) for a, row in rows.items() if row is not None}

    def _measurement(self, key: Key, text: str) -> Measurement:
        try:
            return Measurement.from_json(parse_json(text))
        except (ValueError, TypeError, KeyError) as error:
            space, evaluator, _, architecture = key
            row = f"architecture='{architecture}' AND space='{space}' AND evaluator='{evaluator}'"
            raise InputError(
                f"cache {self.path} holds a damaged measurement of {architecture} ({type(error).__name__}: {error}):"
                f' `sqlite3 {self.path} "DELETE FROM measurements WHERE {row}"` removes it;'
                " or give another file with --cache, or none with --cache none"
            ) from error

    def claim(
        self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]
    ) -> set[Architecture]:
        """Return those architectures that nobody has measured and nobody else is measuring: they are this object's now.

        Raises:
            InputError: the file cannot be written any more.
        """
        keys = {_key(space, evaluator, fidelity, architecture): architecture for architecture in architectures}
        return {keys[key] for key in self._leases.claim(keys)}

    def release(self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]) -> None:
        """Give up claims without a measurement; architectures that are not claimed do not matter.

        Raises:
            InputError: the file cannot be written any more.
        """
        self._store([], [_key(space, evaluator, fidelity, architecture) for architecture in architectures])

    def add(
        self, space: str, evaluator: str, fidelity: float, measurements: Mapping[Architecture, Measurement]
    ) -> None:
        """Keep measurements in one transaction, and give up the claims on them; the first of an architecture stays.

        What was claimed cost a training and is on the disk on return. The rest (looked up in a table, say) survives
        the end of the process at any moment, but the last of it perhaps not a power cut.

        Raises:
            InputError: the file cannot be written any more (a full disk, say).
        """
        keys = {a: _key(space, evaluator, fidelity, a) for a in measurements}
        rows = [(*keys[a], json.dumps(m.to_json())) for a, m in measurements.items() if m.repeatable]
        self._store(rows, keys.values())

    def _store(self, rows: list[tuple[str, str, float, str, str]], keys: Iterable[Key]) -> None:
        held = self._leases.held(keys)

        def store(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?, ?)", rows)
            self._leases.delete(connection, held)

        if rows or held:
            self._database.write(store, durable=bool(rows and held))
            self._leases.forget(held)

    def __len__(self) -> int:
        query = "SELECT COUNT(*) FROM measurements"
        return int(self._database.read(lambda connection: connection.execute(query).fetchone()[0]))

    def close(self) -> None:
        """Give up all claims and let go of the file."""
        self._leases.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _key(space: str, evaluator: str, fidelity: float, architecture: Architecture) -> Key:
    return space, evaluator, fidelity, ",".join(map(str, architecture))
