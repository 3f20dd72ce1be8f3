"""Comparisons: every agent on every problem from every seed, whatever goes wrong, and each of them once."""

import csv
import dataclasses
import gc
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import nasenv.workers.pool
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.comparison.analysis import summarise
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.comparison.run import trajectories
from nasenv.errors import InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Trial
from tests import fakes
from tests.fakes import Hashed

ROOT = Path(__file__).parents[2]
SPACE = ChainCNN(max_layers=2)
RANDOM = RandomSearch(batch_size=4)


class Table(Hashed):
    """Asking costs nothing, and is not remembered."""

    trains = False

    def measure(self, trials):
        return [self.figure(trial.architecture) for trial in trials]


def problem(evaluations=12, evaluator=None, **budget):
    return Problem(SPACE, evaluator or Table(SPACE), budget=Budget(evaluations=evaluations, **budget))


def compare(folder, agents=None, problems=None, seeds=range(3), workers=0, timeout_seconds=None, cache=None):
    """Run a comparison and return it with the runs that it did."""
    comparison = Comparison(problems or {"p": problem()}, agents or {"random": RANDOM}, seeds, folder, cache)
    done = []
    with comparison.held():
        comparison.run(done.append, workers, timeout_seconds)
        comparison.write_results(folder / "results.csv")
    return comparison, done


def rows(folder):
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/run.json")}


# What comes out


def test_the_results_are_those_of_the_searches_whatever_the_number_of_workers(tmp_path):
    agents = {"random": RANDOM, "evolution": RegularizedEvolution(population_size=4, sample_size=2)}
    problems = {"short": problem(5), "long": problem(12)}
    for workers in (0, 1, 2):
        comparison, done = compare(tmp_path / str(workers), agents, problems, range(2), workers)
        assert len(done) == len(comparison.keys) == 8
    texts = [(tmp_path / str(workers) / "results.csv").read_text() for workers in (0, 1, 2)]
    assert texts[0] == texts[1] == texts[2]
    expected = []
    for name, each in problems.items():
        for seed in range(2):
            for agent in agents:
                with Search(SPACE, Table(SPACE), agents[agent], each.budget, seed=seed) as search:
                    search.run()
                for outcome in search.history:
                    val = outcome.measurement.score
                    known = {"final_val_score": val, "test_score": val}
                    expected.append(
                        {
                            **{"problem": name, "agent": agent, "seed": seed, "evaluation": outcome.evaluation},
                            **{"proposal": outcome.proposal, "seconds": 0.0, "reward": outcome.reward},
                            **{"architecture": SPACE.to_text(outcome.architecture), "val_score": val, **known},
                        }
                    )
    assert rows(tmp_path / "0") == [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]


def test_runs_that_are_there_are_kept_and_more_can_be_added(tmp_path):
    compare(tmp_path)
    first = times(tmp_path)
    assert len(first) == 3
    agents = {"random": RANDOM, "small": RandomSearch(batch_size=1)}
    problems = {"q": problem(3), "p": problem()}
    comparison, done = compare(tmp_path, agents, problems, range(4))
    assert {(run.problem, run.agent, run.seed) for run in done} == {
        (p, a, s) for p in problems for a in agents for s in range(4) if (p, a) != ("p", "random") or s == 3
    }
    assert first.items() <= times(tmp_path).items()
    assert len(list(comparison.runs("p"))) == 8
    again, done = compare(tmp_path, agents, problems, range(4), workers=2)
    assert (again.pending, done) == ([], [])
    compare(tmp_path, seeds=range(1))  # fewer will do too
    assert {row["seed"] for row in rows(tmp_path)} == {"0"}


