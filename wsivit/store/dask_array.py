"""A store as a lazy array, for dask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsivit.store.reader import TileStore


class SliceableTiles:
    """The tiles of a store as something that can be sliced like an array (n, size, size, 3), read when it is."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: TileStore, indexes: NDArray[np.int64]) -> None:
        self.store = store
        self.indexes = indexes
        self.shape = (len(indexes), store.grid.tile_size, store.grid.tile_size, 3)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
        tiles, *inside = key
        # dask runs many of these side by side: each keeps to its own thread.
        return self.store.read(self.indexes[tiles], threads=1)[(slice(None), *inside)]


def dask_array(store: TileStore, indexes: NDArray[np.int64], block: int) -> Any:
    """Return some tiles as a dask array in blocks of so many."""
    import dask.array
    from dask.base import tokenize

    tiles = SliceableTiles(store, indexes)
    name = "tiles-" + tokenize(store.url, store.parameters.to_dict(), indexes)
    from_array: Any = dask.array.from_array
    return from_array(tiles, chunks=(block, *tiles.shape[1:]), name=name, meta=np.empty((0, 0, 0, 0), np.uint8))
