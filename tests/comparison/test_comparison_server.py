"""A comparison whose cache's server is away as a run begins, or as it ends."""

import pytest

from nasenv.agents.random_search import RandomSearch
from nasenv.cache import database
from nasenv.cache.cache import Cache
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.errors import InputError
from nasenv.search.budget import Budget
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed

SPACE = ChainCNN(max_layers=2)


@pytest.fixture
def server(postgresql, monkeypatch):
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(database, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr("nasenv.cache.postgresql._REST_SECONDS", 0.0)
    monkeypatch.setattr("nasenv.cache.cache._LAST_SECONDS", 0.0)
    postgresql.empty()
    yield postgresql
    postgresql.start()


def comparison(folder, url):
    problem = Problem(SPACE, Hashed(SPACE), budget=Budget(6, final_seeds=1))
    return Comparison({"p": problem}, {"random": RandomSearch(batch_size=3)}, range(2), folder, url)


def compared(folder, url, then=lambda run: None):
    started = comparison(folder, url)
    with started.held():
        started.run(then, 0, None)


def test_runs_are_done_while_the_server_is_away_and_the_next_start_brings_what_they_measured(server, tmp_path):
    compared(tmp_path, server.url, lambda run: server.kill() if run.seed == 0 else None)
    assert comparison(tmp_path, server.url).pending == []
    with pytest.raises(InputError, match="does not answer"):
        compared(tmp_path, server.url)
    server.start()
    with Cache(server.url) as cache:
        before = len(cache)
        compared(tmp_path, server.url)
        assert len(cache) > before > 0
