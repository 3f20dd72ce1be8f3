"""What a run tells about its space: importance against exact figures, and whether what is kept holds the best."""

import csv
import gzip
import json
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import rankdata

from nasenv.agents.random_search import RandomSearch
from nasenv.commands.cli import main
from nasenv.errors import InputError
from nasenv.evaluators.table import TableEvaluator
from nasenv.inspection.importance import explained, importance
from nasenv.inspection.narrowed import Narrowed
from nasenv.inspection.narrowing import narrowed_by, weighted_sample
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.inspection.run_report import advice, inspect_evaluations, tables
from nasenv.inspection.score_model import ScoreModel
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.spaces.synthetic import SyntheticSpace
from nasenv.task import CIFAR10, Images, Task

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("NASENV_BENCHMARKS", REPOSITORY.parent / "shared" / "benchmarks"))
FIVE = tuple("abcde")


def never_built(task, **choices):
    raise AssertionError


def four_decisions(constraints=()):
    return ChoiceSpace({name: FIVE for name in "wxyz"}, build=never_built, constraints=constraints, task=CIFAR10)


def worth(rows):
    """Return a reward in which w matters most, x and y matter together, and z does not."""
    w, x, y, _ = np.asarray(rows).T
    return 0.5 + 0.1 * w + 0.06 * (x - 2) * (y - 2)


def seen_of(space, n, seed=0, value=worth, noise=0.0):
    rng = np.random.default_rng(seed)
    architectures = list(dict.fromkeys(space.sample(2 * n, rng)))[:n]
    rewards = value(architectures) + noise * rng.standard_normal(len(architectures))
    return RunEvaluations(space, architectures, rewards, np.zeros(len(rewards), dtype=np.bool_), "run", "accuracy")


def exact_shares(space, values):
    """Return the share of each decision and of each pair beyond, by averages over all architectures."""
    rows = space.all_architectures()

    def of(columns):
        groups = {}
        for row, value in zip(map(tuple, rows[:, columns].tolist()), values, strict=True):
            groups.setdefault(row, []).append(value)
        return np.var([np.mean(g) for g in groups.values() for _ in g]) / np.var(values)

    mains = [of([t]) for t in range(space.num_decisions)]
    return mains, {(t, u): of([t, u]) - mains[t] - mains[u] for t, u in combinations(range(len(mains)), 2)}


def test_explained_is_the_variance_of_the_groups_means_where_all_are_listed():
    space = four_decisions()
    rows = space.all_architectures()
    values = worth(rows)
    mains, pairs = exact_shares(space, values)
    for t in range(4):
        assert explained(values[None], rows[:, t])[0] == pytest.approx(mains[t], abs=0.01)
    assert explained(values[None], rows[:, 1] * 5 + rows[:, 2])[0] == pytest.approx(pairs[1, 2], abs=0.03)


def test_the_intervals_of_importance_hold_the_exact_shares():
    space = four_decisions()
    found = importance(ScoreModel(seen_of(space, 200)))
    rows = space.all_architectures()
    mains, pairs = exact_shares(space, ndtri((rankdata(worth(rows)) - 0.5) / len(rows)))
    for decision, exact in zip(found.decisions, mains, strict=True):
        assert decision.share.low - 0.03 <= exact <= decision.share.high + 0.03
    (first, share), *others = found.pairs.items()
    assert first == ("x", "y")
    assert share.value == pytest.approx(pairs[1, 2], abs=0.15)
    assert all(other.value < 0.03 for _, other in others)
    assert found.rank_correlation > 0.9


def test_a_choice_is_worth_what_architectures_with_it_have_more_than_all():
    space = four_decisions()
    found = importance(ScoreModel(seen_of(space, 200)))
    for c, choice in enumerate(found.decisions[0].choices):
        assert choice.choice == FIVE[c]
        assert choice.worth.value == pytest.approx(0.1 * (c - 2), abs=0.03)
        assert choice.worth.low < choice.worth.value < choice.worth.high
    assert [choice.is_dominated for choice in found.decisions[0].choices] == [True, True, True, True, False]
    assert sum(choice.is_dominated for choice in found.decisions[3].choices) < 3


