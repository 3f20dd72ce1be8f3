"""The rules of a context-free grammar of blocks, read from YAML and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nasenv.configuration import is_integer
from nasenv.errors import InputError, nearest
from nasenv.files import read_whole, user_path
from nasenv.spaces.grammar_blocks import BLOCKS, cell_edges

_LARGEST = 100_000  # bytes of a file
_MOST_PARTS = 10_000  # of all productions; an alias of YAML can make many of few
_MOST_NESTED = 20  # structures in each other
_MOST_REPEATS, _MOST_NODES, _MOST_DEPTH = 100, 20, 100
_STRUCTURES = ("sequence", "residual", "branch", "repeat", "cell")
_KEYS = {"start", "rules", "depth", "reference"}


@dataclass(frozen=True)
class Expression:
    """Holds a rule's name, a block's, or a structure of expressions.

    Args:
        kind: rule, block, sequence, residual, branch, repeat, cell.
        text: the name, or the structure in short.
        parts: of the structure; of a repeat the block, and what stands between, if anything.
        places: of each part, the end of the names of its decisions.
        number: of repeats, or of a cell's nodes.
    """

    kind: str
    text: str
    parts: tuple[Expression, ...] = ()
    places: tuple[str, ...] = ()
    number: int = 1


class Rules:
    """Holds the productions of each rule, and how many rules in each other a production needs to end.

    Args:
        content: ``start``, ``rules``, and where wanted ``depth``, as in a file; other keys are checked by name alone.

    Raises:
        InputError: content that is no grammar, or has rules that lead to themselves and no depth.
    """

    def __init__(self, content: Any) -> None:
        if not isinstance(content, Mapping) or not {"start", "rules"} <= content.keys() <= _KEYS:
            raise InputError(f"a grammar has start, rules and, where wanted, depth and reference; got {content!r:.200}")
        listed = content["rules"]
        if not isinstance(listed, Mapping) or not listed:
            raise InputError(f"rules must be names with lists of productions, got {listed!r:.200}")
        self._names, self._number = [str(name) for name in listed], 0
        for name in self._names:
            if not re.fullmatch(r"\w+", name) or name in BLOCKS:
                raise InputError(f"a rule's name must be a word, and not that of a block: {name!r}")
        self.productions = {str(name): self._productions(str(name), given) for name, given in listed.items()}
        if content["start"] not in self.productions:
            raise InputError(f"start must be one of the rules, {', '.join(self._names)}; got {content['start']!r}")
        self.start = Expression("rule", content["start"])
        self._needs = self._least_depths()
        self.depth = self._checked_depth(content.get("depth"))
        self._check_reductions()

    @classmethod
    def read(cls, path: str) -> dict[str, Any]:
        """Return the content of a file of YAML."""
        try:
            content = yaml.load(read_whole(user_path(path), _LARGEST).decode(), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise InputError(f"grammar {path} cannot be read as YAML: {error}") from error
        if not isinstance(content, dict):
            raise InputError(f"grammar {path} holds no start and rules")
        return content

    def allowed(self, rule: str, depth: int) -> list[Expression]:
        """Return the productions of a rule, in ``depth`` others, that end within the depth allowed."""
        return [p for p in self.productions[rule] if depth + 1 + self._need(p) <= self.depth]

    def _productions(self, name: str, given: Any) -> list[Expression]:
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise InputError(f"rule {name} must be a list of productions, got {given!r:.200}")
        productions = [self._parsed(production, name, 0) for production in given]
        if len({p.text for p in productions}) < len(productions):
            raise InputError(f"rule {name} has a production twice: {', '.join(p.text for p in productions):.200}")
        return productions

    def _parsed(self, given: Any, rule: str, nested: int) -> Expression:
        """Return an expression of a production."""
        self._number += 1
        if self._number > _MOST_PARTS or nested > _MOST_NESTED:
            raise InputError(f"rule {rule}: a grammar has at most {_MOST_PARTS:,} parts, {_MOST_NESTED} in each other")
        if isinstance(given, str):
            if given in self._names:
                return Expression("rule", given)
            if given in BLOCKS:
                return Expression("block", given)
            known = [*self._names, *BLOCKS]
            raise InputError(f"rule {rule}: {given!r} is neither rule nor block; nearest: {nearest(given, known)}")
        if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in _STRUCTURES:
            expected = ", ".join(f"{structure}: ..." for structure in _STRUCTURES)
            raise InputError(f"rule {rule}: expected a name, or one of {expected}; got {given!r:.200}")
        ((kind, inside),) = given.items()
        return getattr(self, f"_{kind}")(inside, rule, nested + 1)  # type: ignore[no-any-return]

    def _sequence(self, inside: Any, rule: str, nested: int) -> Expression:
        return self._listed("sequence", inside, rule, nested)

    def _branch(self, inside: Any, rule: str, nested: int) -> Expression:
        return self._listed("branch", inside, rule, nested)

    def _listed(self, kind: str, inside: Any, rule: str, nested: int) -> Expression:
        if not isinstance(inside, Sequence) or isinstance(inside, str) or not inside:
            raise InputError(f"rule {rule}: {kind} must be a list, got {inside!r:.200}")
        parts = tuple(self._parsed(part, rule, nested) for part in inside)
        places = tuple(f"/{i}" for i in range(1, len(parts) + 1))
        return Expression(kind, f"{kind}({' '.join(p.text for p in parts)})", parts, places)

    def _residual(self, inside: Any, rule: str, nested: int) -> Expression:
        part = self._parsed(inside, rule, nested)
        return Expression("residual", f"residual({part.text})", (part,), ("",))

    def _repeat(self, inside: Any, rule: str, nested: int) -> Expression:
        if not isinstance(inside, Mapping) or not {"times", "block"} <= inside.keys() <= {"times", "block", "between"}:
            raise InputError(f"rule {rule}: repeat has times, block and, where wanted, between; got {inside!r:.200}")
        number = self._whole(inside["times"], f"rule {rule}: times", 1, _MOST_REPEATS)
        parts = tuple(self._parsed(inside[key], rule, nested) for key in ("block", "between") if key in inside)
        text = f"repeat({number} {' between '.join(p.text for p in parts)})"
        return Expression("repeat", text, parts, ("", "/between")[: len(parts)], number)

    def _cell(self, inside: Any, rule: str, nested: int) -> Expression:
        if not isinstance(inside, Mapping) or inside.keys() != {"nodes", "edge"}:
            raise InputError(f"rule {rule}: cell has nodes and edge, got {inside!r:.200}")
        nodes = self._whole(inside["nodes"], f"rule {rule}: nodes", 2, _MOST_NODES)
        edge, ends = self._parsed(inside["edge"], rule, nested), cell_edges(nodes)
        places = tuple(f"/{i}>{j}" for i, j in ends)
        return Expression("cell", f"cell({nodes} {edge.text})", (edge,) * len(ends), places, nodes)

    @staticmethod
    def _whole(value: Any, name: str, least: int, most: int) -> int:
        if not is_integer(value, least) or value > most:
            raise InputError(f"{name} must be an integer of {least} to {most}, got {value!r}")
        return int(value)

    def _least_depths(self) -> dict[str, float]:
        """Return how many rules in each other the shortest derivation of each rule has."""
        self._needs = dict.fromkeys(self._names, math.inf)
        for _ in self._names:
            self._needs = {name: 1 + min(map(self._need, listed)) for name, listed in self.productions.items()}
        for name, need in self._needs.items():
            if math.isinf(need):
                raise InputError(f"rule {name} never ends: each of its productions leads to a rule that does not end")
        return self._needs

    def _need(self, expression: Expression) -> float:
        if expression.kind == "rule":
            return self._needs[expression.text]
        return max(map(self._need, expression.parts), default=0)

    def _checked_depth(self, given: Any) -> int:
        least = int(self._needs[self.start.text])
        if given is not None:
            return self._whole(given, "depth, the number of rules in each other,", least, _MOST_DEPTH)
        order: list[str] = []
        for name in self._names:
            self._check_finite(name, (), order)
        return len(self._names)

    def _check_finite(self, name: str, above: tuple[str, ...], finite: list[str]) -> None:
        """Raise InputError if a rule leads to itself."""
        if name in above:
            raise InputError(f"rule {name} leads to itself; give depth, the most rules in each other")
        if name not in finite:
            for inner in {i.text for p in self.productions[name] for i in _inner(p) if i.kind == "rule"}:
                self._check_finite(inner, (*above, name), finite)
            finite.append(name)

    def _check_reductions(self) -> None:
        """Raise InputError if a map can change its size where it is added to others."""
        reducing: set[str] = {"reduce"}
        for _ in self._names:
            for name, listed in self.productions.items():
                if any(i.text in reducing for p in listed for i in _inner(p)):
                    reducing.add(name)
        for name, listed in self.productions.items():
            for structure in (i for p in listed for i in _inner(p) if i.kind in ("residual", "branch", "cell")):
                if any(i.text in reducing for i in _inner(structure)):
                    raise InputError(f"rule {name}: no reduce can come out of a {structure.kind}, whose maps are added")


class _Loader(yaml.SafeLoader):
    """Loads plain values; refuses a key that is given twice, of which PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise yaml.MarkedYAMLError(problem=f"key {twice[0]} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _inner(expression: Expression) -> Iterator[Expression]:
    """Yield the expression and all those in it."""
    yield expression
    for part in dict.fromkeys(expression.parts):
        yield from _inner(part)
