"""TensorBoard's file of events: records, each between two checksums.

The format is that of TFRecord (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
TensorBoard's own writer takes a checksum in a loop over the bytes, 40 µs an event; here NumPy takes it in 6 µs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.files import open_again

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits in reverse order
_CHUNK = 512  # bytes that are looked up at once: an event of scalars is shorter, a picture longer
_MASK = 0xA282EAD8  # added by TFRecord, as a checksum of bytes that hold a checksum is a weak one


class EventFile:
    """A new file of events; whatever was at its path is overwritten.

    Args:
        path: the file; its folder is there.
        live: whether every event is in the file when ``write`` returns; else they wait in memory to be written
            together.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, live: bool = True) -> None:
        self._path, self._live = path, live
        self._file: BinaryIO = open(path, "w+b")  # noqa: SIM115, closed by close()

    def write(self, event: bytes) -> None:
        """Append an event, serialised; where somebody has deleted the file, all of it is written again.

        Raises:
            InputError: it cannot be written any more (a full disk, say).
        """
        try:
            self._file.write(_head(len(event)) + event + struct.pack("<I", masked(crc32c(event))))
            if self._live:
                self._file.flush()
                if os.fstat(self._file.fileno()).st_nlink == 0:
                    self._file = open_again(self._file, self._path)
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}") from error


def scalars_event(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return an event that holds a value for each tag, serialised as protobuf does it.

    The messages are TensorBoard's Event and Summary (tensorboard/compat/proto/event.proto, summary.proto): making and
    serialising them takes four times as long.

    Args:
        wall_time: seconds since 1970.
        step: 0 or more.
        values: by tag; as float32, so infinite where they are too large for it.
    """
    layout, heads = _layout(tuple(values))
    with np.errstate(over="ignore"):
        numbers = np.fromiter(values.values(), np.float64, len(values)).astype(np.float32).tolist()
    summary = layout.pack(*chain.from_iterable(zip(heads, numbers, strict=True)))
    return b"".join(
        (
            struct.pack("<Bd", 0x09, wall_time),
            b"\x10" + _varint(step) if step else b"",  # a zero is left out
            b"\x2a" + _varint(len(summary)),
            summary,
        )
    )


@lru_cache(maxsize=256)
def _layout(tags: tuple[str, ...]) -> tuple[struct.Struct, list[bytes]]:
    """Return how the values of a Summary with these tags lie, and what stands before each of them."""
    heads = []
    for tag in tags:
        name = tag.encode()
        named = b"\x0a" + _varint(len(name)) + name + b"\x15"
        heads.append(b"\x0a" + _varint(len(named) + 4) + named)
    return struct.Struct("<" + "".join(f"{len(head)}sf" for head in heads)), heads


def _varint(number: int) -> bytes:
    """Return a whole number, 0 or more, as protobuf writes it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli, RFC 3720) of some bytes.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table = _contributions()
    state = 0xFFFFFFFF
    for first in range(0, len(data), _CHUNK):
        chunk = np.frombuffer(data, np.uint8, min(_CHUNK, len(data) - first), first).astype(np.intp)
        met = min(4, len(chunk))  # bytes of the state that meet a byte of the data
        chunk[:met] ^= np.frombuffer(struct.pack("<I", state), np.uint8, met)
        rest = state >> 8 * met
        state = int(np.bitwise_xor.reduce(table.take(chunk + _places()[_CHUNK - len(chunk) :]))) ^ rest
    return state ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """Return the checksum as a record holds it."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


@lru_cache(maxsize=1024)
def _head(length: int) -> bytes:
    """Return what comes before an event of this many bytes."""
    size = struct.pack("<Q", length)
    return size + struct.pack("<I", masked(crc32c(size)))


@cache
def _contributions() -> NDArray[np.uint32]:
    """Return what each byte gives to a checksum, flat over (its place, the last being the end's, its value)."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, (row >> 1) ^ np.uint32(_POLYNOMIAL), row >> 1)
    rows = [row]
    for _ in range(_CHUNK - 1):
        rows.append((rows[-1] >> 8) ^ row[rows[-1] & 0xFF])
    return np.concatenate(rows[::-1])


@cache
def _places() -> NDArray[np.intp]:
    """Return where each place's values begin in `_contributions`, (`_CHUNK`,)."""
    return 256 * np.arange(_CHUNK, dtype=np.intp)
