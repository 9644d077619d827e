"""The blur of tiles at their own scale: before they are chosen where that is asked for, else while they are made."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsivit.grid import TileGrid
from wsivit.progress import progress_bar
from wsivit.resolution import ReadPlan
from wsivit.slide import Slide, TileFailure
from wsivit.store import StoreWriter
from wsivit.tissue import blur_scores, sharpness

# What ``qc/blur`` holds, as recorded in the parameters:
MEASURED_BEFORE = "tiles, measured before they were chosen"
MEASURED_WHILE_MADE = "tiles, measured while they were made"
SEEN_ON_OVERVIEW = "share of the tile that is blurred on the overview"

TELLING = 0.5
"""Share of a tile that must be tissue before it may tell what is sharp."""


def recorded_sharpness(pixels: NDArray[np.uint8]) -> float | None:
    """Sharpness of a tile, rounded for the journal; None where nothing can be said."""
    value = sharpness(pixels)
    return None if math.isnan(value) else round(value, 4)


def measure_blur(
    slide: Slide, plan: ReadPlan, grid: TileGrid, cells: tuple[NDArray[np.int64], NDArray[np.int64]], progress: bool
) -> NDArray[np.float32]:
    """Read tiles and measure their sharpness; NaN where one cannot be read."""
    values = np.full(len(cells[0]), np.nan, np.float32)  # as the journal has them
    measured = slide.map_tiles(recorded_sharpness, plan, grid.tile_size, *grid.plane_xy(*cells))
    with progress_bar(len(values), "measuring blur", "tile", show=progress) as advance:
        for i, value in enumerate(measured):
            if value is not None and not isinstance(value, TileFailure):
                values[i] = value
            advance(1)
    return values


def write_blur(writer: StoreWriter) -> None:
    """Put the blur that was measured while tiles were made in the place of what the overview showed."""
    if writer.done or writer.parameters.tissue.get("blur") != MEASURED_WHILE_MADE:
        return
    seen = writer.read_qc("blur")
    telling = writer.table.tissue_fraction >= TELLING
    writer.write_qc("blur", blur_scores(writer.sharpness, 0.0 if seen is None else seen, telling))
