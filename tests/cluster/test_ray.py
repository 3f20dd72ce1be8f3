"""Evaluations on a Ray cluster of several nodes on this machine, which are killed while they work."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.sb3 import PPO
from nasenv.agents.tpe import TPE
from nasenv.cluster import actors
from nasenv.cluster.connection import JobResources
from nasenv.cluster.evaluator_worker import in_process, machine_settings
from nasenv.cluster.ray_evaluator import RayEvaluator
from nasenv.commands.cli import main
from nasenv.errors import InputError
from nasenv.evaluators.estimate import EstimateEvaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.records.replay import CompletionOrder
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.cluster.nodes import STORE, Nodes
from tests.fakes import RANDOM_LAYERS, Faulty, RandomNetworks, hearing

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install nasenv[ray]")
pytestmark = pytest.mark.usefixtures("without_pictures")

ROOT = Path(__file__).parents[2]
SPACE = ChainCNN(max_layers=3, widths=(8, 16))
ARCHITECTURES = SPACE.sample(24, np.random.default_rng(0))
TRIALS = [Trial(architecture) for architecture in ARCHITECTURES]
ASYNCHRONOUS = {
    "worker": lambda: TPE(startup_trials=8, asynchronous=True),
    "node": lambda: RegularizedEvolution(8, 3, asynchronous=True),
}  # by what is lost


class Kept(RayEvaluator):
    """Keeps its workers from one search to the next."""

    def close(self):
        """Not yet."""

    def let_go(self):
        """End the workers, and stay connected."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def end(self):
        super().close()


@pytest.fixture(scope="module")
def nodes():
    made = Nodes()
    yield made
    ray.shutdown()  # whoever it was that connected
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return where faults are ordered."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def kept(nodes, folder):
    made = Kept(SPACE, Faulty(SPACE, folder), address=nodes.address)
    yield made
    made.end()


@pytest.fixture
def evaluator(nodes, kept, folder):
    """Return an evaluator on two nodes, both of them ready."""
    for order in folder.glob("*"):
        order.unlink()
    nodes.have(2)
    kept.start(2)
    return kept


@pytest.fixture
def elsewhere(nodes, kept):
    """Return the address of a node, on which nobody works."""
    nodes.have(1)
    kept.let_go()
    return nodes.address


def local(folder):
    return Faulty(SPACE, folder / "none", seconds=0.0)


def search(run_dir, agent, evaluator, **options):
    return Search(SPACE, evaluator, agent, Budget(40), seed=5, run_dir=run_dir, **options)


def run(run_dir, agent, evaluator, stop_at=None, **options):
    with search(run_dir, agent, evaluator, **options) as made:
        if stop_at is not None:
            made.callbacks.append(lambda s, outcome: s.stop("enough") if outcome.evaluation == stop_at else None)
        made.run()
    return journal(run_dir)


def journal(run_dir):
    _, *lines = (run_dir / "journal.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "train_seconds")} for line in lines]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at address 127.0.0.1:1; start one with `ray start --head --port=1`"),
        ("ray://127.0.0.1:1", "no Ray cluster answers at address ray://127.0.0.1:1"),
        ("nowhere", "address must be auto, HOST:PORT or ray://HOST:PORT, got 'nowhere'"),
    ],
)
def test_an_address_where_there_is_nothing(address, said, tmp_path, capfd):  # before there is something
    with pytest.raises(InputError, match=said):
        RayEvaluator(SPACE, local(tmp_path), address).start()
    assert capfd.readouterr() == ("", "")


def test_an_address_where_something_else_listens(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("nasenv.cluster.connection._REACHING_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no Ray cluster answers at address {address}"):
            RayEvaluator(SPACE, local(tmp_path), address).start()
    assert capfd.readouterr() == ("", "")


def test_ray_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="RayEvaluator needs Ray: pip install ray"):
        RayEvaluator(SPACE, local(tmp_path)).start()


def test_a_node_is_lost_and_the_journal_is_that_of_one_machine(evaluator, folder, tmp_path):
    (folder / "node").touch()
    entries = run(tmp_path / "ray", PPO(num_envs=8), evaluator)
    assert not (folder / "node").exists()
    assert len(entries) == 40
    assert entries == run(tmp_path / "local", PPO(num_envs=8), local(tmp_path))


