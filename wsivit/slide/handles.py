"""How many slides are open at a time: the oldest give way, and are opened again when they are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

MOST = 16
"""Handles that a process keeps open; a reader at work keeps its own besides."""

T = TypeVar("T")


class Held(Generic[T]):
    """Something open, that closes when nobody holds it any more.

    Only this module and readers at work hold it: whose it is keeps a weak reference, and opens another where it has
    gone. So a thread never reads from what another has closed, without a lock that a fork could leave locked.

    Parameters
    ----------
    value : object
    close : callable
        Takes the value.
    """

    def __init__(self, value: T, close: Callable[[T], object]) -> None:
        self.value, self._close = value, close
        _OPEN.append(self)

    def let_go(self) -> None:
        """Close it as soon as no reader is at work on it."""
        with suppress(ValueError, IndexError):  # gone already, or another thread is at the list: its turn will come
            _OPEN.remove(self)

    def __del__(self) -> None:
        self._close(self.value)


_OPEN: deque[Held[Any]] = deque(maxlen=MOST)


def nothing() -> None:
    """Stand where a weak reference to a handle will be."""
