import re
import sqlite3
import subprocess
import sys

import pytest

from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.errors import InputError
from nasenv.trial import DIVERGED, Measurement, Trial

PROBLEM = ProblemKey("space", "evaluator")
ONE, TWO, THREE = (Trial((k,)) for k in (1, 2, 3))
GOOD = Measurement(0.1 + 0.2, None, 1.5, {"params": 3.0}, (2.0, 1e-300))
SOUND = '{"score": 0.5, "error": null, "train_seconds": 0.0, "metrics": {}, "curve": []}'
SCHEMA_2 = """
CREATE TABLE measurements (space TEXT, evaluator TEXT, fidelity REAL, architecture TEXT, measurement TEXT NOT NULL,
    PRIMARY KEY (space, evaluator, fidelity, architecture)) WITHOUT ROWID;
CREATE TABLE leases (space TEXT, evaluator TEXT, fidelity REAL, architecture TEXT, holder TEXT NOT NULL);
CREATE TABLE holders (holder TEXT PRIMARY KEY, beat INTEGER NOT NULL);
PRAGMA user_version=2;
"""
WRITERS = """
import os, sys
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.trial import Measurement, Trial

def write(writer):
    with Cache(sys.argv[1]) as cache:
        for k in range(50):
            measurement = Measurement(writer / 10)
            cache.add(ProblemKey("space", "evaluator"), {Trial((writer, k)): measurement, Trial((9, k)): measurement})

waits, go = os.pipe()
for writer in range(4):
    if os.fork() == 0:
        os.close(go)
        os.read(waits, 1)
        write(writer)
        os._exit(0)  # an error ends it with 1 and its traceback
os.close(go)  # all at once, the making of the file included
sys.exit(any([os.wait()[1] for _ in range(4)]))
"""


@pytest.fixture
def cache(place):
    with Cache(place) as cache:
        yield cache


def test_what_is_added_is_found_exactly_also_by_the_next(cache, place):
    diverged = Measurement(None, error=f"{DIVERGED}: the training loss is nan")
    known = {Trial((1, 2)): GOOD, Trial((12,)): diverged}
    cache.add(PROBLEM, known)
    for reader in (cache, Cache(place)):
        assert reader.find(PROBLEM, [*known, Trial((1, 2, 0)), Trial((2, 1)), Trial(())]) == known


def test_the_first_measurement_stays(cache):
    cache.add(PROBLEM, {ONE: GOOD})
    cache.add(PROBLEM, {ONE: Measurement(0.9), TWO: Measurement(0.8)})
    assert cache.find(PROBLEM, [ONE, TWO]) == {ONE: GOOD, TWO: Measurement(0.8)}


@pytest.mark.parametrize("other", [ProblemKey("other", "evaluator"), ProblemKey("space", "other")])
def test_nothing_is_taken_for_a_measurement_of_another_problem(cache, other):
    cache.add(PROBLEM, {ONE: GOOD})
    assert cache.find(other, [ONE]) == {}
    cache.add(other, {ONE: Measurement(0.9)})
    assert cache.find(PROBLEM, [ONE]) == {ONE: GOOD}
    assert len(cache) == 2


@pytest.mark.parametrize("other", [Trial((1,), 0.1 + 0.2), Trial((1,), purpose="check"), Trial((1,), seed=1)])
def test_each_fidelity_purpose_and_seed_has_a_measurement_of_its_own(cache, other):
    cache.add(PROBLEM, {other: Measurement(0.9)})
    assert cache.find(PROBLEM, [ONE, other]) == {other: Measurement(0.9)}
    assert cache.claim(PROBLEM, [ONE, other]) == {ONE}
    cache.add(PROBLEM, {ONE: GOOD})
    assert cache.find(PROBLEM, [other, ONE]) == {ONE: GOOD, other: Measurement(0.9)}


@pytest.mark.parametrize(
    "error", ["timeout: the training took more than 1 s", "out of memory: 3 GiB", "ValueError: no"]
)
def test_what_may_end_otherwise_is_not_kept(cache, error):
    cache.add(PROBLEM, {ONE: Measurement(None, error=error)})
    assert len(cache) == 0


def test_an_empty_batch(cache):
    cache.add(PROBLEM, {})
    assert cache.find(PROBLEM, []) == {}


def test_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Cache(":memory:") as cache:
        cache.add(PROBLEM, {ONE: GOOD})
        assert cache.find(PROBLEM, [ONE]) == {ONE: GOOD}
    assert list(tmp_path.iterdir()) == []


def test_processes_that_write_one_cache_lose_nothing(place):
    subprocess.run([sys.executable, "-c", WRITERS, place], check=True)
    with Cache(place) as cache:
        own = [Trial((writer, k)) for writer in range(4) for k in range(50)]
        shared = [Trial((9, k)) for k in range(50)]
        found = cache.find(PROBLEM, own + shared)
        assert len(cache) == len(found) == 250
    assert all(found[trial].score == trial.architecture[0] / 10 for trial in own)
    assert {found[trial].score for trial in shared} <= {0.0, 0.1, 0.2, 0.3}


def refused(path):
    with pytest.raises(InputError) as refusal:
        Cache(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "cache.db"
    path.write_text("these are my notes, please keep them" * 100)
    assert "not a database" in refused(path)
    assert path.read_text().startswith("these are my notes")


def test_the_database_of_another_program(tmp_path):
    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
    database.close()
    assert "another program" in refused(path)


def test_a_newer_one(tmp_path):
    path = tmp_path / "cache.db"
    Cache(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE version SET version=4")
    database.close()
    assert "a newer version of nasenv" in refused(path)


def test_one_of_an_earlier_version(tmp_path):
    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA_2)
    database.close()
    before = path.read_bytes()
    assert re.search("an earlier version of nasenv: delete it, or give another one with --cache", refused(path))
    assert path.read_bytes() == before


def test_a_folder_in_its_place(tmp_path):
    assert "--cache none" in refused(tmp_path)


def test_a_file_where_a_folder_has_to_be(tmp_path):
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "cache.db")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "[" * 100_000, b"\xff", 5, '{"curve": []}', SOUND.replace("0.5", "Infinity")),
        *(SOUND.replace("0.5", '"0.5"'), SOUND.replace("[]", "1")),
    ],
)
def test_a_damaged_measurement(tmp_path, text):
    path = tmp_path / "cache.db"
    with Cache(path) as cache:
        cache.add(PROBLEM, {Trial((1, 2)): GOOD})
        with sqlite3.connect(path) as database:
            database.execute("UPDATE measurements SET measurement=?", (text,))
        database.close()
        with pytest.raises(InputError, match=r"cache.db holds a damaged measurement of 1,2 .* removes it") as refusal:
            cache.find(PROBLEM, [Trial((1, 2))])
    assert "\n" not in str(refusal.value)
