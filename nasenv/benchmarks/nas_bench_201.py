"""Reads NAS-Bench-201 from the archive of NATS-Bench, whose topology space it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nasenv.benchmarks.benchmark import Benchmark, Published, Rows
from nasenv.errors import InputError
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.task import Images, Task

_ENDING = ".pickle.pbz2"
_EPOCHS = (12, 200)
_NETWORKS = {  # what the networks of a data set take: input shape, classes
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "ImageNet16-120": ((3, 16, 16), 120),
}
_REWARD, _CONVERGED, _REPORT = "val_accuracy_12_epochs", "val_accuracy_200_epochs", "test_accuracy_200_epochs"


class NATSBenchArchive(Benchmark):
    """Reads CIFAR-10, CIFAR-100 and ImageNet16-120 (Dong et al. 2021, https://arxiv.org/abs/2009.00437).

    Columns, each a mean over the runs that there are, for N of 12 and 200:

    - `val_accuracy_N_epochs`: on the validation split; for CIFAR-10 after training on half of the training images.
    - `test_accuracy_N_epochs`: on the test split; for CIFAR-10 after training on all training images.
    - `train_seconds_N_epochs`: of the training that led to the validation accuracy, on the authors' machine.
    - `charged_seconds_N_epochs`: with one pass over the validation images, which published searches are charged too.
    - `params`, `flops`.
    - `D_val_accuracy_200_epochs`, `D_test_accuracy_200_epochs`: of the same cell on each other data set D (cifar10,
      cifar100, imagenet16_120), to report how a search's find transfers.
    """

    name = "nas-bench-201"
    source = "the unpacked NATS-tss-v1_0-3ffb9-simple.tar, linked in https://github.com/D-X-Y/NATS-Bench (archive, tss)"
    published: ClassVar[Mapping[str, Published]] = {
        "cifar10": Published(15_625, {_REWARD: 0.84892, _CONVERGED: 0.91607, _REPORT: 0.94373}),
        "cifar100": Published(15_625, {_REWARD: 0.61320, _CONVERGED: 0.73493, _REPORT: 0.73513}),
        "ImageNet16-120": Published(15_625, {_REPORT: 0.4731}),
    }
    options: ClassVar[Mapping[str, str]] = {
        "val_column": _REWARD,
        "final_val_column": _CONVERGED,
        "test_column": _REPORT,
        "seconds_column": "charged_seconds_12_epochs",
    }
    notes = ("Published searches are paid the validation accuracy after 12 epochs and report that after 200.",)
    needs_trust = (
        "the archive is read by nats-bench with pickle, and a crafted pickle runs any command: "
        "import one from its official source only"
    )

    def space(self, dataset: str) -> NASBench201:
        """Return the published space, with the networks of the data set."""
        shape, num_classes = _NETWORKS[dataset]
        return NASBench201(task=Task(Images(shape), num_classes))

    def read(self, dataset: str, source: Path | None) -> Rows:
        """Return the rows of the architectures in an unpacked archive."""
        if source is None or not (source / f"meta{_ENDING}").is_file():
            raise self.no_source(f"FOLDER with meta{_ENDING}", source)
        try:
            from nats_bench import create
        except ImportError as error:
            raise InputError(f"{self.name} needs the package nats-bench: pip install nats-bench") from error
        stems = [path.name.removesuffix(_ENDING) for path in source.glob(f"*{_ENDING}")]
        indices = sorted(int(stem) for stem in stems if stem.isdecimal())
        try:
            api = create(str(source), "tss", fast_mode=True, verbose=False)
            rows = {}
            for index in indices:
                runs = {epochs: api.query_meta_info_by_index(index, hp=str(epochs)) for epochs in _EPOCHS}
                rows[str(api.arch(index))] = _numbers(dataset, runs) | _transferred(dataset, runs[_EPOCHS[-1]])
                del api.arch2infos_dict[index]  # else all 15,625 stay in memory
        except Exception as error:  # whatever a library raises that is given files of another kind
            raise InputError(
                f"{source} cannot be read by nats-bench ({type(error).__name__}: {error}); expected {self.source}"
            ) from error
        return Rows.of(rows)


def _numbers(dataset: str, runs: dict[int, Any]) -> dict[str, float]:
    """Return an architecture's columns, from its `nats_bench.ArchResults` by number of epochs."""
    numbers: dict[str, float] = {}
    for epochs, results in runs.items():
        validation, test = _accuracies(dataset, results)
        seconds = results.get_metrics(_searched(dataset), "train")["all_time"]
        numbers[f"val_accuracy_{epochs}_epochs"] = validation["accuracy"] / 100
        numbers[f"test_accuracy_{epochs}_epochs"] = test["accuracy"] / 100
        numbers[f"train_seconds_{epochs}_epochs"] = seconds
        numbers[f"charged_seconds_{epochs}_epochs"] = seconds + validation["all_time"] / epochs
    costs = runs[_EPOCHS[-1]].get_compute_costs(dataset)  # both in millions
    return numbers | {"params": round(1e6 * costs["params"]), "flops": round(1e6 * costs["flops"])}


def _transferred(dataset: str, results: Any) -> dict[str, float]:
    """Return the columns of an architecture's converged training on the other data sets."""
    numbers: dict[str, float] = {}
    for other in _NETWORKS.keys() - {dataset}:
        prefix = other.lower().replace("-", "_")
        validation, test = _accuracies(other, results)
        numbers[f"{prefix}_val_accuracy_{_EPOCHS[-1]}_epochs"] = validation["accuracy"] / 100
        numbers[f"{prefix}_test_accuracy_{_EPOCHS[-1]}_epochs"] = test["accuracy"] / 100
    return dict(sorted(numbers.items()))


def _accuracies(dataset: str, results: Any) -> tuple[Any, Any]:
    """Return the results on the validation split and on the test split."""
    test_split = "ori-test" if dataset == "cifar10" else "x-test"
    return results.get_metrics(_searched(dataset), "x-valid"), results.get_metrics(dataset, test_split)


def _searched(dataset: str) -> str:
    """Return the name of the data set whose training leaves a validation split."""
    return "cifar10-valid" if dataset == "cifar10" else dataset
