"""A cache's database on a PostgreSQL server, which is waited for if it goes away."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import psycopg
import sqlalchemy as sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from nasenv.cache.database import Database
from nasenv.cache.keys import ServerUnavailable
from nasenv.errors import InputError

_FOLDER = "nasenv"  # a schema, as PostgreSQL says: another program's tables cannot be in the way
_LOCK = 0x6E6173656E76  # "nasenv": held by who makes the tables
_REST_SECONDS = 30.0  # between two tries of a server that was waited for in vain
_EXPECTED = (
    "expected postgresql://user:password@host:port/database, in user and password %40 for @, %2F for / and so on"
)
_DEFAULTS = {  # what the URL does not say
    "application_name": "nasenv",
    "connect_timeout": "5",
    "keepalives_idle": "10",  # seconds; a machine that vanished is noticed within half a minute
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}
_SETTINGS = (
    f"SET search_path TO {_FOLDER}; SET plan_cache_mode TO force_generic_plan;"  # all is found by its key
    " SET default_transaction_isolation TO 'read committed';"  # a statement sees what others committed before it
    " SET idle_in_transaction_session_timeout TO '10s'"  # of a suspended process, whose locks others wait for
)
_PASSING = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
_OTHERS = "give another database with --cache, or none with --cache none"
_T = TypeVar("_T")
_log = logging.getLogger("nasenv")
for _name in ("psycopg", "sqlalchemy.pool"):  # they would print each lost connection, which we tell of
    logging.getLogger(_name).addHandler(logging.NullHandler())


class PostgreSQL(Database):
    """Connects to a PostgreSQL server on demand; all writes are on its disk on return.

    A server that goes away is tried for a minute. Where that was in vain it is taken to be away for long: whoever asks
    is told so at once, but for one try each half minute, until it answers again.

    Args:
        url: as libpq reads it, with several hosts and options too; what it leaves out comes from the environment
            (PGPASSWORD, PGPASSFILE, ...) or ~/.pgpass.

    Raises:
        InputError: it is not a URL. No message holds the password.
    """

    begin = (("BEGIN",), ("BEGIN",))
    insert = staticmethod(postgresql.insert)
    listed = (
        sql.func.unnest(sql.bindparam("architectures", type_=postgresql.ARRAY(sql.Text)))
        .table_valued("value")
        .render_derived()
    )
    as_list = list[str]  # psycopg's own
    shell = f'psql {{}} -c "SET search_path TO {_FOLDER}; {{}}"'

    def __init__(self, url: str) -> None:
        parts = _parsed(url)
        self._conninfo = make_conninfo(**{**_DEFAULTS, **parts})
        self._rests_until: float | None = None  # given up until then
        engine = sql.create_engine("postgresql+psycopg://", creator=self._connect, use_native_hstore=False)
        super().__init__(_without_password(parts), engine)

    def _connect(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = psycopg.connect(self._conninfo, autocommit=True)
        connection.execute(_SETTINGS.encode())
        return connection

    def prepare(self, patience: float | None) -> None:
        """Create the tables if there are none; see `Database.prepare`."""
        try:
            super().prepare(patience)
        except ServerUnavailable as away:
            raise ServerUnavailable(f"{away}: see to its server; or {_OTHERS}") from away

    def _make(self, connection: Connection) -> None:
        """Create the tables within a transaction, one process at a time."""
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
        if not sql.inspect(connection).has_schema(_FOLDER):
            connection.execute(sql.schema.CreateSchema(_FOLDER))
        connection.execute(sql.select(sql.func.to_regclass(f"{_FOLDER}.version")))  # refused where it may not be used
        super()._make(connection)

    def _refusal(self, error: BaseException | None) -> InputError:
        """Return the error to raise for a driver's error; the next access connects anew."""
        self._engine.dispose()
        if isinstance(error, _PASSING):
            return ServerUnavailable(f"cache {self.name} does not answer ({error})")
        return InputError(f"cache {self.name} cannot be used ({error}): {_OTHERS}")

    def _tried(self, act: Callable[[], _T], patience: float | None) -> _T:
        """Return act(), retried for ``patience`` seconds; with None, as the class describes."""
        if patience is not None:
            return super()._tried(act, patience)
        given_up = self._rests_until is not None
        if self._rests_until is not None and time.monotonic() < self._rests_until:
            raise ServerUnavailable(f"cache {self.name} does not answer")
        try:
            result = super()._tried(act, 0.0 if given_up else None)
        except ServerUnavailable as away:
            if not given_up:
                _log.warning("%s; the search goes on without it, and what it measures waits to enter it", away)
            self._rests_until = time.monotonic() + _REST_SECONDS
            raise
        if given_up:
            _log.warning("cache %s answers again", self.name)
            self._rests_until = None
        return result


def _parsed(url: str) -> dict[str, Any]:
    """Return the parts of a URL; the message for an invalid one quotes nothing, since it may hold the password.

    What would be read in another way than it was meant, as a part of a password stands where a host or port does, is
    refused.
    """
    _, slashes, rest = url.partition("://")
    if slashes and rest.count("@") <= 1 and "@" not in rest.partition("/")[2]:
        with contextlib.suppress(psycopg.ProgrammingError):
            parts: dict[str, Any] = {**conninfo_to_dict(url)}
            if all(port.isdecimal() for port in parts.get("port", "0").split(",") if port):
                return parts
    raise InputError(f"--cache begins as the URL of a PostgreSQL server, but cannot be read as one: {_EXPECTED}")


def _without_password(parts: Mapping[str, Any]) -> str:
    """Return the URL of a server without its password, for messages.

    >>> _without_password({"user": "u", "password": "secret", "host": "h", "port": "1", "dbname": "d"})
    'postgresql://u@h:1/d'
    """
    user = f"{quote(parts['user'], '')}@" if "user" in parts else ""
    hosts, ports = parts.get("host", "").split(","), parts.get("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    hosts = [f"[{host}]" if ":" in host else quote(host, "") for host in hosts]
    where = ",".join(host + (port and f":{port}") for host, port in zip(hosts, ports, strict=True))
    return f"postgresql://{user}{where}/{quote(parts.get('dbname', ''))}"
