"""A library's handle on a slide: one per process, opened when it is first used, closed when too many are open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import ref

from wsivit.io import CachedHandle, PerProcess, nothing

T = TypeVar("T")


@dataclass
class _Local:
    """What one process holds; a handle made before a fork is left alone."""

    lock: Any = field(default_factory=threading.RLock)
    held: Callable[[], CachedHandle[Any] | None] = nothing


class LibraryHandle(Generic[T]):
    """Opens on demand; `open_slide` must not refer to the reader, which is else not freed with its last user."""

    def __init__(self, open_slide: Callable[[], T], close: Callable[[T], object]) -> None:
        self._open_slide, self._close = open_slide, close
        self._local = PerProcess(_Local)

    @property
    def lock(self) -> Any:
        """A lock of this process, for libraries that read in one thread at a time."""
        return self._local.get().lock

    def get(self) -> CachedHandle[T]:
        """Return this process's handle, which stays open as long as the caller holds it."""
        local = self._local.get()
        with local.lock:
            held = local.held()
            if held is None:
                held = CachedHandle(self._open_slide(), self._close)
                local.held = ref(held)
            return held

    def close(self) -> None:
        """Close this process's handle; the next `get` opens another."""
        local = self._local.get()
        with local.lock:
            held, local.held = local.held(), nothing
        if held is not None:
            held.release()

    def __del__(self) -> None:
        self.close()