def test_few_evaluations_are_told_by_wide_intervals_and_in_words():
    space = four_decisions()
    noise = inspect_evaluations(seen_of(space, 12, value=lambda rows: np.random.default_rng(5).random(len(rows))))
    known = inspect_evaluations(seen_of(space, 200))
    widths = [r.importance.decisions[0].share.high - r.importance.decisions[0].share.low for r in (noise, known)]
    assert widths[0] > 2 * widths[1]
    assert "12 evaluations tell little about the others" in advice(noise, "RUN")[0]
    assert any("rests on fewer than 3 evaluations each" in sentence for sentence in advice(noise, "RUN"))
    assert not any("tell little" in sentence for sentence in advice(known, "RUN"))
    assert advice(known, "RUN")[-1].endswith("nasenv train --space Narrowed --space.run RUN")


def test_failures_count_as_the_worst_and_do_not_stretch_the_scale():
    space = four_decisions()
    seen = seen_of(space, 100)
    failed = np.array([architecture[0] == 0 for architecture in seen.architectures])
    rewards = np.where(failed, -1.0, seen.rewards)
    found = importance(ScoreModel(RunEvaluations(space, seen.architectures, rewards, failed, "run", "accuracy")))
    assert found.failed == failed.sum()
    first = found.decisions[0].choices[0]
    assert first.is_dominated
    assert -0.4 < first.worth.value < -0.2


def test_at_most_the_share_is_kept_and_it_holds_the_best_of_what_adds_up():
    held = 0
    for seed in range(10):
        space = SyntheticSpace(layers=3, widths=(4, 8))
        table = np.random.default_rng(seed).standard_normal((space.num_decisions, space.max_choices))

        def value(rows, table=table):
            return table[np.arange(len(table)), np.asarray(rows)].sum(axis=1)

        keep, evidence = narrowed_by(seen_of(space, 60, seed, value, noise=0.2), 0.1)
        part = Narrowed(of=space, keep=keep)
        assert evidence["share"] == pytest.approx(part.size / space.size, rel=1e-3)
        assert part.size <= 0.1 * space.size
        every = space.all_architectures()
        best = tuple(every[value(every).argmax()].tolist())
        held += best in set(map(tuple, part.all_architectures().tolist()))
    assert held >= 8


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_with_constraints_the_share_is_that_of_the_enumeration(share):
    space = four_decisions([lambda w, x: w != "a" or x == "a", lambda y, z: y <= z])
    seen = seen_of(space, 80)
    keep, evidence = narrowed_by(seen, share)
    part = Narrowed(of=space, keep=keep)
    assert part.size / space.size == pytest.approx(evidence["share"], rel=1e-3)
    assert part.size <= share * space.size


def test_all_is_kept_where_all_may_be():
    assert narrowed_by(seen_of(four_decisions(), 30), 1.0)[0] == {}


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, "a tenth"])
def test_a_wrong_share_is_refused(share):
    with pytest.raises(InputError, match="share must be a number above 0, up to 1"):
        narrowed_by(seen_of(four_decisions(), 30), share)


def test_it_is_the_same_every_time():
    seen = seen_of(four_decisions(), 50)
    assert narrowed_by(seen, 0.1) == narrowed_by(seen, 0.1)
    assert inspect_evaluations(seen).importance == inspect_evaluations(seen).importance


@pytest.mark.parametrize(
    "space",
    [
        ChainCNN(max_layers=3, widths=(8, 16), task=Task(Images((1, 8, 8)), outputs=10)),
        four_decisions([lambda w, x, y: (w < x) <= (y == "a")]),
    ],
    ids=["ChainCNN", "ChoiceSpace"],
)
def test_a_weighted_sample_stands_for_all_architectures(space):
    rows, weights = weighted_sample(space, 8_000, np.random.default_rng(0))
    every = space.all_architectures()
    effective = 1 / (weights**2).sum()
    assert effective > 2_000
    for t, decision in enumerate(space.decisions):
        for c in range(len(decision.choices)):
            exact = (every[:, t] == c).mean()
            error = np.sqrt(exact * (1 - exact) / effective)
            assert weights[rows[:, t] == c].sum() == pytest.approx(exact, abs=5 * error + 1e-9)


# Published tables: scripts/benchmarks/bench_narrowing.py has 100 seeds


