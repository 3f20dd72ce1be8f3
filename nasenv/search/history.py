"""`History` holds the evaluations of a search; `Answers` are what an agent receives."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nasenv.errors import AgentError, InputError
from nasenv.search.index import Architectures, EvaluationIndex, Proposals
from nasenv.trial import Architecture, Finding, Measurement, Outcome


class History(Sequence[Outcome]):
    """Holds the distinct evaluations of a search, in order, and counts its proposals.

    An evaluation is of an architecture at a fidelity. Among them, with numbers of their own, stand the looks: the
    architectures that break constraints, and are not evaluated. The history keeps columns and makes an `Outcome` on
    request: with thousands of proposals a second, on a table, making objects would take most of the time.

    Args:
        num_choices: (T,), number of choices of each decision.

    Attributes:
        evaluations: number of distinct evaluations; `len` is that of evaluations and looks.
        looks: number of architectures that were looked at and not evaluated, at each fidelity.
        full_evaluations: number of evaluations, and of looks, at the full fidelity.
        proposals: number of answered proposals, with repeats.
        repeats: number of answered proposals that were known.
        best_reward: the reward of the incumbent, see `best`; None before the first success.
        spent: evaluations charged to the budget, in full trainings; with repeats if they are charged.
        train_seconds: training time of this search; cached measurements cost nothing.
        charged_seconds: seconds charged to the budget, with cached measurements, and with repeats if they are charged.
        cached: number of distinct evaluations that cost nothing.
    """

    def __init__(self, num_choices: NDArray[np.int64]) -> None:
        self.evaluations, self.full_evaluations, self.proposals, self.repeats, self.cached = 0, 0, 0, 0, 0
        self.looks = 0
        self._violations: dict[int, float] = {}  # of looks, by index
        self.best_reward: float | None = None
        self.spent, self.train_seconds, self.charged_seconds = 0.0, 0.0, 0.0
        self._num_choices = num_choices
        self._indices: dict[float, EvaluationIndex] = {}  # by fidelity
        self._architectures: list[Architecture] = []
        self._measurements: list[Measurement] = []
        self._proposals, self._free = array("q"), array("b")
        self._rewards, self._scores, self._charged = array("d"), array("d"), array("d")
        self._fidelities = array("d")
        self._best: int | None = None

    def propose(
        self,
        architectures: Architectures,
        check: Callable[[Any], list[Architecture]],
        fidelity: float,
        rounded: Callable[[float], float] = float,
    ) -> Proposals:
        """Return architectures as proposals at a fidelity, for `take`.

        Args:
            architectures: n architectures.
            check: returns the new architectures as tuples, or raises InputError.
            fidelity: share in (0, 1] of the search's full training.
            rounded: returns the nearest fidelity that there is; not called for 1.

        Raises:
            AgentError: there are none, or one is not in the space.
        """
        if not isinstance(architectures, Sequence | np.ndarray) or not len(architectures):
            raise AgentError(f"proposed {architectures!r:.80}, expected one or more architectures, any if none is new")
        try:
            fidelity = 1.0 if fidelity == 1.0 else rounded(fidelity)
            return self._index(fidelity).look_up(architectures, check)
        except InputError as error:
            raise AgentError(f"proposed an architecture that is not one of the space: {error}") from error
        except (TypeError, ValueError) as error:
            raise AgentError(f"proposed something that is not an architecture: {error}") from error

    def take(
        self,
        proposals: Proposals,
        found: Sequence[Finding],
        charge_repeats: bool = False,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> Answers:
        """Record n proposals and return their answers.

        Args:
            proposals: proposals from `propose`, or the first of them.
            found: findings of the new ones, in order.
            charge_repeats: whether proposals of known architectures are charged again.
            on_outcome: called with each outcome when it is recorded, before the next one.
        """
        first, known = self.proposals + 1, len(self)
        repeats, numbers = proposals.repeats, proposals.numbers
        numbers = np.where(numbers < 0, known - 1 - numbers, numbers)
        if on_outcome is None:
            firsts = (first + proposals.firsts).tolist()
            self._take(proposals, slice(None), found, firsts, numbers.tolist(), charge_repeats)
        else:
            for number, repeat in zip(numbers.tolist(), repeats.tolist(), strict=True):
                one = slice(len(self) - known, len(self) - known + (not repeat))
                self._take(proposals, one, found, [self.proposals + 1], [number], charge_repeats)
                on_outcome(self.outcome(number, self.proposals, repeat))
        return Answers(self, numbers, first, repeats)

    def _take(
        self,
        proposals: Proposals,
        part: slice,
        found: Sequence[Finding],
        firsts: Sequence[int],
        numbers: Sequence[int],
        charge_repeats: bool,
    ) -> None:
        """Record a part of the proposals.

        Args:
            proposals: all proposals.
            part: slice of the new architectures to record.
            found: findings of all new architectures.
            firsts: numbers of the first proposals of the part's new architectures.
            numbers: index of the evaluation of each recorded proposal, from 0.
            charge_repeats: whether proposals of known architectures are charged.
        """
        known, new = len(self), proposals.new[part]
        if new:
            self._add(new, found[part][: len(new)], firsts, proposals.fidelity)
        self.proposals += len(numbers)
        self.repeats = self.proposals - len(self)
        for number in numbers if charge_repeats else range(known, len(self)):
            self.charged_seconds += self._measurements[number].train_seconds
            self.spent += 0.0 if number in self._violations else self._fidelities[number]
            if number == len(self._charged):
                self._charged.append(self.charged_seconds)

    def _add(
        self, new: Sequence[Architecture], findings: Sequence[Finding], proposals: Sequence[int], fidelity: float
    ) -> None:
        """Add the findings of one or more new architectures, with the numbers of their first proposals."""
        measurements, rewards, cached, violations = zip(*findings, strict=True)
        first = len(self)
        looks = {first + i: v for i, v in enumerate(violations) if v is not None}
        self._index(fidelity).add(new, first)
        self._architectures += new
        self._measurements += measurements
        self._proposals.extend(proposals)
        self._free.extend(cached)
        self._rewards.extend(rewards)
        self._scores.extend([math.nan if m.score is None else m.score for m in measurements])
        self._fidelities.extend([fidelity] * len(new))
        self._violations |= looks
        self.looks += len(looks)
        self.evaluations += len(new) - len(looks)
        self.full_evaluations += len(new) if fidelity == 1.0 else 0
        self.cached += sum(cached)
        self.train_seconds = sum([m.train_seconds for m, _, free, _ in findings if not free], self.train_seconds)
        self._find_best(first, fidelity, rewards)

    def _find_best(self, first: int, fidelity: float, rewards: Sequence[float]) -> None:
        """Update the incumbent with the evaluations from ``first`` on; a higher fidelity beats any reward."""
        before = None if self._best is None else (self._fidelities[self._best], self._rewards[self._best])
        if before is None or (fidelity, max(rewards)) > before:
            measured = [i for i in range(first, len(self)) if self._measurements[i].error is None]
            if self._best is not None and before is not None and fidelity == before[0]:
                measured.insert(0, self._best)
            if measured:
                self._best = max(measured, key=lambda i: self._rewards[i])  # the first among equals
                self.best_reward = self._rewards[self._best]

    def _index(self, fidelity: float) -> EvaluationIndex:
        index = self._indices.get(fidelity)
        if index is None:
            index = self._indices[fidelity] = EvaluationIndex(self._num_choices, fidelity)
        return index

    def outcome(self, index: int, proposal: int | None = None, repeat: bool = False) -> Outcome:
        """Return the answer on evaluation ``index``, from 0, to its first proposal or a later one."""
        measurement, reward, cached = self._measurements[index], self._rewards[index], bool(self._free[index])
        number = self._proposals[index] if proposal is None else proposal
        fidelity, violation = self._fidelities[index], self._violations.get(index)
        architecture, cost = self._architectures[index], fidelity if violation is None else 0.0
        return Outcome(architecture, measurement, reward, index + 1, number, repeat, cached, fidelity, cost, violation)

    def are_looks(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of n evaluations by index are looks, (n,)."""
        return np.isin(indices, list(self._violations))

    def statuses(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the status of n evaluations, (n,): 0 failed, 1 infeasible, 2 feasible."""
        statuses = np.where(np.isnan(self.scores(indices)), 0, 2)
        infeasible = [i for i, violation in self._violations.items() if violation]
        return np.where(np.isin(indices, infeasible), 1, statuses) if infeasible else statuses

    def rewards(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rewards of n evaluations by index, from 0; (n,)."""
        return np.frombuffer(self._rewards, dtype=np.float64)[indices]

    def scores(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of n evaluations, (n,); nan for failed ones."""
        return np.frombuffer(self._scores, dtype=np.float64)[indices]

    def find(self, architecture: Architecture, fidelity: float = 1.0) -> Outcome | None:
        """Return the first answer on this architecture at a fidelity; None if it has not been proposed."""
        index = self._index(fidelity).find(architecture)
        return None if index is None else self.outcome(index)

    def has(self, architecture: Architecture, fidelity: float = 1.0) -> bool:
        """Return whether this architecture has been proposed at a fidelity."""
        return self._index(fidelity).find(architecture) is not None

    def count_unknown(self, architectures: Iterable[Architecture], fidelity: float = 1.0) -> int:
        """Return how many distinct architectures among these have not been proposed at a fidelity."""
        return sum(not self.has(architecture, fidelity) for architecture in dict.fromkeys(architectures))

    @property
    def architectures(self) -> Sequence[Architecture]:
        """Return the architecture of each evaluation, in order; do not change the list."""
        return self._architectures

    @property
    def fidelities(self) -> NDArray[np.float64]:
        """Return the fidelity of each evaluation, (n,)."""
        return np.array(self._fidelities)

    @property
    def proposal_numbers(self) -> NDArray[np.int64]:
        """Return the number, from 1, of the first proposal of each evaluation, (n,)."""
        return np.array(self._proposals)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Return the charged seconds up to and including each evaluation, (n,)."""
        return np.array(self._charged)

    @property
    def answers(self) -> Answers:
        """Return the answers to the first proposal of each evaluation."""
        return Answers(self, np.arange(len(self)), 1, np.zeros(len(self), dtype=np.bool_))

    @property
    def best(self) -> Outcome | None:
        """Return the incumbent: the highest reward at the highest fidelity, the first among equals; None before one."""
        return None if self._best is None else self.outcome(self._best)

    def top(self, k: int) -> list[Outcome]:
        """Return the k successful outcomes with the highest rewards, best first, the earlier among equals.

        Only outcomes at the highest fidelity of a successful evaluation are compared.
        """
        if self._best is None:
            return []
        measured = np.flatnonzero(~np.isnan(self._scores) & (self.fidelities == self._fidelities[self._best]))
        rewards = np.array(self._rewards)[measured]
        if k < len(rewards):  # sorting a few of many: those from the k-th on
            high = rewards >= np.partition(rewards, -k)[-k]
            measured, rewards = measured[high], rewards[high]
        return [self.outcome(i) for i in measured[np.argsort(-rewards, kind="stable")][:k].tolist()]

    def mean_reward(self, last: int) -> float:
        """Return the mean reward of the ``last`` latest evaluations, or of all if there are fewer; nan if none."""
        recent: Sequence[float] = self._rewards[-last:]
        if self.looks:
            evaluated = (i for i in reversed(range(len(self))) if i not in self._violations)
            recent = [self._rewards[i] for i in islice(evaluated, last)]
        return sum(recent) / len(recent) if recent else math.nan

    def scalars(self) -> dict[str, float]:
        """Return the scalars of the search for TensorBoard, by tag; it needs one or more answers."""
        mean = {"search/mean_reward_32": self.mean_reward(32)} if self.evaluations else {}
        return {
            **mean,
            "search/repeat_share": self.repeats / self.proposals,
            "search/train_seconds": self.train_seconds,
            "search/cache_hit_share": self.cached / max(1, self.evaluations),
        }

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        numbers = range(len(self))[index]
        return self.outcome(numbers) if isinstance(numbers, int) else [self.outcome(i) for i in numbers]

    def __len__(self) -> int:
        return self.evaluations + self.looks

    def __iter__(self) -> Iterator[Outcome]:
        return (self.outcome(i) for i in range(len(self)))


class Answers(Sequence[Outcome]):
    """Holds the answers to n proposals, in order, as a sequence of `Outcome` and as arrays.

    Args:
        history: history with the evaluations.
        indices: (n,), index of each proposal's evaluation, from 0.
        first: number of the first proposal.
        repeats: (n,), whether each was proposed before.
    """

    def __init__(self, history: History, indices: NDArray[np.int64], first: int, repeats: NDArray[np.bool_]) -> None:
        self._history, self._indices, self._first, self._repeats = history, indices, first, repeats

    @property
    def architectures(self) -> list[Architecture]:
        """Return the n proposed architectures."""
        known = self._history.architectures
        return [known[i] for i in self._indices.tolist()]

    @property
    def rewards(self) -> NDArray[np.float64]:
        """Return the rewards, (n,)."""
        return self._history.rewards(self._indices)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the scores in the task's metric, (n,); nan for failed evaluations."""
        return self._history.scores(self._indices)

    @property
    def errors(self) -> NDArray[np.object_]:
        """Return the errors of failed evaluations, (n,); None for the others."""
        errors = np.full(len(self), None, dtype=object)
        for i in np.flatnonzero(np.isnan(self.scores)).tolist():
            errors[i] = self[i].measurement.error
        return errors

    @property
    def statuses(self) -> NDArray[np.int64]:
        """Return the status of each, (n,): 0 failed, 1 infeasible, 2 feasible."""
        return self._history.statuses(self._indices)

    @property
    def evaluations(self) -> NDArray[np.int64]:
        """Return the numbers of the evaluations, from 1, (n,)."""
        return self._indices + 1

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """Return whether each was proposed before, (n,)."""
        return self._repeats.copy()

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            index, repeat = int(self._indices[numbers]), bool(self._repeats[numbers])
            return self._history.outcome(index, self._first + numbers, repeat)
        return [self[i] for i in numbers]

    def __len__(self) -> int:
        return len(self._indices)