@pytest.mark.parametrize("first", ["local", "ray"])
def test_a_run_goes_on_elsewhere(first, evaluator, tmp_path):
    places = {"local": local(tmp_path), "ray": evaluator}
    then = places.pop(first)
    before = run(tmp_path / "run", RegularizedEvolution(8, 3, batch_size=8), then, stop_at=20)
    assert len(before) < 40
    after = run(tmp_path / "run", RegularizedEvolution(8, 3, batch_size=8), *places.values())
    assert after == run(tmp_path / "whole", RegularizedEvolution(8, 3, batch_size=8), local(tmp_path))


@pytest.mark.parametrize("lost", ASYNCHRONOUS)
def test_an_asynchronous_search_loses_a_worker_or_node_and_repeats_itself(lost, evaluator, folder, tmp_path):
    (folder / lost).touch()
    entries = run(tmp_path / "once", ASYNCHRONOUS[lost](), evaluator)
    assert not (folder / lost).exists()
    assert len(entries) == 40
    shutil.copytree(tmp_path / "once", tmp_path / "again")
    for name in ("journal.jsonl", "trials.jsonl"):
        path = tmp_path / "again" / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    completion_order = CompletionOrder.read(tmp_path / "once" / "journal.jsonl")
    assert run(tmp_path / "again", ASYNCHRONOUS[lost](), evaluator, completion_order=completion_order) == entries


def test_what_kills_every_worker_is_a_failed_measurement_with_its_reason(evaluator, folder, monkeypatch):
    before = evaluator._pool.pids
    monkeypatch.setattr(evaluator._pool, "retries", 1)
    (folder / "always-worker").touch()
    trial = Trial(ARCHITECTURES[0], 1.0, "test", 3)
    ((measured, result),) = evaluator.results([trial])
    assert measured == trial
    assert result.error.startswith("the worker process died (")
    assert result.error.endswith("), tried 2 times")
    assert " on node " in result.error
    assert "\n" not in result.error
    (folder / "always-worker").unlink()
    assert evaluator.measure(TRIALS) == evaluator.inner.measure(TRIALS)  # by those that replace them
    assert not {*before} & {*evaluator._pool.pids}


def test_what_hangs_is_ended(evaluator, folder, monkeypatch):
    assert evaluator._pool.limit == evaluator.inner.timeout_seconds + 10.0
    monkeypatch.setattr(evaluator._pool, "limit", 1.0)
    (folder / "hang").touch()
    assert evaluator.measure(TRIALS) == evaluator.inner.measure(TRIALS)
    monkeypatch.setattr(evaluator._pool, "retries", 0)
    (folder / "hang").touch()
    (measurement,) = evaluator.measure(TRIALS[:1])
    assert measurement.error.startswith("timeout: the worker hung on node ")
    assert measurement.train_seconds > 0.9


def test_what_the_inner_evaluator_raises(evaluator, folder):
    (folder / "always-fail").touch()
    assert [m.error for m in evaluator.measure(TRIALS[:2])] == ["RuntimeError: a fault of the user's own"] * 2
    (folder / "always-fail").unlink()
    (folder / "refuse").touch()
    with pytest.raises(InputError, match="the data are bad"):
        evaluator.measure(TRIALS)
    assert evaluator.measure(TRIALS) == evaluator.inner.measure(TRIALS)


def test_a_stop_waits_for_what_is_in_flight(evaluator):
    measured = []
    for trial, _ in evaluator.results(dict.fromkeys(TRIALS), lambda: len(measured) >= 5):
        measured.append(trial)
    assert 5 <= len(measured) <= 8  # two at work, one heard and not yet told


def test_nodes_that_join_are_used(evaluator, nodes):
    workers = set()
    trials = [Trial(architecture, 1.0, "test", seed) for architecture in {*ARCHITECTURES} for seed in range(1000)]
    for number, _ in enumerate(evaluator.results(trials, lambda: len(workers) == 3)):
        if number == 10:
            nodes.have(3)
        workers.update(evaluator._pool.pids)
    assert evaluator.slots == len(workers) == 3


@pytest.fixture(scope="class")
def alone():
    return TrainingEvaluator(RandomNetworks(), epochs=1, final_epochs=1, devices="cpu", concurrency=0)


@pytest.fixture(scope="class")
def training(nodes, kept):
    """Return an evaluator on a node, whose worker is kept for the tests of a class."""
    nodes.have(1)
    kept.let_go()
    space = RandomNetworks()
    inner = TrainingEvaluator(space, epochs=1, final_epochs=1, devices="cpu")
    yield (made := Kept(space, inner, nodes.address))
    made.let_go()