def published(name):
    if name == "macro":
        path, space = FOLDER / "nas-bench-macro_cifar10.json", NASBenchMacro()
    else:
        path, space = FOLDER / "nas_bench_201.csv.gz", NASBench201()
    if not path.exists():
        pytest.skip(f"the published table is not there: {path} (NASENV_BENCHMARKS names its folder)")
    if name == "macro":
        return space, {space.from_text(text): row["mean_acc"] for text, row in json.loads(path.read_text()).items()}
    with gzip.open(path, "rt") as file:
        column = f"{name}_val_accuracy_200_epochs_percent"
        return space, {space.from_text(row["architecture"]): float(row[column]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "macro"])
def test_a_tenth_chosen_after_100_random_evaluations_holds_the_best(name):
    space, table = published(name)
    every = list(table)
    for seed in range(3):
        drawn = [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:100]]
        rewards = np.array([table[a] for a in drawn])
        keep, _ = narrowed_by(RunEvaluations(space, drawn, rewards, np.zeros(100, dtype=np.bool_)), 0.1)
        part = [tuple(row) for row in Narrowed(of=space, keep=keep).all_architectures().tolist()]
        assert len(part) <= 0.1 * len(every)
        assert max(table[a] for a in part) >= max(table.values()) - 0.1


# The command


def search_in(folder):
    space = ChainCNN(max_layers=3, widths=(16,), task=Task(Images((1, 8, 8)), outputs=10))
    return Search(space, TableEvaluator(space), RandomSearch(), Budget(evaluations=40), run_dir=folder)


@pytest.fixture
def in_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with search_in("run") as search:
        search.run()
    return tmp_path


def test_the_command_says_what_matters_and_writes_it_down(in_run, capsys):
    capsys.readouterr()
    assert main(["inspect", "run"]) == 0
    said = capsys.readouterr().out
    for words in ("share of the variance", "layer1.operation", "matters most", "--space Narrowed --space.run run"):
        assert words in " ".join(said.split())
    assert "page: run/inspection/inspection.html; numbers: run/inspection/importance.json" in said
    written = json.loads((in_run / "run/inspection/importance.json").read_text())
    assert written["importance"]["evaluations"] == 40
    assert {"keep", "evidence"} <= written.keys()
    assert {path.name for path in (in_run / "run/inspection").glob("*.png")} == {"importance.png", "choices.png"}
    page = (in_run / "run/inspection/inspection.html").read_text()
    assert "layer1.operation" in page
    assert "data:image/png" in page
    assert main(["inspect", "run", "--share", "0.5", "--output", "elsewhere"]) == 0
    assert (in_run / "elsewhere/inspection.html").exists()


def test_a_run_goes_on_beside_its_inspection(in_run):
    assert main(["inspect", "run"]) == 0
    with search_in("run") as search:
        assert search.replayed == 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--share", "2"], "share must be a number above 0, up to 1, got 2"),
        (["--seed", "x"], "seed: expected an integer, got x"),
        (["--train", "3"], "unknown option --train"),
    ],
)
def test_wrong_input_is_one_line(options, words, in_run, capsys):
    capsys.readouterr()
    try:
        code = main(["inspect", "run", *options])
    except SystemExit as exit:
        code = exit.code
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_tables_have_a_row_for_each_choice_that_is_ever_open():
    space = ChainCNN(max_layers=2, widths=(8,), task=Task(Images((1, 8, 8)), outputs=10))
    seen = seen_of(space, 40, value=lambda rows: np.asarray(rows)[:, 0] / 2.0)
    report = inspect_evaluations(seen)
    heads, rows = tables(report)["Choices"]
    assert len({len(row) for row in [heads, *rows]}) == 1
    opened = (
        space.masks(space.all_architectures()).any(axis=0)
        & (space.masks(space.all_architectures()).sum(axis=2) > 1).any(axis=0)[:, None]
    )
    assert len(rows) == sum(len(d.choices) for d, row in zip(space.decisions, opened, strict=True) if row.any())


def test_of_a_part_only_the_choices_that_it_has_are_told_and_kept():
    part = Narrowed(of=four_decisions(), keep={"w": ["c", "d", "e"], "x": ["a", "e"]})
    report = inspect_evaluations(seen_of(part, 60), share=0.3)
    told = {decision.name: [choice.choice for choice in decision.choices] for decision in report.importance.decisions}
    assert told == {"w": ["c", "d", "e"], "x": ["a", "e"], "y": list(FIVE), "z": list(FIVE)}
    assert set(report.keep["w"]) <= {"c", "d", "e"}
    assert Narrowed(of=part, keep=dict(report.keep)).size <= 0.3 * part.size
