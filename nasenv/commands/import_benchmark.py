"""``nasenv import_benchmark``: convert a published benchmark to a table."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np

from nasenv.benchmarks import BENCHMARKS
from nasenv.benchmarks.benchmark import Benchmark
from nasenv.commands.terminal import Terminal
from nasenv.errors import InputError, counted, nearest
from nasenv.files import user_path
from nasenv.tables.table import write_table


def import_benchmark(
    name: str,
    source: str | None = None,
    dataset: str | None = None,
    output: str | None = None,
    trust_archive: bool = False,
) -> None:
    """Convert a published benchmark to a table for searches and comparisons.

    Args:
        name: nas-bench-201, nas-bench-macro or nas-bench-graph.
        source: file or folder from the benchmark's authors; not needed if a package carries the data.
        dataset: data set of the measurements; by default the benchmark's first.
        output: CSV file to write, gzipped if it ends in .gz; by default NAME-DATASET.csv.gz.
        trust_archive: whether to read an archive that could run commands; only for one from its official source.
    """
    benchmark, chosen = _chosen(name, dataset)
    if benchmark.needs_trust and not trust_archive:
        raise InputError(f"{name} needs --trust_archive true: {benchmark.needs_trust}: {benchmark.source}")
    file = user_path(output if output is not None else f"{name}-{chosen}.csv.gz".lower())
    if not file.parent.is_dir():
        raise InputError(f"output {file}: there is no folder {file.parent}")
    console = Terminal()
    with console.status(f"reading {name}, which can take some minutes"):
        rows = benchmark.read(chosen, user_path(source) if source is not None else None)
        verified = benchmark.verify(chosen, rows)
    write_table(file, rows.architectures, rows.columns)
    console.say(f"{file}: {counted(len(rows.architectures), 'row')} of {name}, {chosen}")
    for column, values in rows.columns.items():
        console.say(f"  {column:{max(map(len, rows.columns))}}  {np.min(values):.10g} to {np.max(values):.10g}")
    for line in verified:
        console.say(f"verified: {line}")
    for line in benchmark.notes:
        console.say(f"note: {line}")
    console.say("options of nasenv train and nasenv compare for this table:")
    console.say(f"  {_options(benchmark, chosen, file)}")


def _chosen(name: str, dataset: str | None) -> tuple[Benchmark, str]:
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name}; did you mean {nearest(name, list(BENCHMARKS))}?")
    datasets = list(BENCHMARKS[name].published)
    if dataset is not None and dataset not in datasets:
        raise InputError(f"{name} has no data set {dataset}; did you mean {nearest(dataset, datasets)}?")
    return BENCHMARKS[name], dataset or datasets[0]


def _options(benchmark: Benchmark, dataset: str, file: Path) -> str:
    """Return the command line options for the table's space and evaluator."""
    parts = ["--space", type(benchmark.space(dataset)).__name__]
    for key, value in benchmark.space_options(dataset).items():
        parts += [f"--space.{key}", json.dumps(value)]
    parts += ["--evaluator", "TableEvaluator", "--evaluator.table", str(file)]
    for key, text in benchmark.options.items():
        parts += [f"--evaluator.{key}", text]
    return shlex.join(parts)