@pytest.mark.parametrize(
    "change",
    [
        {"agents": {"random": RandomSearch(batch_size=5)}},
        {"problems": {"p": problem(13)}},
        {"problems": {"p": problem(charged_seconds=3.0)}},
        {"problems": {"p": Problem(ChainCNN(max_layers=3), Table(ChainCNN(max_layers=3)), budget=Budget(12))}},
    ],
    ids=["agent", "evaluations", "seconds", "space"],
)
def test_another_configuration_of_the_same_name_is_refused(change, tmp_path):
    compare(tmp_path)
    before = times(tmp_path)
    with pytest.raises(InputError, match=r"run\.json is of another configuration .* another name") as refusal:
        compare(tmp_path, **change)
    assert "\n" not in str(refusal.value)
    assert times(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"identity": 3', '{"identity": "%s"}\n{"problem"', '{"identity": "%s"}\n{}\n', "\xff"]
)
def test_a_damaged_run_is_named_with_what_to_do(text, tmp_path):
    compare(tmp_path, seeds=range(2))
    path = tmp_path / "runs" / "p" / "random" / "seed-1" / "run.json"
    whole = path.read_bytes()
    identity = json.loads(whole.partition(b"\n")[0])["identity"]
    path.write_bytes(text.replace("%s", identity).encode("latin-1"))
    with pytest.raises(InputError, match=r"seed-1.run\.json is damaged .*; delete it to have this run again"):
        compare(tmp_path, seeds=range(2))
    path.unlink()
    _, done = compare(tmp_path, seeds=range(2))
    assert [run.seed for run in done] == [1]


def test_two_comparisons_on_one_folder(tmp_path):
    comparison = Comparison({"p": problem()}, {"random": RANDOM}, range(1), tmp_path)
    with comparison.held(), pytest.raises(InputError, match="in use by another comparison"):
        compare(tmp_path)
    compare(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: "):
        compare(tmp_path / "file")


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a\nb", "a\0b", "x" * 250, "ä" * 60, 3])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(InputError, match="name"):
        compare(tmp_path, agents={name: RANDOM})
    with pytest.raises(InputError, match="name"):
        compare(tmp_path, problems={name: problem()})


@pytest.mark.parametrize("name", ["a/b", "../../up", "größer", "lr = 0.1, é", "50 %", "x" * 200, "...a", "a:b"])
def test_names_of_all_kinds(name, tmp_path):
    comparison, done = compare(tmp_path / "in", {name: RANDOM}, {name: problem(3)}, range(1))
    assert [(run.problem, run.agent) for run in done] == [(name, name)]
    assert len(times(tmp_path / "in")) == 1
    assert os.listdir(tmp_path) == ["in"]
    assert rows(tmp_path / "in")[0]["agent"] == name
    assert [run.agent for run in comparison.runs(name)] == [name]


@pytest.mark.parametrize("nothing", [{"agents": {}}, {"problems": {}}, {"seeds": range(0)}])
def test_nothing_to_compare(nothing, tmp_path):
    given = {"agents": {"random": RANDOM}, "problems": {"p": problem()}, "seeds": range(1), **nothing}
    with pytest.raises(InputError, match="one or more problems, agents and seeds"):
        Comparison(given["problems"], given["agents"], given["seeds"], tmp_path)


# What goes wrong


def test_a_killed_comparison_goes_on_where_it_was(tmp_path, monkeypatch):
    code = (
        "from pathlib import Path; from tests.comparison.test_comparison import slow; import sys\n"
        "if __name__ == '__main__': slow(Path(sys.argv[1]))"
    )
    script = tmp_path / "slow.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, script, folder], env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(times(folder)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # until its workers, who have its output too, are gone
    there = times(folder)
    assert 3 <= len(there) < 12
    monkeypatch.setattr(fakes.Slow, "tell", RandomSearch.tell)  # it need not be slow any more
    _, done = slow(folder, workers=0)
    assert len(done) == 12 - len(there)
    assert there.items() <= times(folder).items()
    slow(tmp_path / "whole", workers=0)
    assert (folder / "results.csv").read_text() == (tmp_path / "whole" / "results.csv").read_text()


def slow(folder, workers=2):
    """Run a comparison of 12 runs that take a third of a second each."""
    agents = {"slow": fakes.Slow(batch_size=1), "slower": fakes.Slow(batch_size=2)}
    return compare(folder, agents, {"p": problem(10)}, range(6), workers)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (fakes.Raises, r"agent Raises raised KeyError: .*fakes\.py, line \d+\) after 1 evaluation"),
        (fakes.Quits, r"agent Quits raised SystemExit: 0 \(.*fakes\.py, line \d+\) after 0 evaluations"),
        (fakes.Refuses, "agent Refuses: this space is not for me; after 0 evaluations"),
        (
            fakes.Nonsense,
            "agent Nonsense: proposed an architecture that is not one of the space: .* after 0 evaluations",
        ),
        (fakes.Silent, "it ended without an evaluation"),
    ],
)
def test_an_agent_that_goes_wrong_is_named_and_the_others_go_on(kind, reason, tmp_path):
    comparison, done = compare(tmp_path, {"odd": kind(), "random": RANDOM})
    assert len(done) == 6
    digests = trajectories(comparison.runs("p"))
    assert [(d.agent, d.seed) for d in digests if d.fault] == [("odd", fakes.ODD_SEED)]
    found = summarise("p", digests, None)
    odd = next(s for s in found.standings if s.agent == "odd")
    assert (odd.seeds, list(odd.faults)) == (2, [fakes.ODD_SEED])
    assert re.fullmatch(reason, odd.faults[fakes.ODD_SEED])
    assert any(
        v.startswith("odd: 1 of 3 runs did not come to their end") and "seed 1: " in v for v in found.conclusions
    )
    assert compare(tmp_path, {"odd": kind(), "random": RANDOM})[1] == []  # a fault is a result


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (fakes.Stuck, "the agent proposes what it proposed before: "),
        (fakes.Leaves, "agent Leaves stopped by"),
    ],
)
def test_an_agent_that_ends_before_its_budget_is_named_and_counts(kind, reason, tmp_path):
    comparison, _ = compare(tmp_path, {"odd": kind(), "random": RANDOM})
    found = summarise("p", comparison.runs("p"), None)
    odd, random = sorted(found.standings, key=lambda s: s.agent)
    assert (odd.seeds, odd.faults, list(odd.early), random.early) == (3, {}, [fakes.ODD_SEED], {})
    assert odd.early[fakes.ODD_SEED].startswith(reason)
    assert any(
        v.startswith(f"odd: 1 of 3 runs ended before their budget and count as they are (seed 1: {reason}")
        for v in found.conclusions
    )


