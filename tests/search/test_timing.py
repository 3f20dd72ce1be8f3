import json
import sys
import time

import pytest

from nasenv.agents.random_search import RandomSearch
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.search.timing import Timing, where_it_went
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed


def test_each_moment_belongs_to_the_part_that_was_entered_last(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))  # a second from turn to turn
    timing = Timing()
    with timing.part("outer"):
        with timing.part("inner"):
            pass
        with timing.part("inner"):
            pass
    with timing.part("outer"):
        pass
    assert timing.seconds == {"outer": 4.0, "inner": 2.0}


def test_a_part_ends_with_what_is_raised_in_it():
    timing = Timing()
    with pytest.raises(KeyError), timing.part("a"):
        raise KeyError
    with timing.part("b"):
        time.sleep(0.02)
    assert timing.seconds["a"] < 0.01 <= timing.seconds["b"]


def test_parts_add_up_to_the_wall_time_and_idle_workers_are_one():
    parts = where_it_went({"controller": 3.0, "evaluation": 10.0}, {"training": 12.0, "building": 2.0}, 2)
    assert parts == {"training": 6.0, "controller": 3.0, "idle workers": 3.0, "building": 1.0}
    assert sum(parts.values()) == 13.0


def test_what_workers_do_beside_the_searching_process_is_counted_once():
    parts = where_it_went({"controller": 3.0, "evaluation": 7.0}, {"training": 16.0, "building": 4.0}, 2)
    assert parts == pytest.approx({"training": 5.6, "controller": 3.0, "building": 1.4, "idle workers": 0.0})


class Slow(RandomSearch):
    """Takes its time before it proposes anything."""

    def run(self, search):
        time.sleep(0.3)
        super().run(search)


def test_parts_add_up_to_the_time_of_the_search(tmp_path):
    space = ChainCNN(max_layers=2)
    with Search(space, Hashed(space), Slow(), Budget(20), run_dir=tmp_path) as search:
        search.run()
        assert "matplotlib" in sys.modules
        assert sum(search.where_time_went().values()) == pytest.approx(search.seconds, abs=0.1)


def test_a_table_has_no_workers():
    assert where_it_went({"controller": 1.0, "evaluation": 2.0}, {}, 1) == {"evaluation": 2.0, "controller": 1.0}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_search_leaves_where_its_time_went(tmp_path, stopped):
    space = ChainCNN(max_layers=2)
    with Search(space, Hashed(space), RandomSearch(), Budget(20), run_dir=tmp_path) as search:
        if stopped:
            search.callbacks.append(lambda search, outcome: search.stop("enough"))
        search.run()
    left = json.loads((tmp_path / "timing.json").read_text())
    assert left["slots"] == 1
    assert {"controller", "bookkeeping", "evaluation", "logging"} <= set(left["seconds"])
    assert left["seconds"] == pytest.approx(search.where_time_went(), abs=0.001)
