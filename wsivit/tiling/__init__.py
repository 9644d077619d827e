"""One slide into one tile store."""

from __future__ import annotations

from wsivit.tiling.fill import OnBadTile
from wsivit.tiling.imported import ImportOptions, import_tiles
from wsivit.tiling.made import Made
from wsivit.tiling.options import TileOptions
from wsivit.tiling.run import LABEL, Place, Tiler, Tiling, tile

__all__ = [
    "LABEL",
    "ImportOptions",
    "Made",
    "OnBadTile",
    "Place",
    "TileOptions",
    "Tiler",
    "Tiling",
    "import_tiles",
    "tile",
]
