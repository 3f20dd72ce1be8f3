"""Ctrl-C, SIGTERM and kill -9 of the command, as a terminal, a cluster and the kernel send them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes import hearing

TRAIN = [
    *(sys.executable, "scripts/train_controller.py", "--agent", "RandomSearch", "--agent.batch_size", "8"),
    *(
        "--space.max_layers",
        "2",
        "--evaluator.epochs",
        "2",
        "--evaluator.final_epochs",
        "4",
        "--evaluator.concurrency",
        "2",
    ),
    *("--budget.evaluations", "16", "--budget.finalists", "2", "--budget.final_seeds", "1", "--cache", "none"),
]
ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "train_seconds")


def train(run_dir, *options):
    """Return the command, running in a session of its own."""
    return subprocess.Popen(
        [*TRAIN, "--run_dir", str(run_dir), *options], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=hearing,
    )  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.exists() else []


def journaled(folder):
    return [{k: v for k, v in e.items() if k not in TIMES} for e in lines(folder / "journal.jsonl")]


def result(folder):
    return {k: v for k, v in json.loads((folder / "result.json").read_text()).items() if k not in TIMES}


def trained(folder, purpose, count):
    """Return whether so many trials of a purpose are done."""
    return sum(entry["purpose"] == purpose for entry in lines(folder / "trials.jsonl")) >= count


def when(happens, process):
    deadline = time.monotonic() + 60
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    process = train(folder)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert_nobody_left(process)
    return folder


def goes_on(folder, undisturbed):
    before = [{k: v for k, v in e.items() if k not in TIMES} for e in lines(folder / "trials.jsonl")]
    process = train(folder)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert journaled(folder) == journaled(undisturbed)
    assert result(folder) == result(undisturbed)
    after = [{k: v for k, v in e.items() if k not in TIMES} for e in lines(folder / "trials.jsonl")]
    assert after[: len(before)] == before
    assert len(after) == len(lines(undisturbed / "trials.jsonl"))
    assert not (folder / "partial_result.json").exists()
    return said


@pytest.mark.parametrize(
    ("number", "to_all", "purpose", "count"),
    [(signal.SIGINT, True, "search", 9), (signal.SIGHUP, True, "search", 3), (signal.SIGTERM, True, "confirm", 1)],
    ids=["Ctrl-C", "SIGHUP", "SIGTERM-in-the-final-training"],
)
def test_the_first_signal_lets_what_is_in_flight_finish(number, to_all, purpose, count, undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = train(folder)
    when(lambda: trained(folder, purpose, count), process)
    done = len(lines(folder / "trials.jsonl"))
    (os.killpg if to_all else os.kill)(process.pid, number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "stopping when the running trainings are done; a second signal ends at once" in errors
    assert "everything done is saved, the same command resumes" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert "--resume conclude" in said
    assert done <= len(lines(folder / "trials.jsonl")) <= done + 4, "two were in flight"
    partial = json.loads((folder / "partial_result.json").read_text())
    assert partial["evaluations"] == len(journaled(folder))
    assert_nobody_left(process)
    said = goes_on(folder, undisturbed)
    if journaled(folder) and partial["evaluations"]:
        assert f"{partial['evaluations']} evaluations replayed in" in said


def test_the_second_signal_ends_at_once(undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = train(folder)
    when(lambda: trained(folder, "search", 5), process)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in errors
    assert_nobody_left(process)
    goes_on(folder, undisturbed)


@pytest.mark.parametrize(("purpose", "count"), [("search", 0), ("search", 7), ("confirm", 1), ("test", 1)])
def test_kill_9_leaves_no_process_and_loses_what_was_in_flight_alone(purpose, count, undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = train(folder)
    when(lambda: (folder / "journal.jsonl").exists() and trained(folder, purpose, count), process)
    process.kill()
    process.communicate()
    assert_nobody_left(process)
    goes_on(folder, undisturbed)


def test_wall_seconds_and_conclude(undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = train(folder, "--budget.wall_seconds", "0.3")
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the budget of 0.3 wall seconds is used up; everything done is saved" in errors
    done = len(lines(folder / "trials.jsonl"))
    assert 0 < done < 16
    process = train(folder, "--resume", "conclude")
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "concluded as asked for, after" in said
    assert result(folder)["evaluations"] == len(journaled(folder)) > 0
