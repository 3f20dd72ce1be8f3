"""The SQLite file of a cache: opened, read and written while other processes do the same, and its faults in words."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nasenv.cache.database import refused_as_newer
from nasenv.errors import InputError

_BUSY_SECONDS = 60.0  # how long others may hold the file before that is an error
_WAIT_SECONDS = 1.0  # in one piece, as SQLite does not hear Ctrl-C while it waits
_MEMORY = ":memory:"
_CAUSES = {
    sqlite3.SQLITE_FULL: "cannot be written, the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "may not be written to: change its permissions",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: change its permissions or its folder's",
    sqlite3.SQLITE_NOTADB: "is not a database, or its beginning is damaged",
    sqlite3.SQLITE_CORRUPT: "is damaged: `sqlite3 FILE .recover` may save a part",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full or fails, or the file was deleted while in use",
}
_T = TypeVar("_T")


class SQLite:
    """One connection to a SQLite file that several processes use (WAL mode): a `Database`.

    Args:
        path: the file, made with its folders where missing; ":memory:" for one that lives as long as this object.

    Raises:
        InputError: it cannot be opened.
    """

    values = "json_each(?)"

    def __init__(self, path: str | Path) -> None:
        self.name = str(path) if path == _MEMORY else str(Path(path))
        try:
            if self.shared:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.name, timeout=_WAIT_SECONDS, isolation_level=None)
            self._file = self._file_there()
        except (sqlite3.Error, OSError, ValueError) as error:  # ValueError: a null character in the path
            raise self.refusal(error) from error

    @property
    def shared(self) -> bool:
        """Whether others can see it."""
        return self.name != _MEMORY

    def prepare(self, schema: int, migrations: Mapping[int, Sequence[str]], patience: float | None = 0.0) -> None:
        """Make the tables of a schema, or bring older ones to it; see `Database`. Others are waited for as always."""

        def look(connection: sqlite3.Connection) -> None:
            with connection:  # another process shall not make the tables between two looks at the file
                connection.execute("BEGIN")
                self._version(connection, schema)

        def make(connection: sqlite3.Connection) -> None:
            for statement in migrations.get(self._version(connection, schema), ()):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={schema}")  # always: a file that may only be read is refused here

        self.read(look)  # before anything of another program's file is changed
        self.read(lambda connection: connection.execute("PRAGMA journal_mode=WAL").fetchone())
        self.write(make)

    def _version(self, connection: sqlite3.Connection, known: int) -> int:
        """Return the schema of the file, 0 for an empty one; refuse what is not ours."""
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "measurements" not in tables if version else tables:
            raise InputError(f"cache {self.name} is the database of another program; give another file with --cache")
        if version > known:
            raise refused_as_newer(self.name, version, known)
        return version

    def read(self, act: Callable[[sqlite3.Connection], _T], patience: float | None = None) -> _T:
        """Return act(connection).

        Args:
            act: may be called several times.
            patience: seconds for which others are waited for; None for a minute.

        Raises:
            InputError: another program holds the file for too long, or the file is damaged or gone.
        """
        deadline = time.monotonic() + (_BUSY_SECONDS if patience is None else patience)
        while True:
            try:
                return act(self._connection)
            except sqlite3.Error as error:
                if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL) or time.monotonic() > deadline:
                    raise self.refusal(error) from error
                time.sleep(0.01)
            except UnicodeDecodeError as error:  # the name of a table, say, in a damaged file
                raise self.refusal(error) from error

    def write(
        self, act: Callable[[sqlite3.Connection], _T], durable: bool = False, patience: float | None = None
    ) -> _T:
        """Return act(connection), all of it done in one transaction or nothing.

        Args:
            act: may be called several times.
            durable: it is on the disk on return, for some milliseconds; else a power cut may take it back (a kill not).
            patience: seconds for which others are waited for; None for a minute.

        Raises:
            InputError: as with `read`, or the file cannot be written (a full disk, say), or was deleted.
        """

        def whole(connection: sqlite3.Connection) -> _T:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            with connection:  # commits, or takes all back where it fails
                connection.execute("BEGIN IMMEDIATE")
                return act(connection)

        result = self.read(whole, patience)
        self._check()  # last: SQLite goes on writing to a file that nobody will find
        return result

    def listed(self, values: Sequence[str]) -> str:
        """Return the parameter of ``values``."""
        return json.dumps(values)

    def command(self, sql: str) -> str:
        """Return what to type in a shell to execute a statement."""
        return f'sqlite3 {self.name} "{sql}"'

    def beside(self) -> SQLite:
        """Return a second connection, to be used in the thread that calls this.

        Raises:
            InputError: the file was deleted or replaced.
        """
        self._check()
        return SQLite(self.name)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def refusal(self, error: Exception) -> InputError:
        """Return what is wrong, in words, and what to do."""
        if _code(error) == sqlite3.SQLITE_BUSY:
            cause = f"is locked by another program, which has held it for {_BUSY_SECONDS:g} s: end that program"
        else:
            code = sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else _code(error)
            cause = _CAUSES.get(code, f"cannot be used: {error}")
        return InputError(f"cache {self.name} {cause}; or give another file with --cache, or none with --cache none")

    def _check(self) -> None:
        if self._file_there() != self._file:
            raise InputError(
                f"cache {self.name} was deleted, replaced or moved while in use, and can keep nothing any more: start"
                " the same command again"
            )

    def _file_there(self) -> tuple[int, int] | None:
        """Return which file lies at the path; None for none, or none that can be seen."""
        try:
            status = os.stat(self.name) if self.shared else None
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if status else None


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what is special about it
