import copy
import importlib
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nasenv.agents import RandomSearch
from nasenv.cache.cache import Cache
from nasenv.data.dataset import load_dataset
from nasenv.data.split import Split
from nasenv.errors import InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.task import Images, Task
from nasenv.training import score, trainer
from nasenv.training.trainer import count_costs
from nasenv.trial import Trial

DIGITS = load_dataset("digits")
SPACE = ChainCNN(max_layers=2, widths=(8,))
ARCHITECTURES = SPACE.sample(3, np.random.default_rng(3))

USERS_SPACE = """
import os, sys, time
import torch
from torch import nn
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.task import Images, Task

KINDS = ("linear", "raises", "nan", "slow", "exits", "shapeless", "memory", "dropout", "dies", "hangs")


class Sleepy(nn.Module):
    def forward(self, x):
        time.sleep(0.3)
        return x


class Moody(SearchSpace):
    def __init__(self):
        super().__init__([Decision("kind", KINDS)], Task(Images((1, 8, 8)), outputs=10))

    def build(self, architecture):
        kind = KINDS[architecture[0]]
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5 if kind == "dropout" else 0.0), nn.Linear(64, 10))
        if kind == "raises":
            raise KeyError("two\\nlines")
        if kind == "nan":
            network[2].weight.data.fill_(torch.nan)
        if kind == "slow":
            return nn.Sequential(Sleepy(), network)
        if kind == "exits":
            sys.exit(3)
        if kind == "shapeless":
            return nn.Flatten()
        if kind == "memory":
            raise MemoryError("no more")
        if kind == "dies":
            os._exit(7)
        if kind == "hangs":
            time.sleep(60)
        return network
"""
REASONS = {
    "raises": "KeyError: 'two",
    "nan": "diverged: the training loss is nan in epoch 1 of 1",
    "slow": "timeout: the training took more than 2 s",
    "exits": "SystemExit: 3",
    "shapeless": "ValueError: the network has no parameters",
    "memory": "out of memory: no more",
    "dies": "the worker process ended with exit code 7",
    "hangs": "timeout: the worker hung and was ended",
}