class TestTrainings:
    """They are the same on the cluster as in this process."""

    def test_of_networks_that_draw_random_numbers(self, training, alone):
        trials = [Trial((kind,)) for kind in range(len(RANDOM_LAYERS))]
        trials += [Trial((1,), 0.5), Trial((6,), 1.0, "test")]
        assert figures(training.measure(trials)) == figures(alone.measure(trials))
        assert set(training.worker_seconds) == {"data", "building", "training", "scoring"}

    def test_what_is_known_without_them(self, training, alone):
        assert training.fingerprint() == alone.fingerprint()
        assert training.fidelity(0.3) == alone.fidelity(0.3)
        assert training.costs((6,)) == alone.costs((6,))

    def test_weights_are_files_of_the_driver(self, training, alone, tmp_path):
        places = {"ray": training, "here": alone}
        measured = {name: trained_twice(place, tmp_path / name) for name, place in places.items()}
        assert measured["ray"] == measured["here"]
        for name in ("first", "second"):
            assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
        with pytest.raises(InputError, match=f"weights {tmp_path}/none cannot be read"):
            training.submit(Trial((6,)), start=tmp_path / "none")


def trained_twice(evaluator, folder):
    """Return what comes of a training, and of one that goes on from its weights."""
    folder.mkdir()
    evaluator.submit(Trial((6,)), keep=folder / "first")
    ((_, first),) = evaluator.completed()
    evaluator.submit(Trial((6,)), start=folder / "first", keep=folder / "second")
    ((_, second),) = evaluator.completed()
    return figures([first, second])


def figures(measurements):
    return [(m.score, m.error, m.curve, m.metrics) for m in measurements]


def test_nodes_with_other_versions_or_other_arithmetic_are_refused(elsewhere, kept, monkeypatch):
    other = Kept(SPACE, kept.inner, elsewhere)
    monkeypatch.setattr(actors, "versions", lambda: {"torch": "1.0", "numpy": np.__version__, "optuna": "9"})
    with pytest.raises(InputError, match=r"node \S+ \(.*\) has torch \S+ \(here 1.0\), optuna"):
        other.start()
    monkeypatch.undo()
    other.let_go()
    other._settings = {"precision": "bfloat16"}
    with pytest.raises(InputError, match=r"precision is None on node .*, and bfloat16 elsewhere"):
        other.start()
    other.let_go()


def test_a_cluster_without_what_is_asked_for(elsewhere, kept):
    asked = Kept(SPACE, kept.inner, elsewhere, gpus_per_evaluation=0.5)
    with pytest.raises(InputError, match=r"cpus_per_evaluation 1 and gpus_per_evaluation 0.5: .* 1 CPUs and 0 GPUs"):
        asked.fingerprint()
    with pytest.raises(InputError, match="no node of the Ray cluster has room for cpus_per_evaluation 64"):
        Kept(SPACE, kept.inner, elsewhere, cpus_per_evaluation=64).start()


