"""A comparison that is stopped, or killed, goes on inside the searches that it was doing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nasenv.agents.random_search import RandomSearch
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.errors import InputError, SearchStopped
from nasenv.evaluators.evaluator import never
from nasenv.search.budget import Budget
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed, hearing

ROOT = Path(__file__).parents[2]
SPACE = ChainCNN(max_layers=2)


class Slow(Hashed):
    """Trains one after the other, for a moment each; leaves a file when it has begun, where it is to."""

    began = None
    pause = 0.05

    def config(self):
        return {"class_path": "Slow", "init_args": {}}

    def completed(self, stopped=never):
        try:
            while self._submitted and not stopped():
                trial = self._submitted.popleft()
                time.sleep(self.pause)
                if self.began is not None:
                    self.began.touch()
                yield trial, self.measure([trial])[0]
        finally:
            self._submitted.clear()


def comparison(folder):
    problem = Problem(SPACE, Slow(SPACE), budget=Budget(evaluations=20, final_seeds=1))
    return Comparison({"p": problem}, {"random": RandomSearch(batch_size=10)}, range(4), folder)


def run(folder, workers, until=None, seen=None):
    """Run a comparison to its end, or until so many trials are done, and return the runs that it did.

    Put into ``seen`` is the number of trials that were done when it was asked to stop.
    """
    compared, done = comparison(folder), []

    def watch():
        while len(trials(folder)) < until:
            time.sleep(0.01)
        compared.stop("stopped by the test")
        seen.append(len(trials(folder)))

    with compared.held():
        if until is not None:
            threading.Thread(target=watch, daemon=True).start()
        compared.run(done.append, workers, None)
    return done


def trials(folder):
    """Return every training that is journaled, in all of its searches: run, architecture, purpose, seed."""
    paths = sorted(folder.rglob("trials.jsonl"))
    entries = [(path.parent.name, json.loads(line)) for path in paths for line in path.read_text().splitlines()[1:]]
    return [(run, tuple(e["architecture"]), e["purpose"], e["seed"]) for run, e in entries]


def outcomes(folder):
    return {
        run.seed: (run.architectures, run.reward.tolist(), run.test_score[~np.isnan(run.test_score)].tolist())
        for run in comparison(folder).runs("p")
    }


def run_at_once(folder):
    """Run a comparison to its end in this process, without pauses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slow, "pause", 0.0)
        run(folder, 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_at_once(folder)
    return outcomes(folder), sorted(trials(folder))


@pytest.mark.parametrize(("workers", "until"), [(0, 7), (2, 15), (2, 45)])
def test_a_stop_keeps_every_training(workers, until, undisturbed, tmp_path):
    with pytest.raises(SearchStopped, match=r"stopped by the test; \d of 4 runs done"):
        run(tmp_path, workers, until, seen := [])
    kept = trials(tmp_path)
    assert until <= len(kept) <= seen[0] + 10, "what was in flight, and what two workers did until they heard of it"
    run(tmp_path, 2) if workers == 0 else run_at_once(tmp_path)
    assert outcomes(tmp_path) == undisturbed[0]
    assert sorted(trials(tmp_path)) == undisturbed[1]


def test_kill_9_too(undisturbed, tmp_path):
    code = "from pathlib import Path; from tests.comparison.test_comparison_stop import run; "
    code += f"run(Path({str(tmp_path)!r}), 2)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(trials(tmp_path)) < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # until its workers, who have its output too, are gone
    run_at_once(tmp_path)
    assert outcomes(tmp_path) == undisturbed[0]
    assert sorted(trials(tmp_path)) == undisturbed[1]


def test_ctrl_c_on_the_command(tmp_path):
    command = [
        *(
            sys.executable,
            "scripts/compare_controllers.py",
            "--seeds",
            "200",
            "--run_dir",
            str(tmp_path),
            "--workers",
            "2",
        ),
        *("--agents.one", "RandomSearch", "--agents.two", "RegularizedEvolution"),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hearing
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("run.json"))) < 10:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "stopped by Ctrl-C; " in said.splitlines()[-1]
    assert "of 400 runs done; everything done is saved, the same command resumes" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_wall_seconds_are_no_budget_of_a_comparison():
    with pytest.raises(InputError, match="wall_seconds would end the searches of a comparison unlike each other"):
        Problem(SPACE, Slow(SPACE), budget=Budget(evaluations=20, wall_seconds=1.0))
