"""How many tiles of a store were copied, decoded, resampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.slide import NativeTiles, ReadPlan, Slide
from wsivit.store import Status, TileStore


@dataclass(frozen=True)
class TileOrigins:
    """How the pixels of a store's tiles came from the slide. Tiles that cannot be read are none of these.

    Attributes
    ----------
    copied : int
        Compressed bytes as they are in the slide.
    scaled : int
        Decoded, as they are or at a fraction that the decoder gives, and encoded again.
    resampled : int
        Averaged to the scale after decoding, and encoded.
    """

    copied: int = 0
    scaled: int = 0
    resampled: int = 0


def count_tile_origins(store: TileStore, slide: Slide) -> TileOrigins:
    """Count how the tiles of a finished store were made of its slide."""
    plan = ReadPlan(**store.parameters.plan)
    if not store.has_pixels:
        return TileOrigins()
    native = slide.native_tiles(plan.level) if store.parameters.encoding == "copied" else None
    if native is not None:
        copied = int((_all_native(store, native) & (store.status == Status.OK)).sum())
        return TileOrigins(copied, len(store.readable) - copied)
    return TileOrigins(resampled=len(store.readable)) if plan.resampled else TileOrigins(scaled=len(store.readable))


def _all_native(store: TileStore, native: NativeTiles) -> NDArray[np.bool_]:
    """Which tiles are made of the slide's tiles alone, none of them blank."""
    grid, found = store.grid, np.ones(len(store), np.bool_)
    left, top = store.col * grid.step // native.tile_width, store.row * grid.step // native.tile_height
    for down in range(grid.tile_size // native.tile_height):
        for along in range(grid.tile_size // native.tile_width):
            found &= ~native.blank(left + along, top + down)
    return found
