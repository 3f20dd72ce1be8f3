"""Tables: the file format, and the evaluator that looks architectures up in one."""

import gzip
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

from nasenv.agents import RandomSearch
from nasenv.errors import BudgetExhausted, InputError
from nasenv.evaluators.table import TableEvaluator
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.tables.table import read_table, shipped, write_table
from nasenv.task import Task
from nasenv.trial import Measurement, Trial
from tests.fakes import TASK

ROOT = Path(__file__).parents[2]
BENCHMARKS = Path(os.environ.get("NASENV_BENCHMARKS", ROOT.parent / "shared/benchmarks"))
NAS_BENCH_201 = BENCHMARKS / "nas_bench_201.csv.gz"
OF_201 = {
    "val_column": "cifar10_val_accuracy_12_epochs_percent",
    "final_val_column": "cifar10_val_accuracy_200_epochs_percent",
    "test_column": "cifar10_test_accuracy_200_epochs_percent",
    "seconds_column": "cifar10_train_seconds_12_epochs",
}


class Pairs(SearchSpace):
    """Nine architectures; the order of the two choices makes no difference, so six networks. Commas in its texts."""

    def __init__(self):
        super().__init__([Decision("left, or 1st", ("a", "b", "c")), Decision("right", ("a", "b", "c"))], TASK)

    def canonical(self, architecture):
        return tuple(sorted(architecture))

    def build(self, architecture):
        raise NotImplementedError


SPACE = Pairs()
TEXTS = [SPACE.to_text((i, j)) for i in range(3) for j in range(3)]


def table(path, texts=None, **columns):
    """Write a table of architectures, all nine by default; the columns named replace or add to accuracies of k / 10."""
    texts = TEXTS if texts is None else texts
    tenths = [k / 10 for k in range(len(texts))]
    made = {"val_accuracy": tenths, "test_accuracy": [t + 0.05 for t in tenths], "train_seconds": [2.5] * len(texts)}
    write_table(path, texts, {k: v for k, v in {**made, **columns}.items() if v is not None})
    return str(path)


@pytest.fixture
def path(tmp_path):
    return table(tmp_path / "table.csv")


