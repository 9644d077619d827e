"""What each process has of its own: open handles, which are few and closed oldest first, and threads that decode."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_HANDLES = 16
"""Handles that a process keeps open; a reader at work keeps its own besides."""
THREADS = os.cpu_count() or 1
READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows opens texts by default


def has_ended(process: int) -> bool:
    """Whether no process of this machine has that number."""
    import psutil

    return not psutil.pid_exists(process)


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
    """Something that each process has its own of, made at first use: handles and locks do not survive a fork.

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
    """Something open that closes when nothing refers to it any more.

    Only this module and readers at work hold a reference. The owner has a weak one, and opens another handle once that
    is dead. So a thread never reads from what another has closed, without a lock that a fork could leave locked.

    Parameters
    ----------
    value : object
    close : callable
        Takes the value.
    """

    def __init__(self, value: T, close: Callable[[T], object]) -> None:
        self.value, self._close = value, close
        _handles.append(self)

    def release(self) -> None:
        """Close it as soon as no reader is at work on it."""
        with suppress(ValueError, IndexError):  # gone already, or another thread changes the list: its turn will come
            _handles.remove(self)

    def __del__(self) -> None:
        self._close(self.value)


_handles: deque[CachedHandle[Any]] = deque(maxlen=MAX_HANDLES)


def nothing() -> None:
    """Stand where a weak reference to a handle will be."""


_pool: ThreadPoolExecutor | None = None
_pool_guard = threading.Lock()


def _forget_pool() -> None:
    # Threads do not survive a fork.
    global _pool, _pool_guard
    _pool, _pool_guard = None, threading.Lock()


after_fork(_forget_pool)


def parallel_for(work: Callable[[int], object], n: int, threads: int) -> None:
    """Call ``work(k)`` for each k below `n`, in this thread and as many others as make `threads` together.

    When it returns or raises, no other thread is still working on it.
    """
    global _pool
    todo = iter(range(n))  # one for all threads, so that none waits for another

    def draw() -> None:
        for k in todo:
            work(k)

    helpers = min(threads, n) - 1
    if helpers > 0:
        with _pool_guard:
            pool = _pool = _pool or ThreadPoolExecutor(THREADS, thread_name_prefix="wsivit-decode")
    others = [pool.submit(draw) for _ in range(helpers)]
    try:
        draw()
    finally:
        deque(todo, maxlen=0)  # if this thread was interrupted, the others must find nothing left to do
        # One that waits in the pool's queue is not waited for: `work` may itself run in that pool.
        started = [other for other in others if not other.cancel()]
        errors = [other.exception() for other in started]
    for error in filter(None, errors):
        raise error


def map_ordered(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 32
) -> Iterator[R]:
    """Map over a stream in threads, in order, with at most `ahead` items under way.

    Unlike ``pool.map`` it does not draw the whole input first, so memory stays bounded.
    """
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
