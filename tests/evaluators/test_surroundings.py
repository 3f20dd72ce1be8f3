"""A measurement is the same to the bit wherever it is made: a program's settings of PyTorch, threads, processes."""

import contextlib
import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import nasenv
from nasenv.data import dataset
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.trial import Trial
from tests.fakes import RandomNetworks

ROOT = Path(__file__).parents[2]
PROGRAM = "import json; from tests.evaluators.test_surroundings import measured; print(json.dumps(measured()))"


def measured(concurrency=0):
    """Return what each network of the space came to, all that there is of it but times; the data are loaded, too."""
    dataset._load.cache_clear()
    data = nasenv.load_dataset("digits")
    space = RandomNetworks(data.task)
    trials = [Trial((kind,)) for kind in range(len(space.decisions[0].choices))]
    with TrainingEvaluator(space, data, epochs=2, batch_size=128, concurrency=concurrency) as evaluator:
        found = evaluator.measure(trials)
        costs = [dict(evaluator.costs(trial.architecture)) for trial in trials]
    return [[m.score, m.error, list(m.curve), dict(m.metrics), c] for m, c in zip(found, costs, strict=True)]


@pytest.fixture(scope="module")
def expected():
    """What a new process without any settings measures."""
    line = [sys.executable, "-c", PROGRAM]
    found = json.loads(subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert [error for _, error, *_ in found] == [None] * len(found)
    assert len({tuple(curve) for _, _, curve, *_ in found}) == len(found), "each kind of network draws its own numbers"
    return found


@contextlib.contextmanager
def setting(read, write, value):
    """Set something for the process and back."""
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextlib.contextmanager
def drawing_thread():
    """Let another thread draw random numbers all the time."""
    over = threading.Event()

    def draw():
        while not over.is_set():
            torch.rand(7)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


MKLDNN = torch.backends.mkldnn
SETTINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast on the CPU": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast for GPUs": lambda: torch.autocast("cuda", torch.bfloat16),
    "float64 by default": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "meta by default": lambda: setting(lambda: None, torch.set_default_device, "meta"),
    "on meta": lambda: torch.device("meta"),
    "deterministic": lambda: setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 1),
    "two threads": lambda: setting(torch.get_num_threads, torch.set_num_threads, 2),
    "seeded otherwise": lambda: setting(torch.initial_seed, torch.manual_seed, 7),
    "denormals flushed": lambda: setting(lambda: False, torch.set_flush_denormal, True),
    "products in bfloat16": lambda: setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "without oneDNN": lambda: setting(partial(getattr, MKLDNN, "enabled"), partial(setattr, MKLDNN, "enabled"), False),
    "anomalies looked for": lambda: setting(torch.is_anomaly_enabled, torch.set_anomaly_enabled, True),
    "a thread that draws": drawing_thread,
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of autocast without a GPU, of anomaly detection
def test_a_programs_settings(name, expected):
    with SETTINGS[name]():
        found = measured()
    assert found == expected


@pytest.mark.parametrize("name", ["float64 by default", "inference_mode", "two threads", "products in bfloat16"])
def test_settings_are_as_before_at_the_end(name):
    def settings():
        precision = MKLDNN.matmul.fp32_precision
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), precision

    with SETTINGS[name]():
        before, drawn = settings(), torch.get_rng_state()
        measured()
        assert settings() == before
        assert torch.equal(torch.get_rng_state(), drawn)


def test_the_global_generator_is_as_before_beside_another_thread(expected):
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        before = torch.get_rng_state()
        assert measured() == expected
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("concurrency", [0, 1, 2])
def test_processes(concurrency, expected):
    assert measured(concurrency) == expected


def test_four_threads(expected):
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: measured()})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), expected)


def test_a_process_that_was_forked_while_another_thread_trained():
    program = (
        "import os, threading; from nasenv.training.reproducibility import default_settings\n"
        "held, over = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with default_settings():\n"
        "        held.set(); over.wait()\n"
        "threading.Thread(target=hold).start(); held.wait()\n"
        "if os.fork() == 0:\n"
        "    with default_settings():\n"
        "        print('trained'); os._exit(0)\n"
        "os.wait(); over.set()\n"
    )
    line = [sys.executable, "-u", "-W", "ignore", "-c", program]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "trained\n", done.stderr


def concluded(run_dir):
    """Return what a whole run comes to: rewards, the winner's scores, and what its network says of two images."""
    dataset._load.cache_clear()
    data = nasenv.load_dataset("digits")
    space = nasenv.ChainCNN(max_layers=2, widths=(8,), task=data.task)
    evaluator = nasenv.TrainingEvaluator(space, data, epochs=1, final_epochs=1, concurrency=0)
    budget = nasenv.Budget(2, finalists=1, final_seeds=1)
    with nasenv.Search(space, evaluator, nasenv.agents.RandomSearch(), budget, run_dir=run_dir) as search:
        search.run()
        winner = nasenv.conclude(search).winner
    predicted = nasenv.predict(nasenv.load_model(run_dir / "model"), np.ones((2, 1, 8, 8)))
    return [outcome.reward for outcome in search.history], winner, predicted.tolist()


@pytest.fixture(scope="module")
def concluded_as_usual(tmp_path_factory):
    return concluded(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "a thread that draws"])
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("without_pictures")
def test_a_whole_run(name, concluded_as_usual, tmp_path):
    with SETTINGS[name]():
        assert concluded(tmp_path) == concluded_as_usual
    assert (tmp_path / "model/program.pt2").exists()
