"""A user-defined space: named choices, constraints between them, and a function that builds the network."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasenv.configuration import digest, source
from nasenv.errors import InputError
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.task import Images, Task
from nasenv.trial import Architecture

_MOST_COMBINATIONS = 10**7
_MOST_JOINED = 64  # the most axes of a NumPy array


class ChoiceSpace(SearchSpace):
    """Search space of named choices and constraints, for networks of the user's own.

    ==========  ===============================  ==========================================
    step        decision                         choices
    ==========  ===============================  ==========================================
    t           the t-th name of ``choices``     those listed, less those that would make a
                                                 constraint impossible to keep
    ==========  ===============================  ==========================================

    A constraint is a function whose parameters are named like the decisions it reads, and returns whether they go
    together. Constraints that share decisions are worked out together when the space is made, so the masks look
    ahead: no architecture can end up breaking one. A choice that does not matter beside another is ruled out the same
    way: ``lambda num_layers, second_width: num_layers > 1 or second_width == 16``, where 16 is the first choice.

    Worker processes get a copy of the space without its constraints: what they allow is kept as arrays. They import
    ``build`` by its name, and so it is a function, class or method that can be imported, not a lambda.

    Args:
        choices: the choices of each decision, in the order in which the decisions are taken. A choice is a text,
            a number, True, False, None or a tuple of these.
        build: called as ``build(task=..., **choices)`` with one choice for each name, returns the untrained network:
            (n, *task.shape) float32 -> (n, task.outputs).
        constraints: functions of decisions, each returning True or False.
        reference: an architecture made by hand, the choice for each name, to hold a search's winner against.
        task: the task of the networks; by default images of 1x8x8 in 10 classes, as scikit-learn's digits are.

    Raises:
        InputError: choices of another type or none; a ``build`` that cannot be imported or does not take the choices; a
            constraint that reads something else than decisions, raises, returns no bool, or cannot be kept;
            constraints that join decisions of more than 10^7 combinations; a reference that is not a valid
            architecture.

    Example:
        >>> class Encoders(ChoiceSpace):
        ...     def __init__(self, task=None):
        ...         super().__init__(
        ...             {"num_layers": (1, 2), "hidden_dim": (12, 16), "num_heads": (1, 3, 4)},
        ...             build=self.encoder,
        ...             constraints=[lambda hidden_dim, num_heads: hidden_dim % num_heads == 0],
        ...             task=task,
        ...         )
        ...
        ...     @staticmethod
        ...     def encoder(task, num_layers, hidden_dim, num_heads):
        ...         channels, height, width = task.shape
        ...         layer = nn.TransformerEncoderLayer(hidden_dim, num_heads, 2 * hidden_dim, batch_first=True)
        ...         rows = nn.Sequential(nn.Flatten(1, 2), nn.Linear(width, hidden_dim))  # each row is a token
        ...         head = nn.Linear(channels * height * hidden_dim, task.outputs)
        ...         return nn.Sequential(rows, nn.TransformerEncoder(layer, num_layers), nn.Flatten(), head)
        >>> space = Encoders()
        >>> space.size
        10
        >>> space.mask(np.array([[0, 0], [0, 1]]))  # one layer of 12 and of 16: heads of 1, 3, 4
        array([[ True,  True,  True],
               [ True, False,  True]])
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[Any]],
        build: Callable[..., Any],  # not nn.Module: jsonargparse would ask a user's function for the annotation
        constraints: Sequence[Callable[..., bool]] = (),
        reference: Mapping[str, Any] | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__(_decisions(choices), task or Task(Images((1, 8, 8)), outputs=10))
        _check_build(build, choices)
        self._build = build
        if not isinstance(constraints, Sequence):
            raise InputError(f"constraints must be a list of functions, got {constraints!r}")
        self._groups = _groups(self.decisions, [_Constraint.of(c, i, choices) for i, c in enumerate(constraints, 1)])
        self._place = {t: (group, at) for group in self._groups for at, t in enumerate(group.members)}
        allowed = [hashlib.sha256(group.allowed.tobytes()).hexdigest() for group in self._groups]
        self._source_digest = digest([super().source_digest(), source(build), allowed])
        self._reference = None if reference is None else self._architecture(reference)

    @property
    def size(self) -> int:
        """Return the exact number of valid architectures."""
        return math.prod(int(group.allowed.sum()) for group in self._groups)

    def mask(self, prefixes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which choices are valid next, (n, C): those after which every constraint can still be kept."""
        n, t = prefixes.shape
        group, at = self._place[t]
        mask = np.zeros((n, self.max_choices), dtype=np.bool_)
        taken = tuple(prefixes[:, member] for member in group.members[:at])
        mask[:, : self.num_choices[t]] = group.feasible[at][taken]
        return mask

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the network that the user's function builds from the choices."""
        choices = {d.name: d.choices[c] for d, c in zip(self.decisions, architecture, strict=True)}
        network = self._build(task=self.task, **choices)
        if not isinstance(network, nn.Module):
            raise InputError(f"{self._build.__qualname__} must return a torch.nn.Module, got {network!r}")
        return network

    def reference(self) -> Architecture | None:
        """Return the reference architecture that was given to the constructor."""
        return self._reference

    def source_digest(self) -> str:
        """Return a hash of the source code of ``build`` and of the combinations that the constraints allow."""
        return self._source_digest

    def _meaningful(self, prefix: Sequence[int]) -> list[tuple[str, Hashable]]:
        """Return (name, choice) of the decisions taken at which more than one choice was valid.

        A search puts every architecture into words; masks are made for many prefixes at once and slow for one.
        """
        pairs = []
        for t, choice in enumerate(prefix):
            group, at = self._place[t]
            if group.is_open[at][tuple([prefix[member] for member in group.members[:at]])]:
                pairs.append((self.decisions[t].name, self.decisions[t].choices[choice]))
        return pairs

    def _architecture(self, choices: Mapping[str, Any]) -> Architecture:
        names = [d.name for d in self.decisions]
        if not isinstance(choices, Mapping) or set(choices) != set(names):
            raise InputError(
                f"the reference must be a dict with a choice for each of {', '.join(names)}; got {choices}"
            )
        for decision in self.decisions:
            if choices[decision.name] not in decision.choices:
                given = choices[decision.name]
                raise InputError(f"the reference's {decision.name} must be of {decision.choices}, got {given!r}")
        try:
            return self.check([d.choices.index(choices[d.name]) for d in self.decisions])
        except InputError as error:
            raise InputError(f"the reference breaks a constraint: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the arguments as plain values, since lambdas cannot be pickled."""
        return {**self.__dict__, "_arguments": self.config()["init_args"]}


@dataclass(frozen=True)
class _Constraint:
    """Holds a user's function, the decisions that it reads (in order of its parameters), and its label in messages."""

    function: Callable[..., bool]
    reads: tuple[int, ...]
    label: str

    @classmethod
    def of(cls, function: Callable[..., bool], number: int, names: Iterable[str]) -> _Constraint:
        """Return the constraint with this number, from 1, over decisions with these names."""
        if not inspect.isfunction(function) and not inspect.ismethod(function):
            raise InputError(f"constraint {number} must be a function of decisions, got {function!r}")
        parameters = inspect.signature(function).parameters
        label = f"constraint {number}, {function.__name__}({', '.join(map(str, parameters.values()))})"
        if not parameters or any(p.kind > p.POSITIONAL_OR_KEYWORD for p in parameters.values()):
            raise InputError(f"{label}, must name the decisions that it reads as plain parameters")
        order = list(names)
        for name in parameters:
            if name not in order:
                near = difflib.get_close_matches(name, order) or order
                raise InputError(f"{label}, reads {name!r}, which is not a decision; the nearest: {', '.join(near)}")
        return cls(function, tuple(order.index(name) for name in parameters), label)

    def table(self, decisions: Sequence[Decision]) -> NDArray[np.bool_]:
        """Return the function's value for all combinations of the decisions that it reads, one axis each."""
        read = [decisions[t].choices for t in self.reads]
        answers = [self._answer(values) for values in product(*read)]
        return np.array(answers, dtype=np.bool_).reshape([len(c) for c in read])

    def _answer(self, values: tuple[Any, ...]) -> bool:
        try:
            answer = self.function(*values)
        except Exception as error:
            raise InputError(f"{self.label}, raised {error!r} for {self._named(values)}") from error
        if not isinstance(answer, bool | np.bool_):
            raise InputError(f"{self.label}, must return True or False, got {answer!r} for {self._named(values)}")
        return bool(answer)

    def _named(self, values: tuple[Any, ...]) -> str:
        names = inspect.signature(self.function).parameters
        return ", ".join(f"{name}={value!r}" for name, value in zip(names, values, strict=True))


@dataclass(frozen=True)
class _Group:
    """Holds decisions that constraints connect, in order, and which combinations of their choices are feasible.

    ``feasible[j]`` has one axis for each of the first j + 1 members: whether these choices can be completed.
    """

    members: tuple[int, ...]
    feasible: tuple[NDArray[np.bool_], ...]

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Return whether each combination satisfies all constraints, one axis a member."""
        return self.feasible[-1]

    @cached_property
    def is_open(self) -> tuple[NDArray[np.bool_], ...]:
        """Return whether member j has more than one choice, one axis for each of the j members before it."""
        return tuple(np.asarray(feasible.sum(axis=-1) > 1) for feasible in self.feasible)


def _groups(decisions: Sequence[Decision], constraints: Sequence[_Constraint]) -> list[_Group]:
    """Return the decisions partitioned into groups, such that each constraint reads decisions of one group only."""
    joined = [{t} for t in range(len(decisions))]
    for constraint in constraints:
        touched = [members for members in joined if members.intersection(constraint.reads)]
        joined = [members for members in joined if members not in touched] + [set().union(*touched)]
    return [
        _group(tuple(sorted(members)), decisions, [c for c in constraints if c.reads[0] in members])
        for members in joined
    ]


def _group(members: tuple[int, ...], decisions: Sequence[Decision], constraints: Sequence[_Constraint]) -> _Group:
    shape = [len(decisions[t].choices) for t in members]
    labels = "; ".join(c.label for c in constraints)
    if constraints and (math.prod(shape) > _MOST_COMBINATIONS or len(members) > _MOST_JOINED):
        raise InputError(
            f"constraints join {len(members)} decisions with {math.prod(shape):,} combinations, more than the "
            f"{_MOST_JOINED} or {_MOST_COMBINATIONS:,} that can be worked out; give them fewer choices: {labels}"
        )
    allowed = np.ones(shape, dtype=np.bool_)
    for constraint in constraints:
        table = constraint.table(decisions).transpose(np.argsort(constraint.reads))
        allowed &= table.reshape([k if t in constraint.reads else 1 for t, k in zip(members, shape, strict=True)])
    if not allowed.any():
        raise InputError(f"no choices keep all of: {labels}")
    feasible = [allowed]
    for _ in members[1:]:
        feasible.append(np.asarray(feasible[-1].any(axis=-1)))
    return _Group(members, tuple(reversed(feasible)))


def _decisions(choices: Mapping[str, Sequence[Any]]) -> list[Decision]:
    if not isinstance(choices, Mapping):
        raise InputError(f"choices must be a dict of names and their choices, got {choices!r}")
    return [named_decision(name, listed) for name, listed in choices.items()]


def named_decision(name: Any, choices: Any) -> Decision:
    """Return a decision of a user's; raise InputError for a name or for choices that its text could not hold."""
    if not isinstance(name, str) or not name or name == "task" or {",", "="} & set(name):
        raise InputError(f"a decision's name must be other than task, with no , or =: {name!r}")
    if not isinstance(choices, Sequence) or isinstance(choices, str | bytes):
        raise InputError(f"the choices of {name!r} must be a list or tuple, got {choices!r}")
    for choice in choices:
        if not _is_plain(choice):
            raise InputError(
                f"a choice of {name!r} must be a text, a number, True, False, None or a tuple of these, "
                f"got {choice!r}; name it by a text and look that up in build"
            )
    if len(set(map(str, choices))) != len(choices):
        raise InputError(f"the choices of {name!r} must differ as text, got {choices!r}")
    return Decision(name, tuple(choices))


def _is_plain(choice: Any) -> bool:
    if type(choice) is tuple:
        return all(map(_is_plain, choice))
    return choice is None or type(choice) in (str, int, float, bool)


def _check_build(build: Callable[..., nn.Module], names: Iterable[str]) -> None:
    check_importable("build", build)
    try:
        inspect.signature(build).bind(**dict.fromkeys(["task", *names]))
    except (TypeError, ValueError) as error:
        expected = ", ".join(["task", *names])
        raise InputError(f"build is called with {expected}, but {build.__qualname__}: {error}") from error


def check_importable(argument: str, function: object) -> None:
    """Raise InputError unless worker processes can import a function, class or method by its name."""
    if not (inspect.isroutine(function) or inspect.isclass(function)) or "<" in function.__qualname__:
        raise InputError(
            f"{argument} must be a function, class or method that worker processes can import by its name, not "
            f"{function!r}; define it with def at the top of a module"
        )
