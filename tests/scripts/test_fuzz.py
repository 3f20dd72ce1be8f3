"""Every reader of files against damaged ones and bombs; scripts/soak/fuzz.py is the long form."""

import pytest

from nasenv import InputError
from scripts.soak import fuzz
from scripts.soak.readers import Reader, every_reader

READERS = (
    *("npz", "parquet", "picture", "table", "table.gz", "NAS-Bench-Macro", "architecture.json", "weights.safetensors"),
    *("result.json", "run.json", "journal.jsonl", "trials.jsonl", "cache.db"),
    *("config.yaml", "config.json", "start_from", "published"),
)


@pytest.fixture(scope="module")
def readers():
    with every_reader() as found:
        yield {reader.name: reader for reader in found}


def test_every_reader_is_fuzzed_here(readers):
    assert tuple(readers) == READERS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_its_files_or_says_in_one_line_why_not(readers, name):
    counts = {True: 0, False: 0}

    def counted(content):
        counts[fuzz.accepts(readers[name], content)] += 1

    fuzz.check(readers[name], counted, inputs=100)
    assert min(counts.values()) > 0  # inputs that are all refused, or all taken, would show nothing


def test_a_reader_that_raises_something_else_is_caught(readers):
    bad = Reader("careless", readers["table"].inputs, lambda content: content.decode()[40])
    with pytest.raises((IndexError, UnicodeDecodeError)):
        fuzz.check(bad, lambda content: fuzz.accepts(bad, content), inputs=50)


def test_a_message_that_a_terminal_would_obey_is_caught(readers):
    class Raw(InputError):
        def __str__(self):
            return "a\x1b[2Jb"

    def careless(_):
        raise Raw("")

    bad = Reader("careless", readers["table"].inputs, careless)
    with pytest.raises(AssertionError, match="not one line"):
        fuzz.accepts(bad, b"")
