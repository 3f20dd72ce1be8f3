"""Reads NAS-Bench-Macro from the JSON file that its authors published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nasenv.benchmarks.benchmark import Benchmark, Published, Rows
from nasenv.errors import InputError
from nasenv.files import parse_json, read_whole, user_path
from nasenv.spaces.nas_bench_macro import NASBenchMacro

_LARGEST = 100_000_000  # bytes; the published file has 1.6 million


class NASBenchMacroJSON(Benchmark):
    """Reads CIFAR-10, 50 epochs, 3 runs an architecture (Su et al. 2021, https://arxiv.org/abs/2103.11922).

    Columns: `val_accuracy` and `test_accuracy`, both the mean test accuracy; `test_accuracy_std` over the runs;
    `params`; `flops`.
    """

    name = "nas-bench-macro"
    source = "nas-bench-macro_cifar10.json, in data/ of https://github.com/xiusu/NAS-Bench-Macro"
    published: ClassVar[Mapping[str, Published]] = {"cifar10": Published(rows=6_561, maxima={"val_accuracy": 0.931267})}
    notes = (
        "There is no validation split: val_accuracy is the mean test accuracy too, so this table can rank "
        "controllers, and cannot show that what they find generalises.",
        "Training seconds were not published.",
    )

    def space(self, dataset: str) -> NASBenchMacro:
        """Return the published space."""
        return NASBenchMacro()

    def read(self, dataset: str, source: Path | None) -> Rows:
        """Return the rows of a JSON file in the published format."""
        if source is None or not user_path(source).is_file():
            raise self.no_source("FILE", source)
        try:
            published = parse_json(read_whole(source, _LARGEST))
            rows = {text: _numbers(row) for text, row in published.items()}
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{source} is not the published file ({type(error).__name__}: {error}); expected {self.source}"
            ) from error
        return Rows.of(rows)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    mean = float(row["mean_acc"]) / 100
    return {
        "val_accuracy": mean,
        "test_accuracy": mean,
        "test_accuracy_std": float(row["std"]) / 100,
        "params": int(row["params"]),
        "flops": int(row["flops"]),
    }
