"""The end of ``nasenv train``: nothing is silent for long, rewards and scores are told apart, hints run as printed."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasenv.agents import RandomSearch
from nasenv.commands import terminal
from nasenv.commands.cli import main
from nasenv.commands.terminal import Bar, FinalProgress, Terminal, spent_text
from nasenv.commands.train import run_and_conclude, train
from nasenv.errors import SearchStopped
from nasenv.objectives import ScoreWithinCost
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Formula, Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)
TINY = [
    *("--agent", "RandomSearch", "--budget.evaluations", "2", "--budget.finalists", "1", "--budget.final_seeds", "1"),
    *("--evaluator.epochs", "1", "--evaluator.final_epochs", "1", "--evaluator.concurrency", "0", "--cache", "none"),
]
OWN_SPACE = """
from nasenv.spaces.chain_cnn import ChainCNN

class Small(ChainCNN):
    def __init__(self, task) -> None:
        super().__init__(max_layers=1, task=task)
"""


# Hints


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, the current one, with pictures, arrays and a space of the user's own."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "my photos" / name).mkdir(parents=True)
        for number in range(6):
            picture = Image.fromarray(rng.integers(256, size=(8, 8), dtype=np.uint8))
            picture.save(tmp_path / "my photos" / name / f"{number}.png")
    shutil.copytree(tmp_path / "my photos", tmp_path / "torn")
    (tmp_path / "torn" / "cat" / "torn.png").write_bytes(b"")
    np.savez(tmp_path / "mine.npz", x=rng.random((40, 8, 8)), y=np.arange(40) % 2)
    (tmp_path / "users_space.py").write_text(OWN_SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def hints(said: str) -> dict[str, str]:
    """Return the commands that a run printed, by what they are for."""
    return dict(re.findall(r"^(use the network|look at the search): +(.*)$", said, flags=re.MULTILINE))


def runs(command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def predicted(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the command prints: as it is typed where its words matter, else in this process."""
    if "photos" in command or "--space" in command:
        return runs(command, folder).splitlines()
    program, *words = shlex.split(command)
    assert Path(program).name == "nasenv"
    assert main(words) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.skipif(not Path(sys.executable).with_name("nasenv").exists(), reason="nasenv is not installed")
