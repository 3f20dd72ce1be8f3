"""Files that are written whole or not at all, and JSON from files that nobody vouches for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nasenv.errors import InputError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is there completely, on the disk, or not at all: after a kill the older one is still there.

    Args:
        path: the file; its folder is there.
        content: text (written as UTF-8) or bytes.

    Raises:
        InputError: it cannot be written (a full disk, a folder that may not be written to).
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise ValueError where it is none, whatever is wrong with it.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
        ...
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
