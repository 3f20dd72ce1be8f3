"""The tables of a cache, and the database that holds them: SQLite here, PostgreSQL in its own file."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sql
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool, StaticPool

from nasenv.cache.keys import Key, ProblemKey, ServerUnavailable
from nasenv.errors import InputError
from nasenv.trial import Trial

_SCHEMA = 3  # 2 kept measurements by the architecture alone
_PATIENCE_SECONDS = 60.0  # for which a file that others hold, or a server that went away, is tried again
_QUIET_SECONDS = 2.0  # of which nothing is said
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 2.0  # seconds between two tries
_WAIT_SECONDS = 1.0  # for which SQLite waits in one piece, as it does not hear Ctrl-C meanwhile
_OTHERS = "give another one with --cache, or none with --cache none"
_CAUSES = {
    sqlite3.SQLITE_FULL: "cannot be written, the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "may not be written to: change its permissions",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: change its permissions or its folder's",
    sqlite3.SQLITE_NOTADB: "is not a database, or its beginning is damaged",
    sqlite3.SQLITE_CORRUPT: "is damaged: `sqlite3 FILE .recover` may save a part",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full or fails, or the file was deleted while in use",
}
_log = logging.getLogger("nasenv")
_T = TypeVar("_T")
Rows: TypeAlias = Sequence[Mapping[str, Any]]
Prepared: TypeAlias = Callable[[Connection, Rows], Iterable[Sequence[Any]]]
Lookup: TypeAlias = Callable[[Connection, ProblemKey, Iterable[Trial]], dict[Trial, Any]]

_TEXT = sql.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_KEY: dict[str, sql.types.TypeEngine[Any]] = {
    **dict.fromkeys(("space", "evaluator", "architecture"), _TEXT),
    **{"fidelity": sql.Double(), "purpose": _TEXT, "seed": sql.BigInteger()},
}
_TABLES = sql.MetaData()


def _table(name: str, value: str) -> sql.Table:
    """Return a table with one value for each trial of each problem."""
    keys: list[sql.Column[Any]] = [sql.Column(key, kind, primary_key=True) for key, kind in _KEY.items()]
    return sql.Table(name, _TABLES, *keys, sql.Column(value, _TEXT, nullable=False), sqlite_with_rowid=False)


MEASUREMENTS, LEASES = _table("measurements", "measurement"), _table("leases", "holder")
_BEAT = sql.Column("beat", sql.BigInteger, nullable=False)
HOLDERS = sql.Table("holders", _TABLES, sql.Column("holder", _TEXT, primary_key=True), _BEAT)
_VERSION = sql.Table("version", _TABLES, sql.Column("version", sql.Integer, nullable=False))


def row(key: Key) -> dict[str, Any]:
    """Return the values of a key's columns, by name.

    >>> row((ProblemKey("s", "e"), Trial((1, 2))))
    {'space': 's', 'evaluator': 'e', 'architecture': '1,2', 'fidelity': 1.0, 'purpose': 'search', 'seed': 0}
    """
    problem, trial = key
    architecture = ",".join(map(str, trial.architecture))
    return dict(zip(_KEY, (*problem, architecture, trial.fidelity, trial.purpose, trial.seed), strict=True))


def rows(values: Mapping[Key, str], name: str) -> list[dict[str, Any]]:
    """Return rows with a value in the column ``name``, sorted, so that writers cannot deadlock."""
    made = [{**row(key), name: value} for key, value in values.items()]
    return sorted(made, key=lambda columns: tuple(columns.values()))


def is_row(table: sql.Table) -> sql.ColumnElement[bool]:
    """Return the condition that a row has the key in the statement's parameters."""
    return sql.and_(*(table.c[name] == sql.bindparam(name) for name in _KEY))


class _Busy(InputError):
    """Another process holds the file."""


