"""A class's constructor is its configuration: objects remember their arguments, and arguments are checked."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nasenv.errors import InputError

DERIVED: set[str | int] = {  # what follows from the other parts is not asked of the user
    "space.init_args.task",
    "evaluator.init_args.space",
    "evaluator.init_args.data",
    "evaluator.init_args.inner.init_args.space",  # of an evaluator that wraps another, as its argument `inner`
    "evaluator.init_args.inner.init_args.data",
}
_WHOLE = ".init_args.of"  # the space of which another is a part, as its argument `of`


class Configurable:
    """Remembers the constructor's arguments, so that an object can be written to a file, compared and made again.

    Spaces, evaluators, objectives and agents are configurable: a subclass only needs a plain ``__init__``. Arguments
    passed to the parent by ``super().__init__(**kwargs)`` are remembered too, with their defaults.

    >>> class Dial(Configurable):
    ...     def __init__(self, top: int = 11) -> None:
    ...         self.top = top
    >>> Dial(top=9).config()["init_args"]
    {'top': 9}
    >>> class Radio(Dial):
    ...     def __init__(self, stations: int = 3, **kwargs: Any) -> None:
    ...         super().__init__(**kwargs)
    >>> Radio().config()["init_args"]
    {'stations': 3, 'top': 11}
    """

    excluded_from_identity: ClassVar[tuple[str, ...]] = ()
    """Names of arguments that change no result, such as a number of processes."""

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Store the arguments that ``__init__`` will receive."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        except TypeError:  # __init__ is about to raise the same, and is where a reader looks for it
            return self
        given = dict(list(bound.arguments.items())[1:])
        for parameter in bound.signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                given.update(given.pop(parameter.name, {}))
        arguments = _defaults(cls.__mro__) | given
        self._arguments = {name: value for name, value in arguments.items() if value is not inspect.Parameter.empty}
        return self

    def config(self) -> dict[str, Any]:
        """Return ``{"class_path": ..., "init_args": {...}}`` of plain JSON values.

        Functions and classes become import paths. Values with no plain form (a data set in memory, say) become
        their ``fingerprint`` where they have one and their type's name otherwise.
        """
        return {"class_path": import_path(type(self)), "init_args": {k: _plain(v) for k, v in self._arguments.items()}}

    def identity(self) -> dict[str, Any]:
        """Return the configuration without the arguments in `excluded_from_identity`, which change no result."""
        config = self.config()
        essential = {k: v for k, v in config["init_args"].items() if k not in self.excluded_from_identity}
        return {**config, "init_args": essential}

    def source_digest(self) -> str:
        """Return a hash of the source code of functions among the arguments, and of a class outside nasenv.

        It goes into fingerprints, so that measurements made by an older version of a user's function are not
        taken for those of the newer one. What such a function calls in its turn is not seen.
        """
        functions: list[Any] = [v for v in _leaves(self._arguments) if inspect.isroutine(v)]
        if not type(self).__module__.startswith("nasenv."):
            functions.append(type(self))
        return digest([source(f) for f in functions])


@cache
def _defaults(classes: tuple[type, ...]) -> dict[str, Any]:
    """Return the default of each argument of the first class and of those that its ``**kwargs`` pass to its parents.

    Those without a default are there too, as `inspect.Parameter.empty`.
    """
    defaults: dict[str, Any] = {}
    taken, positions = set[str](), 1  # names, and number of first parameters, that ``**kwargs`` do not reach
    for init in [vars(parent)["__init__"] for parent in classes if "__init__" in vars(parent)]:
        parameters = list(inspect.signature(init).parameters.values())
        defaults |= {p.name: p.default for p in parameters[positions:] if p.name not in taken}
        call = _passing_on(init)
        if call is None:
            break
        taken |= {p.name for p in parameters} | {str(keyword.arg) for keyword in call.keywords}
        positions = 1 + sum(not isinstance(argument, ast.Starred) for argument in call.args)
    return defaults


def _passing_on(init: Callable[..., None]) -> ast.Call | None:
    """Return the ``super().__init__`` call that receives a method's ``**kwargs``; None if there is none."""
    names = [p.name for p in inspect.signature(init).parameters.values() if p.kind is p.VAR_KEYWORD]
    try:
        nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))) if names else ()
    except (OSError, TypeError, SyntaxError):  # typed into a shell, or built in
        return None
    calls = (node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("super("))
    return next((c for c in calls if names == [ast.unparse(k.value) for k in c.keywords if k.arg is None]), None)


def without_derived(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a configuration as ``--config`` accepts it: without the values that follow from its other parts."""
    return {
        key: without_derived(value, f"{path}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if (path + key).replace(_WHOLE, "") not in DERIVED
    }


def import_path(thing: Any) -> str:
    """Return the import path ``package.module.Name`` of a class or function."""
    return f"{thing.__module__}.{thing.__qualname__}"


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a JSON value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Configurable):
        return value.config()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if hasattr(value, "to_json"):
        return value.to_json()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if inspect.isroutine(value) or inspect.isclass(value):
        return import_path(value)
    return getattr(value, "fingerprint", import_path(type(value)))


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for v in value.values() for leaf in _leaves(v)]
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in _leaves(v)]
    return [value]


def source(thing: Callable[..., Any]) -> str:
    """Return the source code of a class or function, or its import path if the source is not available."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into a shell, or built in
        return import_path(thing)


def number(name: str, value: Any, valid: Callable[[float], bool], expected: str) -> float:
    """Return the argument as a float; raise InputError "{name} must be {expected}" if it is not a valid number."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and valid(float(value))):
        raise InputError(f"{name} must be {expected}, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return the argument as a float; raise InputError if it is not a positive number."""
    return number(name, value, lambda v: v > 0.0, "a positive number")


def share(name: str, value: Any) -> float:
    """Return the argument as a float; raise InputError if it is not a number in [0, 1]."""
    return number(name, value, lambda v: 0.0 <= v <= 1.0, "a number in [0, 1]")


def weight(name: str, value: Any) -> float:
    """Return the argument as a float; raise InputError if it is not a number of 0 or more."""
    return number(name, value, lambda v: v >= 0.0, "a number of 0 or more")


def integer(name: str, value: Any, least: int = 1) -> int:
    """Return the argument (NumPy's too) as an int; raise InputError if it is not an integer of ``least`` or more."""
    if not is_integer(value, least):
        raise InputError(f"{name} must be an integer of {least} or more, got {value!r}")
    return int(value)


def is_integer(value: Any, least: int = 1) -> bool:
    """Return whether the value is an integer (NumPy's too) of ``least`` or more."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def flag(name: str, value: Any) -> bool:
    """Return the argument; raise InputError if it is not a bool."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return value


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return the argument; raise InputError if it is not one of the choices, of which there are two or more."""
    if value not in choices:
        raise InputError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
    return str(value)
