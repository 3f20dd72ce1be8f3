"""A cache on a PostgreSQL server that refuses, goes away, dies and comes back; the same in files is in the others."""

import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import psycopg
import pytest

from nasenv.cache import database
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.commands.cli import main
from nasenv.errors import InputError
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Hashed

PROBLEM = ProblemKey("space", "evaluator")
ONE, TWO, THREE = (Trial((k,)) for k in (1, 2, 3))
SECRETS = ("p@ss", "p%40ss", "w:rd", "w%3Ard", "hunter2")
SPACE = ChainCNN(max_layers=2)
SCHEMA_1 = """
CREATE SCHEMA nasenv;
CREATE TABLE nasenv.version (version INTEGER NOT NULL);
INSERT INTO nasenv.version VALUES (1);
CREATE TABLE nasenv.measurements (space TEXT, evaluator TEXT, fidelity DOUBLE PRECISION, architecture TEXT,
    measurement TEXT NOT NULL, PRIMARY KEY (space, evaluator, fidelity, architecture));
"""
WRITERS = """
import os, sys
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.trial import Measurement, Trial

def write(writer, stop):
    problem = ProblemKey("space", "evaluator")
    with Cache(sys.argv[1]) as cache, open(f"{sys.argv[2]}-{writer}", "w", buffering=1) as log:
        k = 0
        while not os.path.exists(sys.argv[2]):
            claimed = cache.claim(problem, [Trial((writer, k)), Trial((9, k))])
            assert Trial((writer, k)) in claimed
            for trial in claimed:
                cache.add(problem, {trial: Measurement(writer / 10)})
                log.write("{} {}\\n".format(*trial.architecture))
            assert cache.find(problem, [Trial((writer, k))]) == {Trial((writer, k)): Measurement(writer / 10)}
            k += 1

for writer in range(4):
    if os.fork() == 0:
        write(writer, sys.argv[2])
        os._exit(0)  # an error ends it with 1 and its traceback
sys.exit(any([os.wait()[1] for _ in range(4)]))
"""


@pytest.fixture
def server(postgresql):
    """Return a server without tables, which runs again when the test is over."""
    postgresql.empty()
    yield postgresql
    postgresql.start()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(database, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr("nasenv.cache.postgresql._REST_SECONDS", 0.0)
    monkeypatch.setattr("nasenv.cache.cache._LAST_SECONDS", 0.0)


def refusal(url):
    with pytest.raises(InputError) as refused:
        Cache(url)
    message = str(refused.value)
    assert "\n" not in message
    assert not [secret for secret in SECRETS if secret in message]
    return message


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("p%40ss", "hunter2", "password authentication failed"),
        ("/postgres", "/elsewhere", 'database "elsewhere" does not exist'),
        ("//nasenv", "//nobody", 'password authentication failed for user "nobody"'),
        ("p%40ss", "p@ss", "%40 for @"),
        ("%2F", "/", "%2F for /"),
        ("%3A", "%zz", "expected postgresql://user:password@host:port/database"),
        ("://", ":/", "expected postgresql://user:password@host:port/database"),
        ("/postgres", "/postgres?colour=hunter2", "expected postgresql://"),
        ("@127.0.0.1:", ":hunter2:", "expected postgresql://"),
        ("nasenv:p%40ss%2Fw%3Ard@127.0.0.1:", "nasenv:hunter2", "expected postgresql://"),
    ],
)
def test_a_url_that_cannot_be_used(server, before, after, said):
    assert said in refusal(server.url.replace(before, after))


def test_a_server_that_does_not_run(server):
    server.stop()
    message = refusal(server.url)
    assert f"cache postgresql://nasenv@127.0.0.1:{server.port}/postgres does not answer" in message
    assert "--cache none" in message


def test_without_the_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "nasenv.cache.postgresql", None)
    assert "pip install 'psycopg[binary]'" in refusal("postgresql://nasenv:hunter2@localhost/nasenv")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("CREATE SCHEMA nasenv; CREATE TABLE nasenv.measurements (customer TEXT)", "of another program"),
        (SCHEMA_1 + "ALTER TABLE nasenv.measurements DROP COLUMN fidelity", "of another program"),
        (SCHEMA_1 + "UPDATE nasenv.version SET version=4", "a newer version of nasenv"),
        (SCHEMA_1, "an earlier version of nasenv"),
    ],
)
def test_tables_that_are_not_ours_are_left_as_they_are(server, sql, said):
    server.execute(sql)
    assert said in refusal(server.url)
    assert said in refusal(server.url)


def test_a_user_who_may_not_write(server):
    Cache(server.url).close()
    server.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'hunter2'")
    guest = server.url.replace("nasenv:p%40ss%2Fw%3Ard", "guest:hunter2")
    assert "permission denied" in refusal(guest)
    server.empty()
    assert "permission denied" in refusal(guest)


def test_a_damaged_measurement_is_removed_as_the_message_says(server):
    with Cache(server.url) as cache:
        cache.add(PROBLEM, {Trial((7,)): Measurement(0.5), Trial((8,)): Measurement(0.5)})
        server.execute("UPDATE nasenv.measurements SET measurement='[[[' WHERE architecture='7'")
        with pytest.raises(InputError, match=r"`psql postgresql://nasenv@.*` removes it") as damaged:
            cache.find(PROBLEM, [Trial((7,)), Trial((8,))])
        server.execute(str(damaged.value).split('"')[1])
        assert cache.find(PROBLEM, [Trial((7,)), Trial((8,))]) == {Trial((8,)): Measurement(0.5)}


