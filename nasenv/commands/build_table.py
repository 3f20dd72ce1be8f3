"""``nasenv build_table``: train every architecture of a space, and write a table for searches and comparisons."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nasenv.commands.terminal import Bar, Terminal, stopping
from nasenv.configuration import integer, without_derived
from nasenv.data.dataset import Data
from nasenv.errors import InputError, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.files import user_path, write_whole
from nasenv.provenance import provenance
from nasenv.records.trials import TrialLog, measure_trials
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.tables.card import card
from nasenv.tables.table import write_table
from nasenv.trial import Architecture, Measurement, Purpose, Trial

_PER_SLOT = 4  # architectures of one call: enough to keep workers busy, few to lose at an interruption
_LINES = 20  # number of lines of progress that are printed if there is no terminal


def build_table(
    space: SearchSpace,
    evaluator: Evaluator,
    output: str,
    data: Data = Data(),  # noqa: B008, it is frozen
    seeds: int = 3,
    limit: int = 50_000,
    note: str = "",
) -> None:
    """Train every architecture of a space with several seeds, and write a table and its card; the same command resumes.

    Each architecture is trained as the winner of a search is, for evaluator.final_epochs. The validation accuracy comes
    from a training on the training split, the test accuracy from another one on training and validation data. Finished
    trainings are kept in OUTPUT.jsonl. Architectures of the same network share its trainings and have equal rows.

    Args:
        space: the search space.
        evaluator: the evaluator, which trains the architectures.
        data: data of the evaluator: digits, mnist5k, npz:FILE, folder:DIR, hub:NAME.
        output: CSV file for the table, gzipped if it ends in .gz; its card is written beside it, as .md.
        seeds: number of trainings of each architecture for each of the two accuracies.
        limit: largest number of architectures; a larger space is refused.
        note: text to add to the card, on the machine or the data, for example.
    """
    console = Terminal()
    if evaluator.dataset is not None:
        console.say(evaluator.dataset.summary())
    architectures = every_architecture(space, 2 * integer("seeds", seeds), integer("limit", limit))
    representatives = {architecture: evaluator.representative(architecture) for architecture in architectures}
    path = user_path(output)
    log = _open_log(path, _identity(space, evaluator, seeds))
    with closing(log):
        networks = list(dict.fromkeys(representatives.values()))
        wanted = [r for r in networks if not all(trial in log.measurements for trial in _trials([r], seeds))]
        if log.torn:
            console.say(f"note: the last line of {log.path} was incomplete and was removed")
        sizes = f"{counted(len(architectures), 'architecture')}, {counted(len(networks), 'network')}"
        console.say(f"{type(space).__name__}: {sizes}; {len(wanted):,} to be trained, {2 * seeds} times each")
        if wanted:
            stop = threading.Event()
            with stopping(lambda _: stop.set()), evaluator:
                _train(evaluator, wanted, seeds, log, console, stop.is_set)
    _write(path, space, evaluator, seeds, representatives, log.measurements, note)
    console.say(f"table: {path}; card: {_card_path(path)}; {log.path} can be deleted")


def every_architecture(space: SearchSpace, trainings: int, limit: int) -> list[Architecture]:
    """Return all valid architectures of the space; raise InputError with an estimate of the time above the limit."""
    size = space.size
    if size is None and space.most_listed < limit:
        name, most = type(space).__name__, f"{space.most_listed:,}"
        raise InputError(f"{name} lists no more than {most} architectures and has more; see its argument most_listed")
    if size is None or size > limit:
        count = f"more than {space.most_listed:,}" if size is None else f"{size:,}"
        hours = trainings * (size or space.most_listed) / 3600
        raise InputError(
            f"{type(space).__name__} has {count} architectures, above the limit of {limit:,}: "
            f"{counted(trainings, 'training')} of one second for each would take {hours:,.0f} hours on one core; "
            "make the space smaller, or give a higher --limit"
        )
    return to_architectures(space.all_architectures())


class TableLog(TrialLog):
    """Logs the trainings of a table; see `JSONLines` for arguments and errors."""

    user = "build"
    remedy = "give another output"


def _open_log(output: Path, identity: Mapping[str, Any]) -> TableLog:
    path = output.with_name(f"{output.name}.jsonl")
    if output.exists() and not path.exists():
        raise InputError(f"output {output} exists and its log {path.name} does not; give another output")
    return TableLog(path, identity, {"made_with": provenance()})


def _identity(space: SearchSpace, evaluator: Evaluator, seeds: int) -> dict[str, Any]:
    """Return the configuration and the fingerprints that determine a table."""
    return {
        "space": space.identity(),
        "evaluator": evaluator.identity(),
        "seeds": seeds,
        "fingerprint": {"space": space.fingerprint(), "evaluator": evaluator.fingerprint()},
    }


def _trials(architectures: Sequence[Architecture], seeds: int) -> list[Trial]:
    purposes: tuple[Purpose, ...] = ("confirm", "test")
    return [
        Trial(architecture, 1.0, purpose, seed)
        for purpose in purposes
        for architecture in architectures
        for seed in range(seeds)
    ]


def _train(
    evaluator: Evaluator,
    wanted: Sequence[Architecture],
    seeds: int,
    log: TableLog,
    console: Terminal,
    stopped: Callable[[], bool],
) -> None:
    """Train architectures in random order, some at a time, and log each training."""
    order = np.random.default_rng(0).permutation(len(wanted))  # for a fair estimate of the time left
    done, started = 0, time.monotonic()
    with Bar(console, "training", len(wanted), _LINES) as bar:
        bar.begin()
        while done < len(wanted):
            chunk = [wanted[i] for i in order[done : done + _PER_SLOT * evaluator.slots]]
            measure_trials(evaluator, _trials(chunk, seeds), log, stopped)
            done += len(chunk)
            minutes = (time.monotonic() - started) / 60
            bar.show(done, "", f"{done:,} of {len(wanted):,} trained, {minutes:.1f} minutes elapsed")


def _write(
    path: Path,
    space: SearchSpace,
    evaluator: Evaluator,
    seeds: int,
    representatives: Mapping[Architecture, Architecture],
    known: Mapping[Trial, Measurement],
    note: str,
) -> None:
    """Write the table, with a row for each architecture, and the card, whose statistics count each network once."""
    write_table(path, list(map(space.to_text, representatives)), _columns(known, representatives.values(), seeds))
    dataset = evaluator.dataset
    data = {"data": asdict(dataset.source)} if dataset is not None and dataset.source is not None else {}
    splits = () if dataset is None else ("train", "validation", "test")
    sizes = {{"train": "training"}.get(split, split): len(getattr(dataset, split)) for split in splits}
    config = without_derived({"space": space.config(), "evaluator": evaluator.config(), **data, "seeds": seeds})
    columns = _columns(known, dict.fromkeys(representatives.values()), seeds)
    counted = {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
    write_whole(_card_path(path), card(path.name, config, len(representatives), sizes, counted, note))


def _card_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".md")


def _columns(
    known: Mapping[Trial, Measurement], networks: Iterable[Architecture], seeds: int
) -> dict[str, list[float | None]]:
    """Return the columns of the table, with a row for each network; a mean is nan if one of its seeds failed.

    Scores are rounded to nine decimals, so that equal counts of correct answers give equal means.
    """
    rows = [_trials([network], seeds) for network in networks]
    columns: dict[str, list[float | None]] = {}
    for k, name in enumerate(("val_accuracy", "test_accuracy")):
        scores = [[_score(known[trial]) for trial in row[k * seeds : (k + 1) * seeds]] for row in rows]
        columns[name] = [round(sum(row) / seeds, 9) for row in scores]
        columns |= {f"{name}_seed{s}": [row[s] for row in scores] for s in range(seeds)}
    searched = [[known[trial] for trial in row[:seeds]] for row in rows]
    columns["train_seconds"] = [round(float(np.median([m.train_seconds for m in row])), 4) for row in searched]
    metrics = [{k: v for m in row for k, v in m.metrics.items()} for row in searched]
    names = dict.fromkeys(name for row in metrics for name in row)
    return columns | {name: [row.get(name) for row in metrics] for name in names}


def _score(measurement: Measurement) -> float:
    return math.nan if measurement.score is None else round(measurement.score, 9)