@pytest.fixture(scope="module")
def moody(tmp_path_factory):
    """A user's module of a space whose networks go wrong in every way; importable in workers too."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "moody_space.py").write_text(USERS_SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("moody_space")


@pytest.fixture(scope="module")
def in_process():
    return TrainingEvaluator(SPACE, DIGITS, epochs=1, final_epochs=2, concurrency=0, devices="cpu")


@pytest.fixture(scope="module")
def pooled():
    evaluator = TrainingEvaluator(SPACE, DIGITS, epochs=1, final_epochs=2, concurrency=2, devices="cpu")
    yield evaluator
    evaluator.close()


def searched(evaluator, architectures, fidelity=1.0):
    return evaluator.measure([Trial(architecture, fidelity) for architecture in architectures])


def final(evaluator, purpose, architectures, seeds):
    """Return a row of measurements for each architecture, one a seed."""
    trials = [Trial(architecture, purpose=purpose, seed=seed) for architecture in architectures for seed in seeds]
    measured = evaluator.measure(trials)
    return [measured[i : i + len(seeds)] for i in range(0, len(measured), len(seeds))]


def timeless(measurements):
    return [replace(m, train_seconds=0.0) for m in measurements]


# What a measurement is


def test_measurements_repeat_and_depend_neither_on_order_nor_on_process(in_process, pooled):
    first = searched(in_process, ARCHITECTURES)
    assert all(m.error is None and m.train_seconds > 0 and len(m.curve) == 1 for m in first)
    assert timeless(searched(in_process, ARCHITECTURES[::-1])[::-1]) == timeless(first)
    assert timeless(searched(pooled, ARCHITECTURES)) == timeless(first)
    assert timeless(searched(in_process, ARCHITECTURES[1:2])) == timeless(first[1:2])


def test_it_learns(in_process):
    (measurement,) = searched(
        TrainingEvaluator(SPACE, DIGITS, epochs=5, concurrency=0, devices="cpu"),
        [SPACE.from_text("conv3x8|max_pool3")],
    )
    assert measurement.score > 0.2  # guessing is 0.1, with a standard error of 0.018
    assert measurement.curve[-1] < measurement.curve[0]


def test_parameters_and_flops_by_hand():
    space = ChainCNN(max_layers=1, widths=(8,))
    evaluator = TrainingEvaluator(space, DIGITS, epochs=1, concurrency=0, devices="cpu")
    (measurement,) = searched(evaluator, [space.from_text("conv3x8")])
    model = space.build(space.from_text("conv3x8"))
    bias = 0 if next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).bias is None else 8
    assert measurement.metrics["params"] == 9 * 8 + bias + 2 * 8 + 8 * 10 + 10
    assert measurement.metrics["flops"] == 2 * (64 * 9 * 8 + 8 * 10)


def test_count_of_a_linear_network():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    assert count_costs(model, (3, 2, 2), torch.device("cpu")) == {"params": 65, "flops": 120}


def test_seed_and_fidelity_change_it(in_process):
    other = TrainingEvaluator(SPACE, DIGITS, epochs=1, concurrency=0, devices="cpu", seed=1)
    assert timeless(searched(other, ARCHITECTURES)) != timeless(searched(in_process, ARCHITECTURES))
    four = TrainingEvaluator(SPACE, DIGITS, epochs=4, concurrency=0, devices="cpu")
    for fidelity, epochs in ((0.5, 2), (0.01, 1), (1.0, 4)):
        (measurement,) = searched(four, ARCHITECTURES[:1], fidelity)
        assert len(measurement.curve) == epochs


def test_a_fidelity_is_a_whole_number_of_steps(in_process):
    evaluator = TrainingEvaluator(SPACE, DIGITS, epochs=4, batch_size=64, concurrency=0, devices="cpu")
    steps = 4 * (len(DIGITS.train) // 64)
    rounded = [evaluator.fidelity(wanted) for wanted in (1e-6, 0.3, 0.3001, 1 / 3, 1.0)]
    assert [fidelity * steps for fidelity in rounded] == pytest.approx(
        [1, round(0.3 * steps), round(0.3 * steps), round(steps / 3), steps]
    )
    assert [evaluator.fidelity(fidelity) for fidelity in rounded] == rounded, "so it can be a key"


def test_a_share_of_the_training_is_so_many_of_its_steps(monkeypatch):
    trained = []
    fit = trainer.fit
    monkeypatch.setattr(trainer, "fit", lambda *args: trained.append(args[-1]) or fit(*args))
    evaluator = TrainingEvaluator(SPACE, DIGITS, epochs=2, final_epochs=3, batch_size=64, concurrency=0, devices="cpu")
    each = len(DIGITS.train) // 64
    shares = [evaluator.fidelity(wanted) for wanted in (1e-6, 0.5, 0.75, 1.0)]
    for share in shares:
        searched(evaluator, ARCHITECTURES[:1], share)
    final(evaluator, "confirm", ARCHITECTURES[:1], [0])
    assert trained == [1, each, round(0.75 * 2 * each), 2 * each, 3 * each]


def test_costs_are_known_without_a_training(in_process):
    measured = searched(in_process, ARCHITECTURES)
    before = torch.get_rng_state()
    assert [in_process.costs(architecture) for architecture in ARCHITECTURES] == [m.metrics for m in measured]
    memory = map(in_process.further_costs()["memory_mb"], ARCHITECTURES)
    assert all(mb > 4e-6 * m.metrics["params"] for mb, m in zip(memory, measured, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def weights(path):
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def score_of(path, architecture, split):
    """Return about the score of a network whose weights were kept."""
    model = SPACE.build(architecture)
    model.load_state_dict(load_file(path))
    return pytest.approx(score(model, SPACE.task, DIGITS.encoding, split), abs=1.5 / len(split))


def completed(evaluator, trial, **files):
    evaluator.submit(trial, **files)
    ((same, measurement),) = evaluator.completed()
    assert same == trial
    return measurement


def test_weights_are_kept_and_a_training_begins_with_them(in_process, pooled, tmp_path):
    trial = Trial(ARCHITECTURES[0])
    for evaluator, name in ((in_process, "here"), (pooled, "worker")):
        first = completed(evaluator, trial, keep=tmp_path / name)
        assert timeless([first]) == timeless(searched(in_process, ARCHITECTURES[:1])), "keeping changes no measurement"
        assert first.score == score_of(tmp_path / name, ARCHITECTURES[0], DIGITS.validation)
        again = completed(evaluator, trial, start=tmp_path / name, keep=tmp_path / f"{name} again")
        assert again.curve[0] < first.curve[0], "it goes on where the other ended"
        assert weights(tmp_path / f"{name} again") != weights(tmp_path / name)
    assert weights(tmp_path / "here") == weights(tmp_path / "worker")
    assert weights(tmp_path / "here again") == weights(tmp_path / "worker again")


def test_a_training_that_fails_keeps_no_weights(moody, tmp_path):
    evaluator = TrainingEvaluator(moody.Moody(), DIGITS, epochs=1, concurrency=0, devices="cpu")
    (architecture,) = batch(moody, ["nan"])
    assert completed(evaluator, Trial(architecture), keep=tmp_path / "kept").error.startswith("diverged")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("wrong", ["missing", "damaged"])
def test_weights_that_cannot_be_read_are_one_line(in_process, wrong, tmp_path):
    (tmp_path / "damaged").write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"weights .*{wrong} cannot be read") as refusal:
        completed(in_process, Trial(ARCHITECTURES[0]), start=tmp_path / wrong)
    assert "\n" not in str(refusal.value)


def test_nothing_global_is_changed(in_process):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002, the global state is what is looked at
    before = torch.get_rng_state(), copy.deepcopy(np.random.get_state()[1])  # noqa: NPY002
    try:
        searched(in_process, ARCHITECTURES[:1])
        final(in_process, "confirm", ARCHITECTURES[:1], [0])
        final(in_process, "test", ARCHITECTURES[:1], [0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(12)
    assert timeless(searched(in_process, ARCHITECTURES[:1])) == timeless(searched(in_process, ARCHITECTURES[:1]))


# The end of a search


def test_confirm_answers_each_architecture_and_seed(in_process, pooled):
    measured = final(in_process, "confirm", ARCHITECTURES[:2], [0, 5])
    assert [len(row) for row in measured] == [2, 2]
    assert all(len(m.curve) == 2 for row in measured for m in row)
    assert measured[0][0].curve != measured[0][1].curve
    assert [timeless(row) for row in final(pooled, "confirm", ARCHITECTURES[:2], [0, 5])] == [
        timeless(row) for row in measured
    ]
    assert timeless(final(in_process, "confirm", ARCHITECTURES[1:2], [5])[0]) == timeless(measured[1][1:])
    assert final(in_process, "confirm", [], [0]) == []


def test_test_keeps_the_network_whose_accuracy_it_says(in_process, pooled, tmp_path):
    for evaluator, folder in ((in_process, tmp_path / "here"), (pooled, tmp_path / "worker")):
        folder.mkdir()
        trials = [
            Trial(architecture, purpose="test", seed=seed) for architecture in ARCHITECTURES[:2] for seed in (0, 1)
        ]
        for i, trial in enumerate(trials):
            evaluator.submit(trial, keep=folder / str(i))
        measured = dict(evaluator.completed())
        for i, trial in enumerate(trials):
            assert measured[trial].error is None
            assert measured[trial].score == score_of(folder / str(i), trial.architecture, DIGITS.test)
            assert measured[trial].metrics.keys() == {"params", "flops"}
        assert measured[trials[0]].curve != measured[trials[1]].curve


def test_which_data_are_used_for_what():
    """Labels of one split are made useless: only what uses the split may notice."""
    rng = torch.Generator().manual_seed(0)

    def spoilt(name):
        split = getattr(DIGITS, name)
        targets = split.targets[torch.randperm(len(split), generator=rng)]
        return replace(DIGITS, **{name: Split(split.inputs, targets)})

    def measured(data):
        evaluator = TrainingEvaluator(SPACE, data, epochs=1, final_epochs=1, concurrency=0, devices="cpu")
        trained = evaluator.measure(
            [Trial(ARCHITECTURES[0], purpose=purpose) for purpose in ("search", "confirm", "test")]
        )
        return {
            f"{purpose} {what}": value
            for purpose, measurement in zip(("search", "confirm", "test"), trained, strict=True)
            for what, value in (("training", measurement.curve), ("score", measurement.score))
        }

    plain = measured(DIGITS)
    changed = {
        name: {k for k, v in measured(spoilt(name)).items() if v != plain[k]}
        for name in ("train", "validation", "test")
    }
    assert changed["train"] >= {"search training", "confirm training", "test training"}
    assert {"search score", "confirm score", "test training"} <= changed["validation"]
    assert not {"search training", "confirm training"} & changed["validation"]
    assert changed["test"] == {"test score"}


# What goes wrong


def batch(moody, kinds):
    return [(moody.KINDS.index(kind),) for kind in kinds]


def check_failures(kinds, measurements):
    for kind, measurement in zip(kinds, measurements, strict=True):
        if kind in ("linear", "dropout"):
            assert measurement.error is None
        else:
            assert measurement.error.startswith(REASONS[kind])
            assert measurement.score is None
            assert "\n" not in measurement.error


def test_failures_are_measurements_in_this_process(moody):
    evaluator = TrainingEvaluator(moody.Moody(), DIGITS, epochs=1, concurrency=0, devices="cpu", timeout_seconds=2)
    kinds = ["linear", "raises", "nan", "slow", "exits", "shapeless", "memory", "dropout"]
    check_failures(kinds, searched(evaluator, batch(moody, kinds)))
    (tested,) = final(evaluator, "test", batch(moody, ["raises"]), [0, 1])
    assert [t.error[:8] for t in tested] == ["KeyError", "KeyError"]


def test_a_worker_that_dies_or_hangs_costs_its_own_job_only(moody):
    evaluator = TrainingEvaluator(moody.Moody(), DIGITS, epochs=1, concurrency=2, devices="cpu", timeout_seconds=30)
    kinds = ["linear", "dies", "dropout", "raises", "exits", "linear"]
    try:
        measurements = searched(evaluator, batch(moody, kinds))
        check_failures(kinds, measurements)
        pool = evaluator._pool
        patience, pool._timeout = pool._timeout, 2
        check_failures(["hangs"], searched(evaluator, batch(moody, ["hangs"])))
        pool._timeout = patience
        searched(evaluator, batch(moody, ["dropout"]))
        os.kill(min(pool.pids), signal.SIGKILL)  # one that is idle
        time.sleep(0.5)
        after = searched(evaluator, batch(moody, ["dropout", "linear"]))
    finally:
        evaluator.close()
        evaluator.close()
    assert timeless(after) == timeless([measurements[2], measurements[0]])


def test_a_space_that_workers_cannot_get_is_refused_in_one_line():
    class Local(ChainCNN):
        pass

    evaluator = TrainingEvaluator(Local(max_layers=1), DIGITS, epochs=1, concurrency=1, devices="cpu")
    with pytest.raises(InputError, match="concurrency=0") as refusal:
        evaluator.start()
    assert "\n" not in str(refusal.value)


# Fingerprints


def test_what_changes_a_measurement_changes_the_fingerprint():
    def fingerprint(**changes):
        return TrainingEvaluator(SPACE, **{"data": DIGITS, "epochs": 1, "devices": "cpu", **changes}).fingerprint()

    other_data = replace(DIGITS, fingerprint="other")
    matter = [
        {"epochs": 2}, {"batch_size": 32}, {"optimizer": "sgd"}, {"learning_rate": 0.02}, {"weight_decay": 0.1},
        {"label_smoothing": 0.1}, {"augment": "crop"}, {"augment": "crop_flip"}, {"seed": 1}, {"data": other_data},
        {"precision": "bfloat16"},
        {"data": load_dataset("digits", split_seed=1)},
    ]  # fmt: skip
    assert len({fingerprint(), *(fingerprint(**change) for change in matter)}) == len(matter) + 1
    for change in ({"concurrency": 0}, {"concurrency": 3}, {"timeout_seconds": 1}, {"final_epochs": 9},
                   {"compile_final": True}, {"data": "digits"},
                   {"epochs": np.int64(1)}, {"learning_rate": np.float64(0.01)}):  # fmt: skip
        assert fingerprint(**change) == fingerprint()


def test_a_subclass_that_measures_otherwise_has_another_fingerprint(in_process):
    class Halved(TrainingEvaluator):
        def measure(self, trials):
            return super().measure([replace(trial, fidelity=trial.fidelity / 2) for trial in trials])

    assert Halved(SPACE, DIGITS, epochs=1, concurrency=0, devices="cpu").fingerprint() != in_process.fingerprint()


# What is refused


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"epochs": 0}, "epochs"), ({"epochs": 1.5}, "epochs"), ({"final_epochs": 0}, "final_epochs must be"),
        ({"batch_size": 1}, "batch_size"), ({"learning_rate": float("nan")}, "learning_rate"),
        ({"optimizer": "adam"}, "optimizer"), ({"augment": "flip"}, "augment"),
        ({"timeout_seconds": 0}, "timeout_seconds"), ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"timeout_seconds": "1"}, "timeout_seconds"),
        ({"concurrency": -1}, "concurrency"), ({"concurrency": "many"}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"), ({"concurrency": True}, "concurrency"),
        ({"precision": "float16"}, "precision must be"), ({"compile_final": 1}, "compile_final must be"),
        ({"deterministic": "yes"}, "deterministic must be true or false"),
        ({"devices": "tpu"}, "devices must be"), ({"devices": "cuda:"}, "devices must be"),
        ({"devices": "cuda:x"}, "devices must be"), ({"devices": "cuda:99"}, "CUDA devices here"),
        ({"devices": ""}, "devices must be"), ({"devices": None}, "devices must be"),
        ({"devices": "cpu:1"}, "devices must be"),
        ({"data": "digit"}, "digits"), ({"seed": "x"}, "seed"), ({"seed": 1.5}, "seed"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings(bad, said):
    with pytest.raises(InputError, match=said) as refusal:
        TrainingEvaluator(SPACE, **{"data": DIGITS, "devices": "cpu", **bad})
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there():
    with pytest.raises(InputError, match=r"sees 0 CUDA devices here; give --evaluator\.devices cpu"):
        TrainingEvaluator(SPACE, DIGITS, devices="cuda")
    assert TrainingEvaluator(SPACE, DIGITS, devices="auto").devices == ("cpu",)


@pytest.mark.parametrize(
    "task", [Task(Images((3, 8, 8)), 10), Task(Images((1, 9, 8)), 10), Task(Images((1, 8, 8)), 3)], ids=str
)
def test_data_that_do_not_fit_the_space(task):
    with pytest.raises(InputError, match=r"data set digits has .* make the space with task=data\.task"):
        TrainingEvaluator(ChainCNN(task=task), DIGITS, devices="cpu")


# Whole searches


def run(folder, evaluator, cache=None):
    with Search(SPACE, evaluator, RandomSearch(2), Budget(4), seed=2, run_dir=folder, cache=cache) as search:
        search.run()
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()][1:]
    return [{k: v for k, v in e.items() if k not in ("train_seconds", "seconds")} for e in entries]


def test_the_same_seed_gives_the_same_journal_with_and_without_workers_and_cache(in_process, pooled, tmp_path):
    first = run(tmp_path / "first", in_process)
    assert len(first) == 4
    assert run(tmp_path / "workers", pooled) == first
    with Cache(tmp_path / "cache.db") as cache:
        assert run(tmp_path / "cold", in_process, cache) == first
        warm = run(tmp_path / "warm", in_process, cache)
    assert all(entry["cached"] for entry in warm)
    assert [{**e, "cached": None} for e in warm] == [{**e, "cached": None} for e in first]


def test_a_configuration_can_be_written(in_process, pooled):
    for evaluator in (in_process, pooled):
        json.dumps(evaluator.config())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_is_as_accurate_as_on_the_cpu():
    space = ChainCNN()
    means = []
    for device in ("cpu", "cuda"):
        made = [TrainingEvaluator(space, DIGITS, devices=device, concurrency=0, seed=s) for s in range(4)]
        measured = [searched(e, [space.reference()])[0] for e in made]
        assert [m.error for m in measured] == [None] * 4
        assert not any(e.eager for e in made), "captured"
        means.append(np.mean([m.score for m in measured]))
    assert abs(means[0] - means[1]) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_deterministic_gpu_gives_the_same_numbers_each_time():
    space = ChainCNN()
    architecture = [space.reference()]
    options = {"devices": "cuda", "concurrency": 0, "deterministic": True}
    first, second = (searched(TrainingEvaluator(space, DIGITS, **options), architecture)[0] for _ in range(2))
    assert first.error is None
    assert (first.score, first.curve) == (second.score, second.curve)


@pytest.mark.parametrize(
    ("compiler", "headers", "named"),
    [("no-such-g++", None, "no compiler no-such-g++"), ("true", "/nowhere", "no /nowhere/Python.h")],
)
def test_compiling_without_a_compiler_is_refused_when_the_evaluator_is_made(compiler, headers, named, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    if headers is not None:
        monkeypatch.setattr("sysconfig.get_path", lambda name: headers)
    with pytest.raises(
        InputError, match=f"compile_final needs a C.. compiler and Python's headers, and there is {named}"
    ):
        TrainingEvaluator(SPACE, DIGITS, compile_final=True)
    TrainingEvaluator(SPACE, DIGITS)
