"""The threads that decode: one pool per process."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = os.cpu_count() or 1
_pool: ThreadPoolExecutor | None = None
_pool_guard = threading.Lock()


def _forget_pool() -> None:
    # Threads do not survive a fork.
    global _pool, _pool_guard
    _pool, _pool_guard = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)


def _decoding_threads() -> ThreadPoolExecutor:
    """Return the pool of this process, begun when first asked for."""
    global _pool
    with _pool_guard:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="wsivit-decode")
        return _pool


def parallel_for(work: Callable[[int], object], n: int, threads: int) -> None:
    """Call ``work(k)`` for each k below `n`, in this thread and as many others as it takes to be `threads`.

    When it returns or raises, no other thread is at it any more.
    """
    todo = iter(range(n))  # one for all, so that none waits for another

    def some() -> None:
        for k in todo:
            work(k)

    others = [_decoding_threads().submit(some) for _ in range(min(threads, n) - 1)]
    try:
        some()
    finally:
        deque(todo, maxlen=0)  # nothing is left to begin, if this one was broken off
        begun = [other for other in others if not other.cancel()]
        wrong = [other.exception() for other in begun]
    for error in filter(None, wrong):
        raise error
