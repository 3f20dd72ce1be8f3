"""The checks on a GPU, tried out on a processor, and what becomes of their records."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.benchmarks.gpu_processes import multi_process_service
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


SERVICE = """#!/usr/bin/env bash
if [ "${1:-}" = -f ]; then
    echo "$CUDA_MPS_PIPE_DIRECTORY $$" >SAID
    until [ -e "$CUDA_MPS_PIPE_DIRECTORY/quit" ]; do sleep 0.1; done
    echo ended >>SAID
elif read -r word && [ "$word" = quit ]; then
    WHAT
fi
"""


@pytest.mark.parametrize(("what", "lines"), [('touch "$CUDA_MPS_PIPE_DIRECTORY/quit"', 2), ("true", 1)])
def test_the_service_has_a_folder_of_its_own_and_is_ended(what, lines, tmp_path, monkeypatch):
    program, said = tmp_path / "nvidia-cuda-mps-control", tmp_path / "said"
    program.write_text(SERVICE.replace("SAID", str(said)).replace("WHAT", what))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with multi_process_service():
        folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(folder).is_dir()
        for _ in range(300):  # until it is there
            time.sleep(0 if said.exists() else 0.1)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    first, *rest = said.read_text().splitlines()
    place, pid = first.split()
    assert (place, len(rest) + 1) == (folder, lines)
    assert not Path(folder).exists()
    assert not Path(f"/proc/{pid}").exists()
