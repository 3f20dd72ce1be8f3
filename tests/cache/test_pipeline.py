"""Statements sent to a PostgreSQL server together: their answers, however long, and what one of them spoils."""

import contextlib

import psycopg
import pytest

from nasenv.cache.pipeline import Pipeline, Session, array


@pytest.fixture
def pipeline(postgresql):
    postgresql.empty()
    with contextlib.closing(Pipeline(psycopg.connect(postgresql.url, autocommit=True))) as pipeline:
        session = Session(pipeline, whole=True)
        session.execute("DROP TABLE IF EXISTS numbers")
        session.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        session.finish()
        yield pipeline


def found(pipeline, sql, *parameters):
    return list(Session(pipeline, whole=False).execute(sql, parameters))


def test_values_come_back_as_they_went(pipeline):
    texts = ["1,2", "", 'a "quoted" \\ {word}', "NULL", "ü\n"]
    assert found(pipeline, "SELECT value FROM unnest(?::text[]) AS value", array(texts)) == [(t,) for t in texts]
    numbers = "SELECT ?::double precision = 0.1::double precision + 0.2, ?::bigint, ?::integer, ?::text"
    assert found(pipeline, numbers, 0.1 + 0.2, 2**40, -1, None) == [(True, 2**40, -1, None)]


def test_more_than_the_buffers_between_hold(pipeline):
    session, long = Session(pipeline, whole=True), "x" * 10_000
    session.executemany("SELECT repeat(?, 10)", [(long,)] * 200)
    assert session.execute("SELECT ?::integer", (7,)).fetchone() == (7,)
    session.finish()


def test_what_is_refused_takes_all_of_its_transaction_with_it(pipeline, postgresql):
    session = Session(pipeline, whole=True)
    session.executemany("INSERT INTO numbers VALUES (?)", [(1,), (2,)])
    session.execute("INSERT INTO numbers VALUES (?)", (1,))
    session.execute("INSERT INTO numbers VALUES (?)", (3,))
    with pytest.raises(psycopg.errors.UniqueViolation):
        session.finish()
    with psycopg.connect(postgresql.url) as other:
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (0,)


def test_a_transaction_that_reads_halfway_is_one_and_may_be_ended_by_the_server(pipeline, postgresql):
    session = Session(pipeline, whole=True)
    session.execute("SET idle_in_transaction_session_timeout TO '50ms'")
    session.execute("INSERT INTO numbers VALUES (?)", (1,))
    assert session.execute("SELECT count(*) FROM numbers").fetchone() == (1,)
    with psycopg.connect(postgresql.url) as other:
        other.execute("LOCK numbers")  # once the server has ended the transaction of who is suspended
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
    with pytest.raises((psycopg.errors.IdleInTransactionSessionTimeout, psycopg.OperationalError)):
        session.finish()
