"""Strategies of hypothesis that damage the content of files, and inputs that exhaust a machine.

Damaged is what copies, disks and editors make of a valid file. Bombs are sizes that no memory holds, nesting without
end, and objects that would be unpickled.
"""

import copy
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

_HEADERS = (  # of arrays
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000), }",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (12,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (12, 4, 4), }",
    "(" * 5000,
)
_MORSELS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from((b"\0", b"\x1b[2J", b'"', b",", b"\n", b"\r", b"- ", b"|\n", b"\xef\xbb\xbf", b"1e999")),
    st.sampled_from((b"[" * 3000, b'{"":' * 3000, b"9" * 400, b"&a [*a]", b"!!python/name:os.system")),
)
_VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.integers(-3, 20)),
    st.sampled_from(([], {}, [None], "x" * 5000, "1" * 5000, 10**400)),
)


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw the bytes of a valid file, changed, cut, inserted, doubled or truncated, one to four times."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(("flip", "remove", "insert", "double", "end"))):
            case "flip" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "remove":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(_MORSELS)
            case "double":
                data[at:at] = data[max(0, at - length) : at]
            case "end":
                del data[at:]
    return bytes(data)


def any_bytes(valid: bytes) -> st.SearchStrategy[bytes]:
    """Draw a damaged file, and sometimes random bytes."""
    return st.one_of(damaged(valid), damaged(valid), damaged(valid), st.binary(max_size=200))


@st.composite
def changed(draw: st.DrawFn, valid: Any) -> Any:
    """Draw a JSON value of which one part is replaced or removed."""
    value = copy.deepcopy(valid)
    *way, last = draw(st.sampled_from([place for place in _places(valid) if place]))
    part = value
    for key in way:
        part = part[key]
    if draw(st.booleans()):
        part[last] = draw(_VALUES)
    else:
        del part[last]
    return value


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    for key, part in items:
        yield from ((key, *rest) for rest in _places(part))


def json_files(valid: Any) -> st.SearchStrategy[bytes]:
    """Draw a JSON file with a value or bytes changed."""
    return st.one_of(changed(valid).map(json.dumps).map(str.encode), any_bytes(json.dumps(valid).encode()))


def json_lines(valid: list[Any]) -> st.SearchStrategy[bytes]:
    """Draw a file of JSON lines with bytes changed, as a torn write leaves it."""
    return any_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in valid))


@st.composite
def npz_files(draw: st.DrawFn, arrays: dict[str, np.ndarray]) -> bytes:
    """Draw an .npz file: damaged, or a valid archive of a damaged or lying array."""
    buffer = io.BytesIO()
    if draw(st.booleans()):
        np.savez_compressed(buffer, **arrays)
        return draw(any_bytes(buffer.getvalue()))
    wrong = draw(st.sampled_from([*arrays]))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            if name == wrong:
                content = draw(st.one_of(damaged(content), st.sampled_from(_HEADERS).map(_array(content))))
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _array(content: bytes) -> Any:
    """Return what gives an array of this content another header."""

    def lying(header: str) -> bytes:
        line = header.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + content[128:]

    return lying
