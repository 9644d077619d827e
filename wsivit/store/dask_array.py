"""Tiles as a lazy array, for dask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SliceableTiles:
    """Tiles that can be sliced like an array (n, size, size, 3), read when they are."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, read: Callable[[NDArray[np.int64]], NDArray[np.uint8]], indexes: NDArray[np.int64], size: int):
        self._read, self._indexes = read, indexes
        self.shape = (len(indexes), size, size, 3)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
        tiles, *inside = key
        return self._read(self._indexes[tiles])[(slice(None), *inside)]


def dask_array(tiles: SliceableTiles, token: object, block: int) -> Any:
    """Return tiles as a dask array in blocks of so many; the same `token` gives it the same name."""
    import dask.array
    from dask.base import tokenize

    from_array: Any = dask.array.from_array
    name, meta = "tiles-" + tokenize(token), np.empty((0, 0, 0, 0), np.uint8)
    return from_array(tiles, chunks=(block, *tiles.shape[1:]), name=name, meta=meta)
