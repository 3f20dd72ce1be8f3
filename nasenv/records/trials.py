"""The log of a search's trainings: each is on the disk the moment it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from nasenv.errors import InputError, SearchStopped, counted
from nasenv.evaluators.evaluator import Evaluator, never
from nasenv.records.journal import JSONLines
from nasenv.trial import Measurement, Trial

OnMeasured: TypeAlias = Callable[[Collection[Trial], Mapping[Trial, Measurement]], None]


def ignore(trials: Collection[Trial], measured: Mapping[Trial, Measurement]) -> None:
    """Do nothing: the default of arguments that are told what was measured."""


class TrialLog(JSONLines):
    """Records each trial that has ended with its measurement, in the order in which they ended.

    A journal is written in the order of proposals, when a batch is over; what had been done of a batch that was
    interrupted is found here. See `JSONLines` for arguments and errors.
    """

    user = "search"
    remedy = "give another run_dir"

    def __init__(self, path: Path, config: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, config, about)
        entries = self.entries()
        self.measurements = {Trial.from_json(entry): Measurement.from_json(entry) for entry in entries}

    @property
    def place(self) -> str:
        """Return the path of the file."""
        return str(self.path)

    @staticmethod
    def is_whole(entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line holds a trial and its measurement."""
        try:
            Trial.from_json(entry), Measurement.from_json(entry)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def add(self, trial: Trial, measurement: Measurement) -> None:
        """Append a measurement and sync it to the disk."""
        self.write({**trial.to_json(), **measurement.to_json()})
        self.sync()
        self.measurements[trial] = measurement


def measure_trials(
    evaluator: Evaluator,
    trials: Iterable[Trial],
    log: TrialLog | None = None,
    stopped: Callable[[], bool] = never,
    keep: Mapping[Trial, Path] = MappingProxyType({}),
    on_measured: OnMeasured = ignore,
) -> dict[Trial, Measurement]:
    """Return the measurement of each trial, from the log if it is there; new ones are logged as they end.

    Args:
        evaluator: measures.
        trials: the trials.
        log: log of measurements; None for none.
        stopped: no further trial is begun once it returns True.
        keep: files for the trained weights of some of the trials.
        on_measured: called with all trials and the measurements so far, at first with those of the log.

    Raises:
        SearchStopped: it was stopped before all were done; the log has those that were.
    """
    wanted = dict.fromkeys(trials)
    found = {t: log.measurements[t] for t in wanted if t in log.measurements} if log is not None else {}
    on_measured(wanted, found)
    missing = [trial for trial in wanted if trial not in found]
    for trial in missing:
        evaluator.submit(trial, keep=keep.get(trial))
    for trial, measurement in evaluator.completed(stopped) if missing else ():
        if trial in found or trial not in wanted:
            raise InputError(f"evaluator {type(evaluator).__name__} completed {trial} unasked")
        if log is not None:
            log.add(trial, measurement)
        found[trial] = measurement
        on_measured(wanted, found)
    if len(found) < len(wanted) and not stopped():
        raise InputError(f"evaluator {type(evaluator).__name__} ended before all trials were completed")
    if len(found) < len(wanted):
        raise SearchStopped(f"stopped after {len(found)} of {counted(len(wanted), 'training')}")
    return found
