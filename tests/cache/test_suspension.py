"""A search that was suspended for longer than its leases last trains nothing that another has taken over meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nasenv.agents import RandomSearch
from nasenv.cache import leases
from nasenv.cache.cache import Cache
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import OneByOne

ROOT = Path(__file__).parents[2]
SPACE = ChainCNN(max_layers=2)
BUDGET = Budget(6)
AGENTS = {"batch": lambda: RandomSearch(batch_size=6), "asynchronous": lambda: RandomSearch(asynchronous=True)}


class Slow(OneByOne):
    """Takes a while for each training, one after the other, and notes in a folder what it has begun."""

    def __init__(self, space, folder, seconds=0.0):
        super().__init__(space)
        self.folder, self.seconds = Path(folder), seconds

    def fingerprint(self):
        return "slow"

    def figure(self, architecture):
        (self.folder / f"{time.monotonic_ns()}").write_text(str(architecture))
        time.sleep(self.seconds)
        return super().figure(architecture)

    @property
    def slots(self):
        return 4


def hurry():
    leases._BEAT_SECONDS, leases._DEAD_SECONDS, leases._LONGEST_LOOK = 0.2, 2.0, 0.5


def searched(place, folder, agent, seconds=0.0):
    """Return the rewards of a search."""
    evaluator = Slow(SPACE, folder, seconds)
    with Cache(place) as cache, Search(SPACE, evaluator, agent, BUDGET, cache=cache, seed=3) as search:
        search.run()
        return sorted(outcome.reward for outcome in search.history)


def begun(folder):
    return [path.read_text() for path in sorted(folder.iterdir())]


PROGRAM = """
import json, os, sys
from tests.cache.test_suspension import AGENTS, hurry, searched
hurry()
for line in sys.stdin:
    place, folder, kind = json.loads(line)
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        print(*searched(place, folder, AGENTS[kind](), seconds=0.6), flush=True)
        os._exit(0)  # an error ends it with 1 and its traceback
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def program():
    """A program that forks a process for each search that it is told of, as importing PyTorch takes seconds."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, bufsize=1, **pipes) as made:
        yield made
        made.stdin.close()


@pytest.fixture
def suspended(program):
    """A function that starts a search in a process of its own and returns its process id."""
    limit = threading.Timer(120, program.kill)
    limit.start()

    def start(*search):
        print(json.dumps([*map(str, search)]), file=program.stdin)
        return int(program.stdout.readline())

    yield start
    limit.cancel()


@pytest.mark.parametrize("kind", AGENTS)
def test_it_looks_again_when_it_wakes(kind, place, program, suspended, tmp_path, monkeypatch):
    for name in ("_BEAT_SECONDS", "_DEAD_SECONDS", "_LONGEST_LOOK"):
        monkeypatch.setattr(leases, name, getattr(leases, name))
    hurry()
    folders = tmp_path / "suspended", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    pid = suspended(place, folders[0], kind)
    while not list(folders[0].iterdir()):
        time.sleep(0.02)
    os.kill(pid, signal.SIGSTOP)
    try:
        expected = searched(place, folders[1], AGENTS[kind]())
    finally:
        os.kill(pid, signal.SIGCONT)
    rewards = program.stdout.readline().split()
    assert program.stdout.readline() == "0\n"
    assert len(begun(folders[0])) == 1, "it trained again what the other had taken over and measured"
    assert rewards == list(map(str, expected))
