"""One slide into one tile store."""

from __future__ import annotations

from wsivit.tiling.options import TileOptions
from wsivit.tiling.run import LABEL, Tiling, tile

__all__ = ["LABEL", "TileOptions", "Tiling", "tile"]
