"""Statements to a PostgreSQL server and its answers, many on one way there and back, at a fifth of a cursor's time."""

from __future__ import annotations

import functools
import itertools
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

_BEGIN, _COMMIT = ("BEGIN ISOLATION LEVEL READ COMMITTED", "COMMIT")
_BOOLEAN, _BIGINT, _INTEGER = (
    16,
    20,
    23,
)  # types of columns, https://www.postgresql.org/docs/current/catalog-pg-type.html
_READ: dict[int, Callable[[bytes], Any]] = {_BOOLEAN: b"t".__eq__, _BIGINT: int, _INTEGER: int}  # all else is text
_Row: TypeAlias = tuple[Any, ...]
_Parameters: TypeAlias = Sequence[str | float | None]


class Pipeline:
    """A connection whose statements are each prepared once; libpq's pipeline mode.

    Args:
        connection: belongs to this object from now on, which alone uses it.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._libpq: PGconn = connection.pgconn
        self._libpq.enter_pipeline_mode()
        self._prepared: dict[str, bytes] = {}
        self._names = (f"nasenv{k}".encode() for k in itertools.count())

    def close(self) -> None:
        """Let go of the server, which takes back what was not committed."""
        self._connection.close()

    def exchange(self, statements: Iterable[tuple[str, _Parameters]]) -> list[PGresult]:
        """Return the answers to statements; they are one transaction where they do not say otherwise.

        Raises:
            psycopg.Error: one of them is refused, or the connection is lost. The connection is of no use any more.
        """
        for sql, parameters in statements:
            if sql not in self._prepared:
                self._prepared[sql] = next(self._names)
                self._libpq.send_prepare(self._prepared[sql], _numbered(sql))
            self._libpq.send_query_prepared(self._prepared[sql], [_written(value) for value in parameters])
        self._libpq.pipeline_sync()
        return list(self._answers())

    def _answers(self) -> Iterator[PGresult]:
        """Yield the answers up to the end of a transaction, those to a ``send_prepare`` too."""
        poll = select.poll()  # unlike libpq's own waiting, this hears Ctrl-C
        while True:
            unsent = self._libpq.flush()
            while not self._libpq.is_busy():
                result = self._libpq.get_result()  # None: no more of this statement
                if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                    return
                if result is not None:
                    yield _checked(result)
            poll.register(self._libpq.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            poll.poll()
            self._libpq.consume_input()


class Session:
    """What is executed on a pipeline on one occasion: a `Connection`.

    A statement waits until what it finds is asked for, or for ``finish``, and goes with those that came after it.

    Args:
        pipeline: to the server.
        whole: all is one transaction; else what is sent together is.
    """

    def __init__(self, pipeline: Pipeline, whole: bool) -> None:
        self._pipeline, self._whole = pipeline, whole
        self._begun = False
        self._waiting: deque[tuple[str, _Parameters]] = deque()

    def execute(self, sql: str, parameters: _Parameters = (), /) -> Found:
        """Execute a statement."""
        self._waiting.append((sql, parameters))
        return Found(self.send)

    def executemany(self, sql: str, rows: Iterable[_Parameters], /) -> None:
        """Execute a statement for each row of parameters."""
        self._waiting.extend((sql, row) for row in rows)

    def send(self) -> list[_Row]:
        """Return what the last statement finds; a transaction stays open meanwhile, and so the server can end it."""
        if self._whole and not self._begun:
            self._waiting.appendleft((_BEGIN, ()))
            self._begun = True
        return _rows(self._exchanged()[-1])

    def finish(self) -> None:
        """Have all done that was executed; it is committed on return."""
        if self._begun:
            self._waiting.append((_COMMIT, ()))
        if self._waiting:
            self._exchanged()

    def _exchanged(self) -> list[PGresult]:
        answers = self._pipeline.exchange(self._waiting)
        self._waiting.clear()
        return answers


class Found:
    """The rows that a statement finds, sent for when they are asked for."""

    def __init__(self, send: Callable[[], list[_Row]]) -> None:
        self._send = send

    def __iter__(self) -> Iterator[_Row]:
        return iter(self._send())

    def fetchone(self) -> _Row | None:
        """Return the next row; None where there is none."""
        return next(iter(self), None)


def array(texts: Iterable[str]) -> str:
    r"""Return texts as PostgreSQL writes an array of them.

    >>> print(array(["1,2", 'a "b" \\']))
    {"1,2","a \"b\" \\"}
    """
    quoted = ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"


@functools.lru_cache(maxsize=64)
def _numbered(sql: str) -> bytes:
    """Return a statement whose placeholders are PostgreSQL's.

    >>> _numbered("SELECT ?, ?")
    b'SELECT $1, $2'
    """
    first, *others = sql.split("?")
    return "".join([first, *(f"${k}{text}" for k, text in enumerate(others, 1))]).encode()


def _written(value: str | float | None) -> bytes | None:
    """Return a parameter as libpq wants it; a number as Python writes it, to the last bit."""
    return None if value is None else str(value).encode()


def _checked(result: PGresult) -> PGresult:
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        return result
    raise error_from_result(result)


def _rows(result: PGresult) -> list[_Row]:
    columns = [(k, _READ.get(result.ftype(k), bytes.decode)) for k in range(result.nfields)]
    return [tuple(_value(result.get_value(row, k), read) for k, read in columns) for row in range(result.ntuples)]


def _value(raw: bytes | None, read: Callable[[bytes], Any]) -> Any:
    return None if raw is None else read(raw)
