"""What a user's function asks for: how it is answered, run for its questions, and how these are kept."""

from __future__ import annotations

import inspect
import random
import traceback
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nasenv.errors import InputError
from nasenv.spaces.choice_space import named_decision
from nasenv.spaces.space import Decision
from nasenv.task import Task

Choices = tuple[Hashable, ...]
Answer = Callable[[str, Choices, list[int]], int]
"""(name, choices, indices of those that are allowed) -> index of the choice."""
Slot = tuple[int, int]
"""A node and a choice: the place of one of the node's children."""

END = 0  # the node of no further question; its child under choice 0 is the first question
UNMET = -1  # in a slot to which no run has come
ASKS_OTHERWISE = (
    "asks for something else each time; what it asks for may depend on the task and on the answers, on nothing else"
)
_MOST_RUNS = 10_000  # of the function, to find its questions
_QUIET_RUNS = 50  # without anything new, after which no more are made
_FIRST_ROOM = 1024  # nodes


class Unanswered(BaseException):
    """Ends a run at a question without an answer; a function's ``except Exception`` lets it through."""


class Choose:
    """Answers what a function asks for: ``choose(name, choices, allowed)`` returns one of the choices.

    Args:
        answer: called with each new name, its choices and the indices of those allowed.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._answers: dict[str, tuple[Choices, int]] = {}

    def __call__(self, name: str, choices: Sequence[Any], allowed: Iterable[Any] | None = None) -> Any:
        """Return the choice for a name.

        Args:
            name: the decision; asked for again, it has the same answer.
            choices: a text, a number, True, False, None or a tuple of these each; always the same for a name.
            allowed: the choices that are valid here; by default all.

        Raises:
            InputError: a name or choices that `ChoiceSpace` refuses too; ``allowed`` that are not some of the choices;
                a name asked for again with other choices, or without its answer among those allowed.
        """
        listed = named_decision(name, choices).choices
        valid = list(range(len(listed))) if allowed is None else _indices(name, listed, allowed)
        if name not in self._answers:
            self._answers[name] = listed, self._answer(name, listed, valid)
        before, index = self._answers[name]
        if before != listed or index not in valid:
            raise InputError(
                f"{name!r} was {before[index]!r} of {before}, and is asked for again with "
                f"{[listed[c] for c in valid]} allowed of {listed}"
            )
        return choices[index]


def _indices(name: str, choices: Choices, allowed: Iterable[Any]) -> list[int]:
    """Return the indices of the allowed choices, ascending."""
    valid = list(allowed) if isinstance(allowed, Iterable) and not isinstance(allowed, str) else []
    if not valid or any(choice not in choices for choice in valid):
        raise InputError(f"allowed must be some of the choices {choices} of {name!r}, got {allowed!r}")
    return sorted({choices.index(choice) for choice in valid})


class Questioning:
    """Runs a function for its questions, on the meta device, where parameters take neither time nor memory.

    Where it raises an exception there, as code does that looks at the numbers of a tensor, it runs on the CPU.
    """

    def __init__(self, network: Callable[..., Any], task: Task) -> None:
        self.network, self.task = network, task
        self.device = "meta"

    def run(self, start: Callable[[], Answer]) -> BaseException | None:
        """Run the function until its end or a question without an answer; return what it raised.

        Args:
            start: called before each attempt; returns what answers.
        """
        raised = self._attempt(self.device, start())
        if self.device == "cpu" or raised is None or isinstance(raised, InputError | Unanswered):
            return raised
        raised = self._attempt("cpu", start())
        if raised is None or isinstance(raised, Unanswered):
            self.device = "cpu"
        return raised

    def failure(self, raised: BaseException) -> str:
        """Return in words what the function raised, and in which of its lines."""
        name, file = self.network.__qualname__, inspect.getsourcefile(self.network)
        lines = [f.lineno for f in traceback.extract_tb(raised.__traceback__) if f.filename == file]
        where = f" in line {lines[-1]} of {file}" if lines else ""
        return f"{name} fails{where}: {type(raised).__name__}: {raised}"

    def _attempt(self, device: str, answer: Answer) -> BaseException | None:
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                self.network(Choose(answer), self.task)
        except (Exception, Unanswered) as raised:
            return raised
        return None


class Discovery:
    """Finds the decisions of a function: what it asks for, in an order that agrees with all runs.

    Every run answers all questions: with a choice that no run has taken, if there is one, else with a random one that
    leads to something that no run has met. A run begins with the answers that led to a choice not yet taken.
    """

    def __init__(self, questioning: Questioning, label: str) -> None:
        self._questioning, self._label = questioning, label
        self._decisions: dict[str, Decision] = {}
        self._before: dict[str, set[str]] = {}  # the names that came directly before, in some run
        self._taken: set[tuple[str, int]] = set()
        self._untaken: dict[tuple[str, int], _Path] = {}  # choices that were allowed, and where
        self._questions: dict[_Path, tuple[str, list[int]]] = {}  # answers: what is asked for next, what is allowed
        self._open: dict[_Path, list[int]] = {}  # choices of those after which something is unmet
        self._path: _Path = ()
        self._rng = random.Random(0)

    def decisions(self) -> list[Decision]:
        """Return the decisions in order.

        Raises:
            InputError: the function asks for nothing, or for names in different orders, or raises under all answers.
        """
        failures, quiet, runs = list[BaseException](), 0, 0
        while runs < _MOST_RUNS and (not runs or self._open[()]) and (self._untaken or quiet < _QUIET_RUNS):
            before = self._progress()
            if (raised := self._run()) is not None:
                failures.append(raised)
            runs, quiet = runs + 1, 0 if self._progress() != before else quiet + 1
            if not self._decisions:
                break
        if len(failures) == runs:
            raise InputError(self._questioning.failure(failures[0])) from failures[0]
        if not self._decisions:
            raise InputError(f"{self._label} asks for nothing; call choose(name, choices) in it")
        return [self._decisions[name] for name in self._ordered()]

    def _progress(self) -> tuple[int, ...]:
        return len(self._decisions), sum(map(len, self._before.values())), len(self._taken) + len(self._untaken)

    def _run(self) -> BaseException | None:
        """Run the function once, and return what it raised; raise that if it is an InputError."""
        (name, choice), path = next(iter(self._untaken.items()), (("", 0), ()))
        given = dict([*path, (name, choice)])

        def start() -> Answer:
            given.update(self._path)
            self._path = ()

            def answer(name: str, choices: Choices, allowed: list[int]) -> int:
                self._meet(name, choices, allowed)
                choice = given.get(name, -1)
                if choice < 0:
                    rest = self._open[self._path]
                    choice = self._rng.choice([c for c in rest if (name, c) in self._untaken] or rest)
                self._taken.add((name, choice))
                self._untaken.pop((name, choice), None)
                self._path += ((name, choice),)
                return choice

            return answer

        self._path = ()
        raised = self._questioning.run(start)
        if isinstance(raised, InputError):
            raise raised
        self._close()
        return raised

    def _meet(self, name: str, choices: Choices, allowed: list[int]) -> None:
        """Keep a question."""
        decision = self._decisions.setdefault(name, Decision(name, choices))
        if decision.choices != choices:
            raise InputError(
                f"{self._label} asks for {name!r} with the choices {choices}, and elsewhere with {decision.choices}; "
                "give the same everywhere, and those that are valid as allowed"
            )
        before = self._before.setdefault(name, set())
        if self._questions.setdefault(self._path, (name, allowed)) != (name, allowed):
            raise InputError(f"{self._label} {ASKS_OTHERWISE}")
        if self._path not in self._open:
            self._open[self._path] = list(allowed)
            before.update(last for last, _ in self._path[-1:])
            for key in ((name, c) for c in allowed):
                if key not in self._taken:
                    self._untaken.setdefault(key, self._path)

    def _close(self) -> None:
        """Note that all is met after the last answers of the run that has ended."""
        path = self._path
        while path:
            *before, (_, choice) = path
            path = tuple(before)
            self._open[path].remove(choice)
            if self._open[path]:
                break

    def _ordered(self) -> list[str]:
        """Return the names in an order that agrees with all runs, else as they were met."""
        waiting, order = dict(self._before), list[str]()
        while waiting:
            free = next((name for name, before in waiting.items() if not before & waiting.keys()), None)
            if free is None:
                cycle = [next(iter(waiting))]
                while (name := min(waiting[cycle[-1]] & waiting.keys())) not in cycle:
                    cycle.append(name)
                raise InputError(
                    f"{self._label} asks for {name!r} before {cycle[-1]!r} in some runs, and after it in others; ask "
                    "for names in one order"
                )
            order.append(free)
            del waiting[free]
        return order


_Path = tuple[tuple[str, int], ...]


class QuestionTree:
    """Holds the questions that runs have met: which decision, which choices are allowed, what comes after each.

    Attributes:
        decisions: (nodes,), the place of the decision asked for; that of `END` is the number of decisions.
        allowed: (nodes, C), which choices are valid.
        children: (nodes, C), the node after each choice: a question, `END` or `UNMET`.
        least_size: number of architectures, counting one for whatever comes after a choice that is not met yet.
    """

    def __init__(self, num_decisions: int, max_choices: int) -> None:
        self.decisions = np.full(_FIRST_ROOM, num_decisions)
        self.allowed = np.zeros((_FIRST_ROOM, max_choices), dtype=np.bool_)
        self.children = np.full((_FIRST_ROOM, max_choices), END, dtype=np.int32)
        self.allowed[END, 0], self.children[END, 0] = True, UNMET
        self.least_size = self._nodes = 1

    def add(self, slot: Slot, decision: int, allowed: Sequence[int]) -> int:
        """Put a question into an unmet slot, and return its node."""
        if self._nodes == len(self.decisions):
            for name in ("decisions", "allowed", "children"):
                array: NDArray[Any] = getattr(self, name)
                setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
        node = self._nodes
        self.decisions[node] = decision
        self.allowed[node, allowed], self.children[node, allowed] = True, UNMET
        self.children[slot] = node
        self._nodes, self.least_size = node + 1, self.least_size + len(allowed) - 1
        return node
