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
_ADVICE = (
    "An agent that knows all neighbours of where it is proposes a random architecture, space.sample(1, rng)[0], and "
    "goes on from there; to propose known ones again and again ends the search, and to propose none is an error"
)


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

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return a hashed number of params between 100 and 200."""
        return {"params": 100.0 + 100.0 * int(digest(["params", architecture]), 16) / 16**16}

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
            search = self._completed(evaluations=evaluations)
            for outcome in search.history:
                search.space.check(outcome.architecture)  # or raises which

    def test_goes_the_same_way_with_a_smaller_budget(self) -> None:
        """Check that its first proposals do not depend on the budget, unless it plans by the budget."""
        small, large = self._searched(evaluations=5), self._searched()
        _check_same(small, large, "another budget led to other architectures", first_proposals=5)

    def test_repeats_itself_by_its_seed_alone(self) -> None:
        """Check that its proposals depend on the seed, and not on the state of the global generators."""
        first = self._searched(seed=1)
        _disturb_global_generators()
        again, other = self._searched(seed=1), self._searched(seed=2)
        _check_same(first, again, "the same seed led to other architectures: not all randomness is seeded")
        same = _proposed(first) == _proposed(other)
        assert not same, f"another seed led to the same architectures; {_ends(first, other)}"

    def test_starts_fresh_in_a_second_search(self) -> None:
        """Check that the same object forgets its first search."""
        agent = self.make()
        first, second = (self._searched(agent=agent) for _ in range(2))
        _check_same(first, second, "the second search of one agent went another way than its first")

    def test_made_again_from_its_config_it_does_the_same(self) -> None:
        """Check that an agent made from ``config()`` proposes the same."""
        config = self.make().config()
        again = self.make_again(config)
        assert again.config() == config, f"made from {config}, its config() is {again.config()}"
        _check_same(self._searched(), self._searched(agent=again), "made from its config(), it went another way")

    def test_leaves_the_global_generators_alone(self) -> None:
        """Check that the generators of Python, NumPy and PyTorch are as they were before the search."""
        if self.touches_global_state:
            return
        before = _global_state()
        search = self._searched()
        changed = [name for name, state in _global_state().items() if state != before[name]]
        assert not changed, f"the search used the global random generator of {', '.join(changed)}; {_ends(search)}"

    def test_survives_failures(self) -> None:
        """Check that it goes on when some evaluations fail, or all do."""
        for failing in (0.5, 1.0):
            space = _masked_space()
            self._completed(space, Formula(space, failing))

    def test_survives_constraints(self) -> None:
        """Check that an agent goes on until its budget or its looks are used up where half of all networks are over."""
        space, evaluations = ChainCNN(max_layers=2), 9
        evaluator = Formula(space)
        search = Search(space, evaluator, self.make(), Budget(evaluations), constraints=["params<=150"])
        search.run()
        history = search.history
        is_used_up = history.evaluations == evaluations or history.looks == 5 * evaluations
        assert is_used_up, f"with constraints the search ended early: {_ends(search)}; {_ADVICE}"

    def test_survives_equal_rewards(self) -> None:
        """Check that it goes on when all architectures have the same reward."""
        space = _masked_space()
        self._completed(space, Formula(space, 0.0, 0.5))

    def test_ends_in_a_space_of_one_architecture(self) -> None:
        """Check that its search ends in a space of one architecture."""
        search = self._searched(ChoiceSpace({"a": (1,), "b": (2,)}, _no_network))
        assert search.ended == "the only architecture of the space is evaluated", _ends(search)

    def test_ends_in_a_space_smaller_than_its_budget(self) -> None:
        """Check that its search ends once all architectures are evaluated, or it only repeats itself."""
        search = self._searched(ChoiceSpace({"a": (1, 2), "b": (3, 4, 5)}, _no_network), repeats=2)
        ends = ("all 6 architectures", "the agent proposes what it proposed before")
        assert str(search.ended).startswith(ends), _ends(search)

    def test_goes_on_from_starting_architectures(self) -> None:
        """Check that it accepts evaluations before its first proposal: one, some, or failures."""
        space = _masked_space()
        for n, failing in ((1, 0.0), (9, 0.1), (3, 1.0)):
            start = list(dict.fromkeys(space.sample(3 * n, np.random.default_rng(n))))[:n]
            first, second = (self._completed(space, Formula(space, failing), start=start) for _ in range(2))
            _check_same(first, second, "the same starting architectures and seed led to other architectures")
            assert _proposed(first)[:n] == start, f"the search did not begin with {start}; {_ends(first)}"

    def test_asynchronous_it_follows_from_the_order_of_the_answers(self) -> None:
        """Check that an asynchronous agent accepts answers in any order, and repeats itself for the same."""
        config = self.make().config()
        if "asynchronous" not in config["init_args"]:
            return
        config["init_args"]["asynchronous"] = True
        space, agent = _masked_space(), self.make_again(config)
        for failing in (0.1, 1.0):
            first = self._completed(space, AnyOrder(space, failing, order=1), agent)
            evaluator = AnyOrder(space, failing, slots=2, order=2)
            order = CompletionOrder(first.slots, _proposed(first))
            again = self._searched(space, evaluator, self.make_again(config), completion_order=order)
            _check_same(first, again, "the same answers led to other architectures")

    def _completed(
        self,
        space: SearchSpace | None = None,
        evaluator: Evaluator | None = None,
        agent: Agent | None = None,
        evaluations: int = _EVALUATIONS,
        start: Sequence[Architecture] = (),
    ) -> Search:
        """Return a search that has used up its budget; a failed assertion says how it ended instead."""
        search = self._searched(space, evaluator, agent, evaluations=evaluations, start=start)
        wanted = f"the budget of {counted(evaluations, 'evaluation')} is used up"
        assert (search.ended, len(search.history)) == (wanted, evaluations), _ends(search)
        return search

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


def _proposed(search: Search) -> list[Architecture]:
    return list(search.history.architectures)


def _check_same(first: Search, second: Search, fault: str, first_proposals: int | None = None) -> None:
    """Raise AssertionError, with the first proposal that differs, unless two searches went the same way."""
    ways = [_proposed(search)[:first_proposals] for search in (first, second)]
    number = next((n for n, pair in enumerate(zip(*ways, strict=False), 1) if pair[0] != pair[1]), None)
    where = f"after {min(map(len, ways))} equal ones, one search went on" if number is None else f"first at {number}"
    assert ways[0] == ways[1], f"{fault}, {where}; {_ends(first, second)}"


def _ends(*searches: Search) -> str:
    """Return as text how searches ended, and what an agent may do that came to its end too early."""
    ends = ", then ".join(f"{search.ended!r} after {counted(len(search.history), 'evaluation')}" for search in searches)
    return f"search.ended: {ends}. {_ADVICE}"


class _Watched(Search):
    """Checks that an agent proposes no more architectures at a time than it may."""

    def evaluate(self, architectures: Architectures, fidelity: float = 1.0, *, by: str = "agent") -> Answers:
        most = max(getattr(self.agent, "batch_size", len(architectures)), len(self.start))
        came = counted(len(architectures), "architecture")
        assert len(architectures) <= most, f"proposed {came} at a time, the batch_size is {most}; {_ends(self)}"
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
