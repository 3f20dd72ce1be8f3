"""The checks on a GPU, tried out on a processor, and what becomes of their records."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.benchmarks.gpu_steps import Step, _run

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "scripts" / "benchmarks" / "gpu_check"
FIGURES = {
    "decide": {
        "step times": ["chain, float32", "chain, bfloat16"],
        "streams": ["1", "2"],
        "processes": ["1", "2"],
        "service": ["1", "2"],
        "cores": [str(len(os.sched_getaffinity(0)))],
        "failed capture": ["before", "failing", "after"],
    },
    "confirm": {
        "tests": ["passed", "failed", "error", "skipped"],
        "memory": ["training 1", "training 2", "training 8"],
        "accuracy": ["processor", "device", "points"],
        "plain loop": ["0 loader workers"],
    },
}
GOALS = {"decide": 7, "confirm": 4}


@pytest.mark.parametrize("part", FIGURES)
def test_on_a_processor_every_step_ends_well_and_its_figures_are_recorded(part, tmp_path):
    environment = {**os.environ, "DEVICE": "cpu", "PYTHON": sys.executable, "OUT": str(tmp_path)}
    done = subprocess.run([CHECK, part], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / f"gpu_{part}.json").read_text())
    figures = record["figures"]
    assert (record["benchmark"], record["setting"]["kind"]) == (f"gpu_{part}", "cpu")
    assert {name: step["exit_code"] for name, step in figures["steps"].items()} == dict.fromkeys(FIGURES[part], 0)
    assert {name: list(figures[name]) for name in FIGURES[part]} == FIGURES[part]
    assert len(figures["summary"]["goals"]) == GOALS[part]
    assert all(table["rows"] for table in figures["summary"]["tables"])
    assert "goal: " in (tmp_path / f"gpu_{part}.txt").read_text()


def test_another_part_is_refused():
    done = subprocess.run([CHECK, "everything"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_check decide" in done.stderr


def fails(device):
    yield "before", device
    raise ValueError("as it must")


def hangs(device):
    yield "before", os.environ["SAID"]
    time.sleep(600)


def test_a_step_that_fails_or_hangs_leaves_what_it_measured(monkeypatch):
    monkeypatch.setenv("SAID", "cpu")
    for measure, seconds, code in ((fails, 120, 1), (hangs, 10, -9)):  # the second starts at once, after the first
        figures, told = _run("one", Step(measure, seconds), "cpu")
        assert figures == {"before": "cpu"}
        assert told["exit_code"] == code
