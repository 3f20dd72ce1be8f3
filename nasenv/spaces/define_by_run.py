"""A space defined by run: a user's function asks for each choice where it needs it, and returns the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from nasenv.configuration import digest, import_path, integer, source
from nasenv.errors import InputError
from nasenv.spaces.actions import redirected
from nasenv.spaces.choice_space import check_importable
from nasenv.spaces.questions import (
    ASKS_OTHERWISE,
    END,
    UNMET,
    Answer,
    Choices,
    Choose,
    Discovery,
    Questioning,
    QuestionTree,
    Slot,
    Unanswered,
)
from nasenv.spaces.space import SearchSpace, check_task, to_architectures
from nasenv.task import Images, Task
from nasenv.trial import Architecture

_CHECKED = 20  # random architectures whose canonical forms are checked when the space is made
_FAR = 1 << 32  # more than any choice; random numbers from here to _FARTHEST mean each valid choice equally often
_FARTHEST = 1 << 62


class FunctionSpace(SearchSpace):
    """Search space of the networks that a user's function returns; what it asks for are the decisions.

    ==========  ===============================  =================================================
    step        decision                         choices
    ==========  ===============================  =================================================
    t           the t-th name that the function  those that it gives; valid are those that it
                can ask for                      allows, or choice 0 alone where it does not ask
    ==========  ===============================  =================================================

    The function is called as ``network(choose, task)``, and calls ``choose(name, choices)`` or
    ``choose(name, choices, allowed=some)``, which returns one of the choices, of those in ``allowed`` if it is given.
    What it asks for, and with which choices allowed, depends on the task and on the answers before; a name asked for
    again has the same answer. A name has the same choices wherever it is asked for, and names come in the same order:
    ``choose`` is called for ``a`` before ``b`` in every run that asks for both.

    The names and their order are found when the space is made: the function runs on the meta device, where parameters
    take neither time nor memory, under different answers, until every choice of every name has been taken where it is
    allowed and 50 random runs have met nothing new, 10,000 runs at most. Masks are found by runs too: under answers
    that no run has met, the function runs until it asks what they do not answer. What a run finds is kept.

    So a name can be missed that is only asked for under a rare combination of answers. It fails the trial of each
    architecture that leads there. The remedy is to ask for it in every run, where it does not matter with one choice:
    ``choose("dilation", (1, 2), allowed=(1, 2) if kernel == 3 and depth > 4 else (1,))``. A function that raises an
    exception fails that trial as well.

    Attributes of the function say more, where it has them. ``network.canonical``, a function from answers by name to
    answers by name, returns those of the equivalent architecture that is trained for all its equivalents: the first
    argument holds what was asked for, and of what is returned, names that are not asked for do not matter.
    ``network.reference`` holds the answers by name of an architecture made by hand.

    Worker processes import the function by its name. The names of the network's modules are the function's own.

    Args:
        network: called as ``network(choose, task)``, returns the untrained network: (n, *task.shape) float32 ->
            (n, task.outputs).
        task: the task of the networks; by default images of 1x8x8 in 10 classes, as scikit-learn's digits are.
        most_listed: the size is known, and all architectures can be listed, up to so many: each one takes a run, which
            is about a millisecond.

    Raises:
        InputError: a function that cannot be imported or called so, that asks for nothing, fails under all answers,
            asks for names in different orders or with different choices; names and choices that `ChoiceSpace` refuses;
            a ``canonical`` or ``reference`` that gives no valid architecture.

    Example:
        >>> def perceptron(choose, task):
        ...     layers = [nn.Flatten()]
        ...     for i in range(choose("depth", (0, 1, 2))):
        ...         layers += [nn.LazyLinear(choose(f"width{i}", (8, 16, 32))), nn.ReLU()]
        ...     return nn.Sequential(*layers, nn.LazyLinear(task.outputs))
        >>> space = FunctionSpace(perceptron)
        >>> [decision.name for decision in space.decisions], space.size
        (['depth', 'width0', 'width1'], 13)
        >>> space.mask(np.array([[0, 0], [2, 0]]))  # no layer: width1 is not asked for
        array([[ True, False, False],
               [ True,  True,  True]])
        >>> space.to_text((1, 2, 0))
        'depth=1,width0=32'
    """

    excluded_from_identity = ("most_listed",)

    def __init__(self, network: Callable[..., Any], task: Task | None = None, most_listed: int = 2000) -> None:
        check_importable("network", network)
        try:
            inspect.signature(network).bind("choose", "task")
        except (TypeError, ValueError) as error:
            raise InputError(f"network is called with choose and task, but {network.__qualname__}: {error}") from error
        task = Task(Images((1, 8, 8)), outputs=10) if task is None else task
        check_task(type(self).__name__, task)
        self._label, self._questioning = network.__qualname__, Questioning(network, task)
        decisions = Discovery(self._questioning, self._label).decisions()
        super().__init__(decisions, task)
        self._network, self.most_listed = network, integer("most_listed", most_listed)
        self._positions = {d.name: t for t, d in enumerate(self.decisions)}
        self._tree = QuestionTree(self.num_decisions, self.max_choices)
        functions = [network, getattr(network, "canonical", None)]
        self._source_digest = digest([source(f) for f in functions if f is not None])
        self._reference = self._referenced()
        self._check_canonical()

    @property
    def own_code(self) -> str:
        """Return the import path of the function."""
        return import_path(self._network)

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C): those that the function allows, or 0 where it does not ask."""
        t = prefixes.shape[1]
        nodes = self._reached(prefixes, t)
        valid: NDArray[np.bool_] = self._tree.allowed[np.where(self._tree.decisions[nodes] == t, nodes, END)]
        return valid

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices were valid at each decision of n architectures, (n, T) -> (n, T, C)."""
        masks = np.zeros((*rows.shape, self.max_choices), dtype=np.bool_)
        masks[:, :, 0] = True
        for asked, nodes in self._answered(rows, self.num_decisions):
            masks[asked, self._tree.decisions[nodes]] = self._tree.allowed[nodes]
        return masks

    def complete(self, choices: ArrayLike, taken: int = 0) -> list[Architecture]:
        """Return n valid architectures from n rows of T choices, (n, T); invalid choices are redirected.

        A row that leads where no run has been takes one run, and not one for each of its decisions.
        """
        del taken  # a valid choice stays as it is
        rows = np.array(choices, dtype=np.int64, ndmin=2)
        made = np.zeros_like(rows)
        for asked, nodes in self._answered(rows, self.num_decisions):  # it reads a choice after it is set here
            at = asked, self._tree.decisions[nodes]
            made[at] = rows[at] = redirected(self._tree.allowed[nodes], rows[at])
        return to_architectures(made)

    def sample(self, n: int, rng: np.random.Generator) -> list[Architecture]:
        """Return n random architectures: at each decision, every valid choice is equally likely."""
        return self.complete(rng.integers(_FAR, _FARTHEST, size=(n, self.num_decisions)))

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the representative that ``network.canonical`` names; the architecture itself where there is none."""
        function = getattr(self._network, "canonical", None)
        if function is None:
            return architecture
        answers = {d.name: d.choices[architecture[t]] for t, d in enumerate(self.decisions)}
        asked = [self.decisions[t].name for t, _ in self._asked(architecture)]
        return self._architecture(function({name: answers[name] for name in asked}), "canonical")

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the network that the user's function returns under the answers of the architecture."""
        place = -1

        def answer(name: str, choices: Choices, allowed: list[int]) -> int:
            nonlocal place
            place = self._place(name, choices, place, architecture)
            if architecture[place] not in allowed:
                choice = self.decisions[place].choices[architecture[place]]
                raise InputError(f"{self._label} allowed {name}={choice}, and now does not")
            return architecture[place]

        network = self._network(Choose(answer), self.task)
        if not isinstance(network, nn.Module):
            raise InputError(f"{self._label} must return a torch.nn.Module, got {network!r}")
        return network

    def reference(self) -> Architecture | None:
        """Return the architecture whose answers are ``network.reference``; None where there are none."""
        return self._reference

    def source_digest(self) -> str:
        """Return a hash of the source code of the function and of its ``canonical``."""
        return self._source_digest

    def _referenced(self) -> Architecture | None:
        answers = getattr(self._network, "reference", None)
        return None if answers is None else self._architecture(answers, "reference")

    def _check_canonical(self) -> None:
        """Raise InputError unless random architectures have a canonical form, which is its own."""
        if getattr(self._network, "canonical", None) is None:
            return
        for architecture in self.sample(_CHECKED, np.random.default_rng(0)):
            first = self.canonical(architecture)
            if (second := self.canonical(first)) != first:
                raise InputError(
                    f"{self._label}.canonical must return one of all equivalents; but of {self.to_text(architecture)} "
                    f"it returns {self.to_text(first)}, and of that {self.to_text(second)}"
                )

    def _architecture(self, answers: Mapping[str, Any], label: str) -> Architecture:
        """Return the architecture of these answers, which may be more than is asked for."""
        label = f"{self._label}.{label}"
        if not isinstance(answers, Mapping) or not set(answers) <= set(self._positions):
            raise InputError(f"{label} must be answers by name, of {', '.join(self._positions)}; got {answers!r}")
        row = [0] * self.num_decisions
        for t, node in self._asked(row):  # it reads a choice after it is set here
            decision = self.decisions[t]
            valid = [decision.choices[c] for c in np.flatnonzero(self._tree.allowed[node])]
            choice = answers.get(decision.name, valid[0]) if len(valid) == 1 else answers.get(decision.name)
            if choice not in valid:
                raise InputError(f"{label}: expected {decision.name} of {valid}, got {choice!r}, in {dict(answers)}")
            row[t] = decision.choices.index(choice)
        return tuple(row)

    def _reached(self, rows: NDArray[np.int64], t: int) -> NDArray[np.intp]:
        """Return the node, (n,), of the first question that the first t choices of each row do not answer."""
        reached = np.zeros(len(rows), dtype=np.intp)
        for _ in self._answered(rows, t, reached):
            pass
        return reached

    def _answered(
        self, rows: NDArray[np.int64], t: int, reached: NDArray[np.intp] | None = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield (rows, nodes) of the first questions, then the second ones, ... that the first t choices answer.

        The node after those is written into ``reached``. Where no run has been, the function runs under all choices of
        the row, so that what comes after t is found by the same run.
        """
        tree, every = self._tree, np.arange(len(rows))
        parents, choices = np.zeros_like(every), np.zeros(len(rows), dtype=np.int64)
        while len(every):
            nodes = tree.children[parents, choices].astype(np.intp)
            for i in np.flatnonzero(nodes == UNMET).tolist():
                nodes[i] = self._child((int(parents[i]), int(choices[i])), rows[every[i]].tolist())
            if reached is not None:
                reached[every] = nodes
            is_answered = tree.decisions[nodes] < t
            every, parents = every[is_answered], nodes[is_answered]
            yield every, parents
            choices = rows[every, tree.decisions[parents]]

    def _asked(self, prefix: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield (t, node) of each question that the choices answer; a choice is read after its question."""
        node = self._child((END, 0), prefix)
        while (t := int(self._tree.decisions[node])) < len(prefix):
            yield t, node
            node = self._child((node, prefix[t]), prefix)

    def _child(self, slot: Slot, row: Sequence[int]) -> int:
        """Return the node in a slot that the choices of a row lead to, after a run if there has been none."""
        if self._tree.children[slot] == UNMET:
            self._run(row)
        node = int(self._tree.children[slot])
        if node == UNMET:
            raise InputError(f"{self._label} {ASKS_OTHERWISE}")
        return node

    def _run(self, row: Sequence[int]) -> None:
        """Run the function under the choices of a row, redirected, and keep its questions."""
        tree, slot = self._tree, (END, 0)

        def start() -> Answer:
            nonlocal slot
            slot, last = (END, 0), -1

            def answer(name: str, choices: Choices, allowed: list[int]) -> int:
                nonlocal slot, last
                last = self._place(name, choices, last, row)
                node = int(tree.children[slot])
                if node == UNMET:
                    node = tree.add(slot, last, allowed)
                if last != tree.decisions[node] or last >= len(row):
                    raise Unanswered
                choice = row[last] if row[last] in allowed else allowed[row[last] % len(allowed)]
                slot = node, choice
                if last == self.num_decisions - 1:  # nothing is left to ask for
                    tree.children[slot] = END
                    raise Unanswered
                return choice

            return answer

        raised = self._questioning.run(start)
        if not isinstance(raised, Unanswered) and tree.children[slot] == UNMET:
            tree.children[slot] = END

    def _place(self, name: str, choices: Choices, last: int, row: Sequence[int]) -> int:
        """Return the place of a question among the decisions; raise InputError where it has none after the last."""
        place = self._positions.get(name, -1)
        if place > last and self.decisions[place].choices == choices:
            return place
        under = ",".join(f"{d.name}={d.choices[c]}" for d, c in zip(self.decisions[: last + 1], row, strict=False))
        what = (
            "which no run did that looked for the decisions"
            if place < 0
            else f"where its choices are {choices}, not {self.decisions[place].choices}"
            if place > last
            else f"and elsewhere before {self.decisions[last].name!r}"
        )
        raise InputError(
            f"{self._label} asks for {name!r} after {under}, {what}; ask for it in every run, always at the "
            f"same place, and where it does not matter with one choice: choose({name!r}, {choices}, "
            f"allowed={choices[:1]})"
        )

    def _meaningful(self, prefix: Sequence[int]) -> list[tuple[str, Hashable]]:
        """Return (name, choice) of the decisions taken at which more than one choice was valid."""
        decisions = [(self.decisions[t], prefix[t], self._tree.allowed[node]) for t, node in self._asked(prefix)]
        return [(d.name, d.choices[c]) for d, c, allowed in decisions if allowed.sum() > 1]

    def _masks_along(self, prefix: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
        """Yield the mask (C,) at each of the decisions taken so far, computed on demand."""
        only_first, at = self._tree.allowed[END], 0
        for t, node in self._asked(prefix):
            yield from [only_first] * (t - at)
            yield self._tree.allowed[node]
            at = t + 1
        yield from [only_first] * (len(prefix) - at)

    def _are_valid(self, rows: NDArray[np.int64]) -> bool:
        """Return whether all rows, (n, T) int64, are valid architectures."""
        if not ((rows >= 0) & (rows < self.num_choices)).all():
            return False
        return bool(np.take_along_axis(self.masks(rows), rows[..., None], axis=2).all())

    def _enumerated(self) -> NDArray[np.int64] | None:
        """Return all valid architectures, (size, T); None if there are more than ``most_listed``."""
        rows = np.zeros((1, 0), dtype=np.int64)
        for t in range(self.num_decisions):
            self._reached(np.pad(rows, ((0, 0), (0, self.num_decisions - t))), t)  # one run for each architecture
            if self._tree.least_size > self.most_listed:
                return None
            parents, choices = np.nonzero(self.mask(rows))
            rows = np.column_stack([rows[parents], choices])
        return rows

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without what runs have found: a worker process only builds networks."""
        return {**self.__dict__, "_tree": QuestionTree(self.num_decisions, self.max_choices)}
