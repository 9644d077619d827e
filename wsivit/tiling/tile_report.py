"""What a finished store holds: where its tiles came from, and what is suspicious about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsivit.slide import Slide
from wsivit.store import Status, TileStore
from wsivit.tissue import absorbance, tissue_fractions

_BARE_DENSITY = 0.05
"""Optical density (natural log) up to which a pixel is bare glass: an eosin so pale is invisible."""
_COLOURLESS = 16
"""Largest difference of the channels of a colourless pixel, in grey levels."""
_BLANK_SHARE = 0.995
"""Share of a tile that must be bare for the tile to be blank."""
_MANY = 0.5
"""Share of blank tiles above which they are reported: at the tissue's edge there are always some."""


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
    """Count how the tiles of a finished store came from its slide."""
    parameters, grid, readable = store.parameters, store.grid, len(store.readable)
    if not store.has_pixels:
        return TileOrigins()
    native = slide.native_tiles(parameters.plan.level) if parameters.encoding == "copied" else None
    if native is None:
        return TileOrigins(resampled=readable) if parameters.plan.resampled else TileOrigins(scaled=readable)
    # A tile with a blank native tile in it is copied around a blank that the slide does not have.
    copied = store.status == Status.OK
    left, top = store.col * grid.step // native.tile_width, store.row * grid.step // native.tile_height
    for down in range(grid.tile_size // native.tile_height):
        for along in range(grid.tile_size // native.tile_width):
            copied &= ~native.blank(left + along, top + down)
    return TileOrigins(int(copied.sum()), readable - int(copied.sum()))


def store_warnings(store: TileStore) -> list[str]:
    """Describe what is suspicious about a store: no tiles, tiles of empty glass, classes that no tile has.

    Nobody shall train on these without knowing.
    """
    if not len(store):
        return [
            "NO TILES: nothing on the slide counts as tissue. Look at the preview; is the mask empty or of another "
            "slide? --tissue none or a lower --min-tissue keeps more"
        ]
    warnings = []
    overview, _ = store.thumbnail
    measured = absorbance(overview)
    if measured.dark_field:
        bare = measured.grey < _BARE_DENSITY
    else:
        colour = overview.max(axis=2).astype(np.int16) - overview.min(axis=2)
        clear = (np.abs(measured.density).max(axis=0) < _BARE_DENSITY) & (colour < _COLOURLESS)
        bare = np.asarray(clear | measured.void)  # void: never scanned
    boxes = store.grid.boxes0(store.col, store.row)
    blank = int((tissue_fractions(bare, boxes, store.parameters.slide_size) >= _BLANK_SHARE).sum())
    if blank > _MANY * len(store):
        warnings.append(
            f"EMPTY GLASS: {blank} of {len(store)} tiles show nothing. Look at the preview; does the tissue mask hold "
            "everything, or is the slide empty? --tissue auto finds the tissue"
        )
    for name in store.labels:
        column = store.label(name)
        lost = [title for code, title in enumerate(column.classes) if not (column.codes == code).any()]
        if lost:
            warnings.append(
                f"CLASS WITHOUT TILES: no tile is {' or '.join(map(repr, lost))} (label {name}). Its regions cover "
                "less than half of any tile, or lie where no tissue was found"
            )
    return warnings
