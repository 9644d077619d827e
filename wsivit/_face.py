"""Package faces: what ``__init__.pyi`` lists is public, and loaded when it is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import lazy_loader


class _Face(ModuleType):
    """A package whose functions are not hidden by submodules of the same name (``wsivit.train`` is the verb)."""

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds a submodule to its package: not where something public has that name.
        if not (isinstance(value, ModuleType) and name in self.__all__):
            super().__setattr__(name, value)


def attach(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package, from the stub next to its ``__init__``."""
    sys.modules[package].__class__ = _Face
    public: tuple[Callable[[str], object], Callable[[], list[str]], list[str]]
    public = lazy_loader.attach_stub(package, file)
    return public
