import csv
import gzip
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from nasenv.benchmarks import BENCHMARKS
from nasenv.benchmarks.benchmark import Rows
from nasenv.commands.arguments import call
from nasenv.commands.import_benchmark import import_benchmark
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.spaces.space import SearchSpace
from nasenv.tables.table import read_table
from nasenv.trial import Trial

FOLDER = Path(os.environ.get("NASENV_BENCHMARKS", Path(__file__).resolve().parents[2].parent / "shared" / "benchmarks"))
INDICES = (0, 11, 284)  # of the official archive's architectures that are there


def published(name: str) -> Path:
    if not (FOLDER / name).exists():
        pytest.skip(f"published data are not there: {FOLDER / name} (NASENV_BENCHMARKS names the folder)")
    return FOLDER / name


@pytest.fixture(scope="module")
def archive() -> Path:
    pytest.importorskip("nats_bench", reason="needs pip install 'nasenv[benchmarks]'")
    return published("NATS-tss-v1_0-3ffb9-simple")


@pytest.fixture(scope="module")
def table_201() -> list[dict[str, str]]:
    with gzip.open(published("nas_bench_201.csv.gz"), "rt") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def macro_json() -> dict:
    return json.loads(published("nas-bench-macro_cifar10.json").read_text())


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_archive_gives_the_numbers_of_the_merged_table(archive, table_201, dataset):
    rows = BENCHMARKS["nas-bench-201"].read(dataset, archive)
    assert rows.architectures == [table_201[i]["architecture"] for i in INDICES]
    for theirs, ours, scale in [
        ("val_accuracy_12_epochs_percent", "val_accuracy_12_epochs", 100),
        ("val_accuracy_200_epochs_percent", "val_accuracy_200_epochs", 100),
        ("test_accuracy_200_epochs_percent", "test_accuracy_200_epochs", 100),
        ("train_seconds_12_epochs", "train_seconds_12_epochs", 1),
        ("params", "params", 1),
        ("mflops", "flops", 1e-6),
    ]:
        expected = [float(table_201[i][f"{dataset}_{theirs}"]) for i in INDICES]
        np.testing.assert_allclose(np.array(rows.columns[ours]) * scale, expected, atol=6e-6, rtol=0)
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[dataset]
    for column in ("val_accuracy_200_epochs", "test_accuracy_200_epochs"):
        expected = [float(table_201[i][f"{other}_{column}_percent"]) for i in INDICES]
        np.testing.assert_allclose(np.array(rows.columns[f"{other}_{column}"]) * 100, expected, atol=6e-6, rtol=0)


def test_the_third_data_set_is_what_the_library_says_in_another_way(archive):
    from nats_bench import create

    rows = BENCHMARKS["nas-bench-201"].read("ImageNet16-120", archive)
    api = create(str(archive), "tss", fast_mode=True, verbose=False)
    for row, index in enumerate(INDICES):
        ours = {name: column[row] for name, column in rows.columns.items()}
        for epochs in (12, 200):
            info = api.get_more_info(index, "ImageNet16-120", hp=str(epochs), is_random=False)
            assert 100 * ours[f"val_accuracy_{epochs}_epochs"] == pytest.approx(info["valid-accuracy"])
            assert 100 * ours[f"test_accuracy_{epochs}_epochs"] == pytest.approx(info["test-accuracy"])
            assert ours[f"train_seconds_{epochs}_epochs"] == pytest.approx(info["train-all-time"])
        charged = api.simulate_train_eval(index, "ImageNet16-120", hp="12")[2]
        assert ours["charged_seconds_12_epochs"] == pytest.approx(charged)
        assert ours["train_seconds_200_epochs"] == pytest.approx(200 / 12 * ours["train_seconds_12_epochs"])


def merged_rows(table, dataset: str) -> Rows:
    columns = {
        name: [float(row[f"{dataset}_{name}_percent"]) / 100 for row in table]
        for name in ("val_accuracy_12_epochs", "val_accuracy_200_epochs", "test_accuracy_200_epochs")
    }
    columns["params"] = [int(row[f"{dataset}_params"]) for row in table]
    return Rows([row["architecture"] for row in table], columns)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_all_rows_of_nas_bench_201_are_verified(table_201, dataset):
    rows = merged_rows(table_201, dataset)
    assert len(BENCHMARKS["nas-bench-201"].verify(dataset, rows)) == 3
    with pytest.raises(InputError, match="expected a highest val_accuracy_12_epochs"):
        BENCHMARKS["nas-bench-201"].verify("cifar10" if dataset == "cifar100" else "cifar100", rows)


def test_an_archive_is_read_only_where_it_is_trusted(archive, monkeypatch):
    import nats_bench

    monkeypatch.setattr(nats_bench, "create", lambda *_, **__: pytest.fail("the archive was read"))
    with pytest.raises(InputError, match=r"pickle.*official source only"):
        import_benchmark("nas-bench-201", str(archive))


def test_an_archive_that_lacks_files_is_refused(archive):
    with pytest.raises(InputError, match="expected 15,625 distinct architectures, got 3"):
        import_benchmark("nas-bench-201", str(archive), trust_archive=True, output="t.csv")
    assert not Path("t.csv").exists()


def test_an_archive_that_is_none_is_refused():
    Path("meta.pickle.pbz2").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read by nats-bench"):
        import_benchmark("nas-bench-201", ".", trust_archive=True)


