"""A pool that is made ready, resized and paused."""

import itertools
import os
import signal
import threading
import time
from contextlib import closing

import pytest

import nasenv.workers.pool
from nasenv.errors import InputError
from nasenv.workers.pool import WorkerPool
from nasenv.workers.worker import Worker

LIMIT_SECONDS = 0.5  # of a job


def timed(seconds):
    """Return when the job began and when it ended."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def failed(job, reason, seconds):
    return reason


@pytest.fixture(scope="module")
def pool():
    with closing(WorkerPool(timed, 2, LIMIT_SECONDS, grace_seconds=0.0)) as pool:
        yield pool


def briefly(n, seconds=0.03):
    return [seconds + i / 10_000 for i in range(n)]


# Ready


def test_it_is_ready_when_it_is_made(pool):
    assert pool.ready() == 2 == len(pool.pids)


def test_workers_that_died_are_replaced_before_there_is_a_job(pool):
    before = pool.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert pool.ready() == 2
    assert len(pool.pids) == 2
    assert not pool.pids & before


def test_more_are_ready_where_it_has_grown_and_the_surplus_ends_where_it_has_shrunk(pool):
    pool.size = 3
    assert pool.ready() == 3 == len(pool.pids)
    for done, _ in enumerate(pool.stream(briefly(9), failed), 1):
        if done == 3:
            pool.size = 2
    assert pool.ready() == 2 == len(pool.pids)


def test_those_at_work_are_not_idle(pool):
    stream = pool.stream([0.01, 0.3], failed)
    next(stream)
    assert pool.ready() == 1
    assert len(list(stream)) == 1


class Warming:
    """Remembers when it warmed up, and says so; at a job that is to die once, it dies where it was warm."""

    def __init__(self):
        self.began = self.ended = None

    def warm_up(self):
        self.began, self.ended = timed(1.0)  # longer than one worker starts after the other

    def work(self, job):
        if job == "dies where it is warm" and self.began is not None:
            os._exit(1)
        time.sleep(0.1)  # so that each worker gets one
        return self.began, self.ended, os.getpid()


def test_workers_warm_up_all_at_once_before_they_are_ready():
    warming = Warming()
    with closing(WorkerPool(warming.work, 2, None, warm_up=warming.warm_up)) as pool:
        ready = time.monotonic()
        answers = [answer for _, answer in pool.stream(range(2), failed)]
        assert {pid for *_, pid in answers} == pool.pids
        begins, ends = [began for began, *_ in answers], [ended for _, ended, _ in answers]
        assert max(begins) < min(ends) < max(ends) < ready


def test_one_that_takes_the_place_of_another_does_not_keep_its_job_waiting():
    warming = Warming()
    with closing(WorkerPool(warming.work, 1, None, warm_up=warming.warm_up)) as pool:
        assert pool.starts == 1
        ((_, (began, *_)),) = pool.stream(["dies where it is warm"], failed)
        assert began is None
        assert pool.starts == 2


def process(job):
    return job, os.getpid()


def test_a_process_whose_answer_says_that_it_is_spoilt_does_no_other_job():
    with closing(WorkerPool(process, 1, None, spoilt=lambda answer: answer[0] == "spoils")) as pool:
        pids = [pid for _, (_, pid) in pool.stream(["good", "spoils", "good", "good"], failed)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


class Frail(Worker):
    """Dies while it starts, so many times."""

    deaths = itertools.repeat(False)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        if next(self.deaths):
            self.kill()


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_worker_that_dies_while_it_starts_is_started_again_but_not_for_ever(pool, monkeypatch, deaths):
    monkeypatch.setattr(nasenv.workers.pool, "Worker", Frail)
    monkeypatch.setattr(Frail, "deaths", itertools.chain([True] * deaths, itertools.repeat(False)))
    stream = pool.stream([0.01, 5.0, 0.02], failed)  # the second hangs, and is tried again
    if deaths == 2:
        assert dict(stream)[5.0] == "timeout: the worker hung and was ended, twice"
    else:
        assert {next(stream)[0], next(stream)[0]} == {0.01, 0.02}
        with pytest.raises(InputError, match=r"ended before they were ready \(the worker process was killed"):
            next(stream)
    assert pool.ready() == 2 == len(pool.pids)


# Pause


def held_apart(answers, pauses):
    """Return whether no job was at work in any of the pauses."""
    return all(ended <= start or end <= began for began, ended in answers for start, end in pauses)


def rest(pool, seconds, pauses):
    with pool.pause():
        start = time.monotonic()
        time.sleep(seconds)
        pauses.append((start, time.monotonic()))


def test_between_two_answers_no_job_is_at_work_while_it_is_paused(pool):
    pauses, answers = [], {}
    for job, answer in pool.stream(briefly(12), failed):
        answers[job] = answer
        if len(answers) in (1, 2, 7):
            rest(pool, 0.1, pauses)
    assert sorted(answers) == briefly(12)
    assert held_apart(answers.values(), pauses)
    assert len(pauses) == 3


@pytest.mark.parametrize("seconds", [0.0, 0.03])
def test_a_pause_of_another_thread_holds_a_stream_back(pool, seconds):
    answers, pauses, over = {}, [], threading.Event()
    jobs = itertools.takewhile(lambda _: not over.is_set(), itertools.count())
    stream = pool.stream((seconds + i * 1e-9 for i in jobs), failed)
    searching = threading.Thread(target=lambda: answers.update(stream))
    searching.start()
    for _ in range(4):
        time.sleep(0.05)
        rest(pool, 0.1, pauses)
    over.set()
    searching.join()
    assert held_apart(answers.values(), pauses)
    between = [(end, start) for (_, end), (start, _) in itertools.pairwise(pauses)]
    assert all(any(end < began < start for began, _ in answers.values()) for end, start in between)


def test_a_job_that_hangs_or_dies_keeps_no_pause_waiting_and_is_tried_again(pool):
    answers = {}
    for job, answer in pool.stream([0.01, 5.0, 0.02], failed):
        answers[job] = answer
        if len(answers) == 1:
            began = time.monotonic()
            with pool.pause():
                assert LIMIT_SECONDS / 2 < time.monotonic() - began < 3 * LIMIT_SECONDS
    assert answers.pop(5.0) == "timeout: the worker hung and was ended, twice"
    assert set(answers) == {0.01, 0.02}


def test_a_stream_that_begins_in_a_pause_has_the_machine_for_itself(pool):
    outer = pool.stream(briefly(6), failed)
    answers = [next(outer)[1]]
    with pool.pause(), pool.pause():
        ((began, ended),) = dict(pool.stream([0.05], failed)).values()
    answers += [answer for _, answer in outer]
    assert held_apart(answers, [(began, ended)])
    assert len(answers) == 6
