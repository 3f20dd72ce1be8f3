"""``nasenv build_table``: train every design of a space, and leave a table that searches are answered from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nasenv.commands.stopping import stopping
from nasenv.commands.terminal import Terminal
from nasenv.configuration import integer, without_derived
from nasenv.data.dataset import Data, Dataset
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.files import user_path, write_whole
from nasenv.provenance import provenance
from nasenv.records.trials import TrialLog, measured
from nasenv.spaces.space import SearchSpace, to_architectures
from nasenv.tables.card import card
from nasenv.tables.table import write_table
from nasenv.trial import Architecture, Measurement, Purpose, Trial

_CHUNK_SECONDS = 15.0  # what a kill costs at most, where a design takes no longer
_LINES = 20  # printed in the course of it where there is no terminal to draw a bar on


class Entry(NamedTuple):
    """What is known of a network: its final trainings, one a seed, scored on validation and on test data."""

    validation: list[Measurement]
    test: list[Measurement]


def build_table(
    space: SearchSpace,
    evaluator: Evaluator,
    output: str,
    data: Data = Data(),  # noqa: B008, it is frozen
    seeds: int = 3,
    limit: int = 50_000,
    note: str = "",
) -> None:
    """Train every design of a space, several times, and write a table and its card; started again, it goes on.

    Each design is trained as the winner of a search is: for evaluator.final_epochs. Validation accuracy is that of a
    training on the training split, test accuracy that of another one, on training and validation data. What is done is
    kept in OUTPUT.jsonl. Designs that are the same network share one training and have equal rows.

    Args:
        space: whose designs are trained.
        evaluator: how they are trained.
        data: what the evaluator trains on: digits, mnist5k, npz:FILE, folder:DIR, hub:NAME.
        output: the table, a CSV file, gzipped where it ends in .gz; its card goes beside it, as .md.
        seeds: number of trainings of each design for each of the two accuracies.
        limit: a space of more designs is refused.
        note: what else the card is to say, on the machine or the data, say.
    """
    console = Terminal()
    for name, value in {"seeds": seeds, "limit": limit}.items():
        integer(name, value)
    designs = every_design(space, 2 * seeds, limit)
    representatives = {design: evaluator.representative(design) for design in designs}
    path = user_path(output)
    log = _open_log(path, _identity(space, evaluator, seeds))
    with closing(log):
        networks = list(dict.fromkeys(representatives.values()))
        wanted = [r for r in networks if not all(trial in log.measurements for trial in _trials([r], seeds))]
        if log.torn:
            console.print(f"note: the last line of {log.path} was cut short, and taken out", soft_wrap=True)
        said = f"{type(space).__name__}: {len(designs):,} designs, {len(networks):,} networks"
        console.print(f"{said}; {len(wanted):,} are to be trained, {2 * seeds} times each", soft_wrap=True)
        if wanted:
            stop = threading.Event()
            with stopping(lambda _: stop.set()), evaluator:
                _train(evaluator, wanted, seeds, log, console, stop.is_set)
        entries = {r: _entry(log, r, seeds) for r in networks}
    _write(path, space, evaluator, seeds, representatives, entries, note)
    said = f"the table is {path}, its card {_card_path(path)}; {log.path} may be deleted"
    console.print(said, soft_wrap=True)


def every_design(space: SearchSpace, trainings: int, limit: int) -> list[Architecture]:
    """Return all valid designs of the space; raise InputError, with the time it would take, above the limit."""
    size = space.size
    if size is None or size > limit:
        count = "more than 10,000,000" if size is None else f"{size:,}"
        hours = trainings * (size or 10**7) / 3600
        raise InputError(
            f"{type(space).__name__} has {count} designs, above the limit of {limit:,}: {trainings} trainings of each, "
            f"of one second, would take {hours:,.0f} hours of a core; make the space smaller, or give a higher --limit"
        )
    return to_architectures(space.designs())


class BuildLog(TrialLog):
    """The trainings of a table. See `JSONLines` for arguments and errors."""

    user = "build"
    remedy = "give another output"


def _open_log(output: Path, identity: Mapping[str, Any]) -> BuildLog:
    path = output.with_name(f"{output.name}.jsonl")
    if output.exists() and not path.exists():
        raise InputError(f"output {output} exists, and {path.name}, which it would go on from, does not; give another")
    return BuildLog(path, identity, {"made_with": provenance()})


def _identity(space: SearchSpace, evaluator: Evaluator, seeds: int) -> dict[str, Any]:
    """Return what a table follows from."""
    return {
        "space": space.identity(),
        "evaluator": evaluator.identity(),
        "seeds": seeds,
        "fingerprint": {"space": space.fingerprint(), "evaluator": evaluator.fingerprint()},
    }


def _trials(designs: Sequence[Architecture], seeds: int) -> list[Trial]:
    purposes: tuple[Purpose, ...] = ("confirm", "test")
    return [Trial(design, 1.0, purpose, seed) for purpose in purposes for design in designs for seed in range(seeds)]


def _train(
    evaluator: Evaluator,
    wanted: Sequence[Architecture],
    seeds: int,
    log: BuildLog,
    console: Terminal,
    stopped: Callable[[], bool],
) -> None:
    """Have designs trained, some at a time; each training is in the log as soon as it ends."""
    order = np.random.default_rng(0).permutation(len(wanted))  # so that the time left can be told from the time gone
    done, size, said = 0, 2, 0
    with _bar(console) as bar:
        task = bar.add_task("build", total=len(wanted))
        while done < len(wanted):
            chunk = [wanted[i] for i in order[done : done + size]]
            started = time.monotonic()
            measured(evaluator, _trials(chunk, seeds), log, stopped)
            done += len(chunk)
            bar.update(task, completed=done)
            share = _CHUNK_SECONDS / max(time.monotonic() - started, 1e-3)
            size = max(1, min(2 * size, round(len(chunk) * share)))
            if not console.is_terminal and done * _LINES // len(wanted) > said:
                said = done * _LINES // len(wanted)
                console.print(f"{done:,} of {len(wanted):,} trained, {_left(bar, done)}")


def _bar(console: Terminal) -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=600,
    )


def _left(bar: Progress, done: int) -> str:
    """Return the time gone and left, in words."""
    (task,) = bar.tasks
    gone = task.elapsed or 0.0
    return f"{gone / 60:.1f} minutes gone, {gone / 60 * ((task.total or 0) / done - 1):.1f} left"


def _entry(log: BuildLog, design: Architecture, seeds: int) -> Entry:
    """Return what is known of a design."""
    trials = _trials([design], seeds)
    answers: list[Any] = [log.measurements[trial] for trial in trials]
    return Entry(answers[:seeds], answers[seeds:])


def _write(
    path: Path,
    space: SearchSpace,
    evaluator: Evaluator,
    seeds: int,
    representatives: Mapping[Architecture, Architecture],
    networks: Mapping[Architecture, Entry],
    note: str,
) -> None:
    """Write the table, a row for each design, and the card, whose figures count each network once."""
    columns = _columns([networks[r] for r in representatives.values()], seeds)
    write_table(path, [space.to_text(d) for d in representatives], columns)
    source = evaluator.dataset.source if evaluator.dataset is not None else None
    data = {"data": asdict(source)} if source is not None else {}
    config = without_derived({"space": space.config(), "evaluator": evaluator.config(), **data, "seeds": seeds})
    counted = {
        name: np.array(column, dtype=np.float64) for name, column in _columns([*networks.values()], seeds).items()
    }
    text = card(path.name, config, len(representatives), _sizes(evaluator.dataset), counted, note)
    write_whole(_card_path(path), text)


def _sizes(dataset: Dataset | None) -> dict[str, int]:
    """Return the number of examples by what they are for; nothing without data."""
    if dataset is None:
        return {}
    return {"training": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)}


def _card_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".md")


def _columns(entries: Sequence[Entry], seeds: int) -> dict[str, list[float | None]]:
    """Return the columns of the table; a mean is empty where one of its seeds failed."""
    columns: dict[str, list[float | None]] = {}
    accuracies = {
        "val_accuracy": [[m.score for m in entry.validation] for entry in entries],
        "test_accuracy": [[m.score for m in entry.test] for entry in entries],
    }
    for name, rows in accuracies.items():
        values = [[_rounded(value) for value in row] for row in rows]
        columns[name] = [_mean(row) for row in values]
        for s in range(seeds):
            columns[f"{name}_seed{s}"] = [row[s] for row in values]
    columns["train_seconds"] = [
        round(float(np.median([m.train_seconds for m in entry.validation])), 4) for entry in entries
    ]
    metrics = [{k: v for m in entry.validation for k, v in m.metrics.items()} for entry in entries]
    for name in dict.fromkeys(name for row in metrics for name in row):
        columns[name] = [row.get(name) for row in metrics]
    return columns


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return _rounded(sum(known) / len(known)) if len(known) == len(values) else None


def _rounded(value: float | None) -> float | None:
    """Return the value to nine decimals, so that equal counts of correct answers are equal means."""
    return None if value is None else round(value, 9)
