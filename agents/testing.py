"""The contract of an agent as tests, to be inherited by the test class of any agent."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nasenv.agents.agent import Agent
from nasenv.configuration import digest
from nasenv.errors import counted
from nasenv.evaluators.evaluator import Evaluator, never
from nasenv.records.replay import CompletionOrder
from nasenv.search.budget import Budget
from nasenv.search.history import Answers
from nasenv.search.index import Architectures
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.space import SearchSpace
from nasenv.task import Task
from nasenv.trial import Architecture, Measurement, Trial

_EVALUATIONS = 23  # of a search, so that no batch of 2 or more ends with it


class Formula(Evaluator):
    """Scores each architecture by a hash, without training; some architectures fail.

    Args:
        space: the space whose architectures it measures.
        failing: share of the architectures whose evaluation fails.
        accuracy: accuracy of all others; None gives each its own.
    """

    trains = False

    def __init__(self, space: SearchSpace, failing: float = 0.1, accuracy: float | None = None) -> None:
        super().__init__(space)
        self.failing, self.accuracy = failing, accuracy

    def fingerprint(self) -> str:
        """Return a hash of the arguments."""
        return digest([type(self).__name__, self.failing, self.accuracy])

    def measure(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the hashed score of each trial's architecture."""
        return [self._measure(trial.architecture) for trial in trials]

    def _measure(self, architecture: Architecture) -> Measurement:
        value, chance = (int(digest([word, architecture]), 16) / 16**16 for word in ("accuracy", "failure"))
        if chance < self.failing:
            return Measurement(None, error="diverged")
        return Measurement(value if self.accuracy is None else self.accuracy)


class AnyOrder(Formula):
    """Simulates measuring several architectures at once; a random generator decides which ends first.

    Args:
        space: the space whose architectures it measures.
        failing: share of the architectures whose evaluation fails.
        slots: how many it works on at once.
        order: seeds the generator.
    """

    trains = True
    excluded_from_identity = ("slots", "order")

    def __init__(self, space: SearchSpace, failing: float = 0.1, slots: int = 3, order: int = 0) -> None:
        super().__init__(space, failing)
        self._slots, self._order = slots, np.random.default_rng(order)
        self.at_work: list[Trial] = []

    @property
    def slots(self) -> int:
        """Return how many architectures it measures at once."""
        return self._slots

    def completed(self, stopped: Callable[[], bool] = never) -> Iterator[tuple[Trial, Measurement]]:
        """Yield trials with their scores, in random order among those in flight."""
        self.at_work.clear()
        while True:
            while self._submitted and len(self.at_work) < self._slots and not stopped():
                self.at_work.append(self._submitted.popleft())
            if not self.at_work:
                self._submitted.clear()
                return
            trial = self.at_work.pop(self._order.integers(len(self.at_work)))
            yield trial, self.measure([trial])[0]


