import os
import signal
from contextlib import closing

import numpy as np
import pytest

from nasenv.data.dataset import load_dataset
from nasenv.errors import InputError
from nasenv.evaluators import training
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.training.cuda_graphs import CAPTURE_FAILED
from nasenv.training.devices import device_environments
from nasenv.training.trainer import TrainingResult
from nasenv.trial import Trial
from nasenv.workers.concurrency import Concurrency
from nasenv.workers.pool import WorkerPool


class Clock:
    """Stands still but for what it is told; for `Concurrency`."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def do_batch(concurrency, clock, trainings, rate_of, started=False):
    """Do a batch of so many trainings, at a rate that so many at once come to; a worker may be started meanwhile."""
    concurrency.begin(0)
    for _ in range(trainings):
        clock.seconds += 1 / rate_of(concurrency.now)
        concurrency.ended(1.0, int(started))
    concurrency.look(int(started))


def found(rate_of, least=1, most=16, trainings=64, batches=200):
    """Return the number that is settled on where so many at once come to such a rate."""
    clock = Clock()
    concurrency = Concurrency(least, most, clock=clock)
    for _ in range(batches):
        do_batch(concurrency, clock, trainings, rate_of)
    return concurrency.now


@pytest.mark.parametrize(
    ("rate_of", "expected"),
    [
        (lambda n: n, 16),  # as many as there may be
        (lambda n: 1.0, 1),  # a second gains nothing
        (lambda n: min(n, 4), 4),
        (lambda n: n if n < 8 else 1.0, 4),  # eight are in each other's way
        (lambda n: 1.05 * n**0.1, 1),  # gains too little
    ],
)
@pytest.mark.parametrize("trainings", [16, 17, 64])
def test_it_doubles_while_that_pays(rate_of, expected, trainings):
    assert found(rate_of, trainings=trainings) == expected
    assert found(lambda n: 30 * rate_of(n), trainings=trainings) == expected, "many a second"


def test_it_keeps_to_its_bounds():
    assert found(lambda n: n, least=2, most=12) == 8
    assert found(lambda n: 1.0, least=2) == 2
    assert found(lambda n: n, least=4, most=2) == 4
    assert Concurrency(1, 16, first=2).now == 2
    assert Concurrency(1, 1, first=2).now == 1


def test_as_many_as_a_batch_has_are_tried_and_no_more():
    assert found(lambda n: n, trainings=8) == 8
    assert found(lambda n: n, trainings=15) == 8
    assert found(lambda n: min(n, 4), trainings=8) == 4, "eight were measured against four"


def test_small_batches_tell_nothing():
    clock = Clock()
    concurrency = Concurrency(1, 8, first=4, clock=clock)
    for _ in range(9):
        do_batch(concurrency, clock, 3, lambda n: 0.01)
    assert concurrency.now == 4


def test_it_takes_its_time_however_many_batches_that_is():
    clock = Clock()
    concurrency = Concurrency(1, 8, clock=clock)
    do_batch(concurrency, clock, 64, lambda n: 64 / 1.4)
    do_batch(concurrency, clock, 64, lambda n: 64 / 1.4)
    assert concurrency.now == 1
    do_batch(concurrency, clock, 64, lambda n: 64 / 1.4)
    assert concurrency.now == 2


def test_work_during_which_a_worker_is_started_tells_nothing():
    clock = Clock()
    concurrency = Concurrency(1, 8, first=2, clock=clock)
    do_batch(concurrency, clock, 4, lambda n: 1.0)
    assert concurrency.now == 4
    for _ in range(9):
        do_batch(concurrency, clock, 8, lambda n: 0.01, started=True)
    assert concurrency.now == 4
    do_batch(concurrency, clock, 8, lambda n: 2.0)
    assert concurrency.now == 8


def test_it_backs_off_for_good_where_memory_runs_out():
    clock = Clock()
    concurrency = Concurrency(1, 16, clock=clock)
    while concurrency.now < 8:
        do_batch(concurrency, clock, 32, lambda n: n)
    assert concurrency.out_of_memory(8)
    for _ in range(9):
        do_batch(concurrency, clock, 32, lambda n: 100.0)
    assert concurrency.now == 4
    assert concurrency.out_of_memory(8)  # began beside the first
    assert concurrency.now == 4
    assert concurrency.out_of_memory(4)
    assert concurrency.out_of_memory(2)
    assert concurrency.now == 1
    assert not concurrency.out_of_memory(1)


class SmallMemory:
    """Stands in for a pool of workers that have memory for so many trainings at once."""

    def __init__(self, room, size):
        self.room, self.size, self.starts = room, size, size

    def stream(self, jobs, failed, stopped):
        while True:
            at_work = [job for job in (next(jobs) for _ in range(self.size)) if job is not None]
            if not at_work:
                return
            for job in at_work:
                fits = len(at_work) <= self.room
                yield job, TrainingResult(0.5, None, 1.0, {}) if fits else failed(job, "out of memory: 2 GiB", 1.0)

    def ready(self):
        self.starts = max(self.starts, self.size)

    def close(self):
        pass


def test_trainings_that_ran_out_of_memory_are_made_again_with_fewer_beside_them():
    evaluator = TrainingEvaluator(ChainCNN(max_layers=2), load_dataset("digits"), devices="cpu", concurrency=1)
    evaluator._concurrency, evaluator._pool = Concurrency(1, 8), SmallMemory(room=2, size=8)
    evaluator._concurrency.now = 8
    architectures = list(dict.fromkeys(evaluator.space.sample(20, np.random.default_rng(0))))
    answers = dict(evaluator.results([Trial(architecture) for architecture in architectures]))
    assert len(answers) == len(architectures)
    assert all(m.error is None for m in answers.values())
    assert evaluator._pool.size == 2
    evaluator._pool.room = 0
    (failed,) = evaluator.measure([Trial(architectures[0])])
    assert failed.error == "out of memory: 2 GiB"


def test_a_stream_that_is_fed_finds_the_number_too():
    clock = Clock()
    evaluator = TrainingEvaluator(ChainCNN(max_layers=2), load_dataset("digits"), devices="cpu", concurrency=1)
    evaluator._concurrency = Concurrency(1, 8, first=2, clock=clock)
    evaluator._pool = SmallMemory(room=8, size=2)
    architectures = list(dict.fromkeys(evaluator.space.sample(60, np.random.default_rng(0))))
    at_once, rest, waiting = [], iter(architectures[2:]), 2
    for architecture in architectures[:2]:
        evaluator.submit(Trial(architecture))
    for _ in evaluator.completed():
        at_once.append(evaluator.slots)
        clock.seconds += 4 / evaluator.slots  # the more, the better
        waiting -= 1
        while waiting < evaluator.slots and (architecture := next(rest, None)):
            evaluator.submit(Trial(architecture))
            waiting += 1
    assert len(at_once) == len(architectures)
    assert at_once[:3] == [2, 2, 2]
    assert evaluator._pool.size == evaluator.slots == 8


class SlowStarts(SmallMemory):
    """Workers that take three seconds to start and a tenth for a training, whatever is beside it."""

    def __init__(self, clock, size):
        super().__init__(room=99, size=size)
        self.clock = clock

    def ready(self):
        if self.starts < self.size:
            self.clock.seconds += 3.0
        super().ready()

    def stream(self, jobs, failed, stopped):
        for i, answer in enumerate(super().stream(jobs, failed, stopped)):
            self.ready()  # where it was not called
            self.clock.seconds += 0.1 / self.size if i else 0.1
            yield answer


@pytest.mark.parametrize(("trainings", "expected"), [(8, 8), (16, 16), (64, 16)])
def test_workers_that_start_slowly_are_not_taken_for_slow_ones(trainings, expected):
    clock = Clock()
    evaluator = TrainingEvaluator(ChainCNN(max_layers=2), load_dataset("digits"), devices="cpu", concurrency=1)
    evaluator._concurrency, evaluator._pool = Concurrency(1, 16, first=2, clock=clock), SlowStarts(clock, size=2)
    architectures = evaluator.space.sample(1000, np.random.default_rng(0))
    for _ in range(150):
        evaluator.measure(
            [Trial(architecture, seed=seed) for seed, architecture in enumerate(architectures[:trainings])]
        )
    assert evaluator._pool.size == evaluator.slots == expected


class NoRoom(SlowStarts):
    """No more than four workers can be started."""

    def ready(self):
        if self.size > 4:
            raise InputError("no worker process can be started")
        super().ready()


def test_where_no_more_workers_can_be_started_it_stays_at_those_there_are():
    clock = Clock()
    evaluator = TrainingEvaluator(ChainCNN(max_layers=2), load_dataset("digits"), devices="cpu", concurrency=1)
    evaluator._concurrency, evaluator._pool = Concurrency(1, 16, first=2, clock=clock), NoRoom(clock, size=2)
    architectures = evaluator.space.sample(200, np.random.default_rng(0))
    for _ in range(10):
        answers = evaluator.measure([Trial(architecture, seed=seed) for seed, architecture in enumerate(architectures)])
        assert [m.error for m in answers] == [None] * 200
    assert evaluator._pool.size == evaluator.slots == 4


@pytest.mark.parametrize(("devices", "warms_up"), [(("cpu",), False), (("cuda:0", "cuda:1"), True)])
def test_workers_on_gpus_warm_up_and_are_let_go_of_after_a_failed_capture(monkeypatch, devices, warms_up):
    made = {}
    monkeypatch.setattr(training, "WorkerPool", lambda *args, **options: made.update(options) or SmallMemory(9, 2))
    evaluator = TrainingEvaluator(ChainCNN(max_layers=2), load_dataset("digits"), devices="cpu", concurrency=2)
    evaluator.devices = devices
    evaluator.start()
    assert (made["warm_up"] is not None) == warms_up
    for eager, spoilt in ((None, False), ("it waits for the device", False), (f"{CAPTURE_FAILED}: why", True)):
        assert made["spoilt"](TrainingResult(0.5, None, 1.0, {}, eager=eager)) == spoilt


def seen(_):
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_each_worker_sees_its_own_gpu_and_so_does_the_one_that_replaces_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")  # of which PyTorch's first is 4
    each = device_environments(("cuda:0", "cuda:2"))
    with closing(WorkerPool(seen, 2, timeout_seconds=60, environments=each)) as pool:
        assert {answer for _, answer in pool.stream(range(20), lambda *fault: fault)} == {"4", "7"}
        os.kill(min(pool.pids), signal.SIGKILL)
        assert {answer for _, answer in pool.stream(range(20), lambda *fault: fault)} == {"4", "7"}


def test_without_the_variable_gpus_are_numbered(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device_environments(("cuda:1", "cuda:0")) == [{"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "0"}]
    assert device_environments(("cpu",)) == [{}]