def test_what_is_measured_while_a_claim_waits_is_not_trained_again(server):
    """At READ COMMITTED a statement does not see what others commit while it waits."""
    with Cache(server.url) as holder, Cache(server.url) as waiter, psycopg.connect(server.url) as transaction:
        assert holder.claim(PROBLEM, [ONE]) == {ONE}
        transaction.execute("DELETE FROM nasenv.leases")
        transaction.execute(
            "INSERT INTO nasenv.measurements VALUES ('space', 'evaluator', '1', 1, 'search', 0, '{\"score\": 0.5}')"
        )
        claimed = []
        claim = threading.Thread(target=lambda: claimed.append(waiter.claim(PROBLEM, [ONE])))
        claim.start()
        time.sleep(0.3)
        assert claim.is_alive()
        transaction.commit()
        claim.join()
        assert claimed == [set()]


def test_a_server_that_is_killed_and_started_again_under_load_loses_nothing(server, tmp_path):
    stop = tmp_path / "stop"
    writers = subprocess.Popen([sys.executable, "-c", WRITERS, server.url, str(stop)], stderr=subprocess.PIPE)
    with writers:
        for end in (server.kill, server.stop, server.kill):
            await_progress(tmp_path, writers)
            end()
            server.start()
        stop.touch()
        assert (writers.wait(), writers.stderr.read()) == (0, b"")
    trials = [Trial(architecture) for architecture in written(tmp_path)]
    assert set(Counter(trials).values()) == {1}, "a trial was trained twice"
    with Cache(server.url) as cache:
        found = cache.find(PROBLEM, trials)
        assert len(cache) == len(found) == len(trials) >= 60
    assert all(m.score == t.architecture[0] / 10 for t, m in found.items() if t.architecture[0] != 9)


def await_progress(folder, writers):
    """Return when each writer has written some more, or one has failed."""
    before = Counter(writer for writer, _ in written(folder))
    while writers.poll() is None:
        now = Counter(writer for writer, _ in written(folder))
        if all(now[writer] >= before[writer] + 5 for writer in range(4)):
            return
        time.sleep(0.05)


def written(folder):
    """Return what writers say is in the cache; the last line of each may be one that is being written."""
    lines = [line for log in folder.glob("stop-*") for line in log.read_text().splitlines(keepends=True)]
    return [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]


def test_what_is_measured_while_the_server_is_away_enters_it_later(server, impatient, caplog):
    with Cache(server.url) as cache, Cache(server.url) as other:
        assert cache.claim(PROBLEM, [ONE, TWO]) == {ONE, TWO}
        server.kill()
        cache.add(PROBLEM, {ONE: Measurement(0.1)})
        cache.release(PROBLEM, [TWO])
        assert cache.find(PROBLEM, [ONE, TWO]) == {ONE: Measurement(0.1)}
        assert cache.claim(PROBLEM, [ONE, TWO, THREE]) == {TWO, THREE}
        cache.add(PROBLEM, {ONE: Measurement(0.9), THREE: Measurement(0.3)})
        said = [record.getMessage() for record in caplog.records if record.name == "nasenv"]
        assert [("trying again" in line, "goes on without it" in line) for line in said] == [
            (True, False),
            (False, True),
        ]
        server.start()
        assert cache.find(PROBLEM, [ONE, THREE]) == {ONE: Measurement(0.1), THREE: Measurement(0.3)}
        assert "answers again" in caplog.messages[-1]
        assert other.find(PROBLEM, [ONE, THREE]) == {ONE: Measurement(0.1), THREE: Measurement(0.3)}
        assert other.claim(PROBLEM, [ONE, TWO, THREE]) == {TWO}


def test_a_search_outlives_its_server_and_its_next_start_brings_what_it_measured(server, impatient, tmp_path, caplog):
    evaluator, architectures = Hashed(SPACE), [SPACE.canonical(a) for a in SPACE.sample(20, np.random.default_rng(0))]
    with Cache(server.url) as cache, Search(SPACE, evaluator, cache=cache, run_dir=tmp_path) as search:
        search.evaluate(architectures[:10])
        kept = len(cache)
        server.kill()
        search.evaluate(architectures[10:])
    assert "did not reach it" in caplog.messages[-1]
    server.start()
    trials = [*map(Trial, architectures)]
    measured = dict(zip(trials, evaluator.measure(trials), strict=True))
    problem = ProblemKey(SPACE.fingerprint(), evaluator.fingerprint())
    with Cache(server.url) as cache:
        assert len(cache) == kept > 0
        evaluator.calls.clear()
        with Search(SPACE, evaluator, cache=cache, run_dir=tmp_path) as again:
            assert cache.find(problem, trials) == {t: m for t, m in measured.items() if m.repeatable}
            again.evaluate(architectures)
        assert evaluator.calls == []
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or not [secret for secret in SECRETS if secret.encode() in file.read_bytes()]


@pytest.mark.parametrize(("before", "after"), [("p%40ss", "hunter2"), ("p%40ss", "p@ss")])
def test_the_command_line_refuses_in_one_line(server, before, after, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--cache", server.url.replace(before, after)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert not [secret for secret in SECRETS if secret in err]
    assert list(tmp_path.iterdir()) == []
