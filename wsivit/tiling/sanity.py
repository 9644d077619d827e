"""What is suspicious about a finished store, so that nobody trains on empty glass without knowing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsivit.store import TileStore
from wsivit.tissue import absorbance, tissue_fractions

_BARE = 0.05
"""Light, in density (natural log), that bare glass may take: an eosin so pale is not to be seen."""
_COLOURLESS = 16
"""Grey levels between the channels of what has no colour."""
_BLANK_SHARE = 0.995
"""Part of a tile that must be bare for the tile to be blank."""
_MANY = 0.5
"""Part of the tiles from which blank ones are warned of: at the tissue's edge there are always some."""


def store_warnings(store: TileStore) -> list[str]:
    """Say what is suspicious about a store: no tiles, tiles of empty glass, classes that no tile has."""
    if not len(store):
        return [
            "NO TILES: nothing on the slide counts as tissue. Look at the preview; is the mask empty or of another "
            "slide? --tissue none or a lower --min-tissue keeps more"
        ]
    return [*_blank_tiles(store), *_vanished_classes(store)]


def _blank_tiles(store: TileStore) -> list[str]:
    overview, _ = store.thumbnail
    boxes = store.grid.boxes0(store.col, store.row)
    blank = tissue_fractions(_bare(overview), boxes, store.parameters.slide_size) >= _BLANK_SHARE
    count = int(blank.sum())
    if count <= _MANY * len(store):
        return []
    return [
        f"EMPTY GLASS: {count} of {len(store)} tiles show nothing. Look at the preview; does the tissue mask hold "
        "everything, or is the slide empty? --tissue auto finds the tissue"
    ]


def _bare(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of an overview are bare glass, or were not scanned; (h, w)."""
    measured = absorbance(overview)
    if measured.dark_field:
        return measured.grey < _BARE
    colour = overview.max(axis=2).astype(np.int16) - overview.min(axis=2)
    clear = (np.abs(measured.density).max(axis=0) < _BARE) & (colour < _COLOURLESS)
    return np.asarray(clear | measured.void)


def _vanished_classes(store: TileStore) -> list[str]:
    found = []
    for name in store.labels:
        column = store.label(name)
        lost = [title for code, title in enumerate(column.classes) if not (column.codes == code).any()]
        if lost:
            found.append(
                f"CLASS WITHOUT TILES: no tile is {' or '.join(map(repr, lost))} (label {name}). Its regions cover "
                "less than half of any tile, or lie where no tissue was found"
            )
    return found
