"""Comparisons whose runs are spread over a Ray cluster come out as on one machine."""

import threading
import time

import pytest

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.cluster.actors import ActorPool
from nasenv.comparison import ray as comparison_on_ray
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.errors import InputError, SearchStopped
from nasenv.evaluators.table import TableEvaluator
from nasenv.search.budget import Budget
from nasenv.spaces.chain_cnn import ChainCNN
from tests.cluster.nodes import Nodes
from tests.comparison.test_comparison_stop import comparison, outcomes, trials
from tests.fakes import Hashed

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install nasenv[ray]")
pytestmark = pytest.mark.usefixtures("without_pictures")

TABLE = ChainCNN(max_layers=3, widths=(16,))
SMALL = ChainCNN(max_layers=2)


class Stalls(Agent):
    """Never comes to an end."""

    def run(self, search):
        while True:
            time.sleep(0.1)


class Refused(Hashed):
    """Finds a fault of the machine."""

    def measure(self, trials):
        raise InputError("the disk is gone")


@pytest.fixture(scope="module")
def nodes():
    """Return a cluster that this process has joined."""
    made = Nodes()
    ray.init(made.address, log_to_driver=False, logging_level="CRITICAL")
    yield made
    ray.shutdown()
    made.cluster.shutdown()


def on_a_table(folder):
    problem = Problem(TABLE, TableEvaluator(TABLE, "chain_cnn_digits"), budget=Budget(evaluations=30))
    agents = {"random": RandomSearch(), "evolution": RegularizedEvolution(8, 3)}
    return Comparison({"p": problem}, agents, range(3), folder)


def test_a_comparison_on_a_table_is_the_same_though_a_node_is_lost(nodes, tmp_path):
    here, there = on_a_table(tmp_path / "here"), on_a_table(tmp_path / "there")
    here.run(lambda run: None, 0, None)
    nodes.have(2)
    done = []

    def hear(run):
        done.append(run)
        if len(done) == 1:
            nodes.lose_one()
            nodes.have(2)

    there.run_on_ray(hear, nodes.address, 100.0)
    assert len(done) == 6
    here.write_results(tmp_path / "here.csv")
    there.write_results(tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()
    assert [len(list(tmp_path.glob(f"{where}/runs/**/events*"))) for where in ("here", "there")] == [6, 6]
    assert on_a_table(tmp_path / "there").pending == []


def test_what_is_stopped_comes_back_and_goes_on(nodes, tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    comparison(undisturbed).run(lambda run: None, 0, None)
    compared = comparison(stopped)
    evaluator = compared.problems["p"].evaluator
    evaluator.began = tmp_path / "began"

    def stop():
        while not evaluator.began.exists():
            time.sleep(0.02)
        compared.stop("stopped by the test")

    nodes.have(2)
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SearchStopped, match=r"stopped by the test; \d of 4 runs done"):
        compared.run_on_ray(lambda run: None, None, None)
    kept = trials(stopped)
    assert 0 < len(kept) < len(trials(undisturbed))
    nodes.have(1)
    comparison(stopped).run_on_ray(lambda run: None, None, None)
    assert outcomes(stopped) == outcomes(undisturbed)
    assert sorted(trials(stopped)) == sorted(trials(undisturbed))
    assert set(kept) <= set(trials(stopped))


def test_a_run_that_hangs_is_given_up(nodes, tmp_path, monkeypatch):
    problem = Problem(SMALL, Hashed(SMALL), budget=Budget(evaluations=5))
    compared = Comparison({"p": problem}, {"stalls": Stalls(), "random": RandomSearch()}, range(1), tmp_path)
    pools, runs = [], []

    class Pool(ActorPool):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            pools.append(self)

    def hear(run):
        runs.append(run)
        if run.agent == "random":
            assert pools[0].limit == 25.0
            pools[0].limit = 1.0

    nodes.have(2)
    monkeypatch.setattr(comparison_on_ray, "ActorPool", Pool)
    compared.run_on_ray(hear, None, 25.0)
    errors = {run.agent: run.error for run in runs}
    assert errors.pop("stalls").startswith("timeout: the worker hung on node ")
    assert errors == {"random": None}


def test_faults_and_settings_of_no_use_are_one_line(nodes, tmp_path):
    compared = Comparison(
        {"p": Problem(SMALL, Refused(SMALL), budget=Budget(evaluations=5))}, {"r": RandomSearch()}, range(1), tmp_path
    )
    nodes.have(1)
    with pytest.raises(InputError, match="the disk is gone"):
        compared.run_on_ray(lambda run: None, None, None)
    problem = Problem(SMALL, Hashed(SMALL), budget=Budget(evaluations=5))
    compared = Comparison({"p": problem}, {"r": RandomSearch()}, range(1), tmp_path / "other", "runs/cache.db")
    with pytest.raises(InputError, match=r"cannot share the file runs/cache\.db as a cache"):
        compared.run_on_ray(lambda run: None, "auto", None)
