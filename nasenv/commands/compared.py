"""What a comparison compares: agents, problems and published figures, from the options of ``nasenv compare``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from nasenv.agents.agent import Agent
from nasenv.agents.local_search import LocalSearch
from nasenv.agents.model_assisted_ppo import ModelAssistedPPO
from nasenv.agents.random_search import RandomSearch
from nasenv.agents.regularized_evolution import RegularizedEvolution
from nasenv.agents.reinforce import Reinforce
from nasenv.agents.sb3 import MaskablePPO
from nasenv.commands.arguments import make
from nasenv.comparison.findings import Metric
from nasenv.comparison.problem import Problem
from nasenv.comparison.report import Published
from nasenv.configuration import without_derived
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Objective
from nasenv.search.budget import Budget
from nasenv.spaces.space import SearchSpace

SHIPPED = {  # what is compared on where nothing is said
    "chain_cnn_digits": {
        "space": {"class_path": "ChainCNN", "init_args": {"max_layers": 3, "widths": [16]}},
        "evaluator": {"class_path": "TableEvaluator", "init_args": {"table": "chain_cnn_digits"}},
    }
}


def default_agents() -> dict[str, Agent]:
    """Return what is compared where nothing is said."""
    return {
        "random": RandomSearch(),
        "evolution": RegularizedEvolution(),
        "local_search": LocalSearch(),
        "reinforce": Reinforce(),
        "maskable_ppo": MaskablePPO(),
        "model_assisted_ppo": ModelAssistedPPO(),
    }


def problems_of(
    space: SearchSpace | None,
    evaluator: Evaluator | None,
    objective: Objective,
    budget: Budget,
    problems: Mapping[str, Any] | None,
) -> dict[str, Problem]:
    """Return the problems by name: the one of the options, those of the file, or the shipped one.

    Raises:
        InputError: a space without an evaluator or the reverse, both ways at once, or a problem that cannot be made.
        SystemExit: code 2 after one line on stderr where a problem of the file has options that it cannot have.
    """
    if (space is None) != (evaluator is None):
        raise InputError("give both --space and --evaluator, or neither: an evaluator is made for a space")
    if space is None or evaluator is None:
        common = {"objective": objective.config(), "budget": asdict(budget)}
        named = SHIPPED if problems is None else problems
        return {name: _problem(name, values, common) for name, values in named.items()}
    if problems:
        raise InputError("give either --space and --evaluator or problems, not both")
    data = evaluator.dataset.name if evaluator.dataset else type(evaluator).__name__
    return {f"{type(space).__name__}-{data}": Problem(space, evaluator, objective, budget)}


def _problem(name: str, values: Any, common: Mapping[str, Any]) -> Problem:
    """Return the problem of a file: what it does not say is as in all; of its budget, what it says counts."""
    budget = values.get("budget", {}) if isinstance(values, Mapping) else None
    if not isinstance(budget, Mapping):
        raise InputError(f"problem {name}: expected options, among them perhaps budget with its own, got {values}")
    try:
        options = {**common, **values, "budget": {**common["budget"], **budget}}
        return make(Problem, f"nasenv compare: problem {name}", options)
    except InputError as error:
        raise InputError(f"problem {name}: {error}") from error


def published_of(published: Mapping[str, Any], problems: Mapping[str, Problem]) -> dict[str, Published]:
    """Return what others published, by problem.

    Raises:
        InputError: an unknown problem, or values of another form than ``source`` and metric -> agent -> [mean, std].
    """
    for problem in published:
        if problem not in problems:
            raise InputError(f"published: there is no problem {problem!r}; there are {', '.join(problems)}")
    return {problem: _published(values) for problem, values in published.items()}


def _published(values: Any) -> Published:
    wrong = InputError(
        "published: expected `source` and, for reward, val_accuracy or test_accuracy, agent: "
        f"[mean, standard deviation], got {values}"
    )
    by_agent: dict[str, dict[Metric, tuple[float, float]]] = {}
    try:
        rest = dict(values)
        source = str(rest.pop("source"))
        for metric in get_args(Metric):
            for agent, (mean, std) in rest.pop(metric, {}).items():
                by_agent.setdefault(str(agent), {})[metric] = (float(mean), float(std))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise wrong from None
    numbers = [number for of_agent in by_agent.values() for pair in of_agent.values() for number in pair]
    if rest or not all(map(math.isfinite, numbers)):
        raise wrong
    return Published(source, by_agent)


def config_of(
    agents: Mapping[str, Agent], problems: Mapping[str, Problem], metric: Metric, published: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what is compared, as ``--config`` reads it."""
    return {
        "agents": {name: agent.config() for name, agent in agents.items()},
        "problems": {name: without_derived(problem.config()) for name, problem in problems.items()},
        "metric": metric,
        **({"published": dict(published)} if published else {}),
    }
