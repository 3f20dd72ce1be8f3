"""Files of JSON lines that survive a kill, and the journal of a search: a line an evaluation, so it can be replayed."""

from __future__ import annotations

import fcntl
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Measurement
from nasenv.history import Outcome

_FORMAT = 1


class JSONLines(ABC):
    """An open file of JSON lines that are only ever appended, held by one process at a time.

    Its first line says whose it is: the format and the configuration that led to it. Every other line is one entry. A
    last line without its end (the process was killed while writing it) is cut off. A subclass says what an entry is.

    Args:
        path: the file, made where missing.
        config: the configuration, plain JSON values.

    Attributes:
        entries: the lines that were there when it was opened, as dicts.
        user: what holds such a file, in a word.
        remedy: what to do where the file is not to be used.

    Raises:
        InputError: a file of another configuration, in use, damaged, or one that cannot be written.
    """

    user: str
    remedy: str

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115, closed by close()
        except OSError as error:
            raise InputError(f"{self.place} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            self.entries = self._read(config)
        except InputError:
            self.close()
            raise

    @property
    @abstractmethod
    def place(self) -> str:
        """What the user knows it by: an option's name and value."""

    @abstractmethod
    def is_whole(self, entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line says all that an entry of this number, from 1, has to."""

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.place} is in use by another {self.user}; wait for it or {self.remedy}") from None
        except OSError as error:
            raise InputError(f"{self.place} cannot be locked: {error.strerror}") from error

    def _read(self, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the entries, each checked; begin a file that is empty."""
        lines = self._read_lines()
        if not lines:
            self.write({"journal": _FORMAT, "config": config})
            return []
        self._check_header(lines[0], config)
        for number, entry in enumerate(lines[1:], 1):
            if not self.is_whole(entry, number):
                raise self._damaged(number + 1)
        return lines[1:]

    def _damaged(self, line: int) -> InputError:
        return InputError(f"{self.path}: line {line} is damaged; {self.remedy} to start anew")

    def _read_lines(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(self._file.fileno(), whole)
        lines = []
        for number, line in enumerate(text[:whole].splitlines(), 1):
            try:
                lines.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise self._damaged(number) from None
        return lines

    def _check_header(self, header: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        if header.get("journal") != _FORMAT or "config" not in header:
            raise InputError(f"{self.path}: not a journal of format {_FORMAT}, which this nasenv reads")
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
        """Append one line, whole or not at all.

        Raises:
            InputError: the disk is full, or gone.
        """
        line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        try:
            written = self._file.write(line)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error
        if written != len(line):  # a full disk may take a part: take it back, so that no later line is glued to it
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            raise InputError(f"{self.path} cannot be written: the disk is full")

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        os.fsync(self._file.fileno())

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

    def is_whole(self, entry: Mapping[str, Any], number: int) -> bool:
        """Return whether a line says all that a replay needs of its evaluation."""
        try:
            read_measurement(entry)
            design, reward = entry["architecture"], float(entry["reward"])
            known = entry["evaluation"] == number and {"text", "cached"} <= entry.keys()
            return known and math.isfinite(reward) and isinstance(design, list) and all(type(c) is int for c in design)
        except (KeyError, TypeError, ValueError):
            return False

    def add(self, outcome: Outcome, text: str, seconds: float) -> None:
        """Append one evaluation: text is the design in words, seconds the time since the search's start."""
        self.write(
            {
                "evaluation": outcome.evaluation,
                "proposal": outcome.proposal,
                "architecture": list(outcome.architecture),
                "text": text,
                "reward": outcome.reward,
                **outcome.measurement.to_json(),
                "cached": outcome.cached,
                "seconds": round(seconds, 3),
            }
        )


def read_measurement(entry: Mapping[str, Any]) -> Measurement:
    """Return the measurement of a journal's line."""
    return Measurement.from_json({k: entry[k] for k in Measurement.__dataclass_fields__})


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
