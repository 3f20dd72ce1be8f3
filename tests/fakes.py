"""What stands in for the real thing in tests: evaluators by a formula, evaluators and agents that go wrong, signals.

Worker processes and programs can import it.
"""

import os
import random
import signal
import time
import uuid
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nasenv.agents.random_search import RandomSearch
from nasenv.configuration import digest
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.task import Images, Task
from nasenv.trial import Measurement

ODD_SEED = 1
TASK = Task(Images((1, 8, 8)), outputs=10)  # of the digits


class Formula(Evaluator):
    """Measures by ``figure``, and remembers the architectures of each call of ``measure`` in a search."""

    def __init__(self, space):
        super().__init__(space)
        self.calls = []

    def fingerprint(self):
        return digest(type(self).__name__)

    @abstractmethod
    def figure(self, architecture): ...

    def measure(self, trials):
        searched = [trial.architecture for trial in trials if trial.purpose == "search"]
        self.calls += [searched] if searched else []
        return [self.figure(trial.architecture) for trial in trials]


class Hashed(Formula):
    """Each architecture has a figure of its own, in [0, 1]; one in ten fails."""

    def figure(self, architecture):
        value = int(digest(architecture), 16) / 16**16
        if value < 0.1:
            return Measurement(None, error="diverged")
        return Measurement(value, metrics={"params": 100.0 + sum(architecture)})


class HiddenArchitecture(Formula):
    """An architecture is worth the share of its decisions that agree with a hidden one."""

    def __init__(self, space, hidden):
        super().__init__(space)
        self.hidden = space.check(hidden)

    def figure(self, architecture):
        agree = sum(a == h for a, h in zip(architecture, self.hidden, strict=True))
        return Measurement(agree / len(self.hidden))


class OneByOne(Hashed):
    """Answers each trial when it has ended, as a pool of workers does."""

    def measure(self, trials):
        raise NotImplementedError

    def completed(self, stopped=lambda: False):
        try:
            while self._submitted and not stopped():
                trial = self._submitted.popleft()
                yield trial, self.figure(trial.architecture)
        finally:
            self._submitted.clear()


class Faulty(Hashed):
    """As `Hashed`, but for what files of a folder say; each is obeyed by one evaluation, ``always-`` ones by all."""

    excluded_from_identity = ("folder", "seconds")

    def __init__(self, space, folder, seconds=0.02):
        super().__init__(space)
        self.folder, self.seconds = Path(folder), seconds
        self.timeout_seconds = 3.0

    def fingerprint(self):
        return digest("faulty")

    def measure(self, trials):
        time.sleep(self.seconds)
        for order in self.folder.glob("*"):
            if order.name.startswith("always-"):
                self.obey(order.name.removeprefix("always-"))
            elif order.name in FAULTS:
                try:
                    order.rename(order.with_name(f"obeyed-{uuid.uuid4()}"))
                except FileNotFoundError:  # by another
                    continue
                self.obey(order.name)
        return super().measure(trials)

    def obey(self, fault):
        FAULTS[fault]()


class LateDropout(nn.Dropout):
    """Drops nothing in its first three passes."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        return super().forward(x) if self.passes > 3 else x


class Attentive(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(8, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


RANDOM_LAYERS = {
    "none": nn.Identity,
    "dropout": nn.Dropout,
    "late dropout": LateDropout,
    "rrelu": lambda: nn.RReLU(0.1, 0.9),
    "attention": Attentive,
    "lstm": lambda: nn.LSTM(8, 8, 2, batch_first=True, dropout=0.5),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)),
}


class RandomNetworks(SearchSpace):
    """Networks for the digits that draw random numbers in many ways, or none."""

    def __init__(self, task=TASK):
        super().__init__([Decision("layer", tuple(RANDOM_LAYERS))], task)

    def build(self, architecture):
        layer = RANDOM_LAYERS[self.decisions[0].choices[architecture[0]]]()
        network = nn.Sequential(nn.Flatten(1, 2), layer, First(), nn.Flatten(), nn.LazyLinear(10))
        network(torch.zeros(1, *self.task.shape))
        network[-1].bias.data += 0.1 * torch.randn(10) + torch.rand(10) / torch.randint(1, 5, (10,))
        return network


class First(nn.Module):
    """Takes the first of several outputs."""

    def forward(self, x):
        return x[0] if isinstance(x, tuple) else x


def kill_node():
    """End the raylet whose worker this is."""
    parent = os.getppid()
    assert Path(f"/proc/{parent}/comm").read_text().strip() == "raylet"
    os.kill(parent, signal.SIGKILL)
    time.sleep(60)


def kill_worker():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(60)


def fail():
    raise RuntimeError("a fault\nof the user's own")


def refuse():
    raise InputError("the data are bad")


FAULTS = {"node": kill_node, "worker": kill_worker, "hang": hang, "fail": fail, "refuse": refuse}


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
        search.evaluate([one_architecture(search)])
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
            search.evaluate([one_architecture(search)] * 4)


class Leaves(Odd):
    def go_wrong(self, search):
        search.evaluate([one_architecture(search)])


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


def one_architecture(search):
    return search.space.sample(1, np.random.default_rng(search.seed))[0]


def hearing():
    """Undo in a child what ``nohup`` and a script's ``&`` do: they leave signals ignored (for ``preexec_fn``)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


# Settings under which Stable-Baselines3's algorithms learn from short episodes; their own are for long ones. An episode
# has some 25 steps, so PPO's own n_steps of 2048 would be 82 trainings before its first update, DQN's own exploration
# would outlast a search, and its own replay buffer of a million observations takes gigabytes.
_PPO: dict[str, Any] = {
    "n_steps": 200,  # 8 architectures an update
    "batch_size": 200,
    "n_epochs": 10,
    "learning_rate": 3e-3,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "ent_coef": 0.01,
}
_A2C: dict[str, Any] = {
    "n_steps": 25,
    "learning_rate": 7e-3,
    "gamma": 1.0,
    "ent_coef": 0.01,
    "normalize_advantage": True,
    "use_rms_prop": False,
}
_TRPO: dict[str, Any] = {
    "n_steps": 200,
    "batch_size": 200,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "target_kl": 0.05,
    "learning_rate": 3e-3,
}
_DQN: dict[str, Any] = {
    "buffer_size": 10_000,
    "learning_starts": 250,
    "train_freq": 4,
    "gradient_steps": 1,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "gamma": 1.0,
    "target_update_interval": 100,
    "exploration_fraction": 0.5,
    "exploration_final_eps": 0.02,
}
_RECURRENT_PPO: dict[str, Any] = _PPO | {"n_epochs": 5, "policy_kwargs": {"lstm_hidden_size": 64}}
_QRDQN: dict[str, Any] = _DQN | {"policy_kwargs": {"n_quantiles": 25}}  # its own 200 take ten times as long
SHORT_EPISODES = {
    "PPO": _PPO,
    "MaskablePPO": _PPO,
    "RecurrentPPO": _RECURRENT_PPO,
    "A2C": _A2C,
    "TRPO": _TRPO,
    "DQN": _DQN,
    "QRDQN": _QRDQN,
}
