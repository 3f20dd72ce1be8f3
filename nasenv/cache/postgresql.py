"""A cache's database on a PostgreSQL server: connected to, again where it went away, and its faults in words."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from nasenv.cache.database import Away, Connection, refused_as_newer
from nasenv.cache.patience import Patience
from nasenv.cache.pipeline import Pipeline, Session, array
from nasenv.cache.server_url import parsed, without_password
from nasenv.errors import InputError

SCHEMA = "nasenv"  # of the server, a folder of tables: another program's cannot be in the way
_LOCK = 0x6E6173656E76  # "nasenv": held by who makes the tables
_DEFAULTS = {  # what the URL does not say
    "application_name": "nasenv",
    "connect_timeout": "5",
    "keepalives_idle": "10",  # seconds; a machine that vanished is noticed within half a minute
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}
_SETTINGS = (
    f"SET search_path TO {SCHEMA}; SET plan_cache_mode TO force_generic_plan;"  # all is found by its key
    " SET default_transaction_isolation TO 'read committed';"  # of what needs no BEGIN
    " SET idle_in_transaction_session_timeout TO '10s'"  # of a suspended process, whose locks others wait for
)
_TYPES = {"TEXT": 'TEXT COLLATE "C"', "REAL": "DOUBLE PRECISION", " WITHOUT ROWID": ""}  # SQLite's and ours
_PASSING = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
_OTHERS = "give another database with --cache, or none with --cache none"
_T = TypeVar("_T")
logging.getLogger("psycopg").addHandler(logging.NullHandler())  # it would print each lost connection, which we tell of


class PostgreSQL:
    """One connection to a PostgreSQL server, made when it is needed: a `Database`.

    A statement sees what others have committed when it begins (READ COMMITTED). All that is written is on the
    server's disk on return.

    Args:
        url: as libpq reads it, with several hosts and options too; what it leaves out comes from the environment
            (PGPASSWORD, PGPASSFILE, ...) or ~/.pgpass.
        relaxed: what is written last may be lost with the server.

    Raises:
        InputError: it is not a URL. No message holds the password.
    """

    values = "unnest(?::text[]) AS value"
    shared = True

    def __init__(self, url: str, relaxed: bool = False) -> None:
        given = parsed(url)
        self.name = without_password(given)
        self._url, self._conninfo = url, make_conninfo(**{**_DEFAULTS, **given})
        self._settings = _SETTINGS + ("; SET synchronous_commit TO off" if relaxed else "")
        self._pipeline: Pipeline | None = None
        self._patience = Patience(self.name)

    def prepare(self, schema: int, migrations: Mapping[int, Sequence[str]], patience: float | None = 0.0) -> None:
        """Make the tables of a schema, or bring older ones to it; see `Database`."""

        def make(connection: Connection) -> None:
            connection.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            version = self._version(connection, schema)
            if version is None and _first(connection, "SELECT to_regnamespace(?) IS NULL", SCHEMA):
                connection.execute(f"CREATE SCHEMA {SCHEMA}")
            if version is None:
                connection.execute("CREATE TABLE version (version INTEGER NOT NULL)")
            for statement in migrations.get(version or 0, ()):
                connection.execute(_translated(statement))
            connection.execute("DELETE FROM version")  # always: where nothing may be written is refused here
            connection.execute("INSERT INTO version VALUES (?)", (schema,))

        try:
            self.write(make, patience=patience)
        except Away as away:
            raise Away(f"{away}: see to its server; or {_OTHERS}") from away

    def _version(self, connection: Connection, known: int) -> int | None:
        """Return the schema of the tables, None where there are none; refuse what is not ours."""
        columns = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0"
        found = {name for (name,) in connection.execute(columns, (f"{SCHEMA}.measurements",))}
        versioned = _first(connection, "SELECT to_regclass(?) IS NOT NULL", f"{SCHEMA}.version")
        if not found and not versioned:
            return None
        version = int(_first(connection, "SELECT max(version) FROM version") or 0) if versioned else 0
        if version > known:
            raise refused_as_newer(self.name, version, known)
        if not found >= {"space", "evaluator", "fidelity", "architecture", "measurement"} or not version:
            raise InputError(
                f"cache {self.name}: its schema {SCHEMA} is of another program; give another database with --cache"
            )
        return version

    def read(self, act: Callable[[Connection], _T], patience: float | None = None) -> _T:
        """Return act(connection).

        Args:
            act: may be called several times.
            patience: None has a server that went away tried again, with `Patience`; any other, once alone.

        Raises:
            Away: the server does not answer.
            InputError: it refuses.
        """
        return self._done(act, patience, whole=False)

    def write(self, act: Callable[[Connection], _T], durable: bool = False, patience: float | None = None) -> _T:
        """Return act(connection), all of it done in one transaction or nothing; see `read`.

        Where the connection is lost before the server says that it is done, it is done again: twice must be as once.
        """
        return self._done(act, patience, whole=True)

    def _done(self, act: Callable[[Session], _T], patience: float | None, whole: bool) -> _T:
        if patience is None:
            return self._patience.tried(lambda: self._once(act, whole))
        return self._once(act, whole)

    def _once(self, act: Callable[[Session], _T], whole: bool) -> _T:
        try:
            with self._closed_by_errors():
                session = Session(self._connected(), whole)
                result = act(session)
                session.finish()
                return result
        except _PASSING as error:
            raise Away(f"cache {self.name} does not answer ({error})") from error
        except psycopg.Error as error:
            raise InputError(f"cache {self.name} cannot be used ({error}): {_OTHERS}") from error

    @contextlib.contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        """Let go of the server where something goes wrong: it then takes back what was not committed."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _connected(self) -> Pipeline:
        if self._pipeline is None:
            connection: psycopg.Connection[Any] = psycopg.connect(self._conninfo, autocommit=True)
            connection.execute(self._settings.encode())
            self._pipeline = Pipeline(connection)
        return self._pipeline

    def listed(self, values: Sequence[str]) -> str:
        """Return the parameter of ``values``."""
        return array(values)

    def command(self, sql: str) -> str:
        """Return what to type in a shell to execute a statement."""
        return f'psql {self.name} -c "SET search_path TO {SCHEMA}; {sql}"'

    def beside(self) -> PostgreSQL:
        """Return a second connection, whose last seconds may be lost with the server."""
        return PostgreSQL(self._url, relaxed=True)

    def close(self) -> None:
        """Let go of the server."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None


def _translated(statement: str) -> str:
    """Return a statement that makes a table in the server's words.

    >>> _translated("CREATE TABLE a (b TEXT, c REAL) WITHOUT ROWID")
    'CREATE TABLE a (b TEXT COLLATE "C", c DOUBLE PRECISION)'
    """
    return functools.reduce(lambda text, word: text.replace(word, _TYPES[word]), _TYPES, statement)


def _first(connection: Connection, sql: str, *parameters: object) -> Any:
    return connection.execute(sql, parameters).fetchone()[0]
