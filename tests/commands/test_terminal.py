"""What is printed is plain and whole; where it cannot be written or read, the command does its work all the same."""

import collections
import io
import itertools
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console

from nasenv.agents import RandomSearch
from nasenv.commands.cli import main
from nasenv.commands.terminal import Bar, ComparisonProgress, SearchProgress, table_of
from nasenv.evaluators.table import TableEvaluator
from nasenv.objectives import Objective, Score
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement
from tests.fakes import Formula

TRAIN = [
    *("train", "--evaluator", "TableEvaluator", "--evaluator.table", "chain_cnn_digits", "--space.widths", "[16]"),
    *("--space.max_layers", "3", "--agent", "RandomSearch", "--budget.evaluations", "8", "--cache", "none"),
]


def full():
    return open("/dev/full", "w")


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


@pytest.mark.parametrize("stdout", [full, unread])
def test_a_search_goes_on_where_its_output_cannot_be_written(stdout, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with stdout() as taken, monkeypatch.context() as patch:  # which is closed at the end, as by a program that exits
        patch.setattr(sys, "stdout", taken)
        assert main([*TRAIN, "--run_dir", "run"]) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "run" / "result.json").exists()


def test_a_program_whose_output_cannot_be_written_exits_with_0(tmp_path):
    start = [sys.executable, "-c", "import sys; from nasenv.commands.cli import main; sys.exit(main())"]
    with full() as taken:
        done = subprocess.run([*start, *TRAIN, "--run_dir", "run"], cwd=tmp_path, stdout=taken, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_characters_that_the_encoding_lacks_are_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
        assert main([*TRAIN, "--run_dir", "run"]) == 0
        sys.stdout.flush()
        said = written.getvalue()
    assert capsys.readouterr().err == ""
    assert b"mean ? standard deviation" in said


# What is said of a search


class Cheap(Objective):
    """Pays no score, so that rewards have no unit."""

    def value(self, measurement):
        return 2 - measurement.score


def drawn(width: int, bar: type[Bar], *arguments, tty: bool = True) -> tuple[Bar, io.StringIO]:
    """Return a bar on a terminal of so many columns, and what is drawn."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=tty, color_system=None, _environ={})
    return bar(console, *arguments), file


def lines_of(evaluations: int, objective: Objective, width: int = 80, tty: bool = False) -> list[str]:
    """Return the lines that a search on the shipped table prints in its course."""
    space = ChainCNN(max_layers=3, widths=[16])
    evaluator = TableEvaluator(space, "chain_cnn_digits")
    bar, file = drawn(width, SearchProgress, Budget(evaluations), tty=tty)
    with bar, Search(space, evaluator, RandomSearch(), Budget(evaluations), objective, callbacks=[bar]) as search:
        search.run()
    return [re.sub(r"\x1b\[[\d;?]*\w|\r", "", line).rstrip() for line in file.getvalue().splitlines()]


def test_an_accuracy_is_said_in_per_cent_and_a_number_of_one_is_singular():
    (line,) = lines_of(1, Score())
    assert re.fullmatch(
        r"1 of 1 evaluation in \d+ s: "
        r"best validation accuracy (\d\d\.\d\d %), mean of the last 1 evaluation \1",
        line,
    )


def test_another_objective_is_said_as_it_is_paid():
    last = lines_of(40, Cheap())[-1]
    assert re.fullmatch(
        r"40 of 40 evaluations in \d+ s: best reward 1\.\d{4} \(validation accuracy \d+\.\d\d %\), "
        r"mean of the last 32 evaluations 1\.\d{4}"
        r"(, \d+ repeated proposals?)?",
        last,
    )


class Failing(Formula):
    """Fails of every architecture."""

    def figure(self, architecture):
        return Measurement(None, error="diverged")


def test_failed_evaluations_are_counted():
    space = ChainCNN(max_layers=2)
    bar, file = drawn(200, SearchProgress, Budget(2), tty=False)
    with bar, Search(space, Failing(space), RandomSearch(), Budget(2), callbacks=[bar]) as search:
        search.run()
    last = file.getvalue().splitlines()[-1]
    assert "best validation accuracy none yet, " in last
    assert last.endswith(", 2 failed")


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_and_what_is_said_below_it_are_read_whole(width: int):
    lines = lines_of(40, Score(), width, tty=True)
    last = max(i for i, line in enumerate(lines) if line.startswith("searching"))
    assert re.fullmatch(r"searching .* 40/40 0:00:\d\d elapsed, 0:00:00 left of the search", lines[last])
    assert re.fullmatch(
        r"best validation accuracy \d\d\.\d\d %, mean of the last 32 evaluations \d\d\.\d\d %, \d+ repeated proposals?",
        " ".join(line for line in lines[last + 1 :] if line),
    )
    assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize(("failed", "said"), [(0, "2 of 2 runs done"), (1, "2 of 2 runs done; 1 failed")])
def test_a_comparison_counts_its_runs_and_those_that_failed(failed: int, said: str):
    bar, file = drawn(80, ComparisonProgress, 2, tty=False)
    with bar:
        for error in ["boom"] * failed + [None] * (2 - failed):
            bar(SimpleNamespace(agent="a", problem="p", seed=0, error=error))
    assert file.getvalue().splitlines()[-1] == said


def test_lines_without_a_terminal_say_how_much_time_is_left():
    bar, file = drawn(200, ComparisonProgress, 10, tty=False)
    seconds: list[float] = []
    bar.get_time = lambda: seconds[-1]
    with bar:
        for i in range(10):
            seconds.append(20.0 * i)
            bar(SimpleNamespace(agent="a", problem="p", seed=0, error=None))
    lines = file.getvalue().splitlines()
    assert lines[0] == "1 of 10 runs done"
    assert lines[4] == "5 of 10 runs done, 0:01:40 left"  # five runs of 20 seconds
    assert all(re.fullmatch(r"\d of 10 runs done, 0:0\d:\d\d left", line) for line in lines[1:9])
    assert lines[9] == "10 of 10 runs done"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_of_a_table_is_cut(width: int):
    heads = ["agent", "seeds", "mean rank", "validation accuracy (%)", "test accuracy (%)", "evaluations to the best"]
    rows = [["model_assisted_ppo", "30", "2.00", "94.04 ± 13.52", "96.62 ± 13.05", "> 30"], ["random", *"12345"]]
    file = io.StringIO()
    Console(file=file, width=width, _environ={}).print(table_of(heads, rows, "a title", box=SIMPLE_HEAD))
    text = file.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert "model_assisted_ppo" in text
    letters = collections.Counter("".join(text.split()))
    for cell in [*heads, *itertools.chain(*rows)]:
        letters.subtract("".join(cell.split()))
    assert min(letters.values()) >= 0


def test_a_name_longer_than_the_terminal_is_broken_and_not_cut():
    file = io.StringIO()
    Console(file=file, width=40, _environ={}).print(table_of(["agent", "n"], [["x" * 60, "1"]], ""))
    assert file.getvalue().count("x") == 60
