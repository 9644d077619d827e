"""What an encoder makes of every tile: a vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.store.column_writer import Column, ColumnWriter
from wsivit.store.columns import ColumnLocation

KIND = "features"


@dataclass(frozen=True)
class Features:
    """A vector per tile.

    Attributes
    ----------
    values : ndarray of float16 (n, d)
        NaN where there is none.
    attrs : dict
        What made them: model, fingerprint, …; anything JSON can hold.
    """

    values: NDArray[np.float16]
    attrs: dict[str, Any] = field(default_factory=dict)


class FeaturesWriter(ColumnWriter):
    """Writes the features of an encoder block by block; from `TileStore.features_writer`. Use as a context manager."""

    def __init__(self, location: ColumnLocation, size: int, attrs: dict[str, Any]) -> None:
        super().__init__(location, {"": Column((size,), ("feature",), "float16")}, {"attrs": attrs})

    def write(self, tiles: range, values: NDArray[np.float16]) -> None:
        """Write one block of :meth:`pending`, float16 (len(tiles), d); NaN where there is nothing.

        Raises
        ------
        StoreError
            When `tiles` is not a block, or the shape does not fit.
        """
        self.write_block(tiles, {"": values})
