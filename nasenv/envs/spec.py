"""Gymnasium's specification of an environment whose arguments are parts of a search, written as JSON too."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnasium.envs.registration import EnvSpec

from nasenv.cache.cache import Cache
from nasenv.configuration import Configurable, import_path
from nasenv.data.dataset import Dataset


class _Parts(dict[str, Any]):
    """Arguments that belong to a search, and so are not copied with it: an evaluator has processes."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Parts:
        return _Parts(self)


class Specification(EnvSpec):
    """Specifies an environment of a search; its parts become their configurations in JSON.

    An environment can be made from that JSON again where it was made of texts, numbers, a budget and named data.
    """

    @classmethod
    def of(cls, spec: EnvSpec) -> Specification:
        """Return a specification as Gymnasium made it as one of this class."""
        known = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.init}
        return cls(**{**known, "kwargs": _Parts(spec.kwargs)})

    def to_json(self) -> str:
        """Return the specification as JSON text."""
        return EnvSpec.to_json(dataclasses.replace(self, kwargs={k: _plain(v) for k, v in self.kwargs.items()}))


class SpecificationOf:
    """The attribute ``spec`` of an environment, which Gymnasium sets; None where a constructor made the environment."""

    def __get__(self, env: Any, owner: type) -> Specification | None:
        return None if env is None else env.__dict__.get("spec")

    def __set__(self, env: Any, spec: EnvSpec) -> None:
        env.__dict__["spec"] = Specification.of(spec)


def _plain(part: Any) -> Any:
    match part:
        case Configurable():
            return part.config()
        case Cache():
            return str(part.path)
        case Dataset():
            return _plain(part.source) if part.source else {"name": part.name, "fingerprint": part.fingerprint}
        case type():
            return import_path(part)
        case _ if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return dataclasses.asdict(part)
    return part
