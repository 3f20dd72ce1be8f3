"""Damaged and hostile content for readers of files, as strategies of hypothesis: valid content changed, and noise."""

import copy
import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

_HOSTILE = (
    *(None, True, -1, 0, 0.5, 2**31, 10**9, 10**18, 10**400, 1e308, -0.0, float("nan"), float("inf")),
    *(
        "",
        "\x1b[2J\x07",
        "a\r\nb",
        "\ud800",
        "\u202eabc",
        "<script>alert('&\"')</script>",
        "$x^{$",
        "../../x",
        "/dev/zero",
    ),
    *("os.system", "nasenv.spaces.chain_cnn.ChainCNN", "antigravity.x", "x" * 5000, "1" * 5000, "\0"),
    *([], {}, [[]], [None], {"": None}, [[[[[[0]]]]]], [1e400], list(range(300))),
)
_HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000), }",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (12,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (12, 4, 4), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4, 4), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (12L, 4L, 4L), }",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': True, 'shape': (12,), }",
    "{'descr': '<M8[s]', 'fortran_order': 0, 'shape': (True, 4, 4), }",
    "__import__('os').system('true')",
    "(" * 5000,
    "-" * 5000 + "1",
)

MORSELS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"\0", b"\xff" * 8, b"\x1b[2J", b'"', b"'", b",", b"\n", b"\r", b"[" * 3000, b'{"":' * 3000, b"9" * 400]
    ),
    st.sampled_from(
        [b"&a [*a]", b"*a", b"!!python/name:os.system", b"? ", b"<<: ", b"- ", b"|\n", b"\xef\xbb\xbf", b"1e999"]
    ),
)
"""A few bytes that mean something to one reader or another."""


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes of a valid file that were flipped, cut out, inserted, doubled or cut off, one to four times."""
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
                data[at:at] = draw(MORSELS)
            case "double":
                data[at:at] = data[max(0, at - length) : at]
            case "end":
                del data[at:]
    return bytes(data)


def any_bytes(valid: bytes) -> st.SearchStrategy[bytes]:
    """A damaged file, and now and then noise alone."""
    return st.one_of(damaged(valid), damaged(valid), damaged(valid), st.binary(max_size=200))


_SCALARS = st.one_of(
    *(
        st.sampled_from(_HOSTILE),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.integers(-3, 20),
        st.floats(-1, 2),
    ),
)
ANYTHING = st.one_of(
    *(_SCALARS, _SCALARS, _SCALARS),
    st.lists(_SCALARS, max_size=4),
    st.dictionaries(st.text(max_size=5), _SCALARS, max_size=3),
)
"""A JSON value of any kind."""


def changed(valid: Any) -> st.SearchStrategy[Any]:
    """A JSON value of which one to three parts were replaced by anything, removed, or given a neighbour."""
    return _changed(valid, [place for place in _places(valid) if place])


@st.composite
def _changed(draw: st.DrawFn, valid: Any, places: list[tuple[Any, ...]]) -> Any:
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places))
        part = value
        try:
            for key in way:
                part = part[key]
            match draw(st.sampled_from(("replace", "replace", "replace", "remove", "add"))):
                case "replace":
                    part[last] = copy.deepcopy(draw(ANYTHING))
                case "remove":
                    del part[last]
                case "add" if isinstance(part, dict):
                    part[draw(st.text(max_size=8))] = draw(ANYTHING)
                case "add":
                    part.append(draw(ANYTHING))
        except (LookupError, TypeError, AttributeError):  # the way there was changed before
            continue
    return value


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    for key, part in items:
        yield from ((key, *rest) for rest in _places(part))


def json_files(valid: Any) -> st.SearchStrategy[bytes]:
    """A JSON file whose values, or bytes, were changed."""
    written = changed(valid).map(lambda value: json.dumps(value).encode())
    return st.one_of(written, written, any_bytes(json.dumps(valid).encode()))


def json_lines(valid: list[Any]) -> st.SearchStrategy[bytes]:
    """A file of JSON lines, a value or byte of some changed."""
    written = changed(valid).map(
        lambda lines: b"".join(json.dumps(line).encode() + b"\n" for line in (lines if isinstance(lines, list) else []))
    )
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in valid)
    return st.one_of(written, written, any_bytes(whole))


@st.composite
def npz_files(draw: st.DrawFn, arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz file: damaged, or sound as an archive of damaged or lying arrays."""
    if draw(st.integers(0, 3)) == 0:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return draw(any_bytes(buffer.getvalue()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            match draw(st.integers(0, 4)):
                case 0:
                    content = draw(damaged(content))
                case 1:
                    header = draw(st.sampled_from(_HEADERS)).encode() + b"\n"
                    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content[128:]
                case 2:
                    name = draw(st.sampled_from(("../x", "/x", "x", "y", "x_test", "\x1b[2J", name)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name given twice
                archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()