def test_macro_becomes_a_table(macro_json, capsys):
    source = published("nas-bench-macro_cifar10.json")
    call(import_benchmark, "nasenv import_benchmark", ["nas-bench-macro", "--source", str(source)])
    table = read_table("nas-bench-macro-cifar10.csv.gz", ["val_accuracy", "test_accuracy"], ["params", "flops"])
    assert table.architectures == tuple(macro_json)
    means = [np.mean(row["test_acc"]) / 100 for row in macro_json.values()]
    np.testing.assert_allclose(table.columns["val_accuracy"], means)
    np.testing.assert_array_equal(table.columns["test_accuracy"], table.columns["val_accuracy"])
    assert table.columns["params"].tolist() == [row["params"] for row in macro_json.values()]
    said = capsys.readouterr().out
    assert "val_accuracy 93.13%" in said
    assert "no validation split" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.popitem(), "expected 6,561 distinct architectures, got 6,560"),
        (
            lambda rows: rows["00000000"].update(mean_acc=93.2),
            "expected a highest val_accuracy of 0.93127, got 0.93200",
        ),
        (lambda rows: [row.update(params=1) for row in rows.values()], "has 1 params, its network in nasenv"),
        (lambda rows: rows.update({"00000003": rows.pop("00000002")}), "'00000003': expected 8 digits"),
        (lambda rows: rows["00000000"].pop("mean_acc"), "is not the published file"),
        (lambda rows: rows["00000000"].update(std="wide"), "is not the published file"),
        (lambda rows: rows.clear(), "expected 6,561 distinct architectures, got 0"),
    ],
)
def test_a_macro_file_that_is_not_the_published_is_refused(macro_json, change, reason):
    change(macro_json)
    Path("changed.json").write_text(json.dumps(macro_json))
    with pytest.raises(InputError, match=reason) as error:
        import_benchmark("nas-bench-macro", "changed.json", output="t.csv")
    assert "\n" not in str(error.value)
    assert not Path("t.csv").exists()


@pytest.mark.parametrize("dataset", list(BENCHMARKS["nas-bench-graph"].published))
def test_every_data_set_of_the_package_is_as_published(dataset):
    package = pytest.importorskip("nas_bench_graph", reason="needs pip install 'nasenv[benchmarks]'")
    benchmark = BENCHMARKS["nas-bench-graph"]
    rows = benchmark.read(dataset, None)
    assert len(benchmark.verify(dataset, rows)) == 3
    links, operations = (
        [0, 1, 1, 2],
        ["gcn", "skip", "fc", "arma"],
    )  # their own look-up, of an architecture that is no row
    space = benchmark.space(dataset)
    architecture = space.from_text("|".join(f"{name}~{i}" for name, i in zip(operations, links, strict=True)))
    row = rows.architectures.index(space.to_text(space.canonical(architecture)))
    theirs = package.light_read(dataset)[package.Arch(links, operations).valid_hash()]
    assert rows.columns["val_accuracy"][row] == theirs["valid_perf"]
    assert rows.columns["test_accuracy"][row] == theirs["perf"]
    assert rows.columns["latency_ms"][row] == pytest.approx(1_000 * theirs["latency"])
    assert rows.columns["params"][row] == pytest.approx(1e6 * theirs["para"], abs=0.5)


def test_the_printed_options_search_the_table(capsys):
    pytest.importorskip("nas_bench_graph", reason="needs pip install 'nasenv[benchmarks]'")
    import_benchmark("nas-bench-graph", dataset="proteins", output="table of proteins.csv")
    options = shlex.split(capsys.readouterr().out.splitlines()[-1])
    made = {}

    def probe(space: SearchSpace, evaluator: Evaluator) -> None:
        """Keep the parts."""
        made.update(space=space, evaluator=evaluator)

    call(probe, "probe", options)
    architectures = made["space"].sample(200, np.random.default_rng(0))
    assert all(
        m.error is None for m in made["evaluator"].measure([Trial(architecture) for architecture in architectures])
    )
    assert max(m.score for m in made["evaluator"].all_measurements()) == pytest.approx(0.85333, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "nas-bench-102"}, "did you mean nas-bench-201"),
        ({"name": "nas-bench-graph", "dataset": "Cora"}, "did you mean cora"),
        ({"name": "nas-bench-macro"}, "needs --source FILE: nas-bench-macro_cifar10.json, .*https://github.com/xiusu"),
        ({"name": "nas-bench-macro", "source": "x.json"}, "needs --source FILE, got x.json: "),
        ({"name": "nas-bench-201", "trust_archive": True}, "needs --source FOLDER .*https://github.com/D-X-Y/NATS"),
        ({"name": "nas-bench-graph", "source": "x"}, "takes no --source"),
        ({"name": "nas-bench-graph", "output": "no/folder/t.csv"}, "there is no folder"),
    ],
)
def test_what_is_missing_is_named_with_where_to_get_it(arguments, reason):
    with pytest.raises(InputError, match=reason) as error:
        import_benchmark(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("package", "name"), [("nats_bench", "nas-bench-201"), ("nas_bench_graph", "nas-bench-graph")])
def test_a_package_that_is_not_installed_is_named(monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    source = None
    if name == "nas-bench-201":
        source = Path()
        Path("meta.pickle.pbz2").touch()
    benchmark = BENCHMARKS[name]
    with pytest.raises(InputError, match=f"pip install {package.replace('_', '-')}"):
        benchmark.read(next(iter(benchmark.published)), source)
