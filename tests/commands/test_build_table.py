"""``nasenv build_table``: every architecture trained once, kept through a kill, and a card that tells the truth."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.stats import spearmanr
from torch import nn

from nasenv.commands.build_table import build_table
from nasenv.configuration import digest
from nasenv.errors import InputError
from nasenv.evaluators.table import TableEvaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.tables.card import figures
from nasenv.tables.table import read_table
from nasenv.trial import Measurement, Trial
from tests.fakes import Formula

SPACE = ChainCNN(max_layers=2, widths=(8,))  # 160 architectures or so, some of them equivalent
SMALL = ChainCNN(max_layers=1, widths=(8,))  # 10 architectures
TRAINING = {"data": "digits", "epochs": 1, "final_epochs": 1, "concurrency": 0}


class Seeded(Formula):
    """Each architecture has a figure for each seed and use; one seed of one in twenty fails."""

    def measure(self, trials):
        self.calls.append(list(dict.fromkeys(t.architecture for t in trials if t.purpose == "confirm")))
        return [self.final(trial.purpose, trial.architecture, trial.seed) for trial in trials]

    def final(self, purpose, architecture, seed):
        assert purpose in ("confirm", "test"), "a table is made of final trainings"
        if purpose == "test":
            return Measurement(share(architecture, seed, "test"))
        value = share(architecture, seed)
        if value < 0.05:
            return Measurement(None, "diverged", train_seconds=9.0)
        return Measurement(value, train_seconds=float(seed), metrics={"params": 10.0 * sum(architecture)})

    def figure(self, architecture):
        raise NotImplementedError


def share(*what):
    return int(digest(what), 16) / 16**16


def without_seconds(path):
    """Return what a table says but for the times."""
    table = read_table(path)
    return table.architectures, {k: v.tolist() for k, v in table.columns.items() if k != "train_seconds"}


def test_every_design_has_a_row_and_equals_are_trained_once(tmp_path):
    evaluator = Seeded(SPACE)
    build_table(SPACE, evaluator, str(tmp_path / "t.csv"))
    architectures = [tuple(row) for row in SPACE.all_architectures().tolist()]
    trained = [a for call in evaluator.calls for a in call]
    assert sorted(trained) == sorted({SPACE.canonical(a) for a in architectures})
    assert len(trained) < len(architectures)
    table = read_table(tmp_path / "t.csv", ["val_accuracy", "val_accuracy_seed2", "test_accuracy"], ["train_seconds"])
    assert table.architectures == tuple(map(SPACE.to_text, architectures))
    for row, architecture in enumerate(architectures):
        a = SPACE.canonical(architecture)
        found = {name: column[row] for name, column in table.columns.items()}
        seeds = [share(a, s) for s in range(3)]
        expected = np.nan if min(seeds) < 0.05 else np.mean(seeds)
        assert found["val_accuracy"] == pytest.approx(expected, nan_ok=True)
        assert found["val_accuracy_seed2"] == pytest.approx(np.nan if seeds[2] < 0.05 else seeds[2], nan_ok=True)
        assert found["test_accuracy"] == pytest.approx(np.mean([share(a, s, "test") for s in range(3)]))
        assert min(seeds) < 0.05 or (found["train_seconds"], found["params"]) == (1.0, 10.0 * sum(a))


def test_a_search_can_be_answered_from_it(tmp_path):
    build_table(SMALL, Seeded(SMALL), str(tmp_path / "t.csv.gz"), seeds=1)
    evaluator = TableEvaluator(SMALL, str(tmp_path / "t.csv.gz"))
    architecture = tuple(SMALL.all_architectures()[3].tolist())
    assert evaluator.measure([Trial(architecture)])[0].score == pytest.approx(share(SMALL.canonical(architecture), 0))


def test_real_trainings_killed_and_started_again_end_as_if_they_had_not_been(tmp_path):
    """kill -9 in the middle, a torn last line: the same table but for the times."""
    out = tmp_path / "killed.csv"
    code = (
        "from nasenv.commands.build_table import build_table\n"
        "from nasenv.evaluators.training import TrainingEvaluator\n"
        "from nasenv.spaces.chain_cnn import ChainCNN\n"
        f"space = ChainCNN(max_layers=1, widths=(8,))\n"
        f"build_table(space, TrainingEvaluator(space, **{TRAINING}), {str(out)!r}, seeds=2)\n"
    )
    log = tmp_path / "killed.csv.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = log.read_text().splitlines(keepends=True)
    with log.open("a") as file:
        file.write('{"architecture":[0,1')

    build_table(SMALL, TrainingEvaluator(SMALL, **TRAINING), str(out), seeds=2)
    build_table(SMALL, TrainingEvaluator(SMALL, **TRAINING), str(tmp_path / "whole.csv"), seeds=2)
    lines = log.read_text().splitlines(keepends=True)
    assert 3 <= len(kept) < len(lines)
    assert lines[: len(kept)] == kept
    trials = [(tuple(e["architecture"]), e["purpose"], e["seed"]) for e in map(json.loads, lines[1:])]
    assert len(set(trials)) == len(trials) == len(SMALL.all_architectures()) * 2 * 2
    assert without_seconds(out) == without_seconds(tmp_path / "whole.csv")


def test_a_finished_table_is_not_trained_again(tmp_path):
    build_table(SMALL, Seeded(SMALL), str(tmp_path / "t.csv"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    evaluator = Seeded(SMALL)
    build_table(SMALL, evaluator, str(tmp_path / "t.csv"))
    assert evaluator.calls == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sorted(before) == ["t.csv", "t.csv.jsonl", "t.md"]


def test_a_home_folder_may_be_written_as_it_is_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    build_table(SMALL, Seeded(SMALL), "~/t.csv")
    assert (tmp_path / "t.csv").exists()


def test_what_another_command_began_is_refused_and_left_alone(tmp_path):
    build_table(SMALL, Seeded(SMALL), str(tmp_path / "t.csv"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="seeds is 3 there, 2 here; give another output"):
        build_table(SMALL, Seeded(SMALL), str(tmp_path / "t.csv"), seeds=2)
    with pytest.raises(InputError, match="belongs to another configuration"):
        build_table(SPACE, Seeded(SPACE), str(tmp_path / "t.csv"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "mine.csv").write_text("precious")
    with pytest.raises(InputError, match=r"mine\.csv exists"):
        build_table(SMALL, Seeded(SMALL), str(tmp_path / "mine.csv"))


def four_digits(choose, task):
    return nn.Linear(sum(choose(f"digit{i}", range(10)) for i in range(4)), task.outputs)


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        (
            ChainCNN(),
            {},
            r"ChainCNN has 1,598,758,912 architectures, above the limit of 50,000: 6 trainings of one second",
        ),
        (SMALL, {"limit": 9}, r"ChainCNN has 10 architectures, above the limit of 9"),
        (FunctionSpace(four_digits), {}, "FunctionSpace lists no more than 2,000 architectures and has more"),
        (
            FunctionSpace(four_digits),
            {"limit": 1999},
            "FunctionSpace has more than 2,000 architectures, above the limit",
        ),
        (SMALL, {"seeds": 0}, "seeds must be an integer of 1 or more, got 0"),
        (SMALL, {"limit": 0}, "limit must be an integer of 1 or more, got 0"),
        (SMALL, {"output": "nowhere/t.csv"}, r"cannot be written: No such file"),
    ],
)
def test_what_cannot_be_built(tmp_path, monkeypatch, space, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        build_table(space, Seeded(space), **{"output": "t.csv", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"score": "2"}, {"seed": None}, {"purpose": "x"}, {"architecture": 3}])
def test_a_damaged_line_is_named(tmp_path, change):
    build_table(SMALL, Seeded(SMALL), str(tmp_path / "t.csv"))
    log = tmp_path / "t.csv.jsonl"
    lines = log.read_text().splitlines()
    lines[4] = json.dumps({**json.loads(lines[4]), **change})
    log.write_text("\n".join([*lines, ""]))
    with pytest.raises(InputError, match=r"line 5 is damaged; keep the 4 before it with .* or give another output"):
        build_table(SMALL, Seeded(SMALL), str(tmp_path / "t.csv"))


def test_the_card_says_how_it_was_computed(tmp_path):
    build_table(SPACE, Seeded(SPACE), str(tmp_path / "t.csv.gz"), note="On a [laptop].")
    said = (tmp_path / "t.md").read_text()
    architectures = [tuple(row) for row in SPACE.all_architectures().tolist()]
    assert said.startswith("# t.csv.gz: every ChainCNN on Seeded\n")
    networks = set(map(SPACE.canonical, architectures))
    assert f"{len(architectures):,} architectures, which are {len(networks):,} different networks" in said
    assert re.search(r"max_layers: 2\n +widths:\n +- 8\n", said)
    assert "seeds: 3" in said
    assert re.search(r"Computed on: .*Python 3\.\d+.*, nasenv \d", said)
    assert "\nOn a [laptop].\n" in said
    assert str(tmp_path) not in said


def test_the_card_options_build_the_same_table(tmp_path):
    """The YAML in the card, taken as a configuration file; the number of workers makes no other table."""
    build_table(SMALL, TrainingEvaluator(SMALL, **TRAINING), str(tmp_path / "t.csv"), seeds=1)
    options = re.search(r"```yaml\n(.*)```", (tmp_path / "t.md").read_text(), re.S)[1]
    (tmp_path / "build.yaml").write_text(options)
    from nasenv.commands.arguments import call

    again = ["--config", str(tmp_path / "build.yaml"), "--output", str(tmp_path / "u.csv")]
    call(build_table, "build", again)
    call(build_table, "build", [*again, "--evaluator.concurrency", "7"])
    assert without_seconds(tmp_path / "u.csv") == without_seconds(tmp_path / "t.csv")


def test_the_figures_of_a_card_by_hand():
    """Four hundred networks whose seeds differ by 0.02 all the same; two share the best place, one failed."""
    n = 400
    mean = np.concatenate([np.linspace(0.1, 0.88, n - 3), [0.9, 0.9, np.nan]])
    rng = np.random.default_rng(0)
    test = np.where(np.isnan(mean), np.nan, np.clip(mean + rng.normal(0, 0.02, n), 0, 1))
    columns = {"val_accuracy": mean, "val_accuracy_seed0": mean - 0.02, "val_accuracy_seed1": mean + 0.02}
    columns |= {"test_accuracy": test, "train_seconds": np.arange(n) / 10, "flops": np.arange(n) ** 2.0}
    said = dict(figures(columns))
    known = mean[:-1]
    assert said["networks of which a training failed, so that a mean is empty"] == "1"
    assert said["validation accuracy: best above median"] == f"{0.9 - np.median(known):.4f}"
    assert said["top 1 % (4 networks): lowest validation accuracy"] == f"{np.sort(known)[-4]:.4f}"
    assert said["networks that have the best validation accuracy"] == "2"
    assert said["top 1 %: distinct validation accuracies"] == "3"
    assert said["standard deviation between seeds: mean"] == f"{0.04 / np.sqrt(2):.4f}"
    near = next(v for k, v in said.items() if "standard error of the mean, 0.0200" in k)
    assert near == str(int((known >= 0.88 - 1e-12).sum()))
    assert said["correlation of the validation accuracies of two seeds"] == "1.000"
    expected = spearmanr(known, test[:-1]).statistic
    assert said["correlation of the mean validation and test accuracies"] == f"{expected:.3f}"
    assert said["train_seconds: median (least to most)"] == "19.900 (0.000 to 39.800)"
    assert said["train_seconds: correlation with flops"] == "1.000"


@pytest.mark.filterwarnings("error")
def test_figures_of_next_to_nothing():
    """One network, one seed, all failed, all the same: no warning and no nonsense."""
    one = {"val_accuracy": [0.5], "val_accuracy_seed0": [0.5], "test_accuracy": [0.5], "train_seconds": [1.0]}
    failed = {**one, "val_accuracy": [np.nan]}
    same = {k: v * 9 for k, v in {**one, "val_accuracy_seed1": [0.5], "flops": [1.0]}.items()}
    for columns in (one, failed, same):
        rows = figures({k: np.array(v) for k, v in columns.items()})
        assert rows[0][1] == ("1" if columns is failed else "0")
