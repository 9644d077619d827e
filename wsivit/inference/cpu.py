"""A network on the cores of a CPU: batches in parallel streams, and an allocator that keeps freed memory.

Threads that share the work of one operation wait for each other at its end, and all of them for the one whose core does
something else for a moment, such as decoding the next tiles. A network has hundreds of operations. Parallel batches,
each on cores of its own, wait for nothing; and smaller ones stay in the processor's caches.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wsivit.io import map_ordered

T = TypeVar("T")
R = TypeVar("R")

_MIN_TILES = 8
"""Tiles of a batch in a stream, at least: the weights are read once for all of them."""
_MAX_PIXELS = 16 * 224 * 224
"""Pixels of a batch: the activations of more leave the caches, and exceed one heap of a thread."""
# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_NEVER = 2**31 - 1
_HEAP = 64 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next allocation, in this process; return whether it does.

    A network on the CPU allocates the output of every layer again, batch after batch. glibc takes pieces of that size
    from the kernel and gives them back each time, page by page: a fifth of a ResNet-50's time. The peak of the
    process's memory stays the same; it does not shrink afterwards. Settings from outside (``MALLOC_*``,
    ``GLIBC_TUNABLES``) and other allocators are left as they are.

    Threads that start later share the memory of all. With threads that have heaps already it still keeps those, but
    takes pieces larger than one heap (64 MB) from the kernel each time: so call it before torch is loaded.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: _NEVER, _M_TRIM_THRESHOLD: _NEVER, _M_ARENA_MAX: 1, _M_TOP_PAD: _HEAP}
    done = [mallopt(name, value) for name, value in settings.items()]  # all of them, also after one that fails
    return all(done)


def count_streams(batch_size: int) -> int:
    """Return into how many streams batches are divided: one per core, while each has enough tiles."""
    import torch

    return max(1, min(torch.get_num_threads(), batch_size // _MIN_TILES))


def count_tiles(batch_size: int, streams: int, image_size: int) -> int:
    """Return how many tiles a batch of one of several streams has."""
    return max(1, min(-(-batch_size // streams), _MAX_PIXELS // image_size**2))


def map_in_streams(function: Callable[[T], R], items: Iterable[T], streams: int) -> Generator[R, None, None]:
    """Map over items in order, `streams` at a time, each with its share of the threads that torch calculates in."""
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(streams, "wsivit-score", torch.set_num_threads, (max(1, threads // streams),))
    try:
        yield from map_ordered(pool, function, items, ahead=2 * streams)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the last value set holds for every thread that starts later
