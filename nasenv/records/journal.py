"""Files of JSON lines that survive a kill, and the journal of a search: a line an evaluation, so it can be replayed."""

from __future__ import annotations

import fcntl
import json
import math
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nasenv.errors import InputError
from nasenv.files import open_again, parse_json, read_whole
from nasenv.trial import Measurement, Outcome, Trial

_FORMAT = 2  # 1 went by architectures alone
_LATEST = 4e9  # the year 2096
_MOST_SLOTS = 1 << 16
_LONGEST_FILE = 1 << 30  # bytes, to be read as a whole
_LONGEST_LINE = 1 << 20  # bytes; the curve of a training of 40,000 epochs


class JSONLines(ABC):
    """An open file of JSON lines that are only ever appended, held by one process at a time.

    Its first line says whose it is: the format, the configuration that led to it, and what else is to be known of its
    origin. Every other line is one entry. A last line without its end (the process was killed while writing it) is cut
    off. A subclass says what an entry is.

    Args:
        path: the file, made where missing.
        config: the configuration, plain JSON values.
        about: what a new file is to say of its origin beside, plain JSON values.

    Attributes:
        header: the first line.
        torn: whether a line without its end was cut off.
        user: what holds such a file, in a word.
        remedy: what to do where the file is not to be used.

    Raises:
        InputError: a file of another configuration, in use, damaged, or one that cannot be written.
    """

    user: str
    remedy: str

    def __init__(self, path: Path, config: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self.path, self.torn = path, False
        self._count = 0
        try:
            self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115, closed by close()
        except OSError as error:
            raise InputError(f"{self.place} cannot be written: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise InputError(f"{self.path} is a pipe or device, not a regular file; {self.remedy}")
            self._lock(self._file)
            self._mend()
            self.header = self._check(config) or {"journal": _FORMAT, "config": config, **(about or {})}
            if not self._size:
                self.write(self.header)
        except InputError:
            self.close()
            raise

    @property
    @abstractmethod
    def place(self) -> str:
        """What the user knows it by: an option's name and value."""

    @staticmethod
    @abstractmethod
    def is_whole(entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line says all that an entry of this number, from 1, has to."""

    @classmethod
    def read(cls, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return header and entries of a file that is left as it is, without a last line that has no end.

        Raises:
            InputError: it is damaged, or cannot be read.
        """
        lines = read_whole(path, _LONGEST_FILE).split(b"\n")[:-1]
        header, *entries = [cls._parsed(path, line, number) for number, line in enumerate(lines, 1)] or [{}]
        cls._check_format(path, header)
        for number, entry in enumerate(entries, 1):
            if not cls.is_whole(entry, number):
                raise cls._damaged(path, number + 1)
        return header, entries

    def __len__(self) -> int:
        """Return the number of entries that were there when it was opened."""
        return self._count

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries that were there when it was opened, read as they are asked for."""
        with open(self.path, "rb") as file:
            file.readline()
            for number in range(2, self._count + 2):
                yield self._parsed(self.path, file.readline(_LONGEST_LINE), number)

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.place} is in use by another {self.user}; wait for it or {self.remedy}") from None
        except OSError as error:
            raise InputError(f"{self.place} cannot be locked: {error.strerror}") from error

    def _mend(self) -> None:
        """Cut off a last line without its end."""
        self._size = whole = os.fstat(self._file.fileno()).st_size
        while whole:
            start = max(0, whole - _LONGEST_LINE)
            end = os.pread(self._file.fileno(), whole - start, start).rfind(b"\n") + 1
            whole = start + end
            if end:
                break
        if whole < self._size:
            os.ftruncate(self._file.fileno(), whole)
            self._size, self.torn = whole, True

    def _check(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the header, None of an empty file; raise InputError where it, or an entry, is not as it has to be."""
        if not self._size:
            return None
        with open(self.path, "rb") as file:
            header = self._parsed(self.path, file.readline(_LONGEST_LINE), 1)
            self._check_header(header, config)
            while line := file.readline(_LONGEST_LINE):
                if not self.is_whole(self._parsed(self.path, line, self._count + 2), self._count + 1):
                    raise self._damaged(self.path, self._count + 2)
                self._count += 1
        return header

    @classmethod
    def _parsed(cls, path: Path, line: bytes, number: int) -> dict[str, Any]:
        try:
            return dict(parse_json(line))
        except (ValueError, TypeError):
            raise cls._damaged(path, number) from None

    @classmethod
    def _damaged(cls, path: Path, line: int) -> InputError:
        kept = (
            f"keep the {line - 1} before it with `head -n {line - 1} {path} > part && mv part {path}` to go on, or "
            if line > 2
            else ""
        )
        return InputError(f"{path}: line {line} is damaged; {kept}{cls.remedy} to start anew")

    @classmethod
    def _check_format(cls, path: Path, header: Mapping[str, Any]) -> None:
        found = header.get("journal")
        if found == _FORMAT:
            return
        if type(found) is int and 0 < found < _FORMAT:
            raise InputError(f"{path} is of an earlier version of nasenv, which this one does not read; {cls.remedy}")
        raise InputError(f"{path} is no file of a search in format {_FORMAT}, which this nasenv reads; {cls.remedy}")

    def _check_header(self, header: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._check_format(self.path, header)
        if "config" not in header:
            raise self._damaged(self.path, 1)
        try:
            theirs, ours = _flat(header["config"]), _flat(json.loads(json.dumps(config)))
        except RecursionError:
            raise self._damaged(self.path, 1) from None
        differing = [k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
        if differing:
            k = differing[0]
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise InputError(
                f"{self.place} belongs to another configuration: {k} is {theirs.get(k)} there, "
                f"{ours.get(k)} here{more}; {self.remedy}"
            )

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line, whole or not at all.

        Raises:
            InputError: the disk is full, or gone.
        """
        line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        self.restore()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error
        if written != len(line):  # a full disk may take a part: take it back, so that no later line is glued to it
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            raise InputError(f"{self.path} cannot be written: the disk is full")

    def restore(self) -> None:
        """Write the file again where somebody deleted it.

        Raises:
            InputError: it cannot be written any more, or another program has begun one in its place.
        """
        if os.fstat(self._file.fileno()).st_nlink == 0:
            self._file = open_again(self._file, self.path, self._lock)

    def sync(self) -> None:
        """Return when everything appended is on the disk.

        Raises:
            InputError: the disk is full, or gone.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Journal(JSONLines):
    """The journal of a search: every entry is one distinct evaluation. See `JSONLines` for arguments and errors."""

    user = "search"
    remedy = "give another run_dir"

    @property
    def place(self) -> str:
        """The run directory."""
        return f"run_dir {self.path.parent}"

    @property
    def made_with(self) -> dict[str, str]:
        """Versions and hardware with which it was begun, as `provenance` has them."""
        told = self.header.get("made_with")
        return {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}

    @property
    def started(self) -> float:
        """When it was begun, in seconds since 1970."""
        told = self.header.get("started")
        return float(told) if isinstance(told, int | float) and 0.0 <= told < _LATEST else time.time()

    @property
    def slots(self) -> int | None:
        """How many networks an asynchronous search began with in flight; None where the journal does not say."""
        return self.read_slots(self.path, self.header)

    @classmethod
    def read_slots(cls, path: Path, header: Mapping[str, Any]) -> int | None:
        """Return what a header says of the slots; raise InputError where that is no number of them."""
        if _are_slots(header.get("slots")):
            return header.get("slots")
        raise cls._damaged(path, 1)

    @staticmethod
    def is_whole(entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line says all that a replay needs of its evaluation."""
        try:
            trial, _ = Trial.from_json(entry), Measurement.from_json(entry)
            reward, cost, seconds = float(entry["reward"]), float(entry["cost"]), float(entry["seconds"])
            known = entry["evaluation"] == number and isinstance(entry["text"], str) and type(entry["cached"]) is bool
            known = known and _are_slots(entry.get("slots")) and isinstance(entry["by"], str)
            numbers = math.isfinite(reward) and 0.0 <= seconds < math.inf and type(entry["proposal"]) is int
            return known and numbers and 0.0 <= cost <= 1.0 and trial.purpose == "search"
        except (KeyError, TypeError, ValueError, OverflowError):
            return False

    def add(self, outcome: Outcome, text: str, seconds: float, by: str = "agent", slots: int | None = None) -> None:
        """Append one evaluation.

        Args:
            outcome: the answer to its first proposal.
            text: the architecture in words.
            seconds: since the search's start.
            by: who asked for it: the agent, or the layer of that name.
            slots: how many networks an asynchronous search has in flight from now on; None for as many as before.
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
                **({} if slots is None else {"slots": slots}),
            }
        )


def _are_slots(told: Any) -> bool:
    return told is None or (type(told) is int and 1 <= told <= _MOST_SLOTS)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
