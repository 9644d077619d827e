"""What an encoder makes of every tile: a vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.io import Files
from wsivit.store import zarr_metadata as layout
from wsivit.store.column_writer import Column, ColumnLocation, ColumnWriter
from wsivit.store.columns import present

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


def read_features(files: Files, encoder: str) -> Features:
    """Read ``features/<encoder>``; UsageError names the ones that are there."""
    node = present(files, KIND, encoder)
    attrs = layout.attributes_of(layout.read_document(files, node)).get("attrs", {})
    return Features(layout.read_array(files, node), attrs)


class FeaturesWriter(ColumnWriter):
    """The features of an encoder in the making; of `TileStore.features_writer`. Use it as a context manager."""

    def __init__(self, place: ColumnLocation, size: int, attrs: dict[str, Any]) -> None:
        super().__init__(place, {"": Column((size,), ("feature",), "float16")}, {"attrs": attrs})

    def write(self, tiles: range, values: NDArray[np.float16]) -> None:
        """Write one block of :meth:`pending`, float16 (len(tiles), d); NaN where there is nothing.

        Raises
        ------
        StoreError
            When `tiles` is not a block, or the shape does not fit.
        """
        self.put(tiles, {"": values})
