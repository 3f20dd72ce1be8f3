"""Reads NAS-Bench-Graph from the package of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nasenv.benchmarks.benchmark import Benchmark, Published, Rows
from nasenv.errors import InputError
from nasenv.spaces.nas_bench_graph import NASBenchGraph
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture

_ON_PROTEINS = ("gcn", "sage", "arma", "fc", "skip")
_MAXIMA = {  # number of rows, highest val_accuracy, highest test_accuracy in nas-bench-graph 1.4.0
    "cora": (26_206, 0.81933, 0.83133),
    "citeseer": (26_206, 0.72800, 0.71567),
    "pubmed": (26_206, 0.81133, 0.78600),
    "cs": (26_206, 0.92133, 0.91262),
    "physics": (26_206, 0.94000, 0.93005),
    "photo": (26_206, 0.94067, 0.92790),
    "computers": (26_206, 0.91900, 0.85583),
    "arxiv": (26_206, 0.73667, 0.72386),
    "proteins": (2_021, 0.85333, 0.79263),
}


class NASBenchGraphPackage(Benchmark):
    """Reads nine graph data sets, 3 runs an architecture (Qin et al. 2022, https://arxiv.org/abs/2206.09166).

    Columns: `val_accuracy`, `test_accuracy`; `latency_ms`; `params`. There is a row for each class of architectures
    that are the same network.

    The package carries its data as pickles, which its `light_read` loads: they are as trustworthy as the package's
    code, which runs too. No file of a user's is read.
    """

    name = "nas-bench-graph"
    source = "the package nas-bench-graph: pip install nas-bench-graph"
    published: ClassVar[Mapping[str, Published]] = {
        dataset: Published(rows, {"val_accuracy": val, "test_accuracy": test})
        for dataset, (rows, val, test) in _MAXIMA.items()
    }
    options: ClassVar[Mapping[str, str]] = {"canonical": "true"}
    notes = (
        "The package loads its own data by pickle: whoever trusts its code can trust them.",
        "There is one row for each class of equal networks, so architectures are looked up by their canonical form.",
        "Accuracy is the area under the ROC curve on proteins. The package does not name the unit of its latency, "
        "which is taken for seconds. Training seconds were not published in it.",
    )

    def space(self, dataset: str) -> NASBenchGraph:
        """Return the space of the rows."""
        return NASBenchGraph(**self.space_options(dataset))

    def space_options(self, dataset: str) -> Mapping[str, Any]:
        """Return the operations of the data set proteins, which has fewer."""
        return {"operations": _ON_PROTEINS} if dataset == "proteins" else {}

    def read(self, dataset: str, source: Path | None) -> Rows:
        """Return the rows in the installed package."""
        if source is not None:
            raise InputError(f"{self.name} takes no --source, got {source}; it is read from {self.source}")
        try:
            from nas_bench_graph import light_read
        except ImportError as error:
            raise InputError(f"{self.name} needs {self.source}") from error
        space = NASBenchGraph()  # the texts are the same where there are fewer operations
        rows: dict[str, dict[str, float]] = {}
        for key, row in sorted(light_read(dataset).items()):
            architecture = tuple(map(int, f"{key:05d}"))  # the package's hash: links, then four operations
            rows[space.to_text(architecture)] = _numbers(row)
        return Rows.of(rows)

    def verify_networks(
        self, dataset: str, space: SearchSpace, architectures: Sequence[Architecture], rows: Rows
    ) -> str:
        """Verify that each row is a class representative, since networks are not built."""
        for architecture, text in zip(architectures, rows.architectures, strict=True):
            if space.canonical(architecture) != architecture:
                raise self.refusal(dataset, f"{text} is not the representative of its class")
        return "every row is the representative of a class of equal networks"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        "val_accuracy": float(row["valid_perf"]),
        "test_accuracy": float(row["perf"]),
        "latency_ms": 1e3 * float(row["latency"]),
        "params": round(1e6 * float(row["para"])),
    }
