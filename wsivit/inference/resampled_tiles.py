"""Tiles of another scale or size than a store's, read from its slide around the middle of each of its tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.data import read_skipping_unreadable
from wsivit.errors import ScaleError, UnreadableTilesError
from wsivit.slide import plan_downsample
from wsivit.store import TileStore

_TOLERANCE = 0.02
"""Relative deviation of the scale within which nothing is resampled, as everywhere."""


class ResampledTiles:
    """What an encoder needs of each tile of a store whose tiles have another scale or size.

    The middle stays where it is, so a vector is of the store's tile; how much around it is seen is the encoder's.

    Parameters
    ----------
    store : TileStore
        Its slide must be there.
    mpp : float
        Microns per pixel.
    tile_size : int
        In pixels.

    Raises
    ------
    SlideError
        The slide is not there, or cannot be read.
    ScaleError
        The scale is finer than the slide.
    """

    def __init__(self, store: TileStore, mpp: float, tile_size: int) -> None:
        self._url, self._slide, self._size = store.url, store.slide, tile_size
        of_slide = store.parameters.slide_mpp
        wanted = (mpp / of_slide[0], mpp / of_slide[1])
        if min(wanted) < 1 - _TOLERANCE:
            raise ScaleError(
                f"{self._slide.path}: {mpp:g} microns per pixel is finer than the slide itself ({of_slide[0]:.4g} x "
                f"{of_slide[1]:.4g}); nothing is upsampled"
            )
        self._plan = plan_downsample(wanted, self._slide.levels, tolerance=_TOLERANCE, mpp=mpp, mpp0=of_slide)
        boxes = store.grid.boxes0(store.col, store.row)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / (self._plan.downsample_x, self._plan.downsample_y)
        self._corners = np.rint(middles - tile_size / 2).astype(np.int64)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Read tiles but those that turn out unreadable; also return which were read."""
        return read_skipping_unreadable(self._read, indices, self._size)

    def _read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        target = np.empty((len(indices), self._size, self._size, 3), np.uint8)
        x, y = self._corners[indices].T
        tile: Any
        for place, tile in enumerate(self._slide.read_tiles(self._plan, self._size, x, y)):
            if not isinstance(tile, np.ndarray):
                raise UnreadableTilesError(f"around tile {indices[place]} of {self._url}: {tile.reason}")
            target[place] = tile
        return target