def lines_of(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def put(path, line, text):
    """Replace a line, from 1, of a file."""
    lines = lines_of(path)
    lines[line - 1] = text
    Path(path).write_text("\n".join([*lines, ""]), encoding="utf-8")


# The file format


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_what_is_written_is_read_back_exactly(tmp_path, name):
    awkward = [0.1 + 0.2, 1e-300, 1 / 3, math.nan, 0.0, 1.0, None]
    texts = ["plain", "with,comma", 'with "quotes"', "ünï\u2028code", "two\nlines", " spaces ", "a"]
    write_table(tmp_path / name, texts, {"x_accuracy": awkward, "params": range(7)})
    got = read_table(tmp_path / name, scores=["x_accuracy"], numbers=["params"])
    assert got.architectures == tuple(texts)
    expected = [math.nan if v is None else v for v in awkward]
    np.testing.assert_array_equal(got.columns["x_accuracy"], expected)
    np.testing.assert_array_equal(got.columns["params"], np.arange(7.0))


def test_equal_tables_are_equal_files_and_gzip_changes_nothing_but_the_size(tmp_path):
    table(tmp_path / "a.csv.gz")
    time.sleep(1.1)  # gzip writes down the time in seconds
    table(tmp_path / "b.csv.gz")
    table(tmp_path / "c.csv")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == (tmp_path / "c.csv").read_bytes()
    assert read_table(tmp_path / "a.csv.gz").digest == read_table(tmp_path / "c.csv").digest


def test_integers_are_written_as_integers(tmp_path):
    write_table(tmp_path / "t.csv", ["a"], {"params": np.array([12345678.0]), "flops": [0.5]})
    assert lines_of(tmp_path / "t.csv")[1] == "a,12345678,0.5"


def test_percent_is_divided_and_the_name_kept(tmp_path):
    write_table(tmp_path / "t.csv", ["a", "b"], {"acc_percent": [50, None], "params": [7, 8]})
    columns = read_table(tmp_path / "t.csv", ["acc_percent"]).columns
    np.testing.assert_array_equal(columns["acc_percent"], [0.5, math.nan])
    np.testing.assert_array_equal(columns["params"], [7, 8])


def test_texts_may_stand_in_columns_that_nobody_asks_for(tmp_path):
    (tmp_path / "t.csv").write_text("architecture,note,val_accuracy,n\na,good,0.5,1\nb,,0.25,2\n")
    assert set(read_table(tmp_path / "t.csv", ["val_accuracy"]).columns) == {"val_accuracy", "n"}
    with pytest.raises(InputError, match=r"line 2: note is 'good'; expected a finite number"):
        read_table(tmp_path / "t.csv", numbers=["note"])


def test_what_a_spreadsheet_leaves_is_read(tmp_path):
    """A byte order mark, Windows' ends of lines, an empty line at the end."""
    (tmp_path / "t.csv").write_bytes("\ufeffarchitecture,val_accuracy\r\na,0.5\r\n\r\n".encode())
    assert read_table(tmp_path / "t.csv", ["val_accuracy"]).columns["val_accuracy"] == [0.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column|expected a header"),
        ("architecture,val_accuracy\n", "expected a header and a line for each architecture"),
        ("network,val_accuracy\na,1\n", "has no column 'architecture'; it has network, val_accuracy$"),
        ("architecture,val_acuracy,b\na,1,2\n", "has no column 'val_accuracy'; it has val_acuracy$"),
        ("architecture,val_accuracy,val_accuracy\na,1,1\n", "line 1: a column is named twice"),
        ("architecture,val_accuracy\na,1\nb\n", "line 3: expected 2 cells as in the header, got 1"),
        ("architecture,val_accuracy\na,1\n\nb,1,2\n", "line 4: expected 2 cells as in the header, got 3"),
        ("architecture,val_accuracy\na,1\nb,0\n\na,1\n", "line 5: 'a' stands on line 2 already"),
        ("architecture,val_accuracy\na,1\nb,1.01\n", "line 3: val_accuracy is 1.01; expected 0 to 1; a column in perc"),
        ("architecture,val_accuracy\na,-0.1\n", r"line 2: val_accuracy is -0\.1; expected 0 to 1"),
        ("architecture,val_accuracy\na,1\nb,nan\n", "line 3: val_accuracy is 'nan'; expected a finite number"),
        ("architecture,val_accuracy\na,inf\n", "line 2: val_accuracy is 'inf'; expected a finite number"),
        ("architecture,val_accuracy\na,1\nb,good\n", "line 3: val_accuracy is 'good'; expected a finite number"),
        ('architecture,val_accuracy\na,1\nb,"0', "line 3: not a line of CSV: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=said) as refusal:
        read_table(tmp_path / "t.csv", ["val_accuracy"])
    assert "t.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_percent_out_of_range_is_said_in_percent(tmp_path):
    (tmp_path / "t.csv").write_text("architecture,val_percent\na,101\n")
    with pytest.raises(InputError, match=r"line 2: val_percent is 101; expected 0 to 100$"):
        read_table(tmp_path / "t.csv", ["val_percent"])


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b broken", gzip.compress(b"architecture\na\n" * 99, mtime=0)[:-9], b"\xff\xfe\x00"]
)
def test_a_file_that_cannot_be_decoded(tmp_path, data):
    (tmp_path / "t.csv.gz").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as CSV, plain or gzipped"):
        read_table(tmp_path / "t.csv.gz")


def test_a_table_that_is_not_there():
    with pytest.raises(InputError, match="table nowhere: no such file, nor a shipped table"):
        read_table("nowhere")


@pytest.mark.parametrize(
    ("texts", "columns", "said"),
    [
        (["a", "a"], {"x": [1, 2]}, "'a' stands on line 2 already"),
        (["a", "b"], {"x": [1]}, "column x: expected 2 numbers, one a row, got 1"),
        (["a", "b"], {"val_accuracy": [0.5, 50]}, "line 3: val_accuracy is 50; expected 0 to 1"),
        (["a"], {"x": ["y"]}, "column x: expected a number"),
        (["a"], {"x": [math.inf]}, "column x: expected one finite number"),
        (["a"], {"architecture": [1]}, "column architecture"),
    ],
)
def test_nonsense_is_not_written(tmp_path, texts, columns, said):
    with pytest.raises(InputError, match=said):
        write_table(tmp_path / "t.csv", texts, columns)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_table(tmp_path / "nowhere" / "t.csv", ["a"], {})


# The evaluator


def searched(evaluator, *architectures, fidelity=1.0):
    return evaluator.measure([Trial(architecture, fidelity) for architecture in architectures])


def final(evaluator, purpose, architecture, seed=0):
    (measurement,) = evaluator.measure([Trial(architecture, purpose=purpose, seed=seed)])
    return measurement


def test_an_architecture_is_worth_what_its_row_says(path):
    evaluator = TableEvaluator(SPACE, path)
    assert searched(evaluator, (2, 1), (0, 0), (2, 1)) == [
        Measurement(0.7, train_seconds=2.5),
        Measurement(0.0, train_seconds=2.5),
        Measurement(0.7, train_seconds=2.5),
    ]
    assert [final(evaluator, "confirm", (2, 1), seed).score for seed in (0, 5)] == [0.7, 0.7]
    assert [final(evaluator, "test", (2, 1), seed).score for seed in (0, 5)] == [0.75, 0.75]
    assert [m.score for m in evaluator.all_measurements()] == [k / 10 for k in range(9)]
    assert not evaluator.trains


def test_rows_may_be_in_any_order_and_texts_in_another_form(tmp_path):
    space = ChainCNN(max_layers=1)
    architectures = [tuple(row) for row in space.all_architectures().tolist()]
    values = np.linspace(0, 1, len(architectures))
    write_table(tmp_path / "t.csv", [f" {space.to_text(a)} " for a in architectures[::-1]], {"val_accuracy": values})
    evaluator = TableEvaluator(space, str(tmp_path / "t.csv"), test_column=None)
    assert [m.score for m in searched(evaluator, *architectures)] == values[::-1].tolist()


def test_search_and_report_can_have_columns_of_their_own(tmp_path):
    path = table(tmp_path / "t.csv", late_percent=[90 - k for k in range(9)], hours=[0.5] * 9, val_accuracy=[0.5] * 9)
    evaluator = TableEvaluator(SPACE, path, final_val_column="late_percent", seconds_column="hours")
    assert searched(evaluator, (0, 1)) == [Measurement(0.5, train_seconds=0.5)]
    assert final(evaluator, "confirm", (0, 1)) == Measurement(0.89)


def test_an_empty_cell_is_an_evaluation_that_failed(tmp_path):
    path = table(tmp_path / "t.csv", val_accuracy=[None] + [0.5] * 8, test_accuracy=[None] + [0.5] * 8)
    evaluator = TableEvaluator(SPACE, path)
    (measurement,) = searched(evaluator, (0, 0))
    confirmed, tested = final(evaluator, "confirm", (0, 0)), final(evaluator, "test", (0, 0))
    assert "val_accuracy is empty" in measurement.error
    assert "empty" in confirmed.error
    assert "the table has no test_accuracy of this architecture" in tested.error


def test_a_benchmark_without_test_data_says_so(tmp_path):
    path = table(tmp_path / "t.csv", test_accuracy=None)
    with pytest.raises(InputError, match="has no column 'test_accuracy'"):
        TableEvaluator(SPACE, path)
    tested = final(TableEvaluator(SPACE, path, test_column=None), "test", (0, 0))
    assert (tested.score, tested.error) == (None, "the table has no test score of this architecture")


def test_seconds_are_zero_where_the_table_has_none(tmp_path):
    path = table(tmp_path / "t.csv", train_seconds=None)
    without = TableEvaluator(SPACE, table(tmp_path / "u.csv"), seconds_column=None)
    for evaluator in (TableEvaluator(SPACE, path), without):
        assert searched(evaluator, (0, 0))[0].train_seconds == 0
    with pytest.raises(InputError, match="has no column 'seconds'"):
        TableEvaluator(SPACE, path, seconds_column="seconds")


def test_an_agent_is_not_told_what_it_must_not_know(tmp_path):
    """Of the columns, params, flops and latency_ms alone are metrics, or those that the user names."""
    path = table(tmp_path / "t.csv", params=range(9), best_epoch_test_accuracy=[0.5] * 9, energy=[3.5] + [4.5] * 8)
    assert searched(TableEvaluator(SPACE, path), (0, 2))[0].metrics == {"params": 2}
    assert searched(TableEvaluator(SPACE, path, metric_columns=["energy"]), (0, 0))[0].metrics == {"energy": 3.5}
    assert searched(TableEvaluator(SPACE, path, metric_columns=[]), (0, 0))[0].metrics == {}
    with pytest.raises(InputError, match="has no column 'enrgy'; it has energy"):
        TableEvaluator(SPACE, path, metric_columns=["enrgy"])


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (4, "conv3x16,0.5,0.5,1", r"line 4: no architecture of this Pairs: .*expected left, or 1st of a, b, c"),
        (4, '"right=a,left, or 1st=a",0.5,0.5,1', r"line 4: '.*' is the architecture of line 2"),
        (4, f'"{TEXTS[2]}",1.5,0.5,1', "line 4: val_accuracy is 1.5"),
        (4, f'"{TEXTS[2]}",0.5,-1,1', "line 4: test_accuracy is -1"),
        (4, f'"{TEXTS[2]}",0.5,0.5,-1', "line 4: train_seconds is -1; expected 0 or more"),
        (4, f'"{TEXTS[2]}",0.5,0.5,', "line 4: train_seconds is (nan|empty)"),
    ],
)
def test_a_row_that_is_wrong_is_named(path, line, text, said):
    put(path, line, text)
    with pytest.raises(InputError, match=said) as refusal:
        TableEvaluator(SPACE, path)
    assert "table.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_architecture_that_the_table_lacks(tmp_path):
    evaluator = TableEvaluator(SPACE, table(tmp_path / "t.csv", [TEXTS[1], TEXTS[3]]))
    assert searched(evaluator, (0, 1))[0].score == 0
    for purpose in ("search", "confirm", "test"):
        with pytest.raises(InputError, match=r"t\.csv has no row of the architecture left, or 1st=c,right=c$"):
            evaluator.measure([Trial(architecture, purpose=purpose) for architecture in ((0, 1), (2, 2))])
    with pytest.raises(InputError, match="an architecture of Pairs has 2 decisions"):
        searched(evaluator, (0, 1, 2))


