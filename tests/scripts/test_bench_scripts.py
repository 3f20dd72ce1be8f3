"""The benchmarks in their smallest form."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING = ["--problems", "digits", "--architectures", "1", "--epochs", "1", "--device", "cpu"]


def run(script, options, monkeypatch):
    """Run a script as a program, but in this process."""
    path = str(ROOT / "scripts" / "benchmarks" / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [path, *options])
    runpy.run_path(path, run_name="__main__")


@pytest.mark.parametrize(
    ("script", "options", "goals"),
    [
        ("bench_training", [*TRAINING, "--pairs", "1"], 2),
        ("bench_ablation", [*TRAINING, "--rounds", "1"], 0),
        ("bench_ppo", ["--pairs", "1", "--updates", "2"], 4),
        (
            "bench_agents",
            ["--agents", "RegularizedEvolution", "r=RandomSearch", "--seeds", "2", "--evaluations", "4"],
            0,
        ),
        ("bench_env", ["--architectures", "4", "--episodes", "2", "--rounds", "1"], 2),
    ],
)
def test_its_smallest_form_writes_setting_tables_and_goals(tmp_path, script, options, goals, monkeypatch, capsys):
    file = tmp_path / "figures.json"
    run(script, [*options, "--json", str(file)], monkeypatch)
    record = json.loads(file.read_text())
    assert (record["benchmark"], record["setting"]["kind"]) == (script, "cpu")
    assert len(record["figures"].get("goals", [])) == goals
    assert "\n| " in capsys.readouterr().out
    assert record["figures"]["tables"][0]["rows"]


def test_a_server_under_load_and_killed_loses_nothing(tmp_path, postgresql):
    file = tmp_path / "figures.json"
    small = ["--rows", "100", "--clients", "2", "--rate", "40", "--seconds", "1", "--kills", "1"]
    command = [sys.executable, "-m", "scripts.benchmarks.bench_cache_server", *small, "--json", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    goals = {goal["goal"]: goal for goal in json.loads(file.read_text())["figures"]["goals"]}
    assert len(goals) == 3
    assert goals["measurements lost"]["met"]


def test_a_problem_that_there_is_not_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as refused:
        run("bench_training", ["--problems", "imagenet"], monkeypatch)
    assert refused.value.code == 2
    assert "expected some of digits,mnist5k,cells, got 'imagenet'" in capsys.readouterr().err
