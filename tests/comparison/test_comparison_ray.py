"""Comparisons whose runs are spread over a Ray cluster come out as on one machine."""

import threading
import time

import pytest

from nasenv.agents.agent import Agent
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.errors import InputError, SearchStopped
from nasenv.evaluators.table import TableEvaluator
from nasenv.search.budget import Budget
from nasenv.spaces.chain_cnn import ChainCNN
from tests.comparison.test_comparison_stop import comparison, outcomes, trials
from tests.fakes import Hashed

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install nasenv[ray]")

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
def cluster():
    """A head without processors, two nodes of one each, and this process among them."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    ray.init(made.address, log_to_driver=False, logging_level="CRITICAL")
    yield made
    ray.shutdown()
    made.shutdown()


def on_a_table(folder):
    problem = Problem(TABLE, TableEvaluator(TABLE, "chain_cnn_digits"), budget=Budget(evaluations=30))
    agents = {"random": RandomSearch(), "evolution": RegularizedEvolution(8, 3)}
    return Comparison({"p": problem}, agents, range(3), folder)


def test_a_comparison_on_a_table_is_the_same_though_a_node_is_lost(cluster, tmp_path):
    here, there = on_a_table(tmp_path / "here"), on_a_table(tmp_path / "there")
    here.run(lambda run: None, 0, None)
    done = []

    def hear(run):
        done.append(run)
        if len(done) == 1:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    there.run_on_ray(hear, cluster.address, 100.0)
    assert len(done) == 6
    here.write_results(tmp_path / "here.csv")
    there.write_results(tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()
    assert [len(list(tmp_path.glob(f"{where}/runs/**/events*"))) for where in ("here", "there")] == [6, 6]
    assert on_a_table(tmp_path / "there").pending == []


def test_what_is_stopped_comes_back_and_goes_on(cluster, tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    comparison(undisturbed).run(lambda run: None, 0, None)
    compared = comparison(stopped)
    evaluator = compared.problems["p"].evaluator
    evaluator.began = tmp_path / "began"

    def stop():
        while not evaluator.began.exists():
            time.sleep(0.02)
        compared.stop("stopped by the test")

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SearchStopped, match=r"stopped by the test; \d of 4 runs done"):
        compared.run_on_ray(lambda run: None, None, None)
    kept = trials(stopped)
    assert 0 < len(kept) < len(trials(undisturbed))
    comparison(stopped).run_on_ray(lambda run: None, None, None)
    assert outcomes(stopped) == outcomes(undisturbed)
    assert sorted(trials(stopped)) == sorted(trials(undisturbed))
    assert set(kept) <= set(trials(stopped))


def test_a_run_that_hangs_is_given_up(cluster, tmp_path):
    problem = Problem(SMALL, Hashed(SMALL), budget=Budget(evaluations=5))
    compared = Comparison({"p": problem}, {"stalls": Stalls(), "random": RandomSearch()}, range(1), tmp_path)
    runs = []
    compared.run_on_ray(runs.append, None, 25.0)  # a worker starts in seconds, on a busy machine in many
    errors = {run.agent: run.error for run in runs}
    assert errors.pop("stalls").startswith("timeout: the worker hung on node ")
    assert errors == {"random": None}


def test_faults_and_settings_of_no_use_are_one_line(cluster, tmp_path):
    compared = Comparison(
        {"p": Problem(SMALL, Refused(SMALL), budget=Budget(evaluations=5))}, {"r": RandomSearch()}, range(1), tmp_path
    )
    with pytest.raises(InputError, match="the disk is gone"):
        compared.run_on_ray(lambda run: None, None, None)
    problem = Problem(SMALL, Hashed(SMALL), budget=Budget(evaluations=5))
    compared = Comparison({"p": problem}, {"r": RandomSearch()}, range(1), tmp_path / "other", "runs/cache.db")
    with pytest.raises(InputError, match=r"cannot share the file runs/cache\.db as a cache"):
        compared.run_on_ray(lambda run: None, "auto", None)
