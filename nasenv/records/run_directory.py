"""The folder of one search: what it leaves as it goes, and goes on from when it is started again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import yaml

from nasenv.configuration import without_derived
from nasenv.errors import InputError
from nasenv.files import write_whole, writing
from nasenv.provenance import differences, provenance
from nasenv.records.journal import Journal
from nasenv.records.tensorboard import TensorBoardWriter
from nasenv.records.trials import TrialLog
from nasenv.trial import Measurement, Trial

JOURNAL, TRIALS, CONFIG, TIMES = "journal.jsonl", "trials.jsonl", "config.yaml", "times.json"


class RunDirectory:
    """Configuration, journal, trials and TensorBoard of a search, held by it alone.

    Args:
        path: the folder, made where missing.
        config: the configuration, for those who read it.
        identity: what the search follows from; a folder of another one is refused.
        slots: how many networks an asynchronous search has in flight at once, for a new journal to say.
        trains: whether measurements cost trainings, each of which is then kept the moment it ends.
        afresh: whether an agent that does not repeat itself begins anew: the older journal is set aside, and what was
            measured for it is known.
        clock: the search's time, in seconds since it was begun.
        metric: what the scores are, for tags.

    Attributes:
        journal: the evaluations, in order.
        trials: the trainings, as they ended; None where measurements cost none.
        record: TensorBoard.
        set_aside: measurements of the journals set aside, by trial: known, and free.
        notices: what a user is to know of it, a line each.

    Raises:
        InputError: it is of another configuration, in use, damaged, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
        slots: int,
        trains: bool,
        afresh: bool,
        clock: Callable[[], float],
        metric: str = "accuracy",
    ) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run_dir {path} cannot be made: {error.strerror}") from error
        if afresh:
            _set_aside(path, identity)
        about = {"started": round(time.time(), 3), "made_with": provenance(), "slots": slots}
        self.path = path
        self._text = yaml.safe_dump(without_derived(config), sort_keys=False)
        with ExitStack() as opened:
            self.journal = opened.enter_context(closing(Journal(path / JOURNAL, identity, about)))
            self.trials = opened.enter_context(closing(TrialLog(path / TRIALS, identity, about))) if trains else None
            self.set_aside = dict(_measured(path, identity))
            self.notices = list(self._notices())
            write_whole(path / CONFIG, self._text)
            self.record = TensorBoardWriter(path, started=self.journal.started, clock=clock, metric=metric)
            self.record.layout()
            self.record.start_hparams(config)
            self.record.text("config", f"```yaml\n{self._text}```")
            self.record.text("made_with", "\n".join(f"- {k}: {v}" for k, v in provenance().items()))
            opened.pop_all()  # nothing went wrong

    def _notices(self) -> Iterator[str]:
        for file in (self.journal, self.trials):
            if file is not None and file.torn:
                yield f"{file.path}: the last line was cut short when the search was ended; it was taken out"
        other = differences(self.journal.made_with, provenance())
        if other and len(self.journal):
            yield f"the search was begun with {', '.join(other)}"

    def leave_times(self, seconds: Mapping[str, float], slots: int) -> None:
        """Write where the time of a start went, by part, on so many slots."""
        parts = {part: round(spent, 3) for part, spent in seconds.items()}
        write_whole(self.path / TIMES, json.dumps({"slots": slots, "seconds": parts}, indent=1) + "\n")

    def restore(self) -> None:
        """Write again what somebody deleted in the course of the search."""
        for part in (self.journal, self.trials):
            if part is not None:
                part.restore()
        write_whole(self.path / CONFIG, self._text)

    def close(self) -> None:
        """Let go of the files."""
        for part in (self.journal, self.trials, self.record):
            if part is not None:
                part.close()


def _set_aside(path: Path, identity: Mapping[str, Any]) -> None:
    """Rename journal and trials, where there are any, to the next number that is free."""
    if not (path / JOURNAL).exists():
        return
    number = 1
    while any((path / _numbered(name, number)).exists() for name in (JOURNAL, TRIALS)):
        number += 1
    with closing(Journal(path / JOURNAL, identity)), writing(f"run_dir {path}"):  # refuses what is damaged or in use
        for name in (TRIALS, JOURNAL):
            if (path / name).exists():
                (path / name).rename(path / _numbered(name, number))


def _numbered(name: str, number: int | str) -> str:
    return f"{Path(name).stem}-{number}.jsonl"


def _measured(path: Path, identity: Mapping[str, Any]) -> Iterator[tuple[Trial, Measurement]]:
    """Yield what the journals and trials that were set aside say of a search's trials."""
    for old in sorted(path.glob(_numbered(JOURNAL, "[0-9]*"))):
        with closing(Journal(old, identity)) as journal:
            yield from ((Trial.from_json(entry), Measurement.from_json(entry)) for entry in journal.entries())
    for old in sorted(path.glob(_numbered(TRIALS, "[0-9]*"))):
        with closing(TrialLog(old, identity)) as trials:
            yield from ((t, m) for t, m in trials.measurements.items() if t.purpose == "search")
