"""A cache whose file, disk or neighbours fail: what was kept stays, and each fault is one line that says what to do."""

import contextlib
import os
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from nasenv.cache import database
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.errors import InputError
from nasenv.trial import Measurement, Trial

PROBLEM = ProblemKey("space", "evaluator")
MANY = {Trial((k,)): Measurement(0.5, metrics={"params": float(k)}) for k in range(400)}
NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cache.db"
    with Cache(path) as cache:
        cache.add(PROBLEM, MANY)
    return path


@contextlib.contextmanager
def refused(path, *words):
    with pytest.raises(InputError) as refusal:
        yield
    message = str(refusal.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def use(path):
    with Cache(path) as cache:
        assert cache.find(PROBLEM, MANY) == MANY
        cache.claim(PROBLEM, [Trial((1000,))])
        cache.add(PROBLEM, {Trial((1000,)): Measurement(0.1)})


@contextlib.contextmanager
def other_program(path, *commands):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for command in commands:
            connection.execute(command)
        yield connection
    finally:
        connection.close()


def flip(path, start, end):
    content = bytearray(path.read_bytes())
    content[start:end] = (byte ^ 0xFF for byte in content[start:end])
    path.write_bytes(content)


@pytest.mark.parametrize(("start", "end"), [(0, 16), (16, 24), (100, 200)])
def test_a_damaged_beginning(path, start, end):
    flip(path, start, end)
    with refused(path, "damaged", "give another file with --cache"):
        Cache(path)


def test_a_damaged_page_in_the_middle(path):
    middle = path.read_bytes().index(b'{"score"', path.stat().st_size // 2) // 4096 * 4096
    flip(path, middle, middle + 4096)
    with refused(path, "damaged", "give another file with --cache"):
        use(path)


def test_damaged_bytes_of_a_measurement(path):
    start = path.read_bytes().index(b'{"score"', path.stat().st_size // 2)
    flip(path, start, start + 10)
    with refused(path, "give another file with --cache"):
        use(path)


@pytest.mark.parametrize("share", [0.002, 0.5, 0.99])
def test_a_truncated_file(path, share):
    os.truncate(path, int(share * path.stat().st_size))
    with refused(path, "damaged"):
        use(path)


def test_a_damaged_measurement_is_removed_as_the_message_says(path):
    with other_program(path) as connection:
        connection.execute("UPDATE measurements SET measurement='[[[' WHERE architecture='7'")
    with refused(path, "DELETE"), Cache(path) as cache:
        cache.find(PROBLEM, MANY)
    with Cache(path) as cache, pytest.raises(InputError) as refusal:
        cache.find(PROBLEM, MANY)
    with other_program(path, str(refusal.value).split('"')[1]), Cache(path) as cache:
        assert cache.find(PROBLEM, MANY) == {t: m for t, m in MANY.items() if t != Trial((7,))}


def test_the_file_of_another_program_is_left_as_it_is(tmp_path):
    path = tmp_path / "cache.db"
    with other_program(path, "CREATE TABLE customers (name TEXT)", "PRAGMA user_version=1"):
        pass
    before = path.read_bytes()
    with refused(path, "another program"):
        Cache(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["NORMAL", "EXCLUSIVE"])
def test_another_program_that_locks_the_file_for_a_moment_is_waited_for(path, mode, monkeypatch):
    monkeypatch.setattr(database, "_WAIT_SECONDS", 0.02)
    with other_program(path, f"PRAGMA locking_mode={mode}", "BEGIN EXCLUSIVE") as connection:
        end = threading.Timer(0.3, connection.close)
        end.start()
        started = time.monotonic()
        use(path)
        assert time.monotonic() - started > 0.2
        end.join()


@pytest.mark.parametrize("mode", ["NORMAL", "EXCLUSIVE"])
def test_another_program_that_locks_the_file_for_long_is_named(path, mode, monkeypatch):
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0.2)
    locked = other_program(path, f"PRAGMA locking_mode={mode}", "BEGIN EXCLUSIVE")
    with locked, refused(path, "is locked by another program, which has held it for 0.2 s"):
        Cache(path)
    use(path)


def test_a_lock_while_a_search_goes_on(path, monkeypatch):
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0.2)
    with Cache(path) as cache:
        cache.claim(PROBLEM, [Trial((1000,))])
        with other_program(path, "BEGIN EXCLUSIVE"):
            assert cache.find(PROBLEM, MANY) == MANY
            for act in (cache.claim, cache.release):
                with refused(path, "is locked by another program"):
                    act(PROBLEM, [Trial((1000,))])
            with refused(path, "is locked by another program"):
                cache.add(PROBLEM, {Trial((1000,)): Measurement(0.1)})
        cache.add(PROBLEM, {Trial((1000,)): Measurement(0.1)})
    with Cache(path) as cache:
        assert cache.find(PROBLEM, [Trial((1000,))]) == {Trial((1000,)): Measurement(0.1)}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_deleted_while_in_use(path, replaced):
    with Cache(path) as cache:
        cache.claim(PROBLEM, [Trial((1000,))])
        for file in path.parent.iterdir():
            file.unlink()
        if replaced:
            Cache(path).close()
        with refused(path, "deleted", "start the same command again"):
            cache.add(PROBLEM, {Trial((1000,)): Measurement(0.1)})
    assert path.exists() == replaced
    with Cache(path) as cache:
        assert len(cache) == 0


def test_what_cost_a_training_is_synced_and_what_was_looked_up_is_not(path):
    def level(cache):
        return cache._database.read(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar())

    with Cache(path) as cache:
        cache.claim(PROBLEM, [Trial((1000,))])
        cache.add(PROBLEM, {Trial((1000,)): Measurement(0.1)})
        assert level(cache) == 2  # FULL: the write-ahead log is synced with each transaction
        cache.add(PROBLEM, {Trial((1001,)): Measurement(0.1)})
        assert level(cache) == 1


@pytest.fixture
def as_a_user():
    """Return a folder of a user who is not root, who this process is meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        if user == 0:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            folder.chmod(0o700)
            os.seteuid(user)


def test_a_file_that_may_only_be_read(as_a_user):
    path = as_a_user / "cache.db"
    Cache(path).close()
    path.chmod(0o444)
    with refused(path, "may not be written to", "permissions"):
        Cache(path)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_may_only_be_read(as_a_user, there):
    path = as_a_user / "cache.db"
    if there:
        Cache(path).close()
    as_a_user.chmod(0o555)
    with refused(path, "permissions"):
        Cache(path)


def test_a_folder_that_may_not_be_entered_any_more(as_a_user):
    path = as_a_user / "cache.db"
    with Cache(path) as cache:
        as_a_user.chmod(0o000)
        with refused(path):
            cache.add(PROBLEM, {Trial((1,)): Measurement(0.1)})


@pytest.fixture
def small_disk(tmp_path):
    """Return the folder of a disk of 512 KiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_loses_nothing_that_was_kept_and_goes_on_when_there_is_room(small_disk):
    path, kept = small_disk / "cache.db", {}
    with Cache(path) as cache:
        (small_disk / "ballast").write_bytes(bytes(200_000))
        with refused(path, "the disk is full", "free some space"):
            for k in range(1000):
                cache.claim(PROBLEM, [Trial((k,))])
                measured = {Trial((k,)): Measurement(0.5, metrics={"a" * 1000: float(k)})}
                cache.add(PROBLEM, measured)
                kept |= measured
        assert cache.find(PROBLEM, [Trial((k,)) for k in range(1000)]) == kept
        assert 0 < len(kept) < 1000
        (small_disk / "ballast").unlink()
        cache.add(PROBLEM, measured)
    with Cache(path) as cache:
        assert cache.find(PROBLEM, [Trial((k,)) for k in range(1000)]) == kept | measured


@pytest.mark.parametrize("there", [False, True])
def test_a_cache_is_opened_on_a_full_disk(small_disk, there):
    path = small_disk / "cache.db"
    if there:
        Cache(path).close()
    with open(small_disk / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with refused(path, "disk is full"):
        Cache(path)