def test_only_the_full_training_is_known_unless_columns_are_named(path):
    evaluator = TableEvaluator(SPACE, path)
    assert [evaluator.fidelity(wanted) for wanted in (0.01, 0.5, 1.0)] == [1.0] * 3


def test_a_fidelity_has_a_column_of_its_own(tmp_path):
    columns = {"val_accuracy_12_epochs": [(8 - k) / 10 for k in range(9)], "val_50_accuracy": [None] + [0.55] * 8}
    path = table(tmp_path / "t.csv", params=range(9), **columns)
    evaluator = TableEvaluator(SPACE, path, fidelities={0.06: "val_accuracy_12_epochs", 0.25: "val_50_accuracy"})
    assert [evaluator.fidelity(wanted) for wanted in (0.001, 0.06, 0.15, 0.16, 0.6, 0.7, 1.0)] == [
        *(0.06, 0.06, 0.06, 0.25, 0.25, 1.0, 1.0)
    ]
    expected = Measurement(0.1, train_seconds=0.06 * 2.5, metrics={"params": 7})
    assert searched(evaluator, (2, 1), fidelity=0.06) == [expected]
    assert searched(evaluator, (2, 1)) == [Measurement(0.7, train_seconds=2.5, metrics={"params": 7})]
    assert "val_50_accuracy is empty" in searched(evaluator, (0, 0), fidelity=0.25)[0].error
    assert final(evaluator, "confirm", (2, 1)).score == 0.7
    with Search(SPACE, evaluator, budget=Budget(1)) as search:
        (early,) = search.evaluate([(2, 1)], 0.05)
        assert (early.fidelity, early.cost, early.measurement, early.repeat) == (0.06, 0.06, expected, False)
        with pytest.raises(BudgetExhausted):  # 0.94 of a full training is left
            search.evaluate([(2, 1)])
    assert evaluator.fingerprint() != TableEvaluator(SPACE, path).fingerprint()


