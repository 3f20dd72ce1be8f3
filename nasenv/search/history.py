"""What a search has seen so far."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from nasenv.evaluators.evaluator import Measurement
from nasenv.search.proposals import Places, Proposals
from nasenv.spaces.space import Architecture


@dataclass(frozen=True)
class Outcome:
    """The answer to one proposal of an agent.

    Args:
        architecture: the design that was proposed.
        measurement: what it is worth.
        reward: the objective's view of the measurement.
        evaluation: number, from 1, of the distinct evaluation that measured this design in this search.
        proposal: number, from 1, of the proposal answered; repeats count.
        repeat: whether this search had been answered on this very design before.
        cached: whether the measurement was known (from the cache, or from an equivalent design) and cost nothing.
    """

    architecture: Architecture
    measurement: Measurement
    reward: float
    evaluation: int
    proposal: int
    repeat: bool = False
    cached: bool = False


class Finding(NamedTuple):
    """What was found out about a design that is new to the search: measurement, its reward, whether it was free."""

    measurement: Measurement
    reward: float
    cached: bool = False


class History(Sequence[Outcome]):
    """The distinct evaluations of a search, in order, and how often it was asked.

    It is kept in columns, and an `Outcome` is made when it is asked for: on a table, an agent's thousands of
    proposals a second would else be spent on making objects.

    Args:
        num_choices: (T,), of each decision, for proposals as an array to be looked up at once; None for tuples alone.
    """

    def __init__(self, num_choices: NDArray[np.int64] | None = None) -> None:
        self.proposals = 0  # all that were answered, repeats among them
        self.train_seconds = 0.0  # paid by this search: cached measurements cost nothing
        self.charged_seconds = 0.0  # what the budget counts: cached measurements too, repeats where they are charged
        self.cached = 0  # distinct evaluations that cost nothing
        self._numbers: dict[Architecture, int] = {}  # of the first designs, as `_index` caught up with them
        self._architectures: list[Architecture] = []
        self._measurements: list[Measurement] = []
        self._proposals, self._free = array("q"), array("b")
        self._rewards, self._val_accuracies, self._charged = array("d"), array("d"), array("d")
        self._best: int | None = None
        self._places = Places(num_choices) if num_choices is not None and Places.suit(num_choices) else None

    def propose(
        self, rows: NDArray[np.integer[Any]], check: Callable[[NDArray[np.int64]], list[Architecture]]
    ) -> Proposals | None:
        """Return the proposals of n rows, (n, T), for `take`; None where tuples are to be made of them.

        Args:
            rows: the designs.
            check: returns rows as tuples, or raises InputError; it is given those that are new.
        """
        if self._places is None or rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer):
            return None
        self._places.catch_up(self._architectures)
        return self._places.propose(rows.astype(np.int64), check)

    def take(
        self,
        designs: Sequence[Architecture],
        found: Sequence[Finding],
        charge_repeats: bool = False,
        hear: Callable[[Outcome], None] | None = None,
    ) -> Answers:
        """Take in n proposals and return the answers to them.

        Args:
            designs: the proposals, in order.
            found: what is known of those among them that are new, in order.
            charge_repeats: whether proposals of known designs are charged again.
            hear: told of each answer when it has been taken in, before the next is.
        """
        proposals = designs if isinstance(designs, Proposals) else Proposals.of(designs, self._index)
        first, known = self.proposals + 1, len(self)
        repeats, numbers = proposals.repeats, proposals.numbered(known)
        if hear is None:
            self._take(proposals.new, found, (first + proposals.firsts).tolist(), numbers.tolist(), charge_repeats)
        else:
            for number, repeat in zip(numbers.tolist(), repeats.tolist(), strict=True):
                one = slice(len(self) - known, len(self) - known + (not repeat))
                self._take(proposals.new[one], found[one], [self.proposals + 1], [number], charge_repeats)
                hear(self.outcome(number, self.proposals, repeat))
        return Answers(self, numbers, first, repeats)

    def _take(
        self,
        new: Sequence[Architecture],
        found: Sequence[Finding],
        firsts: Sequence[int],
        numbers: Sequence[int],
        charge_repeats: bool,
    ) -> None:
        """Take in the next proposals.

        Args:
            new: those that are new, each once.
            found: what is known of these.
            firsts: the numbers of their proposals.
            numbers: (n,), of the evaluation of each proposal, from 0.
            charge_repeats: whether those that are known are charged.
        """
        known = len(self)
        if new:
            self._add(new, found[: len(new)], firsts)
        self.proposals += len(numbers)
        for number in numbers if charge_repeats else range(known, len(self)):
            self.charged_seconds += self._measurements[number].train_seconds
            if number == len(self._charged):
                self._charged.append(self.charged_seconds)

    def _add(self, designs: Sequence[Architecture], findings: Sequence[Finding], proposals: Sequence[int]) -> None:
        """Take in what was found out about one or more designs that are new, by the numbers of their proposals."""
        measurements, rewards, cached = zip(*findings, strict=True)
        numbers = range(len(self), len(self) + len(designs))
        self._architectures += designs
        self._measurements += measurements
        self._proposals.extend(proposals)
        self._free.extend(cached)
        self._rewards.extend(rewards)
        val_accuracies = [math.nan if m.val_accuracy is None else m.val_accuracy for m in measurements]
        self._val_accuracies.extend(val_accuracies)
        self.cached += sum(cached)
        self.train_seconds = sum([m.train_seconds for m, _, free in findings if not free], self.train_seconds)
        if self._best is None or max(rewards) > self._rewards[self._best]:
            measured = [i for i, m in zip(numbers, measurements, strict=True) if m.val_accuracy is not None]
            best = measured if self._best is None else [self._best, *measured]
            self._best = max(best, key=self._rewards.__getitem__, default=None)  # the first among equals

    @property
    def _index(self) -> Mapping[Architecture, int]:
        """The number of each design's evaluation, from 0."""
        taken = len(self._numbers)
        if taken < len(self):
            self._numbers.update(zip(self._architectures[taken:], range(taken, len(self)), strict=True))
        return self._numbers

    def outcome(self, index: int, proposal: int | None = None, repeat: bool = False) -> Outcome:
        """Return the answer on evaluation ``index``, from 0, to its first proposal or a later one."""
        measurement, reward, cached = self._measurements[index], self._rewards[index], bool(self._free[index])
        number = self._proposals[index] if proposal is None else proposal
        return Outcome(self._architectures[index], measurement, reward, index + 1, number, repeat, cached)

    def rewards(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rewards of the evaluations of n indices, from 0; (n,)."""
        return np.frombuffer(self._rewards, dtype=np.float64)[indices]

    def val_accuracies(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the validation accuracies in [0, 1] of evaluations, (n,), nan where they failed."""
        return np.frombuffer(self._val_accuracies, dtype=np.float64)[indices]

    def find(self, architecture: Architecture) -> Outcome | None:
        """Return the first answer on this design, None where it has not been proposed."""
        index = self._index.get(architecture)
        return None if index is None else self.outcome(index)

    def has(self, architecture: Architecture) -> bool:
        """Return whether this design has been proposed."""
        return architecture in self._index

    def unknown(self, designs: Iterable[Architecture]) -> list[Architecture]:
        """Return those of the designs that have not been proposed, each once, in their order."""
        known = self._index
        return list(dict.fromkeys([design for design in designs if design not in known]))

    @property
    def architectures(self) -> Sequence[Architecture]:
        """The distinct designs evaluated, in order; not to be changed."""
        return self._architectures

    @property
    def proposal_numbers(self) -> NDArray[np.int64]:
        """Numbers, from 1, of the proposals that led to each distinct evaluation."""
        return np.array(self._proposals)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Charged up to and with each distinct evaluation."""
        return np.array(self._charged)

    @property
    def answers(self) -> Answers:
        """The answers to the first proposal of each distinct design, in arrays too."""
        return Answers(self, np.arange(len(self)), 1, np.zeros(len(self), dtype=np.bool_))

    @property
    def repeats(self) -> int:
        """Number of proposals that had been proposed before."""
        return self.proposals - len(self)

    @property
    def best(self) -> Outcome | None:
        """The outcome with the highest reward, the earliest among equals; None before the first success."""
        return None if self._best is None else self.outcome(self._best)

    @property
    def best_reward(self) -> float | None:
        """The highest reward of a design that was measured; None before the first success."""
        return None if self._best is None else self._rewards[self._best]

    def top(self, k: int) -> list[Outcome]:
        """Return the k successful outcomes with the highest rewards, best first, the earlier among equals."""
        measured = (i for i, measurement in enumerate(self._measurements) if measurement.error is None)
        return [self.outcome(i) for i in heapq.nsmallest(k, measured, key=lambda i: (-self._rewards[i], i))]

    def mean_reward(self, last: int) -> float:
        """Return the mean reward of the last so many distinct evaluations, of fewer where there are fewer."""
        recent = self._rewards[-last:]
        return sum(recent) / len(recent)

    def scalars(self) -> dict[str, float]:
        """Return what TensorBoard shows of the search after one or more evaluations, by tag."""
        return {
            "search/mean_reward_32": self.mean_reward(32),
            "search/repeat_share": self.repeats / self.proposals,
            "search/train_seconds": self.train_seconds,
            "cache/hit_share": self.cached / len(self),
        }

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        numbers = range(len(self))[index]
        return self.outcome(numbers) if isinstance(numbers, int) else [self.outcome(i) for i in numbers]

    def __len__(self) -> int:
        return len(self._measurements)

    def __iter__(self) -> Iterator[Outcome]:
        return (self.outcome(i) for i in range(len(self)))


class Answers(Sequence[Outcome]):
    """The answers to n proposals, in order: a sequence of `Outcome`, and the same in arrays.

    Args:
        history: holds what was measured.
        indices: (n,), of the evaluations that the proposals led to, from 0.
        first: number of the first proposal.
        repeats: (n,), whether each had been proposed before.
    """

    def __init__(self, history: History, indices: NDArray[np.int64], first: int, repeats: NDArray[np.bool_]) -> None:
        self._history, self._indices, self._first, self._repeats = history, indices, first, repeats

    @property
    def architectures(self) -> list[Architecture]:
        """The n designs proposed."""
        designs = self._history.architectures
        return [designs[i] for i in self._indices.tolist()]

    @property
    def rewards(self) -> NDArray[np.float64]:
        """(n,)."""
        return self._history.rewards(self._indices)

    @property
    def val_accuracies(self) -> NDArray[np.float64]:
        """(n,), in [0, 1], nan where the evaluation failed."""
        return self._history.val_accuracies(self._indices)

    @property
    def errors(self) -> NDArray[np.object_]:
        """(n,), why evaluations failed, None for those that did not."""
        errors = np.full(len(self), None, dtype=object)
        for i in np.flatnonzero(np.isnan(self.val_accuracies)).tolist():
            errors[i] = self[i].measurement.error
        return errors

    @property
    def evaluations(self) -> NDArray[np.int64]:
        """(n,), numbers, from 1, of the distinct evaluations."""
        return self._indices + 1

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """(n,), whether each design had been proposed before."""
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
