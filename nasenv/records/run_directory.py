"""`RunDirectory` holds the files that a search writes, and from which it is resumed."""

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
from nasenv.records.trials import TrialLog
from nasenv.trial import Measurement, Trial

JOURNAL, TRIALS, CONFIG, TIMING = "journal.jsonl", "trials.jsonl", "config.yaml", "timing.json"


class RunDirectory:
    """Holds configuration, journal, trials and TensorBoard of one search, which locks the directory.

    Args:
        path: the folder, created if missing.
        config: configuration of the search, for readers.
        identity: identity of the search; the folder of another identity is refused.
        slots: number of trials that an asynchronous search has in flight, for the header of a new journal.
        trains: whether measurements cost trainings, which are then logged when they end.
        afresh: whether the agent starts afresh: the older journal is set aside, and its measurements are reused.
        clock: returns the seconds of the search since it began.
        metric: metric of the scores, for tags.

    Attributes:
        journal: the evaluations, in order.
        trials: log of trainings, in the order of their ends; None if measurements cost none.
        record: TensorBoard writer.
        set_aside: measurements of the journals that were set aside, by trial; they are free.
        notices: messages for the user, a line each.
        is_closed: whether `close` was called.

    Raises:
        InputError: the folder is of another configuration, in use, damaged, or not writable.
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
        from nasenv.records.tensorboard import TensorBoardWriter  # with matplotlib, most of a second

        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run_dir {path} cannot be made: {error.strerror}") from error
        if afresh:
            _set_aside(path, identity)
        about = {"started": round(time.time(), 3), "made_with": provenance(), "slots": slots}
        self.path, self.is_closed = path, False
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

    def write_timing(self, seconds: Mapping[str, float], slots: int) -> None:
        """Write the time of this start by part, and the number of slots, to ``timing.json``."""
        parts = {part: round(spent, 3) for part, spent in seconds.items()}
        write_whole(self.path / TIMING, json.dumps({"slots": slots, "seconds": parts}, indent=1) + "\n")

    def restore(self) -> None:
        """Restore files that were deleted during the search."""
        for part in (self.journal, self.trials):
            if part is not None:
                part.restore()
        write_whole(self.path / CONFIG, self._text)

    def close(self) -> None:
        """Close the files."""
        self.is_closed = True
        for part in (self.journal, self.trials, self.record):
            if part is not None:
                part.close()

    def reopen(self) -> None:
        """Open the files again after `close`.

        Raises:
            InputError: they are in use, or were changed meanwhile.
        """
        with ExitStack() as opened:
            opened.callback(self.close)
            for part in (self.journal, self.trials, self.record):
                if part is not None:
                    part.reopen()
            opened.pop_all()  # nothing went wrong
        self.is_closed = False


def _set_aside(path: Path, identity: Mapping[str, Any]) -> None:
    """Rename journal and trials, if there are any, to the next free number."""
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
    """Yield the trials and measurements in the journals and trial logs that were set aside; looks are none."""
    for old in sorted(path.glob(_numbered(JOURNAL, "[0-9]*"))):
        with closing(Journal(old, identity)) as journal:
            measured = (entry for entry in journal.entries() if "violation" not in entry)
            yield from ((Trial.from_json(entry), Measurement.from_json(entry)) for entry in measured)
    for old in sorted(path.glob(_numbered(TRIALS, "[0-9]*"))):
        with closing(TrialLog(old, identity)) as trials:
            yield from ((t, m) for t, m in trials.measurements.items() if t.purpose == "search")
