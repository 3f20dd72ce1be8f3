"""Reads the evaluations of a run, and makes its space again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nasenv.configuration import import_path
from nasenv.errors import InputError
from nasenv.files import user_path
from nasenv.objectives import Score
from nasenv.records.journal import Journal
from nasenv.records.run_directory import JOURNAL
from nasenv.spaces.space import SearchSpace
from nasenv.task import Task
from nasenv.trial import Architecture

_GIVE_SPACE = "in Python, give the space: of=..."


@dataclass(frozen=True)
class RunEvaluations:
    """Holds what a run has evaluated at its highest fidelity.

    Args:
        space: the space that was searched.
        architectures: the n architectures, in the order in which they were evaluated.
        rewards: reward of each, (n,); of a failure, what was paid for it.
        failed: whether the evaluation of each failed, (n,).
        run: name of the run.
        metric: what the rewards are: the metric of the scores, or ``reward`` if an objective made others of them.
    """

    space: SearchSpace
    architectures: list[Architecture]
    rewards: NDArray[np.float64]
    failed: NDArray[np.bool_]
    run: str = ""
    metric: str = "reward"

    @classmethod
    def read(cls, run: str | Path, space: SearchSpace | None = None, task: Task | None = None) -> Self:
        """Return the evaluations in the folder of a run, which may still be going on.

        Args:
            run: the folder.
            space: the space that was searched; by default it is made again from the journal.
            task: the task of the space; by default that of the run.

        Raises:
            InputError: no journal, a damaged one, or one without evaluations; a space that is not the run's.
        """
        folder = user_path(str(run))
        if not (folder / JOURNAL).exists():
            raise InputError(f"{folder} holds no {JOURNAL}; expected the folder of a run")
        header, entries = Journal.read(folder / JOURNAL)
        config = header["config"]
        try:
            made = _made(config["space"], task) if space is None else space
            theirs = config["fingerprint"]["space"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / JOURNAL} does not say which space was searched: {error!r}") from None
        if made.fingerprint() != theirs:
            raise InputError(
                f"the space that {folder} searched, {config['space']['class_path']}, is not this one: its code, its "
                "arguments or its data are others now"
            )
        if not entries:
            raise InputError(f"{folder} has no evaluations yet")
        highest = max(entry["fidelity"] for entry in entries)
        entries = [entry for entry in entries if entry["fidelity"] == highest]
        architectures = made.check_all([entry["architecture"] for entry in entries])
        rewards = np.array([entry["reward"] for entry in entries], dtype=np.float64)
        failed = np.array([entry.get("error") is not None for entry in entries], dtype=np.bool_)
        paid_scores = config["objective"]["class_path"] == import_path(Score)
        metric = made.task.metric if paid_scores else "reward"
        return cls(made, architectures, rewards, failed, folder.resolve().name, metric)


def _made(config: Mapping[str, Any], task: Task | None) -> SearchSpace:
    """Return the space of a configuration, as `Configurable.config` returns it.

    Its module is imported, as ``nasenv train --config`` does: the run is the user's own.
    """
    name, arguments = str(config["class_path"]), dict(config["init_args"])
    try:
        if "of" in arguments:  # a narrowed space
            arguments["of"] = _made(arguments["of"], task)
        if "task" in arguments:
            arguments["task"] = Task.from_json(arguments["task"]) if task is None else task
        module, _, attribute = name.rpartition(".")
        found = getattr(import_module(module), attribute)
        if not (isinstance(found, type) and issubclass(found, SearchSpace)):
            raise TypeError("it is not a class of SearchSpace")
        return found(**arguments)
    except Exception as error:  # a user's class can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"the run's space, {name}, cannot be made again: {reason}; {_GIVE_SPACE}") from error
