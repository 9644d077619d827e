"""Where pictures come from: what every source has, and a tile store as one. No torch."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.store import TileStore

IntArray = NDArray[np.int64]
PathLike = str | os.PathLike[str]


class Source(Protocol):
    """Where pictures come from: one slide's store, one image folder.

    Attributes
    ----------
    id : str
        Name of the slide or folder.
    patient : str
        Who must not be on both sides of a split; empty for pictures that have nothing to do with each other.
    site, scanner : str
        Where it was made, and with what; empty where that is not known.
    fingerprint : str
        Of the content, not the name.
    mpp : float or None
        Microns per pixel of the pictures.
    size : int
        Side of the pictures, in pixels.
    downscale : str
        How a slide was brought to that scale; empty where nothing was.
    """

    id: str
    patient: str
    site: str
    scanner: str
    fingerprint: str
    mpp: float | None
    size: int
    downscale: str

    def read(self, indices: ArrayLike, threads: int | None = None) -> NDArray[np.uint8]:
        """Read pictures, uint8 (k, size, size, 3)."""

    def items(self, indices: IntArray) -> list[str]:
        """Name pictures, with the same names in every run."""


class StoreSource:
    """The tiles of one store as a source.

    Parameters
    ----------
    path : path
        A tile store.
    patient : str, optional
        Default: the slide's id.
    site, scanner : str, optional
        Where and with what the slide was made.
    """

    def __init__(self, path: PathLike, patient: str = "", site: str = "", scanner: str = "") -> None:
        self.store = TileStore(path)
        parameters = self.store.parameters
        self.id = parameters.slide_id
        self.patient = patient or self.id
        self.site, self.scanner = site, scanner
        self.fingerprint = parameters.slide_fingerprint
        self.mpp: float | None = float(np.sqrt(parameters.mpp[0] * parameters.mpp[1]))
        self.requested_mpp: float | None = parameters.requested_mpp
        self.grid = parameters.grid
        self.size = self.grid.tile_size
        self.downscale = parameters.downscale

    def read(
        self, indices: ArrayLike, threads: int | None = None, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read tiles, uint8 (k, size, size, 3), into `out` where that is given."""
        return self.store.read(indices, out, threads=threads)

    def items(self, indices: IntArray) -> list[str]:
        """Name tiles by their position in the grid, ``col/row``, which a change of the mask does not move."""
        return [f"{c}/{r}" for c, r in zip(self.store.col[indices], self.store.row[indices], strict=True)]

    def boxes(self, indices: IntArray) -> NDArray[np.float64]:
        """Extents of tiles (k, 4) in level-0 pixels."""
        return self.grid.boxes0(self.store.col[indices], self.store.row[indices])
