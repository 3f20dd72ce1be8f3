"""Started again on its run directory, a search goes on where it was, whatever ended it."""

import contextlib
import json
import os
import subprocess
import time
from contextlib import closing

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nasenv.agents import PPO, Agent, RandomSearch
from nasenv.cache.cache import Cache
from nasenv.errors import AgentError, InputError, SearchStopped
from nasenv.records.trials import TrialLog
from nasenv.results.conclude import conclude
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)
CANONICAL = [tuple(d) for d in SPACE.all_architectures().tolist() if SPACE.canonical(tuple(d)) == tuple(d)]
BUDGET = Budget(evaluations=24, finalists=3, final_seeds=2)


class PowerCut(BaseException):
    """What no except clause of ours catches."""


class OneByOne(Hashed):
    """Answers one trial after the other, and may be cut off in the middle."""

    def __init__(self, space, trials=10**9, then=None):
        super().__init__(space)
        self.made, self._left, self._then = [], trials, then

    def fingerprint(self):
        return "one by one"

    def config(self):
        return {"class_path": "OneByOne", "init_args": {}}

    def completed(self, stopped=lambda: False):
        try:
            while self._submitted and not stopped():
                if self._left == 0:
                    self._then()
                    if stopped():
                        return
                self._left -= 1
                trial = self._submitted.pop()  # not in the order in which they were asked for
                self.made.append(trial)
                yield trial, self.figure(trial.architecture)
        finally:
            self._submitted.clear()


def cut():
    raise PowerCut


def search_on(folder, evaluator=None, agent=None, **options):
    options = {"budget": BUDGET, "seed": 3, **options}
    return Search(SPACE, evaluator or OneByOne(SPACE), agent or RandomSearch(batch_size=8), run_dir=folder, **options)