@pytest.mark.parametrize(
    ("fidelities", "said"),
    [
        ({1.0: "test_accuracy"}, "between 0 and 1"),
        ({0: "test_accuracy"}, "between 0 and 1"),
        ({0.5: "vall"}, "has no column 'vall'"),
    ],
)
def test_fidelities_that_are_none(path, fidelities, said):
    with pytest.raises(InputError, match=said):
        TableEvaluator(SPACE, path, fidelities=fidelities)


def test_costs_are_the_metrics_of_the_table(tmp_path):
    evaluator = TableEvaluator(SPACE, table(tmp_path / "t.csv", params=range(9)))
    assert evaluator.costs((0, 2)) == searched(evaluator, (0, 2))[0].metrics == {"params": 2}


def test_an_architecture_is_looked_up_by_its_own_row_unless_canonical(path, tmp_path):
    """(1, 0) stands on a row of its own, of 0.3; its canonical architecture (0, 1) on one of 0.1."""
    own, canonical = TableEvaluator(SPACE, path), TableEvaluator(SPACE, path, canonical=True)
    assert (own.representative((1, 0)), canonical.representative((1, 0))) == ((1, 0), (0, 1))
    assert [searched(e, (1, 0))[0].score for e in (own, canonical)] == [0.3, 0.1]
    assert (len(own.all_measurements()), len(canonical.all_measurements())) == (9, 6)
    classes = [text for text in TEXTS if SPACE.canonical(SPACE.from_text(text)) == SPACE.from_text(text)]
    small = table(tmp_path / "small.csv", classes)
    tested = final(TableEvaluator(SPACE, small, canonical=True), "test", (1, 0))
    assert tested.score == pytest.approx(0.15)
    with pytest.raises(InputError, match="its canonical architecture has one: give canonical=true"):
        searched(TableEvaluator(SPACE, small), (1, 0))


