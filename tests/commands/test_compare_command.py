"""``nasenv compare`` as a user types it: what is made of it, what is left, and how it refuses."""

import contextlib
import csv
import fcntl
import html
import io
import itertools
import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from nasenv.commands.cli import main

OWN = """
import torch
from nasenv.agents.agent import Agent
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.task import Images, Task

class Bits(SearchSpace):
    def __init__(self, bits: int = 5) -> None:
        super().__init__([Decision(f"bit{i}", (0, 1)) for i in range(bits)], Task(Images((1, 8, 8)), 10))

    def build(self, architecture):
        raise NotImplementedError

class Mine(Agent):
    def __init__(self, eagerness: float = 0.5) -> None:
        super().__init__(batch_size=2)
        self.eagerness = eagerness

    def begin(self, space, rng):
        self.space, self.rng = space, rng

    def ask(self, n):
        return self.space.sample(n, self.rng)
"""
TABLE = ["--space", "own.Bits", "--evaluator", "TableEvaluator", "--evaluator.table", "bits.csv"]
QUICK = ["--workers", "0", "--seeds", "2", "--budget.evaluations", "8"]
AGENTS = ["--agents.random", "RandomSearch", "--agents.mine", "own.Mine", "--agents.mine.eagerness", "0.25"]


THREE = [*TABLE, *AGENTS, "--agents.local_search", "LocalSearch", *QUICK[:-1], "30"]


