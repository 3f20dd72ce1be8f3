"""Time that a process was awake."""

import time

import pytest

from nasenv.workers.clock import WakingClock


def test_a_suspension_counts_for_little(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = WakingClock(longest=2.0)
    for step in (1.0, 0.5, 3600.0, 1.5):
        now[0] += step
        clock()
    assert clock() == pytest.approx(1.0 + 0.5 + 2.0 + 1.5)
