"""``nasenv import_benchmark``: turn a published benchmark into a table."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np

from nasenv.benchmarks import BENCHMARKS
from nasenv.benchmarks.benchmark import Benchmark
from nasenv.commands.terminal import Terminal
from nasenv.errors import InputError, nearest
from nasenv.files import user_path
from nasenv.tables.table import write_table


def import_benchmark(
    name: str,
    source: str | None = None,
    dataset: str | None = None,
    output: str | None = None,
    trust_archive: bool = False,
) -> None:
    """Turn a published benchmark into a table that searches and comparisons can use.

    Args:
        name: nas-bench-201, nas-bench-macro or nas-bench-graph.
        source: file or folder that its authors published; not needed where a package carries the data.
        dataset: data set whose measurements are wanted; the benchmark's first where not given.
        output: CSV file to write, gzipped where it ends in .gz; NAME-DATASET.csv.gz where not given.
        trust_archive: read an archive that could run commands, since it comes from its official source.
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
    console.say(f"{file}: {len(rows.architectures):,} rows of {name}, {chosen}")
    for column, values in rows.columns.items():
        console.say(f"  {column:{max(map(len, rows.columns))}}  {np.min(values):.10g} to {np.max(values):.10g}")
    for line in verified:
        console.say(f"verified: {line}")
    for line in benchmark.notes:
        console.say(f"note: {line}")
    console.say("search it, and compare agents on it, with these options of nasenv train and nasenv compare:")
    console.say(f"  {_options(benchmark, chosen, file)}")


def _chosen(name: str, dataset: str | None) -> tuple[Benchmark, str]:
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name}; did you mean {nearest(name, list(BENCHMARKS))}?")
    datasets = list(BENCHMARKS[name].published)
    if dataset is not None and dataset not in datasets:
        raise InputError(f"{name} has no data set {dataset}; did you mean {nearest(dataset, datasets)}?")
    return BENCHMARKS[name], dataset or datasets[0]


def _options(benchmark: Benchmark, dataset: str, file: Path) -> str:
    """Return the command line options that make the table's space and evaluator."""
    parts = ["--space", type(benchmark.space(dataset)).__name__]
    for key, value in benchmark.space_options(dataset).items():
        parts += [f"--space.{key}", json.dumps(value)]
    parts += ["--evaluator", "TableEvaluator", "--evaluator.table", str(file)]
    for key, text in benchmark.options.items():
        parts += [f"--evaluator.{key}", text]
    return shlex.join(parts)
