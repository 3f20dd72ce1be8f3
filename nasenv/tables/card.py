"""Writes the card of a table that ``nasenv build_table`` made: how it was computed and how reliable its numbers are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import combinations
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import spearmanr

from nasenv.errors import counted
from nasenv.provenance import provenance

_PACKAGES = ("nasenv", "torch", "numpy")
_TOP_SHARE = 0.01

_CARD = """\
# {name}: every {space} on {data}

Computed by `nasenv build_table`, which also wrote this card and every number in it.

## What was computed

{architectures}, which are {networks}: architectures that the space declares
equivalent share their trainings and have equal rows. Every network was trained from {seeds} on the training
data and scored on the validation data (`val_accuracy_seed0`, ...), and trained anew, from {seeds}, on training
and validation data together and scored on the test data (`test_accuracy_seed0`, ...). Each of these trainings lasted
`final_epochs`.

- `val_accuracy`, `test_accuracy`: the means over the seeds, in [0, 1]; empty where one of them failed.
- `train_seconds`: the median over the seeds of what the evaluator says that one training on the training data took.
- `params`, `flops`, where they are there: parameters, and operations of one forward pass of one input (a multiplication
  and an addition are two).

Examples: {examples}.

The options, a file for `nasenv build_table --config FILE --output {name}`:

```yaml
{options}```

Computed on: {setting}.
{note}
## How hard it is, and how far to trust it

Each network is counted once. Correlations are Spearman's.

{figures}
"""

Columns = Mapping[str, NDArray[np.float64]]


def card(
    name: str,
    config: Mapping[str, Any],
    architectures: int,
    sizes: Mapping[str, int],
    columns: Columns,
    note: str = "",
) -> str:
    """Return the card as Markdown; every number in it is computed here.

    Args:
        name: name of the table's file.
        config: the options of the command that built it: space, evaluator, data where it reads them, seeds.
        architectures: number of rows, equivalent architectures counted each.
        sizes: examples in each split of the data; empty where the evaluator has none.
        columns: the table's, (n,), each network once.
        note: a paragraph of the user's.
    """
    return _CARD.format(
        name=name,
        space=_class_name(config["space"]),
        data=config["data"]["source"] if "data" in config else _class_name(config["evaluator"]),
        architectures=counted(architectures, "architecture"),
        networks=counted(len(columns["val_accuracy"]), "different network"),
        seeds=counted(config["seeds"], "seed"),
        examples="; ".join(f"{count:,} for {use}" for use, count in sizes.items()) or "unknown",
        options=yaml.safe_dump(dict(config), sort_keys=False),
        setting=_setting(),
        note=f"\n{note}\n" if note else "",
        figures=_markdown(figures(columns)),
    )


def _class_name(part: Mapping[str, Any]) -> str:
    return str(part["class_path"]).rpartition(".")[2]


def figures(columns: Columns) -> list[tuple[str, str]]:
    """Return the figures that describe the table's numbers, as (what, figure)."""
    whole = ~(np.isnan(columns["val_accuracy"]) | np.isnan(columns["test_accuracy"]))
    rows = [("networks of which a training failed, so that a mean is empty", f"{int((~whole).sum()):,}")]
    if not whole.any():
        return rows
    found = {name: column[whole] for name, column in columns.items()}
    by_worth = np.argsort(-found["val_accuracy"], kind="stable")
    top = by_worth[: max(1, round(_TOP_SHARE * len(by_worth)))]
    return [*rows, *_difficulty(found, top), *_noise(found, top), *_cost(found)]


def _difficulty(columns: Columns, top: NDArray[np.int64]) -> list[tuple[str, str]]:
    val, test = columns["val_accuracy"], columns["test_accuracy"]
    best = val.max()
    return [
        ("validation accuracy: best", f"{best:.4f}"),
        ("validation accuracy: median", f"{np.median(val):.4f}"),
        ("validation accuracy: best above median", f"{best - np.median(val):.4f}"),
        ("validation accuracy: quartiles", " and ".join(f"{q:.4f}" for q in np.quantile(val, [0.25, 0.75]))),
        (f"top 1 % ({counted(len(top), 'network')}): lowest validation accuracy", f"{val[top].min():.4f}"),
        ("top 1 %: standard deviation of the validation accuracies", f"{val[top].std():.4f}"),
        ("top 1 %: distinct validation accuracies", f"{len(np.unique(val[top])):,}"),
        ("networks that have the best validation accuracy", f"{int((val == best).sum()):,}"),
        ("test accuracy: best", f"{test.max():.4f}"),
        ("test accuracy: of the best on validation data", f"{test[val == best].mean():.4f}"),
    ]


def _noise(columns: Columns, top: NDArray[np.int64]) -> list[tuple[str, str]]:
    """Return figures of how much a mean depends on the seeds; an empty list for a single seed."""
    seeds = [name for name in columns if name.startswith("val_accuracy_seed")]
    if len(seeds) < 2 or len(columns["val_accuracy"]) < 3:
        return []
    val = np.stack([columns[name] for name in seeds])  # (seeds, n)
    deviations = val.std(axis=0, ddof=1)
    error = deviations[top].mean() / np.sqrt(len(seeds))
    near = int((columns["val_accuracy"] >= columns["val_accuracy"].max() - error).sum())
    pairs = [_correlation(a, b) for a, b in combinations(val, 2)]
    return [
        ("standard deviation between seeds: mean", f"{deviations.mean():.4f}"),
        ("standard deviation between seeds: mean over the top 1 %", f"{deviations[top].mean():.4f}"),
        (f"networks within a standard error of the mean, {error:.4f} in the top 1 %, of the best", f"{near:,}"),
        ("correlation of the validation accuracies of two seeds", f"{np.mean(pairs):.3f}"),
        (
            "correlation of the mean validation and test accuracies",
            f"{_correlation(columns['val_accuracy'], columns['test_accuracy']):.3f}",
        ),
    ]


def _cost(columns: Columns) -> list[tuple[str, str]]:
    seconds = columns["train_seconds"]
    spread = f"{np.median(seconds):.3f} ({seconds.min():.3f} to {seconds.max():.3f})"
    rows = [
        ("train_seconds: median (least to most)", spread),
        ("train_seconds: sum, hours", f"{seconds.sum() / 3600:.2f}"),
    ]
    if "flops" in columns and len(seconds) > 2:
        rows.append(("train_seconds: correlation with flops", f"{_correlation(seconds, columns['flops']):.3f}"))
    return rows


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation; nan if one of the arrays is constant."""
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    return math.nan if constant else float(spearmanr(a, b).statistic)


def _setting() -> str:
    """Return the processor, cores, versions and date as text."""
    known = provenance()
    versions = ", ".join(f"{package} {known[package]}" for package in _PACKAGES)
    machine = f"{known['processor']}, {counted(int(known['cores']), 'core')}"
    return f"{machine}, Python {known['python']}, {versions}, {date.today()}"


def _markdown(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows)])
