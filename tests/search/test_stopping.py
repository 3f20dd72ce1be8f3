"""Ctrl-C, SIGTERM and kill -9 of the command, as a terminal, a cluster and the kernel send them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasenv.commands.cli import main
from tests.fakes import hearing

OPTIONS = [
    *("--agent", "RandomSearch", "--agent.batch_size", "8", "--space.max_layers", "2", "--evaluator.epochs", "2"),
    *("--evaluator.final_epochs", "4", "--budget.evaluations", "24", "--budget.finalists", "2"),
    *("--budget.final_seeds", "1", "--cache", "none"),
]
TRAIN = [sys.executable, "scripts/train_controller.py", *OPTIONS, "--evaluator.concurrency", "2"]
ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "train_seconds")


def train(run_dir, *options):
    """Return the command, running in a session of its own."""
    return subprocess.Popen(
        [*TRAIN, "--run_dir", str(run_dir), *options], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=hearing,
    )  # fmt: skip


def train_here(run_dir, *options):
    """Run the command to its end in this process, without workers."""
    assert main(["train", *OPTIONS, "--evaluator.concurrency", "0", "--run_dir", str(run_dir), *options]) == 0


def lines(path):
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.exists() else []
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in entries]


def trials(folder):
    return lines(folder / "trials.jsonl")


def journaled(folder):
    return lines(folder / "journal.jsonl")


def result(folder):
    return {k: v for k, v in json.loads((folder / "result.json").read_text()).items() if k not in TIMES}


def when(happens, process):
    deadline = time.monotonic() + 60
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def when_trained(folder, purpose, count, process):
    """Wait until so many trials of a purpose are done, and at least one in this start of the command."""
    before = len(trials(folder))

    def happens():
        done = trials(folder)
        return len(done) > before and sum(entry["purpose"] == purpose for entry in done) >= count

    when(happens, process)


def family(process):
    """Return the processes of its session that there still are, zombies not among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # gone
            continue
        if int(session) == process.pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def assert_nobody_left(process):
    deadline = time.monotonic() + 30  # a server that was just importing PyTorch ends when it has; workers end at once
    while family(process):
        assert time.monotonic() < deadline, f"{family(process)} outlive their parent"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train_here(folder)
    return folder


class Run:
    """A run that the same command is started for again and again; each start goes on where the one before ended."""

    def __init__(self, folder, undisturbed):
        self.folder, self.undisturbed = folder, undisturbed
        self.known, self.replayed = [], 0
        self.assert_saved()

    def assert_saved(self):
        assert trials(self.folder)[: len(self.known)] == self.known
        assert journaled(self.folder) == journaled(self.undisturbed)[: len(journaled(self.folder))]
        self.known, self.replayed = trials(self.folder), len(journaled(self.folder))

    def assert_replayed(self, said):
        assert bool(re.search(rf"\b{self.replayed} evaluations? replayed in", said)) == (self.replayed > 0)

    def is_stopped(self, number, purpose, count):
        process = train(self.folder)
        when_trained(self.folder, purpose, count, process)
        done = len(trials(self.folder))
        os.killpg(process.pid, number)
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 3, errors
        assert "stopping when the running trainings are done; a second signal ends at once" in errors
        assert "everything done is saved, the same command resumes" in errors.splitlines()[-1]
        assert "Traceback" not in errors
        assert "--resume conclude" in said
        self.assert_replayed(said)
        assert done <= len(trials(self.folder)) <= done + 4, "two were in flight"
        partial = json.loads((self.folder / "partial_result.json").read_text())
        assert partial["evaluations"] == len(journaled(self.folder))
        assert_nobody_left(process)
        self.assert_saved()

    def is_stopped_twice(self, count):
        process = train(self.folder)
        when_trained(self.folder, "search", count, process)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGTERM)
        started = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - started < 10
        assert process.returncode == -signal.SIGTERM
        assert "Traceback" not in errors
        assert_nobody_left(process)
        self.assert_saved()

    def is_killed(self, purpose, count):
        process = train(self.folder)
        if count:
            when_trained(self.folder, purpose, count, process)
        else:
            when((self.folder / "journal.jsonl").exists, process)
        process.kill()
        process.communicate()
        assert_nobody_left(process)
        self.assert_saved()

    def assert_ended(self):
        self.assert_saved()
        assert journaled(self.folder) == journaled(self.undisturbed)
        assert result(self.folder) == result(self.undisturbed)
        assert len(self.known) == len(trials(self.undisturbed)), "nothing was trained twice"
        assert not (self.folder / "partial_result.json").exists()


@pytest.fixture(scope="module")
def out_of_time(tmp_path_factory):
    """Return the folder of a run whose seconds were used up in its search."""
    folder = tmp_path_factory.mktemp("runs") / "out of time"
    process = train(folder, "--budget.wall_seconds", "0.3")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the budget of 0.3 wall seconds is used up; everything done is saved" in errors
    assert 0 < len(trials(folder)) < 16
    return folder


def test_conclude_ends_a_search_that_is_out_of_time(out_of_time, tmp_path, capsys):
    folder = shutil.copytree(out_of_time, tmp_path / "run")
    train_here(folder, "--resume", "conclude")
    assert "concluded as asked for, after" in capsys.readouterr().out
    assert result(folder)["evaluations"] == len(journaled(folder)) == len(journaled(out_of_time)) > 0


def test_the_first_signal_lets_what_is_in_flight_finish_and_the_second_ends_at_once(out_of_time, undisturbed, tmp_path):
    run = Run(shutil.copytree(out_of_time, tmp_path / "run"), undisturbed)
    run.is_stopped(signal.SIGHUP, "search", 3)
    run.is_stopped_twice(5)
    run.is_stopped(signal.SIGINT, "search", 9)
    run.is_stopped(signal.SIGTERM, "confirm", 1)
    process = train(run.folder)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert_nobody_left(process)
    run.assert_replayed(said)
    run.assert_ended()


def test_kill_9_leaves_no_process_and_loses_what_was_in_flight_alone(undisturbed, tmp_path):
    run = Run(tmp_path / "run", undisturbed)
    for purpose, count in (("search", 0), ("search", 7), ("confirm", 1), ("test", 1)):
        run.is_killed(purpose, count)
    train_here(run.folder)
    run.assert_ended()