def test_its_fingerprint_is_that_of_text_and_columns(path, tmp_path):
    prints = [
        TableEvaluator(SPACE, path).fingerprint(),
        TableEvaluator(SPACE, path, final_val_column="test_accuracy").fingerprint(),
        TableEvaluator(SPACE, path, seconds_column=None).fingerprint(),
        TableEvaluator(SPACE, path, canonical=True).fingerprint(),
        TableEvaluator(SPACE, table(tmp_path / "u.csv", val_accuracy=[0.5] * 9)).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert TableEvaluator(SPACE, table(tmp_path / "same.csv.gz")).fingerprint() == prints[0]


def test_a_search_on_a_table_finds_its_best_row(path):
    with Search(SPACE, TableEvaluator(SPACE, path), RandomSearch(batch_size=4), Budget(evaluations=9)) as search:
        search.run()
    assert search.history.best.architecture == (2, 2)
    assert search.history.train_seconds == 9 * 2.5


# Published tables, and ours


@pytest.fixture(scope="module")
def nas_bench_201():
    if not NAS_BENCH_201.exists():
        pytest.skip(
            f"{NAS_BENCH_201} is absent: published data are not shipped (NASENV_BENCHMARKS says where they are)"
        )
    return TableEvaluator(NASBench201(), str(NAS_BENCH_201), **OF_201)


def test_nas_bench_201_by_its_columns(nas_bench_201):
    """The published maxima: 91.607 / 94.373, and row 1 of the file."""
    space = nas_bench_201.space
    architectures = [tuple(row) for row in space.all_architectures().tolist()]
    assert max(final(nas_bench_201, "confirm", architecture).score for architecture in architectures) == pytest.approx(
        0.91607, abs=5e-6
    )
    assert max(final(nas_bench_201, "test", architecture).score for architecture in architectures) == pytest.approx(
        0.94373, abs=5e-6
    )
    row = space.from_text(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    )
    (measurement,) = searched(nas_bench_201, row)
    assert (measurement.score, measurement.train_seconds) == (pytest.approx(0.82834), 130.17848)
    assert len(TableEvaluator(space, str(NAS_BENCH_201), canonical=True, **OF_201).all_measurements()) == 6466


def test_a_lookup_is_quick(nas_bench_201):
    """0.07 ms was measured for 1,024 architectures; the goal is 1 ms."""
    trials = [Trial(architecture) for architecture in nas_bench_201.space.sample(1024, np.random.default_rng(0))]
    times = []
    for _ in range(20):
        started = time.perf_counter()
        nas_bench_201.measure(trials)
        times.append(time.perf_counter() - started)
    assert min(times) < 1e-3


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_table_is_small_and_has_a_card(name):
    path = ROOT / "nasenv/tables" / f"{name}.csv.gz"
    assert path.stat().st_size < 1e6
    assert path.with_name(f"{name}.md").read_text().startswith(f"# {name}")


def test_scores_of_another_metric_may_be_negative_or_large(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("architecture,val_score\na=1,-3.5\na=2,250\n")
    for metric, wrong in (("r2", "line 3: val_score is 250; expected 1 or less"), ("latency", None)):
        task = Task(None, 1, "regression", metric)
        space = ChoiceSpace({"a": (1, 2)}, build, task=task)
        columns = {"table": str(path), "val_column": "val_score", "test_column": None}
        if wrong is not None:
            with pytest.raises(InputError, match=wrong):
                TableEvaluator(space, **columns)
            continue
        with Search(space, TableEvaluator(space, **columns)) as search:
            search.evaluate([(0,), (1,)])
            assert [o.reward for o in search.history] == [-3.5, 250.0]


def build(task, a):
    raise NotImplementedError
