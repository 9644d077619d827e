"""Threads: one pool per process that decodes, and a map over a stream."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from wsivit.io.handles import after_fork

T = TypeVar("T")
R = TypeVar("R")

THREADS = os.cpu_count() or 1
_pool: ThreadPoolExecutor | None = None
_pool_guard = threading.Lock()


def _forget_pool() -> None:
    # Threads do not survive a fork.
    global _pool, _pool_guard
    _pool, _pool_guard = None, threading.Lock()


after_fork(_forget_pool)


def _decoding_threads() -> ThreadPoolExecutor:
    """Return the pool of this process, begun when first asked for."""
    global _pool
    with _pool_guard:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="wsivit-decode")
        return _pool


def parallel_for(work: Callable[[int], object], n: int, threads: int) -> None:
    """Call ``work(k)`` for each k below `n`, in this thread and as many others as make `threads` together.

    When it returns or raises, no other thread is still working on it.
    """
    todo = iter(range(n))  # one for all threads, so that none waits for another

    def draw() -> None:
        for k in todo:
            work(k)

    others = [_decoding_threads().submit(draw) for _ in range(min(threads, n) - 1)]
    try:
        draw()
    finally:
        deque(todo, maxlen=0)  # if this thread was interrupted, the others must find nothing left to do
        begun = [other for other in others if not other.cancel()]
        errors = [other.exception() for other in begun]
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
