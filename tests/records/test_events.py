import random

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from nasenv.records.events import EventFile, crc32c, masked, scalars_event


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 300, 511, 512, 513, 515, 516, 1027, 5000])
def test_checksums_are_tensorboards(size):
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert masked(crc32c(data)) == pywrap_tensorflow.masked_crc32c(data)


@pytest.mark.parametrize("step", [0, 1, 127, 128, 1 << 40])
def test_scalars_are_serialised_as_protobuf_does(step):
    values = {"a": 0.0, "loss/é": -1.5, "b" * 200: 1e300, "whole": 3, "of numpy": np.float32(0.1), "nan": float("nan")}
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    for some, their in ((values, summary), ({}, Summary())):
        expected = Event(wall_time=1.7e9, step=step, summary=their)
        assert scalars_event(1.7e9, step, some) == expected.SerializeToString()


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
