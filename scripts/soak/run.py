"""The search that the soak kills: small networks on digits, by any agent, as ``nasenv train`` runs it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from nasenv import Architecture, Budget, ChainCNN, Data, Score, Task, TrainingEvaluator, agents
from nasenv.agents import Agent
from nasenv.commands.reproduce import reproduce
from nasenv.commands.train import train

AGENTS: dict[str, Callable[[], Agent]] = {
    **{name: getattr(agents, name) for name in agents.__all__ if name not in ("Agent", "StableBaselines")},
    "StableBaselines": lambda: agents.StableBaselines(agents.A2C().algorithm),
    "AsynchronousEvolution": lambda: agents.RegularizedEvolution(10, 3, asynchronous=True),
}
PRELOADED = [
    "scripts.soak.run",
    "nasenv.records.run_directory",
    "torch._dynamo",
    "optuna",
    "matplotlib.pyplot",
    "sklearn.datasets",
]
"""What takes seconds to import, so that a process of `train_once` need not do it."""

_TRAININGS = "SOAK_TRAININGS"  # in the environment, as worker processes inherit it: the file that trainings are told to


class ToldChain(ChainCNN):
    """Builds chains of two layers whose networks append a line to a file when their training starts."""

    def __init__(self, task: Task | None = None) -> None:
        super().__init__(2, (4, 8), task)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the network."""
        network = super().build(architecture)
        network.register_forward_pre_hook(_Telling(self.to_text(architecture)))
        return network


class _Telling:
    """Appends a network's text to the file at its first training step, in one write."""

    def __init__(self, text: str) -> None:
        self._line, self._told = f"{text}\n".encode(), False

    def __call__(self, network: nn.Module, inputs: Any) -> None:
        if network.training and not self._told:
            self._told = True
            file = os.open(os.environ[_TRAININGS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, self._line)
            os.close(file)


def train_once(folder: Path, agent: str, workers: int, cache: bool, seed: int, evaluations: int) -> None:
    """Search in a run directory, or resume there."""
    _tell(folder)
    space = ToldChain()
    evaluator = TrainingEvaluator(space, "digits", epochs=1, batch_size=256, final_epochs=1, concurrency=workers)
    budget = Budget(evaluations, finalists=3, final_seeds=2)
    store = str(folder.with_suffix(".db")) if cache else "none"
    train(space, evaluator, AGENTS[agent](), Score(), budget, Data(), seed, str(folder), store)


def reproduce_once(folder: Path, again: Path) -> None:
    """Repeat a finished asynchronous search with its completion order; exit with 0 if that was followed."""
    _tell(again)
    sys.exit(reproduce(str(folder), str(again)))


def _tell(folder: Path) -> None:
    """Write messages to ``<folder>.log``, and trainings to `trainings_file`."""
    os.environ[_TRAININGS] = str(trainings_file(folder))
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())


def trainings_file(folder: Path) -> Path:
    """Return the file that has a line for each training that was begun for a run directory."""
    return folder.with_suffix(".trainings")
