"""Batches through a network side by side, so that no core of a CPU waits for another.

Threads that share the work of one operation wait for each other at its end, and all of them for the one whose core has
something else to do for a moment, such as decoding the next tiles. A network has hundreds of operations. Batches side
by side, each on cores of its own, wait for nothing; and smaller ones stay in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from wsivit.io import map_ordered

T = TypeVar("T")
R = TypeVar("R")

_FEWEST = 8
"""Tiles of a batch, where it is cut: the weights are read once for all of them."""
_LARGEST = 16 * 224 * 224
"""Pixels of a batch: what layers make of more leaves the caches, and is more than one heap of a thread holds."""


def count_streams(batch_size: int) -> int:
    """Return into how many streams batches are cut: one a core, while each has tiles enough."""
    return max(1, min(torch.get_num_threads(), batch_size // _FEWEST))


def count_tiles(batch_size: int, streams: int, image_size: int) -> int:
    """Return of how many tiles a batch is in each of some streams."""
    return max(1, min(-(-batch_size // streams), _LARGEST // image_size**2))


def map_side_by_side(function: Callable[[T], R], items: Iterable[T], streams: int) -> Generator[R, None, None]:
    """Map over items in order, `streams` at a time, each with its share of the threads that torch calculates in."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(streams, "wsivit-score", torch.set_num_threads, (max(1, threads // streams),))
    try:
        yield from map_ordered(pool, function, items, ahead=2 * streams)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what was set last holds for every thread that begins later