@pytest.mark.parametrize(
    "budget", [{"charged_seconds": 0.5}, {"target_reward": 0.5}, {"charge_repeats": True}], ids=str
)
def test_a_run_that_comes_to_a_limit_is_not_early(budget, tmp_path):
    _, done = compare(
        tmp_path, problems={"p": problem(None if "charged_seconds" in budget else 50, Priced(SPACE), **budget)}
    )
    assert [run.early for run in done] == [False] * 3


def test_a_space_that_is_used_up_is_not_an_early_end(tmp_path):
    space = ChainCNN(max_layers=1, widths=(8,))
    _, done = compare(tmp_path, problems={"p": Problem(space, Table(space), budget=Budget(10_000))}, seeds=range(1))
    assert (done[0].early, len(done[0].reward)) == (False, space.size)


class Priced(Table):
    """Every architecture is charged a tenth of a second."""

    def figure(self, architecture):
        return dataclasses.replace(super().figure(architecture), train_seconds=0.1)


def test_a_worker_that_dies_or_hangs_costs_its_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(nasenv.workers.pool, "_GRACE_SECONDS", 0.0)
    agents = {"exits": fakes.Exits(), "hangs": fakes.Hangs(), "random": RANDOM}
    comparison, done = compare(
        tmp_path, agents, seeds=range(2, -1, -1), workers=2, timeout_seconds=10.0
    )  # the first run imports for seconds
    assert len(done) == 9
    faults = {(run.agent, run.seed): run.error for run in comparison.runs("p") if run.error}
    assert set(faults) == {("exits", 1), ("hangs", 1)}
    assert "exit code 7" in faults["exits", 1]
    assert "timeout" in faults["hangs", 1]
    assert {len(run.reward) for run in comparison.runs("p") if run.error is None} == {12}
    found = summarise("p", comparison.runs("p"), None)
    assert {s.agent: list(s.faults) for s in found.standings} == {"random": [], "exits": [1], "hangs": [1]}


def test_what_an_agent_remembers_ends_with_its_run(tmp_path):
    for workers in (0, 1):
        _, done = compare(tmp_path / str(workers), {"mine": fakes.Remembers()}, workers=workers)
        assert [run.error for run in done] == [None] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_agent_that_draws_globally_differs_between_seeds_and_comes_out_the_same_again(workers, tmp_path):
    agents = {of: fakes.DrawsGlobally(of) for of in ("python", "numpy", "torch")}
    compare(tmp_path / "one", agents, seeds=range(3), workers=workers)
    compare(tmp_path / "again", agents, seeds=range(3), workers=0)
    runs = {}
    for row in rows(tmp_path / "one"):
        runs.setdefault((row["agent"], row["seed"]), []).append(row["architecture"])
    assert len(runs) == len(set(map(tuple, runs.values()))) == 9
    assert rows(tmp_path / "one") == rows(tmp_path / "again")


def test_a_comparison_in_this_process_leaves_the_global_generators_as_they_were(tmp_path):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    compare(tmp_path, {of: fakes.DrawsGlobally(of) for of in ("python", "numpy", "torch")})
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before


