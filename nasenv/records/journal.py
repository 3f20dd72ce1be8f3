"""Files of JSON lines that survive a kill, and the journal of a search, which has a line for each evaluation."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from weakref import WeakSet

from nasenv.errors import InputError
from nasenv.files import open_again, open_file, parse_json, writing
from nasenv.trial import Measurement, Outcome, Trial

_FORMAT = 2  # 1 went by architectures alone
_BLOCK = 1 << 20  # bytes that are looked at together for the end of the last line


class JSONLines(ABC):
    """Appends JSON lines to a file that one process holds at a time.

    Its first line says whose it is: the format, the configuration that led to it, and what else is to be known of its
    origin. Every other line is one entry. A last line without its end (the process was killed while writing it) is cut
    off. A subclass says what an entry is.

    Args:
        path: the file, made where missing.
        config: the configuration, plain JSON values.
        about: further information on its origin for a new file's header, plain JSON values.

    Attributes:
        header: the first line.
        torn: whether a line without its end was cut off.
        user: name of what holds such a file, for messages.
        remedy: advice in messages for a file that cannot be used.

    Raises:
        InputError: a file of another configuration, in use, damaged, or one that cannot be written.
    """

    user: str
    remedy: str
    _made: ClassVar[WeakSet[JSONLines]] = WeakSet()  # by this process

    def __init__(self, path: Path, config: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self.path, self.torn = path, False
        self._count = 0
        with writing(self.place):
            self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115, closed by close()
        try:
            self._lock(self._file)
            self._mend()
            header = self._check(config)
            self.header = header or {"journal": _FORMAT, "config": config, **(about or {})}
            if header is None:
                self.write(self.header)
        except InputError:
            self.close()
            raise
        self._made.add(self)

    @property
    @abstractmethod
    def place(self) -> str:
        """Return the option's name and value by which the user knows the file."""

    @staticmethod
    @abstractmethod
    def is_whole(entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line holds everything that an entry with this number, from 1, must have."""

    @classmethod
    def read(cls, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return header and entries of a file without changing it; an incomplete last line is left out.

        Raises:
            InputError: it is damaged, or cannot be read.
        """
        lines = list(cls._lines(path))
        if not lines:
            raise InputError(f"{path} is empty; {cls.remedy}")
        return lines[0], lines[1:]

    def __len__(self) -> int:
        """Return the number of entries in the file when it was opened."""
        return self._count

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries in the file when it was opened, read on demand."""
        return islice(self._lines(self.path), 1, self._count + 1)

    @classmethod
    def _lines(cls, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the header, then the entries, checked one by one, up to an incomplete last line."""
        with open_file(path) as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    return
                try:
                    values = dict(parse_json(line))
                except (ValueError, TypeError):
                    raise cls._damaged(path, number + 1) from None
                if number == 0:
                    cls._check_format(path, values)
                elif not cls.is_whole(values, number):
                    raise cls._damaged(path, number + 1)
                yield values

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.place} is in use by {self._holder(file)} or {self.remedy}") from None
        except OSError as error:
            raise InputError(f"{self.place} cannot be locked: {error.strerror}") from error

    def _holder(self, file: BinaryIO) -> str:
        """Return as text who holds the lock on a file, and what to do."""
        stat = os.fstat(file.fileno())
        mine = (other._file for other in self._made if other is not self and not other._file.closed)
        if any(os.path.samestat(os.fstat(other.fileno()), stat) for other in mine):
            return f"a {self.user} that this program made before; call its close(), then make it again,"
        return f"another {self.user}; wait for it"

    def _mend(self) -> None:
        """Truncate an incomplete last line."""
        size = whole = os.fstat(self._file.fileno()).st_size
        end = 0
        while whole and not end:
            start = max(0, whole - _BLOCK)
            end = os.pread(self._file.fileno(), whole - start, start).rfind(b"\n") + 1
            whole = start + end
        if whole < size:
            os.ftruncate(self._file.fileno(), whole)
            self.torn = True

    def _check(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the header, None if the file is empty; raise InputError if it, or an entry, is invalid."""
        lines = self._lines(self.path)
        header = next(lines, None)
        if header is not None:
            self._check_header(header, config)
            self._count = sum(1 for _ in lines)
        return header

    @classmethod
    def _damaged(cls, path: Path, line: int) -> InputError:
        salvage = f"`head -n {line - 1} {path} > part && mv part {path}`"
        kept = f"keep the {line - 1} before it with {salvage} to go on, or " if line > 2 else ""
        return InputError(f"{path}: line {line} is damaged; {kept}{cls.remedy} to start anew")

    @classmethod
    def _check_format(cls, path: Path, header: Mapping[str, Any]) -> None:
        if header.get("journal") in range(1, _FORMAT):
            raise InputError(f"{path} is of an earlier version of nasenv, which this one does not read; {cls.remedy}")
        if header.get("journal") != _FORMAT or "config" not in header:
            raise InputError(f"{path} is no file of a search in format {_FORMAT}, which is read here; {cls.remedy}")

    def _check_header(self, header: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        theirs, ours = _flat(header["config"]), _flat(json.loads(json.dumps(config)))
        differing = [k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
        if differing:
            k = differing[0]
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise InputError(
                f"{self.place} belongs to another configuration: {k} is {theirs.get(k)} there, "
                f"{ours.get(k)} here{more}; {self.remedy}"
            )

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line completely or not at all.

        Raises:
            InputError: the disk is full, or gone.
        """
        line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        self.restore()
        with writing(self.path):
            written = self._file.write(line)
        if written != len(line):  # a full disk may take a part: take it back, so that no later line is glued to it
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            raise InputError(f"{self.path} cannot be written: the disk is full")

    def restore(self) -> None:
        """Write the file again if it was deleted.

        Raises:
            InputError: it cannot be written any more, or another program has begun one in its place.
        """
        if os.fstat(self._file.fileno()).st_nlink == 0:
            self._file = open_again(self._file, self.path, self._lock)

    def sync(self) -> None:
        """Sync everything appended to the disk.

        Raises:
            InputError: the disk is full, or gone.
        """
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if not self._file.closed:
            self._size = os.fstat(self._file.fileno()).st_size
            self._file.close()

    def reopen(self) -> None:
        """Open the file again after `close`.

        Raises:
            InputError: it is in use, or was changed meanwhile.
        """
        open_file(self.path).close()  # it is there
        with writing(self.place):
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115, closed by close()
        try:
            self._lock(self._file)
            if os.fstat(self._file.fileno()).st_size != self._size:
                raise InputError(f"{self.path} was changed since this {self.user} was closed; make it again")
        except InputError:
            self._file.close()
            raise


class Journal(JSONLines):
    """Records every distinct evaluation of a search as one entry. See `JSONLines` for arguments and errors."""

    user = "search"
    remedy = "give another run_dir"

    @property
    def place(self) -> str:
        """Return the run directory."""
        return f"run_dir {self.path.parent}"

    @property
    def made_with(self) -> dict[str, str]:
        """Return the versions and hardware with which the search was begun, as `provenance` returns them."""
        made_with: dict[str, str] = self.header.get("made_with", {})
        return made_with

    @property
    def started(self) -> float:
        """Return when the search was begun, in seconds since 1970."""
        return float(self.header.get("started", time.time()))

    @property
    def slots(self) -> int | None:
        """Return how many trials an asynchronous search had in flight at first; None if the journal does not say."""
        slots: int | None = self.header.get("slots")
        return slots

    @staticmethod
    def is_whole(entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line holds everything that a replay needs of its evaluation."""
        try:
            trial, _ = Trial.from_json(entry), Measurement.from_json(entry)
            numbers = [float(entry[name]) for name in ("reward", "seconds", "proposal", "cached")]
            told = all(map(math.isfinite, numbers)) and isinstance(entry["text"], str) and isinstance(entry["by"], str)
            paid = 0.0 <= float(entry["cost"]) <= 1.0 and entry["evaluation"] == number
            slots = entry.get("slots", 1)
            looked = "violation" not in entry or 0.0 <= float(entry["violation"]) < math.inf
            return told and paid and looked and trial.purpose == "search" and type(slots) is int and slots >= 1
        except (KeyError, TypeError, ValueError, OverflowError):
            return False

    def add(self, outcome: Outcome, text: str, seconds: float, by: str = "agent", slots: int | None = None) -> None:
        """Append one evaluation.

        Args:
            outcome: the answer to its first proposal.
            text: the architecture in words.
            seconds: since the search's start.
            by: who asked for it: the agent, or the layer of that name.
            slots: how many trials an asynchronous search has in flight from now on; None for as many as before.
        """
        self.write(
            {
                "evaluation": outcome.evaluation,
                "proposal": outcome.proposal,
                "by": by,
                "text": text,
                "reward": outcome.reward,
                "cost": outcome.cost,
                **Trial(outcome.architecture, outcome.fidelity).to_json(),
                **outcome.measurement.to_json(),
                "cached": outcome.cached,
                "seconds": round(seconds, 3),
                **({} if outcome.violation is None else {"violation": outcome.violation}),
                **({} if slots is None else {"slots": slots}),
            }
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