class Database(ABC):
    """Connects to a database that several processes use; each thread has its own connection.

    Whatever is done waits for others and is tried again, so that an ``act`` may be called several times. Drivers are in
    autocommit mode: a transaction begins where it says so. All errors are one line, `InputError`.

    Args:
        name: the file, or the URL without its password.
        engine: SQLAlchemy engine that makes its connections.
        shared: whether others can see it.

    Attributes:
        begin: the statements that begin a transaction, and one that is on the disk when it ends.
        insert: makes an INSERT that knows ON CONFLICT.
        listed: the table whose column ``value`` holds the parameter ``architectures``, which ``as_list`` makes.
        as_list: makes that parameter of texts.
        shell: format of a shell command that executes a statement, given name and statement.
    """

    begin: tuple[tuple[str, ...], tuple[str, ...]]
    insert: Callable[[sql.Table], Any]
    listed: sql.TableValuedAlias
    as_list: Callable[[list[str]], Any]
    shell: str

    def __init__(self, name: str, engine: sql.Engine, shared: bool = True) -> None:
        self.name, self.shared, self._engine = name, shared, engine
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self.find = self.lookup(MEASUREMENTS.c.measurement)
        self._keep = self.prepared(self.insert(MEASUREMENTS).on_conflict_do_nothing())

    @abstractmethod
    def _refusal(self, error: BaseException | None) -> InputError:
        """Return the error to raise for a driver's error: what is wrong, and what to do."""

    def prepare(self, patience: float | None) -> None:
        """Create the tables if there are none; ``patience`` is that of `write`.

        Raises:
            InputError: they are another program's, from another version, or cannot be written.
        """
        self.write(self._make, patience=patience)

    def _make(self, connection: Connection) -> None:
        """Create the tables within a transaction."""
        if tables := sql.inspect(connection).get_table_names():
            self._check_tables(connection, tables)
        else:
            _TABLES.create_all(connection, checkfirst=False)
        connection.execute(sql.delete(_VERSION))  # always: where nothing may be written is refused here
        connection.execute(sql.insert(_VERSION), {"version": _SCHEMA})

    def _check_tables(self, connection: Connection, tables: Sequence[str]) -> None:
        columns: set[str] = set()
        if "measurements" in tables:
            columns.update(connection.exec_driver_sql("SELECT * FROM measurements LIMIT 0").keys())
        if not columns >= {"space", "evaluator", "fidelity", "architecture", "measurement"}:
            raise InputError(f"cache {self.name} is the database of another program; {_OTHERS}")
        version = connection.scalar(sql.select(sql.func.max(_VERSION.c.version))) if "version" in tables else 0
        if version != _SCHEMA:
            newer = isinstance(version, int) and version > _SCHEMA
            whose, remedy = ("a newer", "install that") if newer else ("an earlier", "delete it")
            raise InputError(f"cache {self.name} is from {whose} version of nasenv: {remedy}, or {_OTHERS}")

    def prepared(self, statement: sql.ClauseElement) -> Prepared:
        """Return a function that executes a statement with each row of parameters; with one, it returns the rows found.

        It is compiled once and goes to the driver's own cursor: SQLAlchemy's `execute` takes several times as long as
        SQLite does.
        """
        compiled = statement.compile(dialect=self._engine.dialect)
        text, names = str(compiled), getattr(compiled, "positiontup", None)

        def execute(connection: Connection, rows: Rows) -> Iterable[Sequence[Any]]:
            parameters: Any = [tuple(map(row.__getitem__, names)) for row in rows] if names else rows
            cursor: Any = connection.connection.cursor()
            if len(parameters) == 1:
                found: Iterable[Sequence[Any]] = cursor.execute(text, parameters[0])
            else:
                found = cursor.executemany(text, parameters) or ()
            return found

        return execute

    def lookup(self, column: sql.Column[Any]) -> Lookup:
        """Return a function that finds a column's values for trials, in one statement if only architectures differ."""
        of = column.table.c
        asked = self.listed.c.value
        same = [of[name] == (asked if name == "architecture" else sql.bindparam(name)) for name in _KEY]
        # A subquery: with IN, both read the whole table where they know little of it.
        select = self.prepared(sql.select(asked, sql.select(column).where(*same).scalar_subquery()))

        def found(connection: Connection, problem: ProblemKey, trials: Iterable[Trial]) -> dict[Trial, Any]:
            values: dict[Trial, Any] = {}
            for _, group in itertools.groupby(sorted(trials, key=_rest), _rest):
                keys = [(row((problem, trial)), trial) for trial in group]
                named = {key["architecture"]: trial for key, trial in keys}
                found = select(connection, [{**keys[0][0], "architectures": self.as_list(list(named))}])
                values.update((named[name], value) for name, value in found if value is not None)
            return values

        return found

    def keep(self, connection: Connection, measurements: Mapping[Key, str]) -> None:
        """Insert measurements within a transaction; the first of a trial is kept."""
        if measurements:
            self._keep(connection, rows(measurements, "measurement"))

    def count(self, connection: Connection) -> int:
        """Return the number of measurements."""
        return connection.scalar(sql.select(sql.func.count()).select_from(MEASUREMENTS)) or 0

    def damaged(self, key: Key, error: Exception) -> InputError:
        """Return the error that a measurement is damaged, with the command that removes it."""
        columns = row(key)
        where = " AND ".join(f"{name}={value!r}" for name, value in columns.items())
        remedy = self.shell.format(self.name, f"DELETE FROM measurements WHERE {where}")
        what = f"a damaged measurement of {columns['architecture']} ({type(error).__name__}: {error})"
        return InputError(f"cache {self.name} holds {what}: `{remedy}` removes it; or {_OTHERS}")

    def read(self, act: Callable[[Connection], _T]) -> _T:
        """Return act(connection), each statement in its own transaction."""

        def once() -> _T:
            with self._engine.connect() as connection:
                return act(connection)

        return self._tried(once, None)

    def write(self, act: Callable[[Connection], _T], durable: bool = False, patience: float | None = None) -> _T:
        """Return act(connection), executed in one transaction, which is rolled back on an error.

        Args:
            act: done again where a connection is lost before the server says that it is done: twice must be as once.
            durable: it is on the disk on return; else a power cut may take it back from a file (a kill not).
            patience: seconds for which others, or the server, are waited for; None for a minute.
        """

        def once() -> _T:
            with self._engine.begin() as connection:
                for statement in self.begin[durable]:
                    connection.exec_driver_sql(statement)
                return act(connection)

        return self._tried(once, patience)

    def _tried(self, act: Callable[[], _T], patience: float | None) -> _T:
        """Return act(), retried while others hold the file or the server does not answer; see `write`."""
        seconds = _PATIENCE_SECONDS if patience is None else patience
        started, pause, said = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                return act()
            except (sql.exc.DBAPIError, self._driver_error, UnicodeError) as error:  # the last: names in a damaged file
                refusal = self._refusal(error.orig if isinstance(error, sql.exc.DBAPIError) else error)
                gone = time.monotonic() - started
                if not isinstance(refusal, ServerUnavailable | _Busy) or gone + pause > seconds:
                    raise refusal from error
                if gone > _QUIET_SECONDS and isinstance(refusal, ServerUnavailable) and not said:
                    _log.warning("%s; trying again for %.0f s", refusal, seconds)
                    said = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _rest(trial: Trial) -> tuple[float, str, int]:
    return trial.fidelity, trial.purpose, trial.seed