class AgentContract:
    """Tests what holds for every agent; pytest runs the tests of any class that inherits from this one.

    In ``test_my_agent.py``, for pytest to collect it, a class whose name starts with Test::

        from my_agent import MyAgent
        from nasenv.agents.testing import AgentContract

        class TestMyAgent(AgentContract):
            def make(self):
                return MyAgent()

    Attributes:
        touches_global_state: set it to True for an agent that seeds or uses the global random generators of Python,
            NumPy or PyTorch, as Stable-Baselines3 does. Two of its searches in one process then disturb each other.
    """

    touches_global_state = False

    def make(self) -> Agent:
        """Return a new agent; every test makes its own."""
        raise NotImplementedError(f"{type(self).__name__} has no method make that returns an agent")

    def make_again(self, config: dict[str, Any]) -> Agent:
        """Return an agent made from what ``config()`` returned; override it if an argument has no plain form."""
        return type(self.make())(**config["init_args"])

    def test_keeps_the_budget_exactly_and_proposes_valid_architectures(self) -> None:
        """Check this also for a budget below a batch, in a space whose masks forbid some choices."""
        for evaluations in (1, 2, _EVALUATIONS):
            search = self._searched(evaluations=evaluations)
            assert search.ended == f"the budget of {counted(evaluations, 'evaluation')} is used up", search.ended
            assert len(search.history) == evaluations
            assert all(search.space.check(o.architecture) for o in search.history)

    def test_goes_the_same_way_with_a_smaller_budget(self) -> None:
        """Check that its first proposals do not depend on the budget, unless it plans by the budget."""
        assert self._proposed(evaluations=5) == self._proposed()[:5]

    def test_repeats_itself_by_its_seed_alone(self) -> None:
        """Check that its proposals depend on the seed, and not on the state of the global generators."""
        first = self._proposed(seed=1)
        _disturb_global_generators()
        assert first == self._proposed(seed=1), "the same seed led to other architectures: not all randomness is seeded"
        assert first != self._proposed(seed=2), "another seed led to the same architectures"

    def test_starts_fresh_in_a_second_search(self) -> None:
        """Check that the same object forgets its first search."""
        agent = self.make()
        searches = [self._searched(agent=agent) for _ in range(2)]
        first, second = ([o.architecture for o in s.history] for s in searches)
        assert first == second, "the second search of one agent went another way than its first"

    def test_made_again_from_its_config_it_does_the_same(self) -> None:
        """Check that an agent made from ``config()`` proposes the same."""
        config = self.make().config()
        again = self.make_again(config)
        assert again.config() == config
        assert self._proposed(agent=again) == self._proposed()

    def test_leaves_the_global_generators_alone(self) -> None:
        """Check that the generators of Python, NumPy and PyTorch are as they were before the search."""
        if self.touches_global_state:
            return
        before = _global_state()
        self._searched()
        changed = [name for name, state in _global_state().items() if state != before[name]]
        assert not changed, f"the search used the global random generator of {', '.join(changed)}"

    def test_survives_failures(self) -> None:
        """Check that it goes on when some evaluations fail, or all do."""
        for failing in (0.5, 1.0):
            space = _masked_space()
            assert len(self._searched(space, Formula(space, failing)).history) == _EVALUATIONS

    def test_survives_equal_rewards(self) -> None:
        """Check that it goes on when all architectures have the same reward."""
        space = _masked_space()
        assert len(self._searched(space, Formula(space, 0.0, 0.5)).history) == _EVALUATIONS

    def test_ends_in_a_space_of_one_architecture(self) -> None:
        """Check that its search ends in a space of one architecture."""
        search = self._searched(ChoiceSpace({"a": (1,), "b": (2,)}, _no_network))
        assert search.ended == "the only architecture of the space is evaluated", search.ended

    def test_ends_in_a_space_smaller_than_its_budget(self) -> None:
        """Check that its search ends once all architectures are evaluated, or it only repeats itself."""
        search = self._searched(ChoiceSpace({"a": (1, 2), "b": (3, 4, 5)}, _no_network), repeats=2)
        assert search.ended is not None
        ends = ("all 6 architectures", "the agent proposes what it proposed before")
        assert search.ended.startswith(ends), search.ended

    def test_goes_on_from_starting_architectures(self) -> None:
        """Check that it accepts evaluations before its first proposal: one, some, or failures."""
        space = _masked_space()
        for n, failing in ((1, 0.0), (9, 0.1), (3, 1.0)):
            start = list(dict.fromkeys(space.sample(3 * n, np.random.default_rng(n))))[:n]
            ways = [self._searched(space, Formula(space, failing), start=start) for _ in range(2)]
            first, second = ([o.architecture for o in search.history] for search in ways)
            assert first == second, "the same starting architectures and seed led to other architectures"
            assert first[:n] == start
            assert len(first) == _EVALUATIONS, ways[0].ended

    def test_asynchronous_it_follows_from_the_order_of_the_answers(self) -> None:
        """Check that an asynchronous agent accepts answers in any order, and repeats itself for the same."""
        config = self.make().config()
        if "asynchronous" not in config["init_args"]:
            return
        config["init_args"]["asynchronous"] = True
        space, agent = _masked_space(), self.make_again(config)
        for failing in (0.1, 1.0):
            first = self._searched(space, AnyOrder(space, failing, order=1), agent)
            assert first.ended == f"the budget of {_EVALUATIONS} evaluations is used up", first.ended
            architectures = [o.architecture for o in first.history]
            evaluator = AnyOrder(space, failing, slots=2, order=2)
            order = CompletionOrder(first.slots, architectures)
            again = self._searched(space, evaluator, self.make_again(config), completion_order=order)
            proposed = [outcome.architecture for outcome in again.history]
            assert proposed == architectures, "the same answers led to other architectures"

    def _searched(
        self,
        space: SearchSpace | None = None,
        evaluator: Evaluator | None = None,
        agent: Agent | None = None,
        seed: int = 0,
        evaluations: int = _EVALUATIONS,
        start: Sequence[Architecture] = (),
        repeats: int = 20,
        completion_order: CompletionOrder | None = None,
    ) -> Search:
        space = space or _masked_space()
        budget = Budget(evaluations, repeats_per_evaluation=repeats)
        parts = (space, evaluator or Formula(space), agent or self.make(), budget)
        search = _Watched(*parts, seed=seed, start=start, completion_order=completion_order)
        search.run()
        return search

    def _proposed(self, **options: Any) -> list[Architecture]:
        return [o.architecture for o in self._searched(**options).history]


class _Watched(Search):
    """Checks that an agent proposes no more architectures at a time than it may."""

    def evaluate(self, architectures: Architectures, fidelity: float = 1.0, *, by: str = "agent") -> Answers:
        most = max(getattr(self.agent, "batch_size", len(architectures)), len(self.start))
        assert len(architectures) <= most, f"{len(architectures)} architectures at a time, the batch_size is {most}"
        return super().evaluate(architectures, fidelity, by=by)


def _masked_space() -> SearchSpace:
    return ChainCNN(max_layers=2)


def _no_network(task: Task, **choices: int) -> nn.Module:
    raise NotImplementedError("architectures of this space are not to be trained")


def _global_state() -> dict[str, str]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002, the global generator is what is looked at
    return {
        "Python": repr(random.getstate()),
        "NumPy": repr([numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]]),
        "PyTorch": repr(torch.get_rng_state().tolist()),
    }


def _disturb_global_generators() -> None:
    random.random()
    np.random.random()  # noqa: NPY002, the global generator is what is disturbed
    torch.rand(1)
