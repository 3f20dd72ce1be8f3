import random

import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from nasenv.events import EventFile, crc32c, masked


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 300, 511, 512, 513, 515, 516, 1027, 5000])
def test_checksums_are_tensorboards(size):
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert masked(crc32c(data)) == pywrap_tensorflow.masked_crc32c(data)


def test_tensorboard_reads_what_was_written(tmp_path):
    events = [random.Random(n).randbytes(n) for n in (1, 300, 2000)]
    file = EventFile(tmp_path / "events")
    for n, event in enumerate(events, start=1):
        file.write(event)
        assert list(RawEventFileLoader(str(tmp_path / "events")).Load()) == events[:n]
    file.close()


def test_events_wait_where_nobody_watches(tmp_path):
    file = EventFile(tmp_path / "events", live=False)
    file.write(b"event")
    assert not (tmp_path / "events").read_bytes()
    file.close()
    assert list(RawEventFileLoader(str(tmp_path / "events")).Load()) == [b"event"]
