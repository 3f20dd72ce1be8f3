"""A space of networks that a context-free grammar derives, from a YAML file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasenv.configuration import integer
from nasenv.errors import InputError
from nasenv.spaces.grammar_blocks import BLOCKS, Cell, Sum, in_network
from nasenv.spaces.grammar_rules import Expression, Rules
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.task import Images, Task
from nasenv.trial import Architecture

_MOST_DECISIONS = 2000
_MOST_MET = 100_000  # expressions in all derivations
_MOST_BLOCKS = 2000  # in a network

DEFAULT: dict[str, Any] = {
    "start": "network",
    "rules": {
        "network": [{"sequence": ["stage", "reduce", "stage"]}],
        "stage": ["block", {"sequence": ["block", "block"]}],
        "block": [
            "operation",
            {"residual": {"sequence": ["operation", "operation"]}},
            {"branch": ["operation", "operation"]},
        ],
        "operation": ["conv3x3", "conv1x1", "sep_conv3x3", "max_pool3x3"],
    },
    "reference": ",".join(  # the basic block of He et al. 2016, https://arxiv.org/abs/1512.03385, in both stages
        f"network/{i}=block,network/{i}:1=residual(sequence(operation operation)),"
        f"network/{i}:1:2/1=conv3x3,network/{i}:1:2/2=conv3x3"
        for i in (1, 3)
    ),
}
"""The grammar of ``Grammar()``: two stages of one or two blocks, of one or two operations each."""


class Grammar(SearchSpace):
    """Search space of the networks that a context-free grammar derives; a file of YAML holds the grammar.

    ==========  ======================================  ============================================
    step        decision                                choices
    ==========  ======================================  ============================================
    t           the t-th place of a derivation where a  the productions of the rule there that still
                rule has several productions            end within the depth
    ==========  ======================================  ============================================

    ``rules`` has a list of productions for each rule; ``start`` is the rule that the network is derived from. Whatever
    is inside a production is the name of a rule, of a block, or one of

    - ``sequence: [a, b, ...]``: one after the other;
    - ``residual: a``: a, and its input added;
    - ``branch: [a, b, ...]``: side by side, added;
    - ``repeat: {times: n, block: a, between: b}``: n of what is derived once from a, and b (if given) between them;
    - ``cell: {nodes: n, edge: a}``: an acyclic graph of n nodes, the first its input and the last its output. Each
      pair of nodes has an edge, derived from a, and a node is the sum of what its edges bring.

    Blocks: conv1x1, conv3x3, conv5x5, sep_conv3x3, sep_conv5x5 (ReLU, convolution, batch norm), max_pool3x3,
    avg_pool3x3 (stride 1), identity, zero; and reduce, a 3x3 convolution that halves the map and doubles the channels,
    which cannot stand in a residual, branch or cell. Before all that is a 3x3 convolution to ``channels`` channels,
    after it batch norm, ReLU, global average and a linear layer.

    A rule that leads to itself is allowed: ``depth`` is then the largest number of rules in each other, and a
    production that cannot end within it is no choice. Names of decisions are places: ``block:2/1`` is the first part
    of the second production at ``block``. A decision in a production that is not taken has one valid choice, the first.

    The order in a branch does not matter: where its parts are the same expression, the canonical architecture has what
    they derive in ascending order of the choices. That an identity changes nothing, and that a zero makes what leads
    to it meaningless, is not seen.

    After Schrodi et al. 2023, Construction of Hierarchical Neural Architecture Search Spaces based on Context-free
    Grammars, https://arxiv.org/abs/2211.01842.

    Args:
        grammar: a YAML file, or its content, with ``start``, ``rules``, and where wanted ``depth`` and ``reference``
            (the text of an architecture made by hand); by default a small one of 1,774,224 derivations, see `DEFAULT`.
        channels: outputs of the first convolution.
        task: images; by default of 1x8x8 in 10 classes, as scikit-learn's digits are.

    Raises:
        InputError: a file that cannot be read, is no such grammar, or needs a depth; more than 2,000 decisions, or
            blocks in a network.

    Example:
        >>> cells = {"network": [{"cell": {"nodes": 3, "edge": "operation"}}], "operation": ["zero", "conv3x3"]}
        >>> space = Grammar({"start": "network", "rules": cells}, channels=4)
        >>> space.size, space.to_text((1, 0, 1))
        (8, 'network/0>1=conv3x3,network/0>2=zero,network/1>2=conv3x3')
    """

    def __init__(
        self, grammar: str | dict[str, Any] | None = None, channels: int = 8, task: Task | None = None
    ) -> None:
        content = DEFAULT if grammar is None else Rules.read(grammar) if isinstance(grammar, str) else grammar
        self._rules, self.channels = Rules(content), integer("channels", channels)
        self._places: dict[str, int] = {}
        self._parents: list[tuple[int, int]] = []  # the decision, -1 for none, and the choice, that lead to a decision
        super().__init__(
            self._found(), (task or Task(Images((1, 8, 8)), outputs=10)).check_inputs(Images, type(self).__name__)
        )
        if (blocks := self._most_blocks()) > _MOST_BLOCKS:
            raise InputError(f"a network of the grammar has up to {blocks:,} blocks, and {_MOST_BLOCKS:,} are the most")
        if isinstance(grammar, str):
            self._arguments["grammar"] = content  # the file can change
        self._reference = self._read_reference(content.get("reference"))

    @property
    def size(self) -> int:
        """Return the number of derivations."""

        @cache
        def count(expression: Expression, depth: int) -> int:
            if expression.kind == "rule":
                return sum(count(production, depth + 1) for production in self._rules.allowed(expression.text, depth))
            return prod(count(part, depth) for part in expression.parts)

        return count(self._rules.start, 0)

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C): all where the productions taken lead to it, else choice 0."""
        n, t = prefixes.shape
        is_met = np.ones(n, dtype=np.bool_)
        parent, choice = self._parents[t]
        while parent >= 0:
            is_met &= prefixes[:, parent] == choice
            parent, choice = self._parents[parent]
        masks: NDArray[np.bool_] = np.arange(self.max_choices) < np.where(is_met, self.num_choices[t], 1)[:, None]
        return masks

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the architecture with equal parts of each branch in ascending order of their choices."""
        row = list(architecture)
        for parts in self._branches:
            ordered = sorted([row[t] for t in part] for part in parts)
            for part, choices in zip(parts, ordered, strict=True):
                for t, choice in zip(part, choices, strict=True):
                    row[t] = choice
        return tuple(row)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network: (n, channels, height, width) float32 -> (n, task.outputs)."""
        start = self._rules.start
        body, width = self._module(start, start.text, 0, self.channels, architecture)
        return in_network(self.task.shape[0], self.channels, body, width, self.task.outputs)

    def reference(self) -> Architecture | None:
        """Return the architecture that the grammar names as its reference; None if it names none."""
        return self._reference

    def _most_blocks(self) -> int:
        """Return the number of blocks of the largest network."""

        @cache
        def count(expression: Expression, depth: int) -> int:
            match expression.kind:
                case "block":
                    return 1
                case "rule":
                    return max(count(p, depth + 1) for p in self._rules.allowed(expression.text, depth))
                case "repeat":
                    block, *between = (count(part, depth) for part in expression.parts)
                    return expression.number * block + (expression.number - 1) * sum(between)
            return sum(count(part, depth) for part in expression.parts)

        return count(self._rules.start, 0)

    def _read_reference(self, text: object) -> Architecture | None:
        try:
            return None if text is None else self.from_text(str(text))
        except InputError as error:
            raise InputError(f"the grammar's reference is no architecture: {error}") from error

    def _found(self) -> list[Decision]:
        """Return the decisions in the order of a derivation, and note where each stands and what leads to it."""
        decisions: list[Decision] = []
        branches: list[tuple[str, Expression]] = []
        found = self._derived(self._rules.start, self._rules.start.text, 0, (-1, 0))
        for met, (place, expression, productions, parent) in enumerate(found):
            if met > _MOST_MET or len(decisions) > _MOST_DECISIONS:
                raise InputError(
                    f"the grammar has more than {_MOST_DECISIONS:,} decisions, or {_MOST_MET:,} rules and blocks in "
                    "all derivations together; give a smaller depth"
                )
            if expression.kind == "branch":
                branches.append((place, expression))
            if len(productions) > 1:
                self._places[place] = len(decisions)
                self._parents.append(parent)
                decisions.append(Decision(place, tuple(production.text for production in productions)))
        if not decisions:
            raise InputError("the grammar has nothing to choose: no rule has two productions that end within the depth")
        self._branches = [parts for branch in reversed(branches) for parts in self._alike(*branch)]
        return decisions

    def _alike(self, place: str, branch: Expression) -> Iterator[list[list[int]]]:
        """Yield the decisions of parts of a branch that are the same expression: a list a part."""
        for part in dict.fromkeys(branch.parts):
            ends = [end for other, end in zip(branch.parts, branch.places, strict=True) if other == part]
            parts = [self._within(place + end) for end in ends]
            if len(parts) > 1 and parts[0]:
                yield parts

    def _within(self, place: str) -> list[int]:
        """Return the decisions at a place and in whatever is derived there."""
        return [t for name, t in self._places.items() if name == place or name.startswith((f"{place}:", f"{place}/"))]

    def _derived(
        self, expression: Expression, place: str, depth: int, parent: tuple[int, int]
    ) -> Iterator[tuple[str, Expression, list[Expression], tuple[int, int]]]:
        """Yield (place, expression, productions of a rule, parent) of all that derivations can meet."""
        productions = self._rules.allowed(expression.text, depth) if expression.kind == "rule" else []
        yield place, expression, productions, parent
        for k, production in enumerate(productions):  # at more than one, the decision has been noted by now
            leads = parent if len(productions) == 1 else (self._places[place], k)
            yield from self._derived(production, self._inside(place, productions, k), depth + 1, leads)
        for part, end in zip(expression.parts, expression.places, strict=True):
            yield from self._derived(part, place + end, depth, parent)

    def _module(
        self, expression: Expression, place: str, depth: int, width: int, row: Architecture
    ) -> tuple[nn.Module, int]:
        """Return the module of a derivation and its number of output channels, for ``width`` input channels."""
        match expression.kind:
            case "block":
                return BLOCKS[expression.text](width), 2 * width if expression.text == "reduce" else width
            case "rule":
                productions = self._rules.allowed(expression.text, depth)
                k = row[self._places[place]] if len(productions) > 1 else 0
                module, out = self._module(productions[k], self._inside(place, productions, k), depth + 1, width, row)
                return (nn.Sequential(OrderedDict({place: module})) if len(productions) > 1 else module), out
            case "sequence" | "repeat":
                modules = []
                for part, end in self._in_order(expression):
                    module, width = self._module(part, place + end, depth, width, row)
                    modules.append(module)
                return nn.Sequential(*modules), width
        pairs = zip(expression.parts, expression.places, strict=True)
        parts = [self._module(part, place + end, depth, width, row)[0] for part, end in pairs]
        if expression.kind == "cell":
            return Cell(expression.number, parts), width
        return Sum([nn.Identity(), *parts] if expression.kind == "residual" else parts), width

    @staticmethod
    def _inside(place: str, productions: list[Expression], k: int) -> str:
        """Return the place inside the k-th of the productions at a place."""
        return place if len(productions) == 1 else f"{place}:{k + 1}"

    @staticmethod
    def _in_order(expression: Expression) -> list[tuple[Expression, str]]:
        """Return the parts of a sequence or repeat as the data pass them, with their places."""
        pairs = list(zip(expression.parts, expression.places, strict=True))
        if expression.kind == "sequence":
            return pairs
        block, between = pairs[0], pairs[1:]
        return [block, *[*between, block] * (expression.number - 1)]