class Faulty(Table):
    def measure(self, trials):
        raise InputError("the table is torn")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_evaluator_is_no_agents_fault(workers, tmp_path):
    with pytest.raises(InputError, match="the table is torn"):
        compare(tmp_path, problems={"p": problem(evaluator=Faulty(SPACE))}, workers=workers)
    assert times(tmp_path) == {}


# A problem that trains


def test_a_problem_that_trains_tests_its_last_incumbent_alone(tmp_path):
    def trains():
        evaluator = TrainingEvaluator(SPACE, "digits", epochs=1, final_epochs=1, concurrency=0)
        return {"p": Problem(SPACE, evaluator, budget=Budget(3, final_seeds=1))}

    cache = str(tmp_path / "cache.db")
    agents = {"random": RandomSearch(batch_size=3)}
    _, done = compare(tmp_path / "a", agents, trains(), range(2), cache=cache)
    for run in done:
        assert len(run.reward) == 3
        known = np.flatnonzero(np.isfinite(run.test_score))
        assert known.tolist() == np.flatnonzero(np.isfinite(run.final_val_score)).tolist() == [run.incumbents[-1]]
        folder = tmp_path / "a" / "runs" / "p" / "random" / f"seed-{run.seed}"
        assert len((folder / "journal.jsonl").read_text().splitlines()) == 4
        events = load(folder)
        assert [e.step for e in events.Scalars("search/reward")] == [1, 2, 3]
        assert events.Scalars("winner/test_accuracy")[0].value == pytest.approx(run.test_score[known[0]])
    assert sorted(run.charged_seconds for run in done) == sorted(run.seconds[-1] for run in done)
    _, cached = compare(tmp_path / "b", agents, trains(), range(2), cache=cache)
    for one, other in zip(done, cached, strict=True):
        assert one.architectures == other.architectures
        assert (one.reward.tolist(), one.seconds.tolist()) == (other.reward.tolist(), other.seconds.tolist())
    with Cache(cache) as store:
        key = ProblemKey(SPACE.fingerprint(), trains()["p"].evaluator.fingerprint())
        trials = [Trial(SPACE.canonical(SPACE.from_text(text))) for run in done for text in run.architectures]
        assert set(store.find(key, trials)) == set(trials)
    (tmp_path / "b" / "runs" / "p" / "random" / "seed-0" / "run.json").unlink()
    _, replayed = compare(tmp_path / "b", agents, trains(), range(2), cache=None)  # its journal is there
    assert [run.seed for run in replayed] == [0]
    assert replayed[0].reward.tolist() == cached[0].reward.tolist()


# TensorBoard, memory


def load(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


@pytest.mark.parametrize("evaluations", [1, 150, 450])
def test_tensorboard_has_at_most_50_points_a_curve_and_the_settings(evaluations, tmp_path):
    _, (run,) = compare(tmp_path, problems={"p": problem(evaluations)}, seeds=range(1))
    folder = tmp_path / "runs" / "p" / "random" / "seed-0"
    assert sorted(path.name[:6] for path in folder.iterdir()) == ["events", "run.js"]
    events = load(folder)
    points = events.Scalars("search/reward")
    assert len(points) == min(evaluations, 50)
    assert (points[0].step, points[-1].step) == (1, evaluations)
    assert [p.value for p in points] == pytest.approx([run.reward[p.step - 1] for p in points])
    best = events.Scalars("incumbent/reward")
    assert [p.value for p in best] == pytest.approx([run.reward[: p.step].max() for p in best])
    assert events.Scalars("winner/reward")[0].value == pytest.approx(run.reward.max())
    plugins = events.summary_metadata
    settings = [
        plugin_data_pb2.HParamsPluginData.FromString(m.plugin_data.content)
        for m in plugins.values()
        if m.plugin_data.plugin_name == "hparams"
    ]
    started = [s.session_start_info for s in settings if s.HasField("session_start_info")]
    assert started[0].hparams["agent.batch_size"].number_value == 4
    assert any(s.HasField("session_end_info") for s in settings)


def test_memory_does_not_grow_with_the_number_of_runs(tmp_path):
    comparison = Comparison({"p": problem(10)}, {"random": RANDOM}, range(50), tmp_path)
    held = []

    def done(run):
        if run.seed in (9, 49):
            gc.collect()
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/nasenv/*")])
            held.append(sum(trace.size for trace in ours.traces))  # Python's own tables grow in steps of megabytes

    tracemalloc.start()
    try:
        comparison.run(done, 0, None)
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 40_000  # bytes, for 40 runs
