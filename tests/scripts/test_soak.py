"""The soak in its short form, and that each of its checks can fail."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasenv.records.tensorboard import TensorBoardWriter
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.task import Images, Task
from scripts.soak import kills, soak
from scripts.soak.cases import cases
from scripts.soak.spaces import soak_case

ROOT = Path(__file__).parents[2]


def test_the_short_form_loses_nothing(tmp_path):
    file = tmp_path / "soak.json"
    options = ["--short", "--parts", "spaces,long,kills,faults", "--json", file]
    line = [sys.executable, "-m", "scripts.soak.soak", *options]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())["figures"]
    assert figures["spaces"]["sequences"] == 9_000
    assert figures["spaces"]["built"] == 18
    assert figures["long"]["searches"]["EachOnce"]["replay"]["replayed"] == 1_999
    assert figures["kills"]["agents"]["PPO"]["kills"] >= 2
    assert sum(figures["faults"]["faults"].values()) == 12
    assert sum(part["lost"] for part in figures.values()) == 0
    assert "| kills  | " in done.stdout


def test_a_part_that_there_is_not_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["soak.py", "--parts", "spaces,naps"])
    with pytest.raises(SystemExit) as refused:
        soak.main()
    assert refused.value.code == 2
    assert "got naps" in capsys.readouterr().err


class TooNarrow(ChainCNN):
    def mask(self, prefixes):
        mask = super().mask(prefixes)
        if prefixes.shape[1] == 3:
            mask[:, 1] = False  # the second width of the first layer
        return mask


class TooWide(ChainCNN):
    def mask(self, prefixes):
        mask = super().mask(prefixes)
        if prefixes.shape[1] == 4:
            mask[:, :2] = True  # a skip of the first layer, which has nothing to skip
        return mask


class Unsettled(ChainCNN):
    def canonical(self, architecture):
        first = np.flatnonzero(self.mask(np.array([architecture[:3]]))[0])
        other = first[(list(first).index(architecture[3]) + 1) % len(first)]
        return (*architecture[:3], int(other), *architecture[4:])


class Ambiguous(ChainCNN):
    def to_text(self, architecture):
        return super().to_text(architecture).replace("+skip", "")


class Stuck(ChainCNN):
    def mutate(self, architecture, rng):
        return architecture


class Raising(ChainCNN):
    def diagram(self, prefix):
        raise KeyError("diagram")


class Untrained(ChainCNN):
    def build(self, architecture):
        return super().build(architecture)[:1]


class Merging(ChainCNN):
    def canonical(self, architecture):
        return super().canonical((*architecture[:3], 0, *architecture[4:]))


@pytest.fixture(scope="module")
def whole():
    """Return the case of a space that is not broken, which loses nothing."""
    case = next(c for c in cases() if c.name == "ChainCNN, 2 layers, 4x4")
    assert soak_case(case, 2_000, 12)["failed"] == 0
    return case


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (TooNarrow, "keeps the rule"),
        (TooWide, "against the rule"),
        (Unsettled, "is not its own"),
        (Ambiguous, "two architectures have one text"),
        (Stuck, "is no neighbour"),
        (Raising, "KeyError"),
        (Untrained, "TypeError"),
        (Merging, "RuntimeError"),
    ],
)
def test_a_broken_space_is_seen(broken, said, whole):
    space = broken(2, (4, 8), Task(Images((1, 4, 4)), 3))
    figures = soak_case(replace(whole, space=space), 2_000, 12)
    assert any(said in reason for reason in figures["failures"]), figures["failures"]
    assert all(reason.startswith("ChainCNN, 2 layers, 4x4, seed 0: ") for reason in figures["failures"])


def run_directory(folder, rewards=(0.5, 0.25), steps=(1, 2), weights=b"w", winner="a"):
    folder.mkdir()
    lines = [{"config": folder.name}, *({"evaluation": i, "reward": r} for i, r in enumerate(rewards, 1))]
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(line | {'seconds': 1})}\n" for line in lines))
    (folder / "trials.jsonl").write_text("{}\n")
    (folder / "result.json").write_text(json.dumps({"winner": winner, "train_seconds": hash(folder)}))
    (folder / "weights.safetensors").write_bytes(weights)
    record = TensorBoardWriter(folder)
    for step in steps:
        record.scalars({"search/reward": 0.5}, step)
    record.close()
    return folder


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, None),
        ({"rewards": (0.5, 0.3)}, "journal.jsonl: 2 of 2 and 2 entries differs"),
        ({"rewards": (0.5,)}, "journal.jsonl: the number of 1 and 2 entries differs"),
        ({"winner": "b"}, "result.json differs"),
        ({"weights": b"v"}, "weights differ"),
        ({"steps": (1, 2, 2)}, "the curve has the steps [1, 2, 2]"),
    ],
)
def test_a_resumed_run_that_is_not_as_the_peaceful_one_is_seen(tmp_path, other, said):
    peaceful, resumed = run_directory(tmp_path / "peaceful"), run_directory(tmp_path / "resumed", **other)
    found = list(kills.differences(peaceful, resumed))
    assert found == [] if said is None else any(reason.startswith(said) for reason in found)


@pytest.mark.parametrize(
    ("evaluations", "rewards", "said"),
    [
        (2, (0.5, 0.25), []),
        (3, (0.5, 0.25), ["2 evaluations, the budget is 3"]),
        (2, (0.6, 0.25), ["the journal does not begin with what it held when the search was killed"]),
    ],
)
def test_a_journal_that_is_not_what_it_was_at_the_kill_is_seen(tmp_path, evaluations, rewards, said):
    folder = run_directory(tmp_path / "run", rewards=(0.5,))
    kept = kills._lines(folder / "journal.jsonl")
    shutil.rmtree(folder)
    run_directory(folder, rewards=rewards)
    assert list(kills._faults_of_journal(folder, [kept], evaluations)) == said


def test_a_process_that_goes_on_is_counted():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert kills._left([process.pid], 0.1) == 1
        process.kill()
    assert kills._left([process.pid], 0.1) == 0
