"""The constructor is the configuration: objects that remember how they were made."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

DERIVED: set[str | int] = {  # what follows from the other parts is not asked of the user
    "space.init_args.task",
    "evaluator.init_args.space",
    "evaluator.init_args.data",
    "evaluator.init_args.inner.init_args.space",  # of an evaluator that wraps another, as its argument `inner`
    "evaluator.init_args.inner.init_args.data",
}


class Configurable:
    """Remembers the arguments it was made with, so that it can be written to a file, compared and made again.

    Spaces, evaluators, objectives and agents are configurable: a subclass writes a plain ``__init__`` and does
    nothing else for it.

    >>> class Dial(Configurable):
    ...     def __init__(self, top: int = 11) -> None:
    ...         self.top = top
    >>> Dial(top=9).config()["init_args"]
    {'top': 9}
    """

    indifferent: ClassVar[tuple[str, ...]] = ()
    """Arguments that change nothing of what comes out, such as a number of processes."""

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments that ``__init__`` is about to be given."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        except TypeError:  # __init__ is about to raise the same, and is where a reader looks for it
            return self
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in inspect.signature(cls.__init__).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(parameter.name))
        self._arguments = arguments
        return self

    def config(self) -> dict[str, Any]:
        """Return ``{"class_path": ..., "init_args": {...}}`` of plain JSON values.

        Functions and classes become import paths. Values with no plain form (a data set in memory, say) become
        their ``fingerprint`` where they have one and their type's name otherwise.
        """
        return {"class_path": import_path(type(self)), "init_args": {k: _plain(v) for k, v in self._arguments.items()}}

    def identity(self) -> dict[str, Any]:
        """Return the configuration without what is `indifferent`: two of one identity can stand for each other."""
        config = self.config()
        essential = {k: v for k, v in config["init_args"].items() if k not in self.indifferent}
        return {**config, "init_args": essential}

    def source_digest(self) -> str:
        """Return a hash of the source of the functions among the arguments, and of a class outside nasenv.

        It goes into fingerprints, so that measurements made by an older version of a user's function are not
        taken for those of the newer one. What such a function calls in its turn is not seen.
        """
        functions: list[Any] = [v for v in _leaves(self._arguments) if inspect.isroutine(v)]
        if not type(self).__module__.startswith("nasenv."):
            functions.append(type(self))
        return digest([source(f) for f in functions])


def without_derived(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a configuration of live objects as ``--config`` takes it: without what follows from the other parts."""
    return {
        key: without_derived(value, f"{path}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if path + key not in DERIVED
    }


def import_path(thing: Any) -> str:
    """Return ``package.module.Name`` of a class or function."""
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
    """Return the source of a class or function, its import path where there is none."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into a shell, or built in
        return import_path(thing)
