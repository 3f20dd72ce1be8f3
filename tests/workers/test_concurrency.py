import os
import signal
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from nasenv.data.dataset import load_dataset
from nasenv.evaluators import training
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.training.devices import device_environments
from nasenv.training.trainer import TrainingResult
from nasenv.trial import Trial
from nasenv.workers.concurrency import Concurrency
from nasenv.workers.pool import WorkerPool


def found(rate_of, least=1, most=16, batches=10):
    """Return the number that is settled on where so many at once come to such a rate."""
    concurrency = Concurrency(least, most)
    for _ in range(batches):
        concurrency.update(32, 32.0, 32.0 / rate_of(concurrency.now))
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
def test_it_doubles_while_that_pays(rate_of, expected):
    assert found(rate_of) == expected


def test_it_keeps_to_its_bounds():
    assert found(lambda n: n, least=2, most=12) == 8
    assert found(lambda n: 1.0, least=2) == 2
    assert found(lambda n: n, least=4, most=2) == 4
    assert Concurrency(1, 16, first=2).now == 2
    assert Concurrency(1, 1, first=2).now == 1


def test_small_batches_tell_nothing():
    concurrency = Concurrency(1, 8)
    for _ in range(9):
        concurrency.update(2, 2.0, 1.0 / concurrency.now)
    assert concurrency.now == 2


def test_it_backs_off_for_good_where_memory_runs_out():
    concurrency = Concurrency(1, 16)
    for _ in range(3):
        concurrency.update(32, 1.0, 1.0 / concurrency.now)
    assert concurrency.now == 8
    assert concurrency.out_of_memory(8)
    concurrency.update(32, 1.0, 0.01)
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
        self.room, self.size, self.tried = room, size, []

    def stream(self, jobs, failed, stopped):
        while True:
            at_work = [job for job in (next(jobs) for _ in range(self.size)) if job is not None]
            if not at_work:
                return
            self.tried.append(len(at_work))
            for job in at_work:
                fits = len(at_work) <= self.room
                yield job, TrainingResult(0.5, None, 1.0, {}) if fits else failed(job, "out of memory: 2 GiB", 1.0)

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


def test_a_stream_that_is_fed_finds_the_number_too(monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)
    evaluator = TrainingEvaluator(ChainCNN(max_layers=2), load_dataset("digits"), devices="cpu", concurrency=1)
    evaluator._concurrency, evaluator._pool = Concurrency(1, 8, first=2), SmallMemory(room=8, size=2)
    architectures = list(dict.fromkeys(evaluator.space.sample(60, np.random.default_rng(0))))
    at_once, rest, waiting = [], iter(architectures[2:]), 2
    for architecture in architectures[:2]:
        evaluator.submit(Trial(architecture))
    for _ in evaluator.completed():
        at_once.append(evaluator.slots)
        clock.now += 1 / evaluator.slots  # the more, the better
        waiting -= 1
        while waiting < evaluator.slots and (architecture := next(rest, None)):
            evaluator.submit(Trial(architecture))
            waiting += 1
    assert len(at_once) == len(architectures)
    assert at_once[:3] == [2, 2, 2]
    assert evaluator._pool.size == evaluator.slots > 2


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
