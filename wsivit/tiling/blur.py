"""The blur of tiles at their own scale: before they are chosen where that is asked for, else while they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from wsivit.io import progress_bar
from wsivit.slide import ReadPlan, Slide, TileFailure, TileGrid
from wsivit.store import StoreWriter
from wsivit.tissue import blur_scores, line_pairs, sharpness_along


class BlurSource(StrEnum):
    """What ``qc/blur`` holds, as the store's parameters record it in ``tissue["blur"]``."""

    TILES_BEFORE_SELECTION = "tiles-before-selection"
    """A score of each tile, measured before tiles were selected by it."""
    TILES_WHILE_TILING = "tiles-while-tiling"
    """A score of each tile, measured when it was decoded for the store."""
    OVERVIEW = "overview"
    """The share of each tile that is blurred on the overview."""


TELLING = 0.5
"""Share of a tile that must be tissue before it may tell what is sharp."""
_TOGETHER = 32  # tiles measured at a time


def recorded_sharpness(lines: Sequence[NDArray[np.uint8]]) -> list[float | None]:
    """Sharpness of tiles from their `line_pairs`, rounded for the journal; None where nothing can be said."""
    values = sharpness_along(np.stack(lines)).tolist()
    return [None if math.isnan(value) else round(value, 4) for value in values]


def measure_blur(
    slide: Slide, plan: ReadPlan, grid: TileGrid, cells: tuple[NDArray[np.int64], NDArray[np.int64]], progress: bool
) -> NDArray[np.float32]:
    """Read tiles and measure their sharpness; NaN where one cannot be read."""
    values = np.full(len(cells[0]), np.nan, np.float32)  # as the journal has them
    read = enumerate(slide.map_tiles(line_pairs, plan, grid.tile_size, *grid.plane_xy(*cells)))
    with progress_bar(len(values), "measuring blur", "tile", show=progress) as advance:
        while run := list(islice(read, _TOGETHER)):
            there = {i: lines for i, lines in run if not isinstance(lines, TileFailure)}
            if there:
                values[list(there)] = np.array(recorded_sharpness(list(there.values())), np.float32)
            advance(len(run))
    return values


def write_blur(writer: StoreWriter) -> None:
    """Put the blur that was measured while tiles were made in the place of what the overview showed."""
    if writer.done or writer.parameters.tissue.get("blur") != BlurSource.TILES_WHILE_TILING:
        return
    seen = writer.read_qc("blur")
    telling = writer.table.tissue_fraction >= TELLING
    writer.write_qc("blur", blur_scores(writer.sharpness, 0.0 if seen is None else seen, telling))
