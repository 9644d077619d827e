"""Handles: each process has its own, few are open at a time, and the oldest are closed first."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

MOST = 16
"""Handles that a process keeps open; a reader at work keeps its own besides."""

READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows opens texts by default

T = TypeVar("T")


def after_fork(call: Callable[[], object]) -> None:
    """Have something called in every child that this process forks, where processes fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


if hasattr(os, "pread"):
    read_at = os.pread
else:
    _seeking = threading.Lock()

    def read_at(handle: int, count: int, offset: int, /) -> bytes:
        """Read so many bytes from a place in a file, in any thread; as `os.pread`, which Windows lacks."""
        with _seeking:
            os.lseek(handle, offset, os.SEEK_SET)
            return os.read(handle, count)


class PerProcess(Generic[T]):
    """Something that each process has its own of, made when first asked for: handles and locks do not survive a fork.

    Parameters
    ----------
    make : callable
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._pid: int | None = None

    def get(self) -> T:
        """Return this process's own."""
        if self._pid != os.getpid():
            self._value, self._pid = self._make(), os.getpid()
        return self._value


class CachedHandle(Generic[T]):
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

    def release(self) -> None:
        """Close it as soon as no reader is at work on it."""
        with suppress(ValueError, IndexError):  # gone already, or another thread is at the list: its turn will come
            _OPEN.remove(self)

    def __del__(self) -> None:
        self._close(self.value)


_OPEN: deque[CachedHandle[Any]] = deque(maxlen=MOST)


def nothing() -> None:
    """Stand where a weak reference to a handle will be."""