def test_gpus_are_shared_and_a_pytorch_that_sees_none_is_told(elsewhere, nodes, kept):
    nodes.cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
    share = {"cpus_per_evaluation": 0.5, "gpus_per_evaluation": 0.5}
    asked = Kept(SPACE, kept.inner, elsewhere, **share)
    assert asked.fingerprint() == kept.inner.fingerprint()  # a worker was asked
    asked.start(2)
    assert asked.slots == len(asked._pool.pids) == 2
    asked.let_go()
    training = Kept(SPACE, TrainingEvaluator(SPACE), elsewhere, gpus_per_evaluation=1)
    with pytest.raises(InputError, match=r"cannot work on node .*: InputError: PyTorch sees no GPU, where trainings"):
        training.fingerprint()
    training.let_go()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries must be an integer of 0 or more, got -1"),
        ({"scale_to": 0}, "scale_to must be an integer of 1 or more, got 0"),
        ({"cpus_per_evaluation": "many"}, "cpus_per_evaluation must be a number of 0 or more, got 'many'"),
        ({"gpus_per_evaluation": 1.5}, "gpus_per_evaluation must be a share of 1, or a whole number, got 1.5"),
        ({"cpus_per_evaluation": 0}, "are both 0"),
    ],
)
def test_settings_of_no_use(options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        RayEvaluator(SPACE, local(tmp_path), **options)


def test_training_where_no_gpu_is_given_refuses_devices_that_are_one(monkeypatch):
    inner = TrainingEvaluator(SPACE, devices="cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InputError, match="devices is cpu, where trainings are given a GPU; give auto"):
        RayEvaluator(SPACE, inner, gpus_per_evaluation=0.5)


class Small(EstimateEvaluator):
    """Prefers few parameters."""

    def fingerprint(self):
        return "small"

    def estimate(self, architectures):
        return [Measurement(-self.costs(architecture)["params"]) for architecture in architectures]


def test_what_an_estimate_ends_with_is_trained_in_the_workers_own_process():
    inner = TrainingEvaluator(SPACE, devices="cpu", concurrency=2, precision="bfloat16")
    estimate = Small(SPACE, inner)
    settings = machine_settings(estimate, gpu=False)
    assert settings == {"devices": "cpu", "precision": "bfloat16"}
    single = in_process(estimate, settings)
    assert (single.inner.concurrency, single.inner.slots) == (0, 1)
    assert single.inner.fingerprint() == inner.fingerprint()
    assert inner.concurrency == 2


@pytest.mark.parametrize(
    ("share", "node", "fits"),
    [
        (JobResources(1, 0), {"CPU": 8.0}, 8),
        (JobResources(0.1, 0), {"CPU": 0.3}, 3),
        (JobResources(1, 0.4), {"CPU": 8.0, "GPU": 2.0}, 4),
        (JobResources(4, 0.25), {"CPU": 8.0, "GPU": 1.0}, 2),
        (JobResources(0, 2), {"CPU": 8.0, "GPU": 5.0}, 2),
        (JobResources(1, 1), {"CPU": 8.0}, 0),
    ],
)
def test_what_fits_on_a_node(share, node, fits):
    assert share.fits(node) == fits


TRAIN = [
    *("train", "--agent", "RandomSearch", "--agent.batch_size", "4"),
    *(
        "--space.max_layers",
        "2",
        "--space.widths",
        "[8]",
        "--budget.evaluations",
        "12",
        "--budget.finalists",
        "1",
        "--budget.final_seeds",
        "1",
    ),
    *("--cache", "none"),
]
INNER = {"epochs": 3, "final_epochs": 1, "devices": "cpu"}
ON_RAY = [
    *("--evaluator", "RayEvaluator", "--evaluator.inner", "TrainingEvaluator"),
    *("--evaluator.cpus_per_evaluation", str(len(os.sched_getaffinity(0)))),  # one worker
    *(word for name, value in INNER.items() for word in (f"--evaluator.inner.{name}", str(value))),
]
HERE = [
    *("--evaluator", "TrainingEvaluator", "--evaluator.concurrency", "0"),
    *(word for name, value in INNER.items() for word in (f"--evaluator.{name}", str(value))),
]


def family(session):
    """Return the processes of a session that there still are."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # gone
            continue
        if int(of) == session and state != "Z":
            found.append(stat.parent.name)
    return found


def test_the_command_stops_at_a_signal_leaves_no_process_and_goes_on_without_ray(tmp_path):
    folder = tmp_path / "run"
    train = [*TRAIN, "--run_dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nasenv", *train, *ON_RAY], text=True, start_new_session=True, preexec_fn=hearing,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    trials = folder / "trials.jsonl"
    while not (trials.exists() and trials.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert errors.splitlines()[-1].endswith("everything done is saved, the same command resumes")
    assert "Traceback" not in errors
    assert "ray" not in said + errors
    deadline = time.monotonic() + 20
    while family(process.pid):
        assert time.monotonic() < deadline, family(process.pid)
        time.sleep(0.1)
    done = trials.read_text().splitlines()
    assert main([*train, *HERE]) == 0
    assert trials.read_text().splitlines()[: len(done)] == done
    assert len(journal(folder)) == 12


def test_a_lost_head_is_told(elsewhere, nodes, kept, monkeypatch):  # the last one
    monkeypatch.setattr("nasenv.cluster.connection._LOST_SECONDS", 1.0)
    stream = kept.results(
        [Trial(architecture, 1.0, "test", s) for architecture in {*ARCHITECTURES} for s in range(100)]
    )
    next(stream)
    nodes.cluster.head_node.kill_gcs_server()
    said = r"the head of the Ray cluster, .*, has not answered for 1 s; what is done .* goes on"
    with pytest.raises(InputError, match=said):
        list(stream)