def enter(folder, patch):
    """Make a user's folder the current one: own module, a table, and a folder `agents` that is no part of nasenv."""
    (folder / "own.py").write_text(OWN)
    (folder / "agents").mkdir()
    (folder / "agents" / "__init__.py").write_text("raise RuntimeError('not nasenv')")
    rng = np.random.default_rng(0)
    with (folder / "bits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "val_accuracy", "test_accuracy", "train_seconds"])
        for bits in itertools.product((0, 1), repeat=5):
            text = ",".join(f"bit{i}={bit}" for i, bit in enumerate(bits))
            val = (1 + sum(bits)) / 7
            writer.writerow([text, val, val - rng.uniform(0, 0.1), 2.0])
    patch.chdir(folder)
    patch.setenv("COLUMNS", "80")
    patch.setattr(sys, "path", [str(folder), *sys.path])
    patch.delitem(sys.modules, "own", raising=False)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return the folder of a comparison of three agents, which tests read, and what was printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        folder = enter(tmp_path_factory.mktemp("compared"), patch)
        assert main(["compare", *THREE, "--run_dir", "my runs"]) == 0
    return SimpleNamespace(folder=folder / "my runs", said=said.getvalue())


@pytest.fixture
def without_figures(monkeypatch):
    """Drawing takes nine tenths of the time of a comparison of so few runs."""
    monkeypatch.setattr("nasenv.comparison.figures.draw", lambda *_: {})


@pytest.fixture
def refusal(folder, capsys):
    """A function that runs nasenv compare, which must exit with 2 after one line on stderr, and returns that line."""

    def refused(*argv):
        try:
            code = main(["compare", *map(str, argv)])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("nasenv compare: ")
        return err

    return refused


def config(**values):
    """Write a file of options, and return the arguments that name it."""
    with open("given.yaml", "w") as file:
        given = {"agents": {"random": "RandomSearch"}, "problems": {"bits": bits()}, **values}
        yaml.safe_dump(given, file, sort_keys=False)
    return ["--config", "given.yaml"]


def bits(**options):
    evaluator = {"class_path": "TableEvaluator", "init_args": {"table": "bits.csv"}}
    return {"space": "own.Bits", "evaluator": evaluator, **options}


def rows(folder):
    return read(folder / "results.csv")


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def left(folder):
    """Return the bytes of all that is left, but for what says how long it took and when."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".nasenv"]
    files = [path for path in files if path.name not in ("run.json", "summary.csv", "report.html")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.stem.endswith("-cost")}


# What is left


def test_options_make_a_comparison(compared):
    out = compared.folder
    assert {path.name for path in out.iterdir()} == {
        *("config.yaml", "lock", "runs", "figures", "tables", "results.csv", "summary.csv", "report.html")
    }
    found = rows(out)
    assert len(found) == 3 * 2 * 30
    assert {(row["problem"], row["agent"], row["seed"]) for row in found} == {
        ("Bits-TableEvaluator", agent, seed) for agent in ("random", "mine", "local_search") for seed in "01"
    }
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["agents"]["mine"] == {"class_path": "own.Mine", "init_args": {"eagerness": 0.25}}
    assert "report: my runs/report.html" in compared.said
    assert "6 runs in my runs\n" in compared.said
    before = " ".join(compared.said.partition("6 runs")[0].split())
    assert re.fullmatch("2 seeds can show no difference, however large: Wilcoxon's .*, needs at least 7.", before)


def test_figures_and_tables_are_left_in_the_formats_of_papers(compared):
    assert {path.suffix for path in (compared.folder / "figures").iterdir()} == {".pdf", ".png", ".svg"}
    tables = {path.name.removeprefix("Bits-TableEvaluator-") for path in (compared.folder / "tables").iterdir()}
    kinds = ("speed", "final", "cost", "pairs", "best_so_far")
    assert tables == {f"{kind}.{suffix}" for kind in kinds for suffix in ("csv", "tex")}
    pairs = [{pair["better"], pair["worse"]} for pair in table(compared, "pairs")]
    agents = ("random", "mine", "local_search")
    assert sorted(map(sorted, pairs)) == sorted(map(sorted, itertools.combinations(agents, 2)))


def test_the_best_so_far_is_a_table_of_its_own(compared):
    assert "best so far, mean ± standard deviation" in " ".join(compared.said.split())
    heads = ["agent", "best reward (%) after 25 evaluations"]
    assert [list(row) for row in table(compared, "best_so_far")] == [heads] * 3


def table(compared, kind):
    return read(compared.folder / f"tables/Bits-TableEvaluator-{kind}.csv")


def test_the_table_is_read_in_80_columns(compared):
    lines = compared.said.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("agent"))
    assert lines[head].split("  ")[0] == "agent"
    assert lines[head].split() == ["agent", "seeds", "rank", "to", "the", "best", "best", *["accuracy", "(%)"] * 2]
    assert lines[head - 1].split() == ["mean", "evaluations", "the", "validation", "test"]
    assert {line.split()[0] for line in lines[head + 2 : head + 5]} == {"random", "mine", "local_search"}
    assert lines[head + 5].startswith("Bits-TableEvaluator: ")  # every agent has one line; then comes the next table
    paths = ("report: ", "figures: ", "every run in TensorBoard: ")
    assert all(len(line) <= 80 for line in lines if not line.startswith(paths))


def test_what_is_to_be_typed_is_quoted(compared):
    assert "tensorboard --logdir 'my runs/runs'" in compared.said
    report = (compared.folder / "report.html").read_text()
    assert "nasenv compare --config 'my runs/config.yaml'" in html.unescape(report)


@pytest.mark.usefixtures("folder", "without_figures")
def test_the_smallest_difference_is_said_before_the_runs_and_only_then(capsys):
    line = ["compare", *TABLE, *AGENTS, *QUICK[:2], "--seeds", "6", "--budget.evaluations", "4", "--run_dir", "out"]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("6 seeds can show a mean difference of 1.78 standard deviations")
    assert main(line) == 0
    said = "12 runs in out; 12 of them are finished\nwriting tables, figures and the report\n"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.usefixtures("without_figures")
def test_config_yaml_goes_back_in(folder):
    problems = {"first": bits(), "second": bits(budget={"charged_seconds": 9.0}, objective="Score")}
    published = {"first": {"source": "we, 2020", "test_score": {"random": [0.8, 0.01]}}}
    agents = {"random": "RandomSearch", "mine": {"class_path": "own.Mine", "init_args": {"eagerness": 2}}}
    given = config(agents=agents, problems=problems, published=published, rank_by="test_score", seeds=2, first_seed=5)
    assert main(["compare", *given, "--workers", "0"]) == 0
    (first,) = folder.glob("runs/compare-*")
    moved = first.rename(folder / "moved")
    assert main(["compare", "--config", "moved/config.yaml", "--workers", "0"]) == 0
    assert list(folder.glob("runs/*")) == [first]  # its folder, too, follows from it
    assert left(first) == left(moved)
    assert identities(first) == identities(moved)
    assert len(identities(first)) == 8
    assert {row["seed"] for row in rows(first)} == {"5", "6"}
    assert "we, 2020" in (first / "report.html").read_text()


def identities(folder):
    """Return what tells whether the same run is asked for again, by run."""
    return {path.relative_to(folder): path.read_text().splitlines()[0] for path in folder.rglob("run.json")}


@pytest.mark.usefixtures("without_figures")
def test_a_problem_has_its_own_part_of_the_budget(folder):
    problems = {
        "common": bits(),
        "fewer": bits(budget={"evaluations": 3}),
        "seconds": bits(budget={"evaluations": None, "charged_seconds": 9.0}),  # of 2 s an architecture
    }
    given = config(problems=problems, budget={"evaluations": 6, "charge_repeats": True})
    assert main(["compare", *given, *QUICK[:4], "--run_dir", "out"]) == 0
    written = yaml.safe_load((folder / "out" / "config.yaml").read_text())["problems"]
    assert [problem["budget"]["charge_repeats"] for problem in written.values()] == [True] * 3
    last = {row["problem"]: int(row["proposal"]) for row in rows(folder / "out")}
    assert (last["common"] <= 6, last["fewer"] <= 3, last["seconds"] <= 5) == (True, True, True)
    assert max(float(row["seconds"]) for row in rows(folder / "out") if row["problem"] == "seconds") == 10.0


@pytest.mark.usefixtures("without_figures")
def test_the_command_line_adds_to_a_file(folder):
    given = config(agents={"mine": {"class_path": "own.Mine", "init_args": {"eagerness": 2}}})
    added = ["--agents.mine.eagerness=3", "--agents.lr0-1", "RandomSearch"]
    assert main(["compare", *given, *added, *QUICK, "--run_dir=o"]) == 0
    agents = yaml.safe_load((folder / "o" / "config.yaml").read_text())["agents"]
    assert agents["mine"]["init_args"] == {"eagerness": 3.0}
    assert list(agents) == ["mine", "lr0-1"]


@pytest.mark.usefixtures("without_figures")
def test_the_folders_name_follows_from_what_is_compared(folder):
    def named(*argv):
        before = set(folder.glob("runs/*"))
        assert main(["compare", *argv, "--workers", "0"]) == 0
        return {path.name for path in set(folder.glob("runs/*")) - before}

    first = named(*config(seeds=1, budget={"evaluations": 2}))
    assert len(first) == 1
    assert named(*config(seeds=2, budget={"evaluations": 2})) == set()  # more seeds: the same folder
    assert named(*config(seeds=1, first_seed=7, budget={"evaluations": 2})) == set()
    assert len(named(*config(seeds=1, budget={"evaluations": 3}))) == 1
    assert len(list(folder.glob("runs/*/runs/bits/random/seed-7"))) == 1


def test_names_may_have_spaces_slashes_and_umlauts(folder):
    name = "größer a/b, lr=0.1"
    given = config(agents={name: "RandomSearch"}, problems={name: bits()})
    assert main(["compare", *given, *QUICK, "--run_dir", "out"]) == 0
    assert {(row["problem"], row["agent"]) for row in rows(folder / "out")} == {(name, name)}
    assert set(os.listdir(folder)) - {"__pycache__"} == {"agents", "bits.csv", "given.yaml", "out", "own.py"}


def test_an_agent_that_is_wrong_is_named_and_the_report_is_there(folder, capsys, monkeypatch):
    monkeypatch.setattr("nasenv.comparison.figures.save", lambda *_: {})
    given = config(agents={"odd": "tests.fakes.Raises", "random": "RandomSearch"}, seeds=3)
    assert main(["compare", *given, "--workers", "0", "--budget.evaluations", "8", "--run_dir", "out"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "odd: 1 of 3 runs did not come to their end and count nowhere (seed 1: agent Raises raised KeyError" in said
    assert "agent Raises raised KeyError" in (folder / "out" / "report.html").read_text()
    summary = read(folder / "out" / "summary.csv")
    assert {row["agent"]: row["faults"] for row in summary} == {"odd": "1", "random": "0"}


# What is refused


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--agents.r", "RandomSearhc"], "unknown name RandomSearhc; nearest: RandomSearch"),
        (["--agents.p", "PPO", "--agents.p.lr", "1e-3"], r"\(PPO\): unknown option lr; there are: .*learning_rate"),
        (["--agents.p", "PPO", "--agents.p.learning_rat", "3"], "unknown option learning_rat; nearest: learning_rate"),
        (["--agents.p", "PPO", "--agents.p.learning_rate", "x"], "learning_rate: expected a number, got x"),
        (["--agents.p", "PPO", "--agents.p.learning_rate", "-1"], "learning_rate.*-1"),
        (["--agents.p", "PPO", "--agents.p", "A2C"], "--agents.p is given twice"),
        (["--agents.p=PPO", "--agents.p=PPO"], "--agents.p is given twice"),
        (["--agents.p", "PPO", "--agents.p.num_envs", "3", "--agents.p.num_envs", "4"], "p.num_envs is given twice"),
        (["--agents.p", "own.Yours"], "own has no Yours"),
        (["--agents.p", "nowhere.Agent"], "no module nowhere"),
        (["--agents", "PPO"], "expected names with their values, got PPO"),
        (["--agents.p"], "expected one argument"),
        (["--agents.a.b.c", "3"], "agents: "),
        (["--space", "own.Bits"], "both --space and --evaluator"),
        (["--space", "own.Bitts", *TABLE[2:]], "own has no Bitts; nearest: Bits"),
        ([*TABLE[:4], "--evaluator.table", "none.csv"], "none.csv: no such file"),
        ([*TABLE[:4], "--evaluator.tabel", "bits.csv"], "unknown option tabel; nearest: table"),
        (["--space", "NASBench201", *TABLE[2:]], "bits.csv.*2"),
        ([*TABLE, "--evaluator.val_column", "val_acc"], "val_acc"),
        ([*TABLE, "--seeds", "0"], "seeds must be an integer of 1 or more, got 0"),
        ([*TABLE, "--seeds", "two"], "seeds: expected an integer, got two"),
        ([*TABLE, "--first_seed", "-1"], "first_seed must be an integer of 0 or more"),
        ([*TABLE, "--workers", "-1"], "workers must be an integer of 0 or more"),
        (
            [*TABLE, "--rank_by", "rewrad"],
            "rank_by: expected one of 'speed', 'reward', 'val_score', 'test_score', got rewrad",
        ),
        ([*TABLE, "--budget.evaluations", "0"], "evaluations must be an integer of 1 or more"),
        ([*TABLE, "--budget.evaluations", "null"], "the budget of a comparison needs a limit"),
        ([*TABLE, "--timeout_seconds", "0"], "timeout_seconds must be a positive number"),
        ([*TABLE, "--run_dir", "bits.csv"], "bits.csv cannot be written"),
        (["--agnets.p", "PPO"], "unknown option --agnets.p"),
        ([*TABLE, "--output", "out"], "unknown option --output"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong_with_the_options(argv, said, refusal):
    assert re.search(said, refusal(*argv))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"agents": {"p": "RandomSearhc"}}, "unknown name RandomSearhc; nearest: RandomSearch"),
        ({"agents": {"p": {"class_path": "PPO", "init_args": {"lr": 1}}}}, r"\(PPO\): unknown option lr; there are: "),
        ({"agents": {"p": 3}}, "expected a class of Agent, got 3"),
        ({"agents": ["PPO"]}, "expected names with their values"),
        ({"agents": {}}, "one or more problems, agents and seeds"),
        ({"problems": {}}, "one or more problems, agents and seeds"),
        ({"problems": {"p": 3}}, "problems: expected names|problem p: expected options"),
        ({"problems": ["p"]}, "problems: expected names"),
        ({"problems": {"p": bits(spcae=1)}}, "problem p: error: unknown option spcae; nearest: space"),
        ({"problems": {"p": bits(budget=3)}}, "problem p: expected options by name, budget with its limits"),
        ({"problems": {"p": bits(budget={"evaluation": 3})}}, "problem p: error: .*evaluation"),
        ({"problems": {"p": bits(budget={"evaluations": 0})}}, "problem p: .*evaluations must be an integer of 1 or"),
        ({"problems": {"p": bits(space="NASBench201")}}, "problem p: .*bits.csv"),
        ({"problems": {"p": bits(objective="Accurcy")}}, "problem p: error: objective: unknown name Accurcy"),
        *(({"problems": {name: bits()}}, "name") for name in ("", ".", "..", "x" * 300, "a\nb")),
        *(({"agents": {name: "RandomSearch"}}, "name") for name in ("", "..", "x" * 300)),
        ({"published": {"other": {"source": "x"}}}, "published: there is no problem 'other'; there are bits"),
        ({"published": {"bits": {"test_score": {"random": [0.5, 0.1]}}}}, "published: expected `source`"),
        ({"published": {"bits": {"source": "x", "test_acc": {"random": [0.5, 0.1]}}}}, "published: expected `source`"),
        ({"published": {"bits": {"source": "x", "reward": {"random": [0.5]}}}}, "published: expected `source`"),
        ({"published": {"bits": 3}}, "published: expected"),
        ({"seeds": 0}, "seeds must be an integer of 1 or more"),
        ({"seed": 3}, "unknown option seed"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_one_line_says_what_is_wrong_with_a_file(values, said, refusal):
    assert re.search(said, refusal(*config(**values)))


def test_a_name_given_twice_in_a_file(refusal, folder):
    (folder / "twice.yaml").write_text("agents:\n  p: PPO\n  q: PPO\n  p: A2C\n")
    assert "line 4: key p is given twice" in refusal("--config", "twice.yaml")


def test_both_ways_of_saying_a_problem(refusal):
    assert "not both" in refusal(*config(), *TABLE)


@pytest.fixture
def there(folder, compared):
    """Return a copy of the folder of the comparison, in the current one."""
    return shutil.copytree(compared.folder, folder / "out")


def test_a_folder_of_another_comparison(refusal, there):
    before = (there / "config.yaml").read_bytes()
    said = refusal(*THREE[:-1], "9", "--run_dir", "out")
    assert "is of another configuration" in said
    assert (there / "config.yaml").read_bytes() == before


def test_a_folder_in_use_is_left_as_it_is(refusal, there):
    before = (there / "config.yaml").read_bytes()
    with open(there / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use by another comparison" in refusal(*THREE, "--first_seed", "1", "--run_dir", "out")
    assert (there / "config.yaml").read_bytes() == before
