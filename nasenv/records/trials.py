"""Every training of a search, on the disk the moment it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasenv.errors import InputError, SearchStopped
from nasenv.evaluators.evaluator import Answer, Evaluator, TestResult
from nasenv.records.journal import JSONLines
from nasenv.trial import Measurement, Trial

_MEASUREMENT, _TEST_RESULT = Measurement.__dataclass_fields__, set(TestResult.__dataclass_fields__) - {"model"}


class TrialLog(JSONLines):
    """The trials that were answered: an entry is one of them, in the order in which they were done.

    A journal is written in the order of proposals, when a batch is over; what had been done of a batch that was
    interrupted is found here. See `JSONLines` for arguments and errors.
    """

    user = "search"
    remedy = "give another run_dir"

    def __init__(self, path: Path, config: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, config, about)
        self.answers: dict[Trial, Answer] = {_trial(entry): _answer(entry) for entry in self.entries()}

    @property
    def place(self) -> str:
        """The file itself."""
        return str(self.path)

    @staticmethod
    def is_whole(entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line is a trial and its answer."""
        try:
            trial, _ = _trial(entry), _answer(entry)
        except (KeyError, TypeError, ValueError):
            return False
        known = trial.kind in ("search", "confirm", "test") and type(trial.seed) is int
        return known and all(type(choice) is int for choice in trial.architecture)

    def add(self, trial: Trial, answer: Answer) -> None:
        """Keep an answer, but for a network, and return when it is on the disk."""
        asked = {"architecture": list(trial.architecture), "kind": trial.kind, "seed": trial.seed}
        self.write({**answer.to_json(), **asked, "fidelity": trial.fidelity})
        self.sync()
        self.answers[trial] = answer


def ask(
    evaluator: Evaluator,
    trials: Sequence[Trial],
    log: TrialLog | None = None,
    stopped: Callable[[], bool] = lambda: False,
    heard: Callable[[Trial, Answer], None] | None = None,
) -> dict[Trial, Any]:
    """Return the answer of each trial; those that the log knows are not made again, the others are logged as they end.

    Args:
        evaluator: answers.
        trials: what is asked for.
        log: where answers are kept; None keeps none.
        stopped: no further trial is begun when it says so.
        heard: told of every new answer before it is logged.

    Raises:
        SearchStopped: it was stopped before all were done; the log has those that were.
    """
    answers: dict[Trial, Any] = {t: log.answers[t] for t in trials if t in log.answers} if log is not None else {}
    missing = dict.fromkeys(trial for trial in trials if trial not in answers)
    for trial, answer in evaluator.stream(list(missing), stopped) if missing else ():
        if trial in answers or trial not in missing:
            raise InputError(f"evaluator {type(evaluator).__name__}: its stream answered {trial} unasked")
        if heard is not None:
            heard(trial, answer)
        if log is not None:
            log.add(trial, answer)
        answers[trial] = answer
    if len(answers) < len(set(trials)) and not stopped():
        raise InputError(f"evaluator {type(evaluator).__name__}: its stream ended before all trials were answered")
    if len(answers) < len(set(trials)):
        raise SearchStopped(f"stopped when {len(answers)} of {len(set(trials))} trainings were done")
    return answers


def _trial(entry: Mapping[str, Any]) -> Trial:
    return Trial(tuple(entry["architecture"]), entry["kind"], entry["seed"], entry["fidelity"])


def _answer(entry: Mapping[str, Any]) -> Answer:
    if entry["kind"] == "test":
        return TestResult.from_json({k: entry[k] for k in _TEST_RESULT})
    return Measurement.from_json({k: entry[k] for k in _MEASUREMENT})