def ran(search):
    search.run()
    return search


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def journaled(folder):
    return [
        {k: v for k, v in e.items() if k not in ("seconds", "train_seconds")} for e in lines(folder / "journal.jsonl")
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return folder, trials and result of a search that nothing happened to."""
    folder, evaluator = tmp_path_factory.mktemp("undisturbed"), OneByOne(SPACE)
    with search_on(folder, evaluator) as search:
        search.run()
        return folder, evaluator.made, conclude(search)


@pytest.mark.parametrize("trials", [0, 1, 8, 13, 24, 25, 30, 33])
def test_a_power_cut_repeats_no_trial_that_was_done(trials, undisturbed, tmp_path):
    folder, made, result = undisturbed
    assert len(made) > 33, "the cuts are to fall into the search, the confirmation and the test"
    first, second = OneByOne(SPACE, trials, cut), OneByOne(SPACE)
    with search_on(tmp_path, first) as search, pytest.raises(PowerCut):
        conclude(ran(search))
    with search_on(tmp_path, second) as search:
        search.run()
        again = conclude(search)
    assert journaled(tmp_path) == journaled(folder)
    assert again == result
    assert not set(first.made) & set(second.made)
    assert set(first.made) | set(second.made) == set(made)


def test_a_stop_keeps_what_was_in_flight_and_the_search_goes_on(undisturbed, tmp_path):
    folder, made, result = undisturbed
    search = search_on(tmp_path, OneByOne(SPACE, 13, lambda: search.stop("enough")))
    with search:
        search.run()
        assert search.stopped == "enough"
        assert search.ended is None
        with pytest.raises(SearchStopped, match="enough"):
            search.evaluate(SPACE.sample(1, np.random.default_rng(0)))
        with pytest.raises(SearchStopped, match="enough"):
            conclude(search)
    assert len(lines(tmp_path / "trials.jsonl")) == 13
    evaluator = OneByOne(SPACE)
    with search_on(tmp_path, evaluator) as search:
        search.run()
        assert conclude(search) == result
    assert journaled(tmp_path) == journaled(folder)
    assert len(evaluator.made) == len(made) - 13


def test_a_stop_in_the_final_training_goes_on_there(undisturbed, tmp_path):
    _, made, result = undisturbed
    search = search_on(tmp_path, OneByOne(SPACE, 26, lambda: search.stop("enough")))
    with search, pytest.raises(SearchStopped, match="stopped after"):
        conclude(ran(search))
    evaluator = OneByOne(SPACE)
    with search_on(tmp_path, evaluator) as search:
        search.run()
        assert conclude(search) == result
    assert len(evaluator.made) == len(made) - 26


def test_wall_seconds_stop_a_start_and_not_the_search(undisturbed, tmp_path):
    folder, _, result = undisturbed
    budget = Budget(evaluations=24, finalists=3, final_seeds=2, wall_seconds=0.2)
    with search_on(tmp_path, OneByOne(SPACE, 5, lambda: time.sleep(0.4)), budget=budget) as search:
        search.run()
        assert search.stopped == "the budget of 0.2 wall seconds is used up"
    with search_on(tmp_path) as search:  # another wall budget, or none, is the same search
        search.run()
        assert conclude(search) == result
    assert journaled(tmp_path) == journaled(folder)


class Erratic(Agent):
    """Draws from a generator that the search does not seed."""

    def begin(self, space, rng):
        self.space, self.rng = space, np.random.default_rng(time.time_ns())

    def ask(self, n):
        return self.space.sample(n, self.rng)


def test_an_agent_that_does_not_repeat_itself_may_start_afresh_and_nothing_is_trained_twice(tmp_path):
    first = OneByOne(SPACE, 13, cut)
    with pytest.raises(PowerCut), search_on(tmp_path, first, Erratic(4)) as search:
        search.run()
    said = r"evaluation \d+ was .*, now it is .*generator that is not seeded by the search; --resume continue"
    with search_on(tmp_path, agent=Erratic(4)) as search, pytest.raises(InputError, match=said):
        search.run()
    second = OneByOne(SPACE)
    with search_on(tmp_path, second, Erratic(4), resume="continue") as search:
        search.run()
        assert len(search.history) == 24
    assert not set(first.made) & set(second.made)
    assert 0 < len(lines(tmp_path / "journal-1.jsonl")) < 24
    assert len(lines(tmp_path / "journal.jsonl")) == 24


def test_other_versions_are_named_where_an_agent_does_not_repeat_itself(tmp_path):
    with search_on(tmp_path, agent=Erratic(4)) as search:
        search.run()
    path = tmp_path / "journal.jsonl"
    header, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps({**json.loads(header), "made_with": {"torch": "1.0"}}) + "\n" + rest)
    with search_on(tmp_path, agent=Erratic(4)) as search:
        assert search.files.notices[0].startswith("the search was begun with torch 1.0, now 2.")
        with pytest.raises(InputError, match=r"what may cause it: torch 1\.0, now 2\."):
            search.run()


def test_conclude_makes_the_most_of_what_there_is(tmp_path):
    with pytest.raises(PowerCut), search_on(tmp_path, OneByOne(SPACE, 13, cut)) as search:
        search.run()
    evaluator = OneByOne(SPACE)
    with search_on(tmp_path, evaluator, resume="conclude") as search:
        search.run()
        result = conclude(search)
    assert 0 < result.evaluations == len(lines(tmp_path / "journal.jsonl")) < 24
    assert result.ended == f"concluded as asked for, after {result.evaluations} evaluations"
    assert {trial.purpose for trial in evaluator.made} == {"confirm", "test"}


def test_conclude_asks_the_journal_and_not_an_agent_that_does_not_repeat_itself(tmp_path):
    with pytest.raises(PowerCut), search_on(tmp_path, OneByOne(SPACE, 13, cut), Erratic(4)) as search:
        search.run()
    with search_on(tmp_path, agent=Erratic(4), resume="conclude") as search:
        search.run()
        assert conclude(search).evaluations == len(lines(tmp_path / "journal.jsonl")) > 0


class Early(RandomSearch):
    """Stops by itself after so many batches."""

    batches = 3

    def config(self):
        return {"class_path": "Early", "init_args": {}}

    def run(self, search):
        self.begin(search.space, np.random.default_rng(search.seed))
        for _ in range(self.batches):
            search.evaluate(self.ask(4))


def test_an_agent_that_ends_before_the_journal_does_is_refused(tmp_path, monkeypatch):
    with search_on(tmp_path, agent=Early()) as search:
        search.run()
        assert search.ended == "agent Early stopped by itself"
    before = journaled(tmp_path)
    monkeypatch.setattr(Early, "batches", 2)
    with (
        search_on(tmp_path, agent=Early()) as search,
        pytest.raises(InputError, match=r"it ended after \d evaluations"),
    ):
        search.run()
    assert journaled(tmp_path) == before


class Deaf(RandomSearch):
    """Does not hear that a search is over."""

    def run(self, search):
        self.begin(search.space, np.random.default_rng(search.seed))
        while True:
            with contextlib.suppress(Exception):
                search.evaluate(self.ask(4))


def test_an_agent_that_does_not_hear_that_the_search_is_over_is_ended_and_named():
    with Search(SPACE, OneByOne(SPACE), Deaf(), BUDGET) as search:
        with pytest.raises(AgentError, match="agent Deaf goes on proposing after the search is over: the budget of 24"):
            search.run()
        assert len(search.history) == 24


def test_another_search_in_the_place_of_a_deleted_one_is_left_alone(tmp_path):
    config = {"seed": 0}
    with closing(TrialLog(tmp_path / "trials.jsonl", config)) as first:
        first.add(Trial(CANONICAL[0]), Measurement(0.5))
        (tmp_path / "trials.jsonl").unlink()
        with closing(TrialLog(tmp_path / "trials.jsonl", {"seed": 1})) as second:
            second.add(Trial(CANONICAL[1]), Measurement(0.25))
            with pytest.raises(InputError, match="in use by a search that this program made"):
                first.add(Trial(CANONICAL[2]), Measurement(0.75))
        with pytest.raises(InputError, match="is now the file of another program"):
            first.add(Trial(CANONICAL[2]), Measurement(0.75))
    assert len(lines(tmp_path / "trials.jsonl")) == 1


def test_a_wall_budget_longer_than_a_clock_can_wait_is_none(tmp_path):
    with search_on(tmp_path, budget=Budget(evaluations=24, wall_seconds=1e300)) as search:
        search.run()
        assert search.stopped is None


def curves(folder):
    (path,) = folder.glob("events.out.tfevents*")
    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, [
        e.wall_time for e in events.Scalars("search/reward")
    ]


def test_tensorboard_shows_one_curve_whatever_happened_to_the_clock(tmp_path, monkeypatch):
    whole, cut_short = tmp_path / "whole", tmp_path / "cut"
    ppo = {"budget": Budget(evaluations=48), "seed": 1}
    with search_on(whole, agent=PPO(num_envs=8), **ppo) as search:
        search.run()
    with pytest.raises(PowerCut), search_on(cut_short, OneByOne(SPACE, 30, cut), PPO(num_envs=8), **ppo) as search:
        search.run()
    monkeypatch.setattr(time, "time", lambda: 1e9)  # 2001: a battery was empty
    with search_on(cut_short, agent=PPO(num_envs=8), **ppo) as search:
        search.run()
    (expected, _), (found, times) = curves(whole), curves(cut_short)
    timed = {tag for tag in expected if "seconds" in tag or tag.startswith("time/")}
    assert {t: v for t, v in found.items() if t not in timed} == {t: v for t, v in expected.items() if t not in timed}
    assert [step for step, _ in found["search/reward"]] == list(range(1, 49))
    assert times == sorted(times)
    assert times[0] > 1.6e9


@pytest.mark.parametrize("name", ["events.out.tfevents*", "journal.jsonl", "trials.jsonl"])
def test_a_file_that_is_deleted_in_the_course_of_a_search_is_there_again(name, undisturbed, tmp_path):
    folder, _, result = undisturbed

    def delete():
        for path in tmp_path.glob(name):
            path.unlink()

    with search_on(tmp_path, OneByOne(SPACE, 12, delete)) as search:
        search.run()
        assert conclude(search) == result
    assert journaled(tmp_path) == journaled(folder)
    assert [step for step, _ in curves(tmp_path)[0]["search/reward"]] == list(range(1, 25))
    assert len(lines(tmp_path / "trials.jsonl")) == len(lines(folder / "trials.jsonl"))


def test_the_folder_as_a_whole_too(undisturbed, tmp_path):
    folder, _, _ = undisturbed
    run_dir = tmp_path / "run"

    def delete():
        for path in run_dir.iterdir():
            path.unlink()
        run_dir.rmdir()

    with search_on(run_dir, OneByOne(SPACE, 12, delete)) as search:
        search.run()
    assert journaled(run_dir) == journaled(folder)


def test_what_was_cut_short_is_said(tmp_path):
    with search_on(tmp_path) as search:
        search.run()
    for name in ("journal.jsonl", "trials.jsonl"):
        path = tmp_path / name
        os.truncate(path, path.stat().st_size - 5)
    with search_on(tmp_path) as search:
        assert len(search.files.notices) == 2
        assert all("the last line was cut short" in notice for notice in search.files.notices)
        search.run()
    assert len(lines(tmp_path / "journal.jsonl")) == 24


def test_a_damaged_line_is_refused_with_how_to_salvage_and_that_works(tmp_path):
    with search_on(tmp_path) as search:
        search.run()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    broken = bytearray(whole[10])
    broken[20] ^= 0xFF
    path.write_bytes(b"".join([*whole[:10], bytes(broken), *whole[11:]]))
    with pytest.raises(InputError, match="line 11 is damaged; keep the 10 before it with") as refusal:
        search_on(tmp_path)
    subprocess.run(str(refusal.value).split("`")[1], shell=True, check=True, cwd=tmp_path)
    assert path.read_bytes() == b"".join(whole[:10])
    evaluator = OneByOne(SPACE)
    with search_on(tmp_path, evaluator) as search:
        search.run()
    assert not evaluator.made, "the trials are known"
    assert journaled(tmp_path) == [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "train_seconds")} for line in whole[1:]
    ]


def test_trials_of_every_purpose_are_completed_by_an_evaluator_that_writes_measure_alone():
    evaluator, architectures = Hashed(SPACE), SPACE.sample(3, np.random.default_rng(0))
    trials = [
        *(Trial(d) for d in architectures),
        *(Trial(d, purpose=purpose, seed=s) for purpose in ("confirm", "test") for d in architectures for s in (0, 4)),
        Trial(architectures[0], purpose="confirm", seed=7),
    ]
    completed = list(evaluator.results(trials))
    assert completed == [(trial, evaluator.figure(trial.architecture)) for trial in trials]
    assert evaluator.calls == [architectures], "what waits is measured together"
    assert list(evaluator.results(trials, lambda: True)) == []
    assert list(evaluator.completed()) == [], "what was given up is forgotten"


def record_lengths(path):
    """Return the lengths of the events of a file: each is 8 bytes of length, a checksum of 4, the event, another 4."""
    data, at, lengths = path.read_bytes(), 0, []
    while at < len(data):
        lengths.append(int.from_bytes(data[at : at + 8], "little"))
        at += 16 + lengths[-1]
    return lengths


def test_a_tensorboard_that_is_watching_finds_its_place_again(tmp_path):
    ppo = {"budget": Budget(evaluations=48), "seed": 1}
    with pytest.raises(PowerCut), search_on(tmp_path, OneByOne(SPACE, 30, cut), PPO(num_envs=8), **ppo) as search:
        search.run()
    (path,) = tmp_path.glob("events.out.tfevents*")
    before = record_lengths(path)
    with search_on(tmp_path, agent=PPO(num_envs=8), **ppo) as search:
        search.run()
    after = record_lengths(path)
    assert len(after) > len(before) > 24
    assert after[: len(before)] == before


class Wrong(Hashed):
    """Completes what it was not asked for, or not all."""

    def __init__(self, space, completes):
        super().__init__(space)
        self.completes = completes

    def completed(self, stopped=lambda: False):
        yield from self.completes(self, list(self._submitted))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("completes", "said"),
    [
        (lambda e, trials: [], "completed 0 of 8 trials, expected all"),
        (lambda e, trials: [(trials[0], e.figure(trials[0].architecture))], "completed 1 of 8 trials, expected all"),
        (lambda e, trials: [(Trial((9, 9)), Measurement(0.5))], "which it was not asked for"),
        (lambda e, trials: [(trials[0], Measurement(0.5))] * 2, "which it was not asked for"),
        (lambda e, trials: [(trials[0], 0.5)], "not with a Measurement"),
    ],
)
def test_an_evaluator_that_breaks_its_contract_is_named(completes, said, cached, tmp_path):
    evaluator, cache = Wrong(SPACE, completes), Cache(tmp_path / "cache.db") if cached else None
    with Search(SPACE, evaluator, cache=cache) as search, pytest.raises(InputError, match=f"evaluator Wrong .*{said}"):
        search.evaluate(CANONICAL[:8])
