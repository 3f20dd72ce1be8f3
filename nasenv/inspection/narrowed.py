"""A part of a search space: the same decisions and networks, with fewer choices that are valid."""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasenv.errors import InputError
from nasenv.inspection.counting import estimate_architectures
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.spaces.space import Diagram, SearchSpace
from nasenv.task import Task
from nasenv.trial import Architecture

_YAML_WORDS = {True: ("yes", "on", "true"), False: ("no", "off", "false")}  # unquoted, they are read as these
_MOST_COUNTED = 10_000_000  # architectures of a space whose masks depend on earlier choices


class Narrowed(SearchSpace):
    """Search space of another one's architectures, with fewer choices: those that a run found worth a search.

    Decisions, indices, texts, networks and fingerprint are those of the whole space, so a cache answers for what was
    measured there; only the mask is narrower.

    ==========  ================================  =========================================================
    step        decision                          choices
    ==========  ================================  =========================================================
    t           the t-th of the whole space       those of ``keep`` that are valid there; where none of them
                                                  is, all that are
    ==========  ================================  =========================================================

    Canonical forms and the reference are the whole space's, and may lie outside.

    What a run found is in ``keep`` and ``evidence`` of `config`, so that the space is made again without the run.

    Args:
        run: folder of a run, whose evaluations say what to keep (`nasenv.inspection.narrowing`).
        of: the whole space; by default that of the run.
        keep: choices to keep, by decision; decisions that are left out keep all. Not together with ``run``.
        share: of a run's space, the largest part that is kept.
        evidence: how ``keep`` came about, for readers.
        task: the task of the whole space; by default that of the run, or of ``of``.

    Raises:
        InputError: neither a run nor choices; a run that cannot be read or has too few evaluations; a decision or
            choice that the space does not have; a decision without a choice.

    Example:
        >>> from nasenv.spaces.nas_bench_201 import NASBench201
        >>> whole = NASBench201()
        >>> space = Narrowed(of=whole, keep={"0>1": ["nor_conv_3x3"], "2>3": ["none", "skip_connect"]})
        >>> whole.size, space.size, space.fingerprint() == whole.fingerprint()
        (15625, 1250, True)
    """

    excluded_from_identity = ("evidence",)

    def __init__(
        self,
        run: str | None = None,
        of: SearchSpace | None = None,
        keep: dict[str, list[Any]] | None = None,
        share: float = 0.1,
        evidence: dict[str, Any] | None = None,
        task: Task | None = None,
    ) -> None:
        if (run is None) == (keep is None) or (of is None and keep is not None):
            raise InputError("Narrowed: give run, the folder of a run; or of, a space, and what to keep of it")
        if of is not None and task is not None and task != of.task:
            raise InputError(f"Narrowed: its task is {task}, that of the whole space {of.task}")
        if run is not None:
            from nasenv.inspection.narrowing import narrowed_by  # scipy takes a quarter of a second to import

            evaluations = RunEvaluations.read(run, of, task)
            of = evaluations.space
            keep, evidence = narrowed_by(evaluations, share)
        assert of is not None
        assert keep is not None
        super().__init__(of.decisions, of.task)
        self.of, self._kept = of, _kept(of, keep)
        kept = {
            d.name: [d.choices[c] for c in np.flatnonzero(row)] for d, row in zip(of.decisions, self._kept, strict=True)
        }
        self.keep = {name: choices for name, choices in kept.items() if len(choices) < len(_choices(of, name))}
        self._arguments = {"of": of, "keep": self.keep, "evidence": evidence or {}}

    @property
    def whole(self) -> SearchSpace:
        """Return the space of which this is a part, for which evaluators are made."""
        return self.of.whole

    @cached_property
    def size(self) -> int | None:
        """Return the number of valid architectures; None above ten million if the whole space has constraints."""
        if self.of.is_product:
            return int(math.prod(self._kept.sum(axis=1).tolist()))
        estimate = estimate_architectures(self, np.random.default_rng(0), descents=1_000)
        rows = None if estimate.low > _MOST_COUNTED else self._enumerated()
        return None if rows is None else len(rows)

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C): the whole space's that are kept, or all of them if none is."""
        valid = self.of.mask(prefixes)
        kept = valid & self._kept[prefixes.shape[1]]
        if self.of.is_product:
            return kept
        none_left = ~kept.any(axis=1)
        kept[none_left] = valid[none_left]
        return kept

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the representative in the whole space, which may lie outside of this one."""
        return self.of.canonical(architecture)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the untrained network, as the whole space builds it."""
        return self.of.build(architecture)

    def reference(self) -> Architecture | None:
        """Return the whole space's hand-made architecture, which may lie outside of this one."""
        return self.of.reference()

    def feature_parts(self, architectures: Sequence[Architecture]) -> dict[str, NDArray[np.float64]]:
        """Return the features of architectures, as in the whole space."""
        return self.of.feature_parts(architectures)

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the picture of an architecture, as in the whole space."""
        return self.of.diagram(prefix)

    def fingerprint(self) -> str:
        """Return the hash of the whole space: what was measured there holds here."""
        return self.of.fingerprint()

    def to_text(self, architecture: Architecture) -> str:
        """Return the text of an architecture, as in the whole space."""
        return self.of.to_text(architecture)

    def from_text(self, text: str) -> Architecture:
        """Return the architecture of a text of the whole space, which may lie outside of this one."""
        return self.of.from_text(text)

    def _meaningful(self, prefix: Sequence[int]) -> list[tuple[str, Hashable]]:
        return self.of._meaningful(prefix)


def _choices(space: SearchSpace, name: str) -> tuple[Hashable, ...]:
    return next(decision.choices for decision in space.decisions if decision.name == name)


def _kept(space: SearchSpace, keep: Mapping[str, Sequence[Any]]) -> NDArray[np.bool_]:
    """Return which choices are kept, (T, C); raise InputError for what the space does not have."""
    if not isinstance(keep, Mapping):
        raise InputError(f"keep must be names of decisions with the choices to keep, got {keep!r}")
    kept = np.arange(space.max_choices) < space.num_choices[:, None]
    rows = {decision.name: t for t, decision in enumerate(space.decisions)}
    for name, listed in keep.items():
        if name not in rows:
            near = ", ".join(difflib.get_close_matches(str(name), rows) or rows)
            raise InputError(f"keep: {type(space).__name__} has no decision {name!r}; the nearest: {near}")
        if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
            raise InputError(f"keep: expected a list of one or more choices for {name}, got {listed!r}")
        texts = [str(choice) for choice in _choices(space, name)]
        kept[rows[name]] = False
        for choice in listed:
            text = next((text for text in _texts(choice) if text in texts), None)
            if text is None:
                raise InputError(f"keep: {name} has the choices {', '.join(texts)}, got {choice!r}")
            kept[rows[name], texts.index(text)] = True
    return kept


def _texts(choice: Any) -> tuple[str, ...]:
    """Return the texts that a choice, as a command line or file has it, can stand for."""
    words = _YAML_WORDS[choice] if isinstance(choice, bool) else ()
    return (str(_as_tuple(choice)), *words)


def _as_tuple(choice: Any) -> Any:
    """Return a choice as spaces have it: what came from JSON as a list is a tuple."""
    return tuple(map(_as_tuple, choice)) if isinstance(choice, list | tuple) else choice
