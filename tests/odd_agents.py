"""Agents that go wrong in every way, on one seed; their module can be imported by worker processes."""

import os
import random
import time

import numpy as np
import torch

from nasenv.agents.random_search import RandomSearch
from nasenv.errors import InputError

ODD_SEED = 1


class Odd(RandomSearch):
    """Random search, but on one seed something else."""

    def __init__(self):
        super().__init__(batch_size=4)

    def run(self, search):
        if search.seed == ODD_SEED:
            self.go_wrong(search)
        else:
            super().run(search)


class Raises(Odd):
    def go_wrong(self, search):
        search.evaluate([one_design(search)])
        raise KeyError("no\nsuch key")


class Quits(Odd):
    def go_wrong(self, search):
        raise SystemExit(0)


class Refuses(Odd):
    def go_wrong(self, search):
        raise InputError("this space is not for me")


class Nonsense(Odd):
    def go_wrong(self, search):
        search.evaluate([(99,) * search.space.num_decisions])


class Stuck(Odd):
    def go_wrong(self, search):
        while True:
            search.evaluate([one_design(search)] * 4)


class Leaves(Odd):
    def go_wrong(self, search):
        search.evaluate([one_design(search)])


class Silent(Odd):
    def go_wrong(self, search):
        pass


class Hangs(Odd):
    def go_wrong(self, search):
        time.sleep(3600)


class Exits(Odd):
    def go_wrong(self, search):
        os._exit(7)


class Remembers(RandomSearch):
    """Keeps what it saw from one run to the next, were it not given a new copy of itself for each."""

    def __init__(self, batch_size: int = 4):
        super().__init__(batch_size)
        self.seen = []

    def run(self, search):
        if self.seen:
            raise RuntimeError("I have been here before")
        self.seen.append(search)
        super().run(search)


class DrawsGlobally(RandomSearch):
    """Draws from one of the global generators what it should from its own."""

    def __init__(self, of: str = "numpy"):
        super().__init__(batch_size=4)
        self.of = of

    def ask(self, n):
        draws = {
            "python": lambda: random.getrandbits(32),
            "numpy": lambda: np.random.randint(2**31),  # noqa: NPY002
            "torch": lambda: int(torch.randint(2**31, ())),
        }
        return self.space.sample(n, np.random.default_rng(draws[self.of]()))

    def begin(self, space, rng):
        self.space = space


class Slow(RandomSearch):
    """Takes its time, so that it can be killed in the middle."""

    def tell(self, outcomes):
        time.sleep(0.03)


def one_design(search):
    return search.space.sample(1, np.random.default_rng(search.seed))[0]