class SQLite(Database):
    """Connects to a SQLite file in WAL mode, which several processes use.

    Args:
        path: the file, made with its folders where missing; ":memory:" for one that lives as long as this object.

    Raises:
        InputError: it cannot be opened.
    """

    begin = (("PRAGMA synchronous=NORMAL", "BEGIN IMMEDIATE"), ("PRAGMA synchronous=FULL", "BEGIN IMMEDIATE"))
    insert = staticmethod(sqlite.insert)
    listed = sql.func.json_each(sql.bindparam("architectures")).table_valued("value")
    as_list = staticmethod(json.dumps)
    shell = 'sqlite3 {} "{}"'

    def __init__(self, path: str | Path) -> None:
        shared = str(path) != ":memory:"
        pool = QueuePool if shared else StaticPool
        engine = sql.create_engine("sqlite://", creator=self._connect, poolclass=pool)
        super().__init__(str(Path(path)), engine, shared)
        self._file: tuple[int, int] | None = None

    def _connect(self) -> sqlite3.Connection:
        self._check()  # SQLite would make another file
        try:
            if self.shared and self._file is None:
                Path(self.name).parent.mkdir(parents=True, exist_ok=True)
            return sqlite3.connect(self.name, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise self._refusal(error) from error

    def prepare(self, patience: float | None) -> None:
        """Create the tables if there are none; wait for other processes as always."""
        super().prepare(None)
        self.read(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar())
        self._file = self._file_there()

    def write(self, act: Callable[[Connection], _T], durable: bool = False, patience: float | None = None) -> _T:
        """Return act(connection), executed in one transaction; raise InputError if the file was deleted too."""
        result = super().write(act, durable, patience)
        self._check()  # last: SQLite goes on writing to a file that nobody will find
        return result

    def _refusal(self, error: BaseException | None) -> InputError:
        """Return the error to raise for a driver's error: what is wrong, and what to do."""
        damaged = sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeError) else 0
        code = getattr(error, "sqlite_errorcode", damaged) & 0xFF  # without what is special about it
        busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
        cause = _CAUSES.get(code, f"cannot be used: {error}")
        if busy:
            cause = f"is locked by another program, which has held it for {_PATIENCE_SECONDS:g} s: end that program"
        message = f"cache {self.name} {cause}; or give another file with --cache, or none with --cache none"
        return _Busy(message) if busy else InputError(message)

    def _check(self) -> None:
        if self._file is not None and self._file_there() != self._file:
            raise InputError(
                f"cache {self.name} was deleted, replaced or moved while in use, and can keep nothing any more: start"
                " the same command again"
            )

    def _file_there(self) -> tuple[int, int] | None:
        """Return device and inode of the file at the path; None if there is none."""
        try:
            status = os.stat(self.name) if self.shared else None
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if status else None
