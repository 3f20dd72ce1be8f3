"""The interface of a search towards agents, and layers that stand between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from nasenv.search.budget import Budget
from nasenv.search.history import Answers, History
from nasenv.search.index import Architectures
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture


class SearchLike(Protocol):
    """Defines what an agent may use of a `Search`, or of a `Layer` on it.

    Attributes:
        space: the search space.
        history: the evaluations so far.
        budget: limits of the search.
        slots: how many trials an asynchronous search begins with in flight at once.
        seed: seeds the agent.
        ended: why the search is over; None before.
        remaining: full trainings' worth left in the budget; None where there is no limit.
        is_logged: whether `log` writes to TensorBoard.
    """

    @property
    def space(self) -> SearchSpace: ...  # noqa: D102, described above, as are the others
    @property
    def history(self) -> History: ...  # noqa: D102
    @property
    def budget(self) -> Budget: ...  # noqa: D102
    @property
    def slots(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def ended(self) -> str | None: ...  # noqa: D102
    @property
    def remaining(self) -> float | None: ...  # noqa: D102
    @property
    def is_logged(self) -> bool: ...  # noqa: D102

    def evaluate(self, architectures: Architectures, fidelity: float = 1.0, *, by: str = "agent") -> Answers:
        """Evaluate architectures and return their outcomes; see `Search.evaluate`."""

    def stream(self, ask: Callable[[], Architectures]) -> Iterator[Answers]:
        """Yield answers as each trial ends; see `Search.stream`."""

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture that is measured for this one."""

    def log(self, scalars: Mapping[str, float]) -> None:
        """Write an agent's scalars to TensorBoard."""


class AgentLike(Protocol):
    """Defines what a search requires of an agent."""

    def run(self, search: SearchLike) -> None:
        """Propose architectures to ``search.evaluate`` until it raises `BudgetExhausted`."""

    def config(self) -> dict[str, Any]:
        """Return the agent's configuration."""

    def identity(self) -> dict[str, Any]:
        """Return the part of the configuration that changes proposals."""


class Layer:
    """Stands between an agent and a search, and has the interface of a search.

    It forwards everything; a subclass overrides what it changes. It requests its own evaluations with ``by`` set to its
    name, such as ``by="racing"``, so that the journal tells them from the agent's. Layers stand on each other in the
    order agent > guides > racing > constraints > search.

    Args:
        search: the search or layer below.

    >>> class Rounded(Layer):
    ...     '''Evaluates at most four architectures at a time.'''
    ...     def evaluate(self, architectures, fidelity=1.0, *, by="agent"):
    ...         return super().evaluate(architectures[:4], fidelity, by=by)
    """

    def __init__(self, search: SearchLike) -> None:
        self.search = search

    @property
    def space(self) -> SearchSpace:
        """Return the search space."""
        return self.search.space

    @property
    def history(self) -> History:
        """Return the evaluations so far."""
        return self.search.history

    @property
    def budget(self) -> Budget:
        """Return the budget, which decides when the search is over."""
        return self.search.budget

    @property
    def slots(self) -> int:
        """Return how many trials an asynchronous search has in flight at first."""
        return self.search.slots

    @property
    def seed(self) -> int:
        """Return the agent's seed."""
        return self.search.seed

    @property
    def ended(self) -> str | None:
        """Return why the search is over; None before."""
        return self.search.ended

    @property
    def remaining(self) -> float | None:
        """Return the full trainings left in the budget; None if there is no limit."""
        return self.search.remaining

    @property
    def is_logged(self) -> bool:
        """Return whether `log` writes to TensorBoard."""
        return self.search.is_logged

    def evaluate(self, architectures: Architectures, fidelity: float = 1.0, *, by: str = "agent") -> Answers:
        """Evaluate architectures and return their outcomes; see `Search.evaluate`."""
        return self.search.evaluate(architectures, fidelity, by=by)

    def stream(self, ask: Callable[[], Architectures]) -> Iterator[Answers]:
        """Yield answers as each trial ends; see `Search.stream`."""
        return self.search.stream(ask)

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture that is measured for this one."""
        return self.search.representative(architecture)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Write an agent's scalars to TensorBoard."""
        self.search.log(scalars)


def on_layers(search: SearchLike, layers: Iterable[Callable[[SearchLike], SearchLike]]) -> SearchLike:
    """Return the search that an agent receives: the last of the layers; the first stands on the search itself."""
    for layer in layers:
        search = layer(search)
    return search
