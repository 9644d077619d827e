"""The threads that decode: one pool per process."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

THREADS = os.cpu_count() or 1
_pool: ThreadPoolExecutor | None = None
_pool_guard = threading.Lock()


def _forget_pool() -> None:
    # Threads do not survive a fork.
    global _pool, _pool_guard
    _pool, _pool_guard = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)


def decoding_threads() -> ThreadPoolExecutor:
    """Return the pool of this process, begun when first asked for."""
    global _pool
    with _pool_guard:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="wsivit-decode")
        return _pool
