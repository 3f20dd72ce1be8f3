"""Searches side by side on one cache: no design is trained twice, and nobody waits for the dead."""

import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from nasenv.cache import leases
from nasenv.cache.cache import Cache
from nasenv.trial import Measurement

PROBLEM = ("space", "evaluator", 1.0)
TIMEOUT = Measurement(None, error="timeout: the training took more than 1 s")
HOLDER = """
import sys
from nasenv.cache import leases
from nasenv.cache.cache import Cache
from nasenv.trial import Measurement
leases._BEAT_SECONDS = 0.05
problem = ("space", "evaluator", 1.0)
with Cache(sys.argv[1]) as cache:
    print(sorted(cache.claim(*problem, [(1,), (2,)])), flush=True)
    sys.stdin.readline()
    cache.add(*problem, {(1,): Measurement(0.1)})
    cache.release(*problem, [(2,)])
    print("done", flush=True)
    sys.stdin.readline()
"""
CROWD = """
import os, random, signal, sys, time
from nasenv.cache import leases
from nasenv.cache.cache import Cache
from nasenv.trial import Measurement
leases._BEAT_SECONDS, leases._DEAD_SECONDS = 0.1, 3.0
problem, designs = ("space", "evaluator", 1.0), [(k,) for k in range(60)]
path, trained = sys.argv[1:]

def search(number):
    rng, found = random.Random(number), {}
    missing = rng.sample(designs, len(designs))
    log = os.open(trained, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Cache(path) as cache:
        while missing:
            batch = missing[:5]
            mine = cache.claim(*problem, batch)
            if number == 0:
                os.write(ready, b".")
                signal.pause()
            for design in mine:
                time.sleep(rng.random() / 50)
                os.write(log, f"{design[0]}\\n".encode())
                cache.add(*problem, {design: Measurement(design[0] / 100)})
            found |= cache.find(*problem, batch)
            missing = [design for design in missing if design not in found]
            rng.shuffle(missing)
            if missing and not mine:
                time.sleep(0.02)
    assert found == {design: Measurement(design[0] / 100) for design in designs}

hears, ready = os.pipe()
children = []
for number in range(8):
    child = os.fork()
    if child == 0:
        search(number)
        os._exit(0)  # an error ends it with 1 and its traceback
    children.append(child)
    if number == 0:
        os.read(hears, 1)  # it holds five designs, which the others want too
time.sleep(0.2)
os.kill(children[0], signal.SIGKILL)
print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.fixture
def pair(place):
    with Cache(place) as one, Cache(place) as other:
        yield one, other


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "_DEAD_SECONDS", 0.5)


def beating():
    return sum(thread.name == "nasenv leases" for thread in threading.enumerate())


def looks(cache, architectures, seconds):
    """Return what a waiter gets that looks for some time, or until it gets something."""
    end = time.monotonic() + seconds
    while not (claimed := cache.claim(*PROBLEM, architectures)) and time.monotonic() < end:
        time.sleep(0.02)
    return claimed


def test_what_one_claims_another_does_not_get(pair):
    one, other = pair
    assert one.claim(*PROBLEM, [(1,), (2,)]) == {(1,), (2,)}
    assert other.claim(*PROBLEM, [(2,), (3,)]) == {(3,)}
    assert one.claim(*PROBLEM, [(1,), (2,), (3,)]) == {(1,), (2,)}
    assert other.claim("space", "another", 1.0, [(1,)]) == {(1,)}
    assert other.claim(*PROBLEM, []) == set()


def test_what_is_measured_is_not_claimed(pair):
    one, other = pair
    one.claim(*PROBLEM, [(1,)])
    one.add(*PROBLEM, {(1,): Measurement(0.5), (2,): Measurement(0.5)})
    assert one.claim(*PROBLEM, [(1,), (2,)]) == other.claim(*PROBLEM, [(1,), (2,)]) == set()


def test_a_claim_ends_with_its_release_a_failure_or_the_end_of_its_holder(pair):
    one, other = pair
    one.claim(*PROBLEM, [(1,), (2,), (3,)])
    other.release(*PROBLEM, [(1,)])  # not its own
    assert other.claim(*PROBLEM, [(1,)]) == set()
    one.release(*PROBLEM, [(1,), (9,)])
    assert other.claim(*PROBLEM, [(1,), (2,), (3,)]) == {(1,)}
    one.add(*PROBLEM, {(2,): TIMEOUT})
    assert other.claim(*PROBLEM, [(1,), (2,), (3,)]) == {(1,), (2,)}
    one.close()
    assert other.claim(*PROBLEM, [(1,), (2,), (3,)]) == {(1,), (2,), (3,)}


def test_there_is_a_thread_while_there_are_claims_and_none_in_memory(place):
    before = beating()
    with Cache(place) as cache, Cache(":memory:") as alone:
        assert alone.claim(*PROBLEM, [(1,)]) == {(1,)}
        assert beating() == before
        cache.claim(*PROBLEM, [(1,), (2,), (3,)])
        cache.add(*PROBLEM, {(1,): Measurement(0.5)})
        cache.release(*PROBLEM, [(2,)])
        assert beating() == before + 1
        cache.add(*PROBLEM, {(3,): Measurement(0.5)})
        assert beating() == before
        cache.claim(*PROBLEM, [(4,)])
        assert beating() == before + 1
    assert beating() == before


def test_the_living_keep_their_claims_and_the_forgotten_do_not_whatever_the_clock_says(place, quick, monkeypatch):
    monkeypatch.setattr(time, "time", map(float, itertools.count(10**9, -3600)).__next__)
    holder = Cache(place)
    with Cache(place) as waiter:
        holder.claim(*PROBLEM, [(1,)])
        assert looks(waiter, [(1,)], 1.5) == set()
        del holder  # never closed
        gc.collect()
        assert looks(waiter, [(1,)], 10.0) == {(1,)}


def test_who_was_suspended_with_the_holder_does_not_take_it_for_dead(pair, quick, monkeypatch):
    monkeypatch.setattr(leases, "_BEAT_SECONDS", 60.0)
    monkeypatch.setattr(leases, "_LONGEST_LOOK", 0.1)
    holder, waiter = pair
    holder.claim(*PROBLEM, [(1,)])
    assert waiter.claim(*PROBLEM, [(1,)]) == set()
    time.sleep(0.6)
    assert waiter.claim(*PROBLEM, [(1,)]) == set()


def test_a_holder_that_wakes_up_late_changes_nothing(place, quick):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with Cache(place) as cache, subprocess.Popen([sys.executable, "-c", HOLDER, place], **pipes) as holder:
        try:
            assert holder.stdout.readline() == "[(1,), (2,)]\n"
            assert looks(cache, [(1,), (2,)], 1.0) == set()
            holder.send_signal(signal.SIGSTOP)
            assert looks(cache, [(1,), (2,)], 10.0) == {(1,), (2,)}
            cache.add(*PROBLEM, {(1,): Measurement(0.2)})
            holder.send_signal(signal.SIGCONT)
            holder.stdin.write("go\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "done\n"
            assert cache.find(*PROBLEM, [(1,)]) == {(1,): Measurement(0.2)}
            with Cache(place) as third:
                assert third.claim(*PROBLEM, [(1,), (2,)]) == set()
        finally:
            holder.kill()


def test_eight_processes_train_each_design_once_though_one_is_killed(place, tmp_path):
    trained = tmp_path / "trained"
    command = [sys.executable, "-c", CROWD, place, str(trained)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == (f"{[signal.SIGKILL.value, *[0] * 7]}\n", "")
    assert Counter(map(int, trained.read_text().split())) == Counter(range(60))
    with Cache(place) as cache:
        assert len(cache) == 60


def test_the_claims_of_a_killed_process_are_free_at_once_on_the_same_machine(place):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder, Cache(place) as cache:
        holder.stdout.readline()
        assert cache.claim(*PROBLEM, [(1,)]) == set()
        holder.kill()
        holder.wait()
        assert cache.claim(*PROBLEM, [(1,), (2,)]) == {(1,), (2,)}
