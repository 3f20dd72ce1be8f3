"""A package imports its public names when they are first used (PEP 562), since PyTorch alone takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose names are imported when they are first used.

    Args:
        package: name of the package.
        modules: public name -> its module.

    >>> find, names = lazy_names("nasenv", {"InputError": "nasenv.errors"})
    >>> find("InputError").__module__
    'nasenv.errors'
    >>> find("InputEror")
    Traceback (most recent call last):
    AttributeError: module 'nasenv' has no attribute 'InputEror'...
    """

    def __getattr__(name: str) -> Any:
        here = sys.modules[package]
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=here)
        found = getattr(import_module(modules[name]), name)
        setattr(here, name, found)  # later uses find it there
        return found

    def __dir__() -> list[str]:
        return list(sys.modules[package].__all__)

    return __getattr__, __dir__
