"""What a cache asks of the database that it lies in: a SQLite file, or one on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from nasenv.errors import InputError

_T = TypeVar("_T")


class Away(InputError):
    """The server does not answer, but may do so later; never said of a file."""


class Rows(Protocol):
    """What a statement has found."""

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any:
        """Return the next row; None where there is none."""


class Connection(Protocol):
    """Executes statements in the SQL that SQLite and PostgreSQL share; parameters stand as ?."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Execute a statement."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Execute a statement for each row of parameters."""


class Database(Protocol):
    """One connection to a database that several processes use; to be used in one thread.

    Whatever is done waits for other processes and is tried again, so that an ``act`` may be called several times. All
    errors are one line: `InputError`, and `Away` of a server that does not answer.

    Attributes:
        name: the file, or the URL without its password.
        values: the table, in SQL, whose column ``value`` holds what ``listed`` was given.
    """

    name: str
    values: str

    @property
    def shared(self) -> bool:
        """Whether others can see it."""

    def prepare(self, schema: int, migrations: Mapping[int, Sequence[str]], patience: float | None = 0.0) -> None:
        """Make the tables of a schema, or bring older ones to it.

        Args:
            schema: number of the schema that is known here.
            migrations: schema found, 0 for an empty database -> statements.
            patience: seconds for which a server is waited for; None for a minute.

        Raises:
            InputError: it is another program's, from a newer version, or cannot be written.
        """

    def read(self, act: Callable[[Connection], _T], patience: float | None = None) -> _T:
        """Return act(connection).

        Args:
            act: reads.
            patience: seconds for which others, or the server, are waited for; None for a minute.
        """

    def write(self, act: Callable[[Connection], _T], durable: bool = False, patience: float | None = None) -> _T:
        """Return act(connection), all of it done in one transaction or nothing.

        Args:
            act: writes.
            durable: it is on the disk on return; else a power cut may take it back (a kill not).
            patience: as for `read`.
        """

    def listed(self, values: Sequence[str]) -> Any:
        """Return the parameter of ``values``."""

    def command(self, sql: str) -> str:
        """Return what to type in a shell to execute a statement."""

    def beside(self) -> Database:
        """Return a second connection, to be used in the thread that calls this; for what need not be on the disk."""

    def close(self) -> None:
        """Let go of it."""


def refused_as_newer(name: str, found: int, known: int) -> InputError:
    """Return the error of a database whose schema is newer than the one that is known here."""
    return InputError(
        f"cache {name} is from a newer nasenv (schema {found}, this one knows {known}): install that, or give another"
        " one with --cache"
    )
