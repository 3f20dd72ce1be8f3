"""The command line: what is made of it, and how it refuses."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nasenv.agents.agent import Agent
from nasenv.agents.sb3 import MaskablePPO, StableBaselines
from nasenv.commands.arguments import call
from nasenv.commands.cli import main
from nasenv.configuration import without_derived
from nasenv.data.dataset import Data
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.objectives import Objective, Score
from nasenv.provenance import __version__
from nasenv.search.search import Budget
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.space import SearchSpace

REPOSITORY = Path(__file__).parents[2]
USERS = '''
from nasenv.agents.agent import Agent
from nasenv.evaluators.evaluator import Evaluator
from nasenv.trial import Measurement
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.task import Task

class MyAgent(Agent):
    def __init__(self, lr: float = 0.5) -> None:
        super().__init__()
        self.lr = lr

class Deep(ChainCNN):
    def __init__(self, depth: int = 9, **options) -> None:
        super().__init__(max_layers=depth, **options)

class Shaped(ChainCNN):
    def __init__(self, task: Task) -> None:
        super().__init__(task=task)

class Table(TrainingEvaluator):
    def __init__(self, space, path: str = "table.csv") -> None:
        super().__init__(space)

class Broken(Evaluator):
    def fingerprint(self):
        return "broken"

    def measure(self, trials):
        return [1 // 0 for _ in trials]

class Typed(Broken):
    def measure(self, trials):
        return [Measurement("0.5") for _ in trials]

class Quitting(Broken):
    def measure(self, trials):
        raise SystemExit(3)

class QuittingAtLast(Quitting):
    def measure(self, trials):
        if any(trial.purpose != "search" for trial in trials):
            return super().measure(trials)
        return [Measurement(0.5) for _ in trials]

class Noisy(TrainingEvaluator):
    def __init__(self, space, inner: Evaluator, noise: float = 0.1) -> None:
        self.space, self.inner = space, inner

from torch import nn
from nasenv.agents import PPO

def network(choose, task):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(choose("width", (2, 4))), nn.LazyLinear(task.outputs))

def no_network(choose, task):
    choose("width", "wide")

class MyPPO(PPO):
    """PPO with an option of its own.

    Args:
        boldness: how far it goes.
        n_epochs: passes.
    """

    def __init__(self, boldness: float = 2.0, n_epochs: int = 3, **kwargs) -> None:
        super().__init__(n_epochs=n_epochs, clip_range=0.1 * boldness, **kwargs)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, the current one, with a module of the user's own."""
    (tmp_path / "users_own.py").write_text(USERS)
    (tmp_path / "unfinished.py").write_text("x = (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for module in ("users_own", "unfinished"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def made(*argv: str) -> dict[str, Any]:
    """Return the arguments that ``nasenv train`` would get."""
    arguments: dict[str, Any] = {}

    def train(
        space: SearchSpace,
        evaluator: Evaluator,
        agent: Agent,
        objective: Objective,
        budget: Budget,
        data: Data = Data(),  # noqa: B008, it is frozen
        seed: int = 0,
        run_dir: str | None = None,
        cache: str = "runs/cache.db",
        start_from: list[str] | str | None = None,
        constraints: list[str] | str | None = None,
        resume: str = "replay",
    ) -> None:
        arguments.update(locals())

    call(train, "nasenv train", argv)
    return arguments


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs nasenv, which must exit with 2 after one line on stderr, and returns that line."""

    def refused(*argv: str) -> str:
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("nasenv")
        assert err.count("\n") == 1
        return err

    return refused


def test_defaults():
    given = made()
    kinds = {name: type(given[name]) for name in ("space", "evaluator", "agent", "objective")}
    assert kinds == {"space": ChainCNN, "evaluator": TrainingEvaluator, "agent": MaskablePPO, "objective": Score}
    assert given["evaluator"].space is given["space"]
    assert given["budget"] == Budget()


def test_options_reach_the_parts():
    line = (
        "--agent PPO --agent.learning_rate 1e-3 --space ChainCNN --space.max_layers 3 --data digits "
        "--data.split_seed 4 --budget.evaluations 500 --seed 3 --run_dir runs/x --cache none"
    )
    given = made(*line.split())
    assert given["agent"].config()["init_args"]["learning_rate"] == 1e-3
    assert given["space"].config()["init_args"]["max_layers"] == 3
    assert given["budget"].evaluations == 500
    assert given["data"] == Data("digits", split_seed=4)
    assert (given["seed"], given["run_dir"], given["cache"]) == (3, "runs/x", "none")


@pytest.mark.parametrize("space", ["ChainCNN", "users_own.Shaped", "users_own.Deep", "users_own.network"])
def test_data_decide_the_shape(folder: Path, space: str):
    rng = np.random.default_rng(0)
    np.savez(folder / "mine.npz", x=rng.random((60, 3, 6, 7), dtype=np.float32), y=np.arange(60) % 4)
    given = made("--space", space, "--data", "npz:mine.npz")
    assert (given["space"].task.shape, given["space"].task.outputs) == ((3, 6, 7), 4)


@pytest.mark.usefixtures("folder")
def test_own_classes():
    given = made(
        "--agent", "users_own.MyAgent", "--agent.lr", "0.25", "--space", "users_own.Deep", "--space.depth", "2"
    )
    assert type(given["agent"]).__name__ == "MyAgent"
    assert given["agent"].lr == 0.25
    assert given["space"].config()["init_args"]["depth"] == 2


@pytest.mark.parametrize(
    "line",
    [
        "--space users_own.network --space.most_listed 30",
        "--space=users_own.network --space.most_listed=30",
        "--space FunctionSpace --space.network users_own.network --space.most_listed 30",
        "--config short.yaml --space.most_listed 30",
        "--config long.yaml",
    ],
)
def test_a_function_is_a_space(folder: Path, line: str):
    (folder / "short.yaml").write_text("space: users_own.network\n")
    (folder / "long.yaml").write_text(
        "space: {class_path: FunctionSpace, init_args: {network: users_own.network, most_listed: 30}}\n"
    )
    space = made(*line.split())["space"]
    assert space.own_code == "users_own.network"
    assert (space.size, space.most_listed) == (2, 30)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("users_own.netwrk", "users_own has no netwrk; nearest: network"),
        ("users_owm.network", "no module users_owm in the current folder"),
        ("unfinished.network", "SyntaxError"),
        ("users_own.no_network", "the choices of 'width' must be a list or tuple, got 'wide'"),
    ],
)
def test_a_function_that_is_no_space_is_refused(refusal, path: str, reason: str):
    assert reason in refusal("train", "--space", path)


@pytest.mark.usefixtures("folder")
def test_without_data_the_defaults_of_the_space_stand(refusal):
    given = made("--evaluator", "users_own.Table", "--evaluator.path", "mine.csv")
    assert given["space"].task.shape == (1, 8, 8)
    assert "Shaped has no task of its own and the evaluator reads no data" in refusal(
        "train", "--evaluator", "users_own.Table", "--space", "users_own.Shaped"
    )


@pytest.mark.usefixtures("folder")
def test_an_evaluator_that_wraps_another():
    line = "--evaluator users_own.Noisy --evaluator.inner TrainingEvaluator --evaluator.inner.epochs 2"
    given = made(*line.split(), "--space", "users_own.Shaped")
    inner = given["evaluator"].inner
    assert inner.config()["init_args"]["epochs"] == 2
    assert inner.space is given["evaluator"].space is given["space"]
    assert given["space"].task.shape == (1, 8, 8)


def test_any_algorithm_by_its_class():
    agent = made("--agent", "StableBaselines", "--agent.algorithm", "sb3_contrib.TRPO")["agent"]
    assert isinstance(agent, StableBaselines)
    assert agent.algorithm.__name__ == "TRPO"


@pytest.mark.usefixtures("folder")
def test_a_stored_configuration_makes_the_same_parts(tmp_path: Path):
    line = "--evaluator users_own.Noisy --evaluator.inner TrainingEvaluator --evaluator.inner.seed 5 --agent.gamma 0.5"
    first = made(*line.split(), "--space.widths", "[4, 8]", "--seed", "7")
    parts = {name: first[name].config() for name in ("space", "evaluator", "agent", "objective")}
    stored = without_derived({**parts, "budget": {"evaluations": 12}, "seed": first["seed"]})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    again = made("--config", "config.yaml")
    assert {name: again[name].config() for name in parts} == parts
    assert (again["seed"], again["budget"].evaluations) == (7, 12)
    assert made("--config", "config.yaml", "--seed", "8")["seed"] == 8


def test_print_config_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--agent.gamma", "0.75", "--print_config"])
    assert stop.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert made("--config", str(tmp_path / "printed.yaml"))["agent"].config()["init_args"]["gamma"] == 0.75


def test_another_class_has_its_own_defaults(tmp_path: Path):
    """Not those of the class that it takes the place of, where arguments have the same names."""
    (tmp_path / "a2c.yaml").write_text("agent: A2C")
    for words in (["--agent", "A2C"], ["--config", str(tmp_path / "a2c.yaml")]):
        arguments = made(*words)["agent"].config()["init_args"]
        assert (arguments["learning_rate"], arguments["num_envs"]) == (0.007, 4)


def test_required_parameters_are_positional():
    def predict(run_dir: str, images: str, output: str | None = None) -> None:
        given.append((run_dir, images, output))

    given: list[tuple[str, str, str | None]] = []
    call(predict, "nasenv predict", ["runs/x", "npz:mine.npz", "--output", "o.csv"])
    assert given == [("runs/x", "npz:mine.npz", "o.csv")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--agent.learning_rat 1e-3", "agent (MaskablePPO): unknown option learning_rat; nearest: learning_rate"),
        ("--agent.zzz 1", "there are: clip_range, "),
        (
            "--agent RecurrentPPO --agent.learning_rat 1",
            "(RecurrentPPO): unknown option learning_rat; nearest: learning_r",
        ),
        ("--agent RecurrentPPO --agent.network lstm", "(RecurrentPPO): unknown option network; there are: "),
        ("--agent ModelAssistedPPO --agent.repeat_penalti 1", "unknown option repeat_penalti; nearest: repeat_penalty"),
        ("--agent users_own.MyPPO --agent.boldnes 1", "(MyPPO): unknown option boldnes; nearest: boldness"),
        ("--budgt.evaluations 3", "unknown option --budgt.evaluations; nearest: --budget.evaluations"),
        ("--evaluat 3", "nearest: --evaluator"),  # no abbreviations
        ("--space.task digits", "unknown option task"),
        ("--agent ppo", "unknown name ppo; nearest: PPO"),
        ("--agent.help Randomsearch", "nearest: RandomSearch"),
        ("--space ChainCN", "nearest: ChainCNN"),
        ("--evaluator TrainingEvaluater", "nearest: TrainingEvaluator"),
        ("--objective Scoer", "nearest: Score"),
        ("--agent no_such_module.MyAgent", "no module no_such_module"),
        ("--agent users_own.MyAgnt", "users_own has no MyAgnt; nearest: MyAgent"),
        ("--agent users_own.Deep", "users_own.Deep does not correspond to a subclass of Agent"),
        ("--agent unfinished.MyAgent", "SyntaxError: '(' was never closed (unfinished.py, line 1)"),
        ("--agent StableBaselines", "required: algorithm"),
        ("--agent.gamma high", "gamma: expected a number, got high"),
        ("--evaluator.optimizer adam", "optimizer: expected one of 'adamw', 'sgd', got adam"),
        ("--evaluator.epochs few", "epochs: expected an integer or null, got few"),
        ("--seed 1.5", "seed: expected an integer, got 1.5"),
        ("--seed", "--seed: expected one argument"),
        ("--config missing.yaml", "missing.yaml"),
        ("--budget.evaluations 0", "budget.evaluations must be an integer of 1 or more, got 0"),
        ("--data digit", "unknown data set 'digit'"),
        ("--space.max_layers 0", "max_layers"),
        ("surplus", "unrecognized arguments: surplus"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_options(refusal, line: str, expected: str):
    assert expected in refusal("train", *line.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "line 2: key seed is given twice"),
        ("agent:\n  class_path: PPO\n  init_args: {gamma: 1, gamma: 0}\n", "line 3: key gamma is given twice"),
        ("agent: [PPO\nseed: 2\n", "line 2: expected ',' or ']'"),
        ("sed: 1\n", "unknown option sed; nearest: seed"),
        ("budget: {evaluation: 3}\n", "unknown option budget.evaluation; nearest: budget.evaluations"),
        ("budget: 5\n", "budget: expected limits by name, as {evaluations: 200}, got 5"),
        ("budget: [1]\n", "{evaluations: 200}, got [1]"),
        ("budget: null\n", "{evaluations: 200}, got null"),
        ("budget: abc\n", "budget: expected options by name, {name: value}, got abc"),
        ("agent:\n  class_path: PPO\n  init_args:\n    learning_rat: 1\n", "nearest: learning_rate"),
        ("seed: !!python/object/apply:os.mkdir [made]\n", "line 1: could not determine a constructor"),
        ("just words", "expected lines of `option: value`"),
        ("", "expected lines of `option: value`"),
    ],
)
def test_bad_configurations(folder: Path, refusal, text: str, expected: str):
    (folder / "bad.yaml").write_text(text)
    assert expected in refusal("train", "--config", "bad.yaml")
    assert not (folder / "made").exists()


def test_a_key_given_twice_on_the_command_line(refusal):
    assert "gamma: 1, gamma: 0" in refusal("train", "--agent", "{class_path: PPO, init_args: {gamma: 1, gamma: 0}}")


def test_unknown_command(refusal):
    assert refusal("trian") == "nasenv: error: unknown command trian; nearest: train\n"


def test_help_and_version(capsys: pytest.CaptureFixture[str]):
    assert (main([]), main(["--help"]), main(["--version"])) == (0, 0, 0)
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("agent", "own"),
    [
        ("PPO", "--agent.num_envs NUM_ENVS number of architectures an update;"),
        (
            "RecurrentPPO",
            "--agent.net_arch+ [ITEM,...] widths of the hidden layers behind the LSTMs. (type: Sequence[int], ",
        ),
        (
            "ModelAssistedPPO",
            "--agent.imitation_steps IMITATION_STEPS optimiser steps, before each rollout, that make ",
        ),
        ("users_own.MyPPO", "--agent.boldness BOLDNESS how far it goes. (type: float, default: 2.0)"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_agent_help_lists_the_options_of_a_class_and_of_its_parents(capsys, agent: str, own: str):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--agent.help", agent])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert own in said
    assert "--agent.learning_rate LEARNING_RATE learning rate of Adam. (type: float, default: 0.003)" in said
    assert (
        "--agent.repeat_penalty REPEAT_PENALTY deduction from the reward of an architecture that was proposed" in said
    )
    epochs = {"PPO": 10, "RecurrentPPO": 10, "ModelAssistedPPO": 4, "users_own.MyPPO": 3}[agent]
    assert re.search(rf"--agent.n_epochs N_EPOCHS [^()]*\(type: int, default: {epochs}\)", said)
    options = set(re.findall(r"--agent\.(\w+)", said)) - {"help"}
    assert options == set(made("--agent", agent)["agent"].config()["init_args"])


def test_the_script_is_the_command(folder: Path):
    script = [sys.executable, str(REPOSITORY / "scripts" / "train_controller.py")]
    line = ["--agent", "users_own.MyAgent", "--agent.learning_rate", "1"]
    done = subprocess.run([*script, *line], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nasenv train: error: agent (MyAgent): unknown option learning_rate; there are: lr\n"


def test_what_a_users_evaluator_raises_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--evaluator", "users_own.Broken", "--cache", "none"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "nasenv train: error: ZeroDivisionError: integer division or modulo by zero (users_own.py, line 31); "
        "fix it, then the same command resumes\n"
    )


def test_what_a_users_evaluator_says_wrongly_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--evaluator", "users_own.Typed", "--cache", "none"]) == 2
    said = capsys.readouterr().err
    assert "error: TypeError: score must be a number, got '0.5' (users_own.py, line 3" in said
    assert said.count("\n") == 1


def test_a_users_module_may_lie_anywhere_on_the_path(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert main(["train", "--evaluator", "users_own.Broken", "--cache", "none"]) == 2
    assert f"({folder / 'users_own.py'}, line 31)" in capsys.readouterr().err


@pytest.mark.parametrize("evaluator", ["Quitting", "QuittingAtLast"])
def test_an_evaluator_that_exits_is_one_line(evaluator: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--evaluator", f"users_own.{evaluator}", "--cache", "none", "--budget.evaluations", "4"]
    assert main(["train", *line]) == 2
    said = capsys.readouterr().err
    assert "SystemExit: 3 (" in said
    assert "users_own.py, line 3" in said
    assert said.count("\n") == 1


def test_what_nasenv_itself_raises_is_shown_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasenv.commands.arguments.call", divmod)  # which takes no three arguments
    with pytest.raises(TypeError, match="divmod"):
        main(["train"])


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.4, 0.8, 1.5])
def test_ctrl_c_while_modules_are_imported_is_one_line(delay: float, tmp_path: Path):
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's job may not
    code = f"{hears}; from nasenv.commands.cli import main; print('ready', flush=True); sys.exit(main(['train']))"
    line = [sys.executable, "-c", code]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.005 + delay)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode in (3, 130), said
    assert said.strip().splitlines()[-1].startswith("nasenv train: "), said
    assert "Traceback" not in said
    if process.returncode == 130:
        assert said.count("\n") == 1


@pytest.mark.parametrize("start", ["from nasenv.commands.cli import main; main(['train'])", "import nasenv.__main__"])
def test_ctrl_c_from_the_first_import_on(start: str, tmp_path: Path):
    """Gymnasium, which `import nasenv` takes, lets the signal come and waits; the program is called as the command."""
    (tmp_path / "gymnasium.py").write_text("import os, time; os.kill(os.getpid(), 2); time.sleep(5)")
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = 'bin/nasenv'"
    line = [sys.executable, "-c", f"{hears}; sys.path.insert(0, '.'); {start}"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "nasenv: interrupted before it began\n"
    assert done.returncode == 130


def test_a_users_program_has_its_own_ctrl_c(tmp_path: Path):
    code = "import signal; before = signal.getsignal(2); import nasenv; assert signal.getsignal(2) is before"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_python_m(tmp_path: Path):
    line = [sys.executable, "-m", "nasenv"]
    done = subprocess.run([*line, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"nasenv {__version__}\n")
    done = subprocess.run([*line, "trian"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "nasenv: error: unknown command trian; nearest: train\n")


def test_a_backend_of_matplotlib_that_does_not_exist(tmp_path: Path):
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    line = [sys.executable, "-m", "nasenv", "train", "--budget.evaluations", "x"]
    done = subprocess.run(line, **options, timeout=120, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "budget.evaluations" in done.stderr
    done = subprocess.run([sys.executable, "-c", "import nasenv.plots"], **options, timeout=120, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nasenv.errors.InputError: matplotlib cannot be imported: Key backend: 'nonsense'")
    assert last.endswith("mend or unset MPLBACKEND")
