"""The environments are in Gymnasium's registry."""

import contextlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import nasenv

IDS = ["nasenv/ChainCNN-v0", "nasenv/NASBench201-v0", "nasenv/NASBenchMacro-v0"]


SMALL = "data=(numpy.arange(20 * 64).reshape(20, 8, 8) % 7, numpy.arange(20) % 2)"  # the digits take a second to import


@pytest.mark.parametrize("imports", ["import nasenv", f"gymnasium.make('nasenv:nasenv/ChainCNN-v0', {SMALL})"])
def test_environments_are_in_the_registry(imports: str):
    says = "print(*(i for i in gymnasium.registry if i.startswith('nasenv/')), sep='\\n')"
    line = [sys.executable, "-W", "error", "-c", f"import gymnasium, numpy; {imports}; {says}"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines(), done.stderr) == (IDS, "")


@pytest.mark.parametrize("name", IDS)
def test_a_specification_can_be_written_and_read(name: str):
    text = gymnasium.spec(name).to_json()
    assert json.loads(text)["kwargs"]["space"].startswith("nasenv.spaces.")
    assert gymnasium.envs.registration.EnvSpec.from_json(text) == gymnasium.spec(name)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    line = [sys.executable, "-W", "ignore", "program.py"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


SPAWNED = """
import sys
from functools import partial
from pathlib import Path
from typing import Any
import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

y = np.arange(60) % 2
x = y[:, None, None] + np.random.default_rng(0).random((60, 8, 8))  # fewer than the digits
OPTIONS = dict(max_layers=1, widths=(8,), budget={"evaluations": 2}, data=(x, y))

def make():
    assert not any(name.startswith("nasenv") for name in sys.modules)
    return gymnasium.make("nasenv:nasenv/ChainCNN-v0", **OPTIONS)

if __name__ == "__main__":
    env = SubprocVecEnv([make, make], start_method="spawn")
    env.reset()
    choice = 0
    while True:
        _, rewards, done, _ = env.step([choice, choice])
        if done.all():
            print(rewards[0] == rewards[1] > 0)
            choice += 1
"""


def test_spawned_children_make_them_and_pass_errors_on(tmp_path: Path):
    """Nothing has imported nasenv in a child of SubprocVecEnv."""
    done = run(SPAWNED, tmp_path)
    assert done.stdout == "True\nTrue\n"
    assert done.stderr.splitlines()[-1] == ("nasenv.errors.BudgetExhausted: the budget of 2 evaluations is used up"), (
        done.stderr
    )
    assert "EOFError" not in done.stderr
    assert "Process " not in done.stderr, "a child says nothing beside"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_own_processes_pass_errors_on():
    options = {"max_layers": 1, "widths": (8,), "budget": {"evaluations": 1}}
    data = np.random.default_rng(0).random((60, 8, 8)), np.arange(60) % 2  # fewer than the digits
    make = partial(gymnasium.make, "nasenv:nasenv/ChainCNN-v0", data=data, **options)
    env = gymnasium.vector.AsyncVectorEnv([make], shared_memory=False, context="spawn")
    env.reset()

    def go_on():
        for _ in range(40):
            env.step(np.array([0]))

    with pytest.raises(nasenv.BudgetExhausted, match="the budget of 1 evaluation is used up"):
        go_on()
    env.close(terminate=True)


def parts(tmp_path: Path) -> dict[str, dict[str, Any]]:
    data = nasenv.load_dataset("digits")
    space = nasenv.ChainCNN(task=data.task, max_layers=2)
    evaluator = nasenv.TrainingEvaluator(space, data, concurrency=1)
    evaluator.start()  # it has processes, which cannot be copied
    return {
        "nothing": {},
        "options": {"max_layers": 2, "widths": (8,)},
        "a budget": {"budget": nasenv.Budget(5)},
        "data by name": {"data": nasenv.Data("digits", split_seed=3)},
        "data": {"data": data},
        "a cache": {"cache": nasenv.Cache(tmp_path / "cache.db")},
        "an evaluator": {"evaluator": evaluator},
        "an objective": {"objective": nasenv.Score()},
        "a space": {"space": nasenv.ChainCNN(max_layers=2)},
        "a class": {"space": nasenv.ChainCNN},
    }


def test_what_was_made_can_be_written(tmp_path: Path):
    for name, given in parts(tmp_path).items():
        with contextlib.closing(gymnasium.make("nasenv:nasenv/ChainCNN-v0", **given)) as env:
            text = env.spec.to_json()
            if name not in ("an evaluator", "an objective", "a space"):
                again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(text))
                assert again.unwrapped.search.config() == env.unwrapped.search.config(), name
            with contextlib.closing(gymnasium.make(env.spec)) as same:
                assert same.unwrapped.search.config() == env.unwrapped.search.config(), name
            if given.get("evaluator") is not None:
                assert same.unwrapped.search._evaluator is given["evaluator"], "not a copy"
    vector = gymnasium.make_vec("nasenv:nasenv/ChainCNN-v0", num_envs=2, evaluator=given_evaluator())
    assert json.loads(vector.spec.to_json())["kwargs"]["evaluator"]["class_path"].endswith("TrainingEvaluator")


def given_evaluator() -> nasenv.TrainingEvaluator:
    return nasenv.TrainingEvaluator(nasenv.ChainCNN(max_layers=2))


@pytest.mark.parametrize(("mode", "kind"), [("rgb_array_list", np.ndarray), ("ansi_list", str)])
def test_lists_of_pictures(mode: str, kind: type):
    env = gymnasium.make("nasenv:nasenv/ChainCNN-v0", render_mode=mode, max_layers=1)
    env.reset()
    for _ in range(3):
        env.step(0)
    frames = env.render()
    assert len(frames) == 4
    assert all(isinstance(frame, kind) for frame in frames)
