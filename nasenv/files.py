"""Files are written atomically, and read within limits of memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nasenv.errors import InputError


@contextlib.contextmanager
def writing(what: object, remedy: str = "") -> Iterator[None]:
    """Turn an OSError of writing a file, such as a full disk, into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written: {error.strerror}{remedy}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: after a crash either the new or the old content is there, synced to the disk.

    Args:
        path: the file; its folder is there.
        content: text (written as UTF-8) or bytes.

    Raises:
        InputError: it cannot be written (a full disk, a folder that may not be written to).
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with writing(path), open(unfinished, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)  # the names of its files are on the disk
            os.close(folder)
    except InputError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def open_again(file: BinaryIO, path: Path, hold: Callable[[BinaryIO], None] = lambda file: None) -> BinaryIO:
    """Recreate a file that was deleted while it was open, and return it opened for appending.

    Args:
        file: deleted, but still open, for reading too; it is closed.
        path: its path; missing folders are made.
        hold: keeps others from the new file, or raises.

    Raises:
        InputError: it cannot be written there any more, or somebody else has begun another one there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = open(path, "a+b", buffering=0)  # noqa: SIM115, the caller's
        hold(new)
        if os.fstat(new.fileno()).st_size:
            raise InputError(f"{path} was deleted, and is now the file of another program; give another folder")
        file.seek(0)
        shutil.copyfileobj(file, new)
    except OSError as error:
        raise InputError(f"{path} was deleted and cannot be written again: {error.strerror}") from error
    file.close()
    return new


def open_file(path: Path) -> BinaryIO:
    """Return a file open for reading; raise InputError if it is missing or not readable."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def read_whole(path: Path, most: int) -> bytes:
    """Return the content of a file as bytes.

    Args:
        path: the file.
        most: bytes; a larger file is refused before it is in memory.

    Raises:
        InputError: it is missing, may not be read, or too large.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            limit = in_megabytes(most)
            raise InputError(f"cannot read {path}: it is larger than {limit}, the most that is read of such")
        return file.read()


def user_path(text: str | Path) -> Path:
    """Return a path given by a user, with ~ expanded if that home directory exists.

    Raises:
        InputError: it is longer than paths can be.
    """
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # nobody of that name: it is a file's name then
        path = path.expanduser()
    try:
        path.exists()
    except OSError as error:
        raise InputError(f"{path!s:.80} cannot be a path: {error.strerror}") from None
    return path


def spare_memory() -> int:
    """Return the memory in bytes that this process could still allocate."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        spare = known["MemAvailable"]
    except (OSError, KeyError):  # not Linux
        spare = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return spare if limit == resource.RLIM_INFINITY else max(0, min(spare, limit - _address_space()))


def _address_space() -> int:
    """Return the size in bytes of this process's address space; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def in_megabytes(size: int) -> str:
    """Return a size in bytes as text, such as ``12 MB``."""
    return f"{size / 1e6:,.0f} MB"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise ValueError if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
