"""Searches side by side on one cache: no architecture is trained twice, and nobody waits for the dead."""

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
from nasenv.cache.keys import ProblemKey
from nasenv.trial import Measurement, Trial

PROBLEM = ProblemKey("space", "evaluator")
ONE, TWO, THREE = (Trial((k,)) for k in (1, 2, 3))
TIMEOUT = Measurement(None, error="timeout: the training took more than 1 s")
HOLDER = """
import sys
from nasenv.cache import leases
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.trial import Measurement, Trial
leases._BEAT_SECONDS = 0.05
problem = ProblemKey("space", "evaluator")
with Cache(sys.argv[1]) as cache:
    print(len(cache.claim(problem, [Trial((1,)), Trial((2,))])), flush=True)
    sys.stdin.readline()
    cache.add(problem, {Trial((1,)): Measurement(0.1)})
    cache.release(problem, [Trial((2,))])
    print("done", flush=True)
    sys.stdin.readline()
"""
CROWD = """
import os, random, signal, sys, time
from nasenv.cache import leases
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.trial import Measurement, Trial
leases._BEAT_SECONDS, leases._DEAD_SECONDS = 0.1, 3.0
problem, trials = ProblemKey("space", "evaluator"), [Trial((k,)) for k in range(60)]
path, trained = sys.argv[1:]

def search(number):
    rng, found = random.Random(number), {}
    missing = rng.sample(trials, len(trials))
    log = os.open(trained, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Cache(path) as cache:
        while missing:
            batch = missing[:5]
            mine = cache.claim(problem, batch)
            if number == 0:
                os.write(ready, b".")
                signal.pause()
            for trial in mine:
                time.sleep(rng.random() / 50)
                os.write(log, f"{trial.architecture[0]}\\n".encode())
                cache.add(problem, {trial: Measurement(trial.architecture[0] / 100)})
            found |= cache.find(problem, batch)
            missing = [trial for trial in missing if trial not in found]
            rng.shuffle(missing)
            if missing and not mine:
                time.sleep(0.02)
    assert found == {trial: Measurement(trial.architecture[0] / 100) for trial in trials}

hears, ready = os.pipe()
children = []
for number in range(8):
    child = os.fork()
    if child == 0:
        search(number)
        os._exit(0)  # an error ends it with 1 and its traceback
    children.append(child)
    if number == 0:
        os.read(hears, 1)  # it holds five trials, which the others want too
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


def looks(cache, trials, seconds):
    """Return what a waiter gets that looks for some time, or until it gets something."""
    end = time.monotonic() + seconds
    while not (claimed := cache.claim(PROBLEM, trials)) and time.monotonic() < end:
        time.sleep(0.02)
    return claimed


def test_what_one_claims_another_does_not_get(pair):
    one, other = pair
    assert one.claim(PROBLEM, [ONE, TWO]) == {ONE, TWO}
    assert other.claim(PROBLEM, [TWO, THREE]) == {THREE}
    assert one.claim(PROBLEM, [ONE, TWO, THREE]) == {ONE, TWO}
    assert other.claim(ProblemKey("space", "another"), [ONE]) == {ONE}
    assert other.claim(PROBLEM, []) == set()


def test_what_is_measured_is_not_claimed(pair):
    one, other = pair
    one.claim(PROBLEM, [ONE])
    one.add(PROBLEM, {ONE: Measurement(0.5), TWO: Measurement(0.5)})
    assert one.claim(PROBLEM, [ONE, TWO]) == other.claim(PROBLEM, [ONE, TWO]) == set()


def test_a_claim_ends_with_its_release_a_failure_or_the_end_of_its_holder(pair):
    one, other = pair
    one.claim(PROBLEM, [ONE, TWO, THREE])
    other.release(PROBLEM, [ONE])  # not its own
    assert other.claim(PROBLEM, [ONE]) == set()
    one.release(PROBLEM, [ONE, Trial((9,))])
    assert other.claim(PROBLEM, [ONE, TWO, THREE]) == {ONE}
    one.add(PROBLEM, {TWO: TIMEOUT})
    assert other.claim(PROBLEM, [ONE, TWO, THREE]) == {ONE, TWO}
    one.close()
    assert other.claim(PROBLEM, [ONE, TWO, THREE]) == {ONE, TWO, THREE}


def test_there_is_a_thread_while_there_are_claims_and_none_in_memory(place):
    before = beating()
    with Cache(place) as cache, Cache(":memory:") as alone:
        assert alone.claim(PROBLEM, [ONE]) == {ONE}
        assert beating() == before
        cache.claim(PROBLEM, [ONE, TWO, THREE])
        cache.add(PROBLEM, {ONE: Measurement(0.5)})
        cache.release(PROBLEM, [TWO])
        assert beating() == before + 1
        cache.add(PROBLEM, {THREE: Measurement(0.5)})
        assert beating() == before
        cache.claim(PROBLEM, [Trial((4,))])
        assert beating() == before + 1
    assert beating() == before


def test_the_living_keep_their_claims_and_the_forgotten_do_not_whatever_the_clock_says(place, quick, monkeypatch):
    monkeypatch.setattr(time, "time", map(float, itertools.count(10**9, -3600)).__next__)
    holder = Cache(place)
    with Cache(place) as waiter:
        holder.claim(PROBLEM, [ONE])
        assert looks(waiter, [ONE], 1.5) == set()
        del holder  # never closed
        gc.collect()
        assert looks(waiter, [ONE], 10.0) == {ONE}


def test_who_was_suspended_with_the_holder_does_not_take_it_for_dead(pair, quick, monkeypatch):
    monkeypatch.setattr(leases, "_BEAT_SECONDS", 60.0)
    monkeypatch.setattr(leases, "_LONGEST_LOOK", 0.1)
    holder, waiter = pair
    holder.claim(PROBLEM, [ONE])
    assert waiter.claim(PROBLEM, [ONE]) == set()
    time.sleep(0.6)
    assert waiter.claim(PROBLEM, [ONE]) == set()


def test_a_holder_that_wakes_up_late_changes_nothing(place, quick):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with Cache(place) as cache, subprocess.Popen([sys.executable, "-c", HOLDER, place], **pipes) as holder:
        try:
            assert holder.stdout.readline() == "2\n"
            assert looks(cache, [ONE, TWO], 1.0) == set()
            holder.send_signal(signal.SIGSTOP)
            assert looks(cache, [ONE, TWO], 10.0) == {ONE, TWO}
            cache.add(PROBLEM, {ONE: Measurement(0.2)})
            holder.send_signal(signal.SIGCONT)
            holder.stdin.write("go\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "done\n"
            assert cache.find(PROBLEM, [ONE]) == {ONE: Measurement(0.2)}
            with Cache(place) as third:
                assert third.claim(PROBLEM, [ONE, TWO]) == set()
        finally:
            holder.kill()


def test_eight_processes_train_each_architecture_once_though_one_is_killed(place, tmp_path):
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
        assert cache.claim(PROBLEM, [ONE]) == set()
        holder.kill()
        holder.wait()
        assert cache.claim(PROBLEM, [ONE, TWO]) == {ONE, TWO}