@pytest.mark.parametrize(
    ("options", "images"),
    [
        (["--space.max_layers", "1"], 1797),
        (["--space.max_layers", "1", "--data", "folder:my photos"], 12),
        (["--space.max_layers", "1", "--data", "folder:torn", "--data.skip_unreadable", "true"], 12),
        (["--space", "users_space.Small", "--data", "npz:mine.npz"], 40),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_printed_to_be_typed_runs(options, images, folder: Path, capsys):
    assert main(["train", *options, *TINY, "--run_dir", "my runs/a"]) == 0
    commands = hints(capsys.readouterr().out)
    lines = predicted(commands["use the network"], folder, capsys)
    assert (lines[0], len(lines)) == ("image,class,probability", 1 + images)
    if "folder:my photos" in options:
        assert "Event statistics" in runs(commands["look at the search"] + " --inspect", folder)
    assert main(["train", *options, *TINY, "--run_dir", "my runs/a"]) == 0  # it is finished
    assert hints(capsys.readouterr().out) == commands


# Progress


class Clocked(Terminal):
    """A terminal that takes the time from ``now``."""

    now = 0.0

    def __init__(self):
        super().__init__()
        self.get_time = lambda: self.now


def test_lines_say_the_time_left(capsys):
    console = Clocked()
    with Bar(console, "doing", 40) as bar:
        for done in range(41):
            bar.show(done, "", f"{done} of 40")
            console.now += 60.0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["0 of 40", "4 of 40, 0:36:00 left"]  # the first at once
    assert lines[-2:] == ["36 of 40, 0:04:00 left", "40 of 40"]


class Timed(Formula):
    """Trains an architecture for so many seconds."""

    def __init__(self, seconds):
        super().__init__(SPACE)
        self.seconds = seconds

    def figure(self, architecture):
        return Measurement(0.5, train_seconds=self.seconds[architecture])


def test_the_time_left_of_final_trainings_knows_that_the_longest_come_first(capsys):
    long, short, unknown = SPACE.sample(3, np.random.default_rng(2))
    search = Search(SPACE, Timed({long: 90.0, short: 10.0}), RandomSearch(), Budget(2), start=[long, short])
    search.run()
    trials = [Trial(a, purpose="confirm", seed=seed) for a in (long, short) for seed in (0, 1)]
    measured, console = {}, Clocked()
    with FinalProgress(console, search) as progress:
        progress(trials, measured)
        for trial in trials:
            measured[trial] = Measurement(0.5)
            console.now += search.history.find(trial.architecture).measurement.train_seconds
            progress(trials, measured)
        progress([Trial(a, purpose="test") for a in (unknown, short)], {})
    assert capsys.readouterr().out.splitlines() == [
        "final trainings: 0 of 4 done",
        "final trainings: 1 of 4 done, 0:01:50 left",
        "final trainings: 2 of 4 done, 0:00:20 left",
        "final trainings: 3 of 4 done, 0:00:10 left",
        "final trainings: 4 of 4 done",
        "test trainings: 0 of 2 done",
    ]


def test_trainings_that_were_done_before_an_interruption_took_no_time(capsys):
    architectures = SPACE.sample(4, np.random.default_rng(2))
    search = Search(SPACE, Hashed(SPACE), RandomSearch(), Budget(2))
    search.run()
    trials, console = [Trial(a, purpose="confirm") for a in architectures], Clocked()
    with FinalProgress(console, search) as progress:
        progress(trials, dict.fromkeys(trials[:2], Measurement(0.5)))
        console.now += 50.0
        progress(trials, dict.fromkeys(trials[:3], Measurement(0.5)))
    assert capsys.readouterr().out.splitlines()[-1] == "final trainings: 3 of 4 done, 0:00:50 left"


def test_each_step_of_a_run_is_said_where_there_is_no_terminal(tmp_path, capsys):
    train(SPACE, Hashed(SPACE), RandomSearch(), ScoreWithinCost("params", 105), Budget(20), run_dir=str(tmp_path / "a"))
    said = capsys.readouterr().out
    steps = [
        "After the search there are up to 36 final trainings and 9 test trainings.",
        *("setting up workers", "searching with RandomSearch", "1 of 20 evaluations in ", "10 of 20 evaluations in "),
        *(
            " final trainings, then up to 9 test trainings",
            "final trainings: 0 of ",
            "test trainings: 0 of ",
            "saving the ",
        ),
    ]
    assert sorted(steps, key=said.index) == steps
    assert "(the first of 3 seeds): " in said
    planned = re.search(r"each: (\d+) final trainings", said)
    assert planned is not None
    assert f"final trainings: {planned[1]} of {planned[1]} done" in said
    assert re.search(r"final trainings: (\d+) of \1 done\ntest trainings: ", said)


def test_a_budget_of_seconds_has_a_bar_too(capsys):
    evaluator = Timed(dict.fromkeys(map(tuple, SPACE.all_architectures().tolist()), 10.0))
    search = Search(SPACE, evaluator, RandomSearch(batch_size=1), Budget(None, charged_seconds=100))
    with terminal.SearchProgress(Terminal(), search.budget) as progress:
        search.callbacks.append(progress)
        search.run()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert re.search(r"^5 evaluations in .*, 0:\d\d:\d\d left of the search$", lines[4])


def test_one_training_is_singular():
    search = Search(SPACE, Timed({}), RandomSearch())
    search.history.spent, search.history.evaluations = 1.0, 10
    assert spent_text(search.history, None) == "1 full training spent on 10 evaluations"
    assert spent_text(search.history, 1) == "1 of 1 full training spent on 10 evaluations"
    assert spent_text(search.history, 2) == "1 of 2 full trainings spent on 10 evaluations"


# Rewards that are not scores


def test_rewards_are_named_so_and_the_score_stands_beside_them(tmp_path, capsys, monkeypatch):
    """In the course of the search, and at its end."""
    monkeypatch.setenv("COLUMNS", "200")
    parts = (SPACE, Hashed(SPACE), RandomSearch(), ScoreWithinCost("params", 105), Budget(20, final_seeds=2))
    train(*parts, run_dir=str(tmp_path / "a"), cache="none")
    said = capsys.readouterr().out
    assert re.search(
        r"best reward 0\.\d{4} \(validation accuracy \d\d\.\d\d %\), mean of the last 20 evaluations -?0\.", said
    )
    assert "reward" in said[said.index("final trainings: mean") :].partition("winner")[0]
    assert "By test reward, " in said
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert len(result["winner"]["test_rewards"]) == len(result["winner"]["test_scores"]) == 2


def test_the_best_of_a_search_that_was_stopped_has_both(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search = Search(SPACE, Hashed(SPACE), RandomSearch(), Budget(20), ScoreWithinCost("params", 105))
    search.callbacks.append(lambda search, _: search.stop("enough"))
    with pytest.raises(SearchStopped), search:
        run_and_conclude(search, Terminal())
    assert re.search(r"best architecture: \S+, reward 0\.\d+ \(validation accuracy [\d.]+ %\)", capsys.readouterr().out)


def test_sentences_are_broken_between_words_and_commands_are_not():
    console = Terminal()
    console._force_terminal, console._width = True, 20
    with console.capture() as capture:
        console.explain("the winner is equal to the hand-made reference")
        console.say(shlex.join(["nasenv", "predict", "runs/a long name", "digits"]))
    assert [line.rstrip() for line in capture.get().splitlines()] == [
        *("the winner is equal", "to the hand-made", "reference"),
        "nasenv predict 'runs/a long name' digits",
    ]
