"""Measurements in a database, shared by searches, processes and machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from nasenv.cache.database import Away, Connection, Database
from nasenv.cache.leases import IS_PROBLEM, KEY_COLUMNS, KEY_NAMES, TABLES, Key, Leases
from nasenv.cache.sqlite import SQLite
from nasenv.errors import InputError
from nasenv.files import parse_json
from nasenv.trial import Architecture, Measurement

_SCHEMA = 2  # 1 had no leases
_MEASUREMENTS = (
    f"CREATE TABLE measurements ({KEY_COLUMNS}, measurement TEXT NOT NULL, PRIMARY KEY ({KEY_NAMES})) WITHOUT ROWID"
)
_KEEP = f"INSERT INTO measurements VALUES (?, ?, ?, ?, ?) ON CONFLICT ({KEY_NAMES}) DO NOTHING"
_LAST_SECONDS = 10.0  # for which a server is waited for at the end
_URLS = ("postgresql:/", "postgres:/")
_ENTER = "those of a run directory enter it when the same command is started again"
_log = logging.getLogger("nasenv")


class Cache:
    """A database of measurements: a SQLite file, or one on a PostgreSQL server.

    The key is (space fingerprint, evaluator fingerprint, fidelity, architecture), so that nothing is ever taken for a
    measurement of another problem. Several processes may use one file, and several machines one server. What would
    perhaps end otherwise if tried again (a timeout, out of memory) is not kept. An object is to be used in the thread
    that made it.

    So that no two processes train the same design, claim what is missing, and wait for what others are training:

        while missing:
            mine = cache.claim(*problem, missing)
            ...  # train mine; add each when it is done, or release it
            found |= cache.find(*problem, missing)
            missing = [architecture for architecture in missing if architecture not in found]
            if missing and not mine:
                time.sleep(0.2)

    A claim ends with `add`, `release` or `close`, and some ten seconds after its process died.

    A server that goes away is tried again for a minute. After that nothing is found, every claim is granted, and what
    is added waits in memory until the server answers again, for which it is tried twice a minute; the logger ``nasenv``
    says so.

    Args:
        path: the file, made with its folders where missing; ":memory:" for one that lives as long as this object; or
            postgresql://user:password@host:port/database, where tables are made in a schema ``nasenv``; the password
            may come from PGPASSWORD or ~/.pgpass.
        waits: a server that does not answer is waited for, as later; its tables must have been made before.

    Attributes:
        path: the file, or the URL without its password.

    Raises:
        InputError: a database that is not such a one, is from a newer version, cannot be written, or whose server does
            not answer. This and all else waits while other searches write, and for a minute where another program
            holds the file.
    """

    def __init__(self, path: str | Path = "runs/cache.db", waits: bool = False) -> None:
        self._database = _database(path)
        self.path = self._database.name
        self._leases = Leases(self._database)
        self._late: dict[Key, str | None] = {}  # what a server that is away is still to be told; None: not measured
        known = f"(SELECT measurement FROM measurements WHERE {IS_PROBLEM} AND architecture=value)"
        self._find = (
            f"SELECT value, {known} FROM {self._database.values}"  # unlike IN, this never reads the whole table
        )
        try:
            self._database.prepare(_SCHEMA, {0: (_MEASUREMENTS, *TABLES), 1: TABLES}, patience=None if waits else 0.0)
        except InputError as error:
            if waits and isinstance(error, Away):
                return
            self._database.close()
            raise

    def find(
        self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]
    ) -> dict[Architecture, Measurement]:
        """Return the measurements known of these architectures; space and evaluator are fingerprints.

        Raises:
            InputError: the file is damaged, or gone.
        """
        problem = (space, evaluator, fidelity)
        names = {_name(architecture): architecture for architecture in architectures}
        asked = (*problem, self._database.listed(list(names)))
        self._catch_up()
        try:
            rows = dict(self._database.read(lambda connection: [*connection.execute(self._find, asked)]))
        except Away:
            rows = {name: self._late.get((*problem, name)) for name in names}
        found = ((name, text) for name, text in rows.items() if text is not None)
        return {names[name]: self._measurement((*problem, name), text) for name, text in found}

    def _measurement(self, key: Key, text: str) -> Measurement:
        try:
            return Measurement.from_json(parse_json(text))
        except (ValueError, TypeError, KeyError) as error:
            space, evaluator, _, name = key
            row = f"architecture='{name}' AND space='{space}' AND evaluator='{evaluator}'"
            raise InputError(
                f"cache {self.path} holds a damaged measurement of {name} ({type(error).__name__}: {error}):"
                f" `{self._database.command(f'DELETE FROM measurements WHERE {row}')}` removes it;"
                " or give another one with --cache, or none with --cache none"
            ) from error

    def claim(
        self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]
    ) -> set[Architecture]:
        """Return those architectures that nobody has measured and nobody else is measuring: they are this object's now.

        Raises:
            InputError: the file cannot be written any more.
        """
        names = {_name(architecture): architecture for architecture in architectures}
        self._catch_up()
        try:
            return {names[name] for name in self._leases.claim((space, evaluator, fidelity), list(names))}
        except Away:
            late = {
                key[-1]
                for key, text in self._late.items()
                if text is not None and key[:3] == (space, evaluator, fidelity)
            }
            return {architecture for name, architecture in names.items() if name not in late}

    def release(self, space: str, evaluator: str, fidelity: float, architectures: Iterable[Architecture]) -> None:
        """Give up claims without a measurement; architectures that are not claimed do not matter.

        Raises:
            InputError: the file cannot be written any more.
        """
        self._store({(space, evaluator, fidelity, _name(architecture)): None for architecture in architectures})

    def add(
        self, space: str, evaluator: str, fidelity: float, measurements: Mapping[Architecture, Measurement]
    ) -> None:
        """Keep measurements in one transaction, and give up the claims on them; the first of an architecture stays.

        What was claimed cost a training and is on the disk on return. The rest (looked up in a table, say) survives
        the end of the process at any moment, but the last of it perhaps not a power cut.

        Raises:
            InputError: the file cannot be written any more (a full disk, say).
        """
        texts = {a: json.dumps(m.to_json()) if m.repeatable else None for a, m in measurements.items()}
        self._store({(space, evaluator, fidelity, _name(a)): text for a, text in texts.items()})

    def _store(self, told: dict[Key, str | None], patience: float | None = None) -> None:
        told = told | {key: text for key, text in self._late.items() if text is not None or key not in told}
        rows = [(*key, text) for key, text in sorted(told.items()) if text is not None]
        held = self._leases.held(sorted(told))

        def store(connection: Connection) -> None:
            connection.executemany(_KEEP, rows)
            self._leases.delete(connection, held)

        if rows or held:
            try:
                self._database.write(store, durable=bool(rows and held), patience=patience)
            except Away:
                self._late = told
                return
        self._leases.forget(held)
        self._late = {}

    def _catch_up(self) -> None:
        if self._late:
            self._store({})

    def __len__(self) -> int:
        query = "SELECT COUNT(*) FROM measurements"
        return int(self._database.read(lambda connection: connection.execute(query).fetchone()[0]))

    def close(self) -> None:
        """Give up all claims and let go of the database; what waits for a server is tried for ten seconds more."""
        if self._late:
            self._store({}, _LAST_SECONDS)
        if lost := sum(text is not None for text in self._late.values()):
            _log.warning("cache %s does not answer; %d measurements did not reach it: %s", self.path, lost, _ENTER)
        self._leases.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name(architecture: Architecture) -> str:
    return ",".join(map(str, architecture))


def _database(path: str | Path) -> Database:
    """Return the database at a path or URL; the message of a URL that cannot be used does not hold its password."""
    text = str(path)
    if not text.startswith(_URLS):
        return SQLite(path)
    try:
        from nasenv.cache.postgresql import PostgreSQL  # the driver is an extra
    except ImportError as error:
        raise InputError(
            f"a cache on a PostgreSQL server needs psycopg ({error}): pip install 'nasenv[postgres]', or give a file"
            " with --cache"
        ) from error
    return PostgreSQL(text)


from typing import NamedTuple  # noqa: E402


class Problem(NamedTuple):  # to be replaced
    """Fingerprints."""

    space: str
    evaluator: str
