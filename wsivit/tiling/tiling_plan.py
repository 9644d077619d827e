"""What is decided before the first tile is read: scale, grid, tissue, and so the tiles."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.io import progress_bar
from wsivit.slide import OverviewImage, ReadPlan, Slide, TileFailure, TileGrid, check_sha256, plan_read
from wsivit.store import StoreParameters, TileTable
from wsivit.tiling.options import TileOptions
from wsivit.tissue import (
    OVERVIEW_MPP,
    Tissue,
    blur_scores,
    find_tissue,
    line_pairs,
    qc_fractions,
    read_tissue,
    sharpness_along,
    tissue_fractions,
)

_log = logging.getLogger(__name__)

SHARD_BYTES = 32 << 20
"""Target size of a shard file; a JPEG tile is estimated at an eighth of its raw size."""
MIN_REFERENCE_TISSUE = 0.5
"""Tissue fraction from which a tile counts when the slide's own sharpness is estimated."""
_MEASURED_TOGETHER = 32  # tiles; measuring one by one takes several times as long


class BlurSource(StrEnum):
    """What ``qc/blur`` holds, as the store's parameters record it in ``tissue["blur"]``."""

    TILES_BEFORE_SELECTION = "tiles-before-selection"
    """A score of each tile, measured before tiles were selected by it."""
    TILES_WHILE_TILING = "tiles-while-tiling"
    """A score of each tile, measured when it was decoded for the store."""
    OVERVIEW = "overview"
    """The share of each tile that is blurred on the overview."""


@dataclass(frozen=True)
class TilingPlan:
    """What is decided before the first tile is read.

    Attributes
    ----------
    parameters : StoreParameters
        Of the store, with the read plan and the grid.
    table : TileTable
        The selected tiles.
    tissue : Tissue
    qc : dict of str to ndarray of float32, (n,)
        Quality control of the selected tiles, as fractions.
    overview : ndarray of uint8, (h, w, 3), or None
        The complete slide at low power, where it was read.
    """

    parameters: StoreParameters
    table: TileTable
    tissue: Tissue
    qc: dict[str, NDArray[np.float32]]
    overview: NDArray[np.uint8] | None = None


def plan_tiling(slide: Slide, options: TileOptions, *, progress: bool = False) -> TilingPlan:
    """Decide which tiles of a slide are written, and how."""
    sha256 = check_sha256(slide.path, options.sha256)
    overview = slide.read_overview(OVERVIEW_MPP)
    plan = _plan_from_trusted_level(slide, options, overview)
    grid = TileGrid.from_plan(plan, options.tile_size, options.overlap, options.edge)
    tissue = _find_tissue(slide, overview, options.tissue)
    table, qc = _select_tiles(slide, plan, grid, tissue, options, progress)
    parameters = replace(store_parameters(slide, plan, table, grid, tissue, options), slide_sha256=sha256)
    return TilingPlan(parameters, table, tissue, qc, overview.pixels)


def _plan_from_trusted_level(slide: Slide, options: TileOptions, overview: OverviewImage) -> ReadPlan:
    """Plan the reading from the coarsest level that shows what level 0 shows."""
    plan = slide.plan(options.mpp, tolerance=options.mpp_tolerance, downscale=options.downscale)
    while plan.level:
        fault = overview.rejected.get(plan.level)
        if fault is None and plan.level != overview.level:  # the overview's own level was compared when it was read
            fault = slide.disagreement(plan.level, overview.pixels)
        if fault is None:
            break
        wrong, finer = plan.level, slide.levels[: plan.level]
        plan = plan_read(plan.requested_mpp, slide.scale, finer, tolerance=0, downscale=plan.downscale)
        _log.warning("%s: level %d is wrong, %s: tiles are read from level %d", slide.path, wrong, fault, plan.level)
    return plan


def _find_tissue(slide: Slide, overview: OverviewImage, method: str) -> Tissue:
    (width, height), (x, y, bounds_width, bounds_height) = slide.dimensions, slide.bounds
    if Path(method).suffix:
        tissue = read_tissue(method, overview.pixels.shape[:2], slide.dimensions, view_origin=slide.bounds[:2])
    else:
        tissue = find_tissue(overview.pixels, slide.scale.mpp_x * width / overview.pixels.shape[1], method)
        if overview.unreadable.any():
            # What the overview could not show may be tissue: its tiles are tried, and end as unreadable, not as glass.
            rows, cols = tissue.mask.shape
            pixels = TileGrid(1, 0, cols, rows, width / cols, height / rows)
            hidden = tissue_fractions(overview.unreadable, pixels.boxes0(*pixels.cells()), slide.dimensions) > 0
            tissue = replace(tissue, mask=tissue.mask | hidden.reshape(rows, cols))
    # Beyond its bounds nothing of a slide was scanned (MIRAX).
    rows, cols = tissue.mask.shape
    scanned = np.zeros((rows, cols), np.bool_)
    left, right = (round(edge * cols / width) for edge in (x, x + bounds_width))
    top, bottom = (round(edge * rows / height) for edge in (y, y + bounds_height))
    scanned[top:bottom, left:right] = True
    return replace(tissue, mask=tissue.mask & scanned)


def _select_tiles(
    slide: Slide, plan: ReadPlan, grid: TileGrid, tissue: Tissue, options: TileOptions, progress: bool
) -> tuple[TileTable, dict[str, NDArray[np.float32]]]:
    """Return the tiles that have enough tissue and keep to every limit, and their quality control."""
    col, row = grid.cells()
    boxes = grid.boxes0(col, row)
    size, (x, y, width, height) = slide.dimensions, slide.bounds
    fraction = tissue_fractions(tissue.mask, boxes, size)
    left, top, right, bottom = boxes.T
    inside = (left < x + width) & (top < y + height) & (right > x) & (bottom > y)
    chosen = np.flatnonzero((fraction >= options.min_tissue) & inside)
    qc = qc_fractions(tissue, boxes[chosen], size)
    keep = np.ones(len(chosen), np.bool_)
    for name, limit in options.limits().items():
        if name in qc and name != "blur":
            keep &= qc[name] <= limit
        elif name not in qc and name != "blur" and limit < 1:
            raise UsageError(f"max_{name} cannot be kept to: tissue={options.tissue!r} does not tell {name}; use auto")
    chosen, qc = chosen[keep], {name: values[keep] for name, values in qc.items()}
    if options.max_blur < 1:  # last, because it reads every tile that is left
        sharpness = _measure_sharpness(slide, plan, grid, (col[chosen], row[chosen]), progress)
        reference = fraction[chosen] >= MIN_REFERENCE_TISSUE
        qc["blur"] = blur_scores(sharpness, qc.get("blur", 0.0), reference)
        keep = qc["blur"] <= options.max_blur
        chosen, qc = chosen[keep], {name: values[keep] for name, values in qc.items()}
    return TileTable.from_grid(grid, col[chosen], row[chosen], fraction[chosen]), qc


def _measure_sharpness(
    slide: Slide, plan: ReadPlan, grid: TileGrid, cells: tuple[NDArray[np.int64], NDArray[np.int64]], progress: bool
) -> NDArray[np.float32]:
    """Read tiles and measure their sharpness; NaN where one cannot be read."""
    values = np.full(len(cells[0]), np.nan, np.float32)  # the precision of the journal
    read = enumerate(slide.map_tiles(line_pairs, plan, grid.tile_size, *grid.plane_xy(*cells)))
    with progress_bar(len(values), "measuring blur", "tile", show=progress) as advance:
        while run := list(islice(read, _MEASURED_TOGETHER)):
            readable = {index: lines for index, lines in run if not isinstance(lines, TileFailure)}
            if readable:
                values[list(readable)] = np.array(recorded_sharpness(list(readable.values())), np.float32)
            advance(len(run))
    return values


def recorded_sharpness(lines: Sequence[NDArray[np.uint8]]) -> list[float | None]:
    """Sharpness of tiles from their `line_pairs`, rounded for the journal; None where it cannot be judged."""
    values = sharpness_along(np.stack(lines)).tolist()
    return [None if math.isnan(value) else round(value, 4) for value in values]


def store_parameters(
    slide: Slide, plan: ReadPlan, table: TileTable, grid: TileGrid, tissue: Tissue, options: TileOptions
) -> StoreParameters:
    """Collect what determines a store."""
    chunk, copied = (grid.tile_size, grid.tile_size), False
    native = slide.native_tiles(plan.level) if plan.native and options.codec == "jpeg" else None
    if native is not None:
        # A tile's bytes can be copied where it is a whole number of the slide's own tiles.
        sides = (native.tile_width, native.tile_height)
        if all(grid.step % side == 0 and grid.tile_size % side == 0 for side in sides):
            chunk, copied = (native.tile_height, native.tile_width), True
    if options.max_blur < 1:
        blur = BlurSource.TILES_BEFORE_SELECTION
    else:
        # Copied bytes are not decoded unless that is asked for: it would take many times as long as copying.
        blur = BlurSource.OVERVIEW if copied or options.codec == "none" else BlurSource.TILES_WHILE_TILING
    return StoreParameters(
        slide_id=slide.id,
        slide_path=slide.path,
        slide_fingerprint=slide.fingerprint,
        slide_size=slide.dimensions,
        slide_mpp=(slide.scale.mpp_x, slide.scale.mpp_y),
        scale=asdict(slide.scale),
        requested_mpp=options.mpp,
        mpp=(plan.mpp_x, plan.mpp_y),
        plan=plan,
        grid=grid,
        tissue={**tissue.parameters, "limits": options.limits(), "blur": blur},
        min_tissue=options.min_tissue,
        codec=options.codec,
        quality=options.quality,
        encoding="copied" if copied else "encoded",
        chunk=chunk,
        shard_tiles=_shard_tiles(options),
        open_options=slide.open_options,
        slide_bounds=slide.bounds,
        filled=_count_filled(slide, plan, grid, table),
    )


def _shard_tiles(options: TileOptions) -> int:
    raw = options.tile_size**2 * 3
    per_shard = SHARD_BYTES * (8 if options.codec == "jpeg" else 2) // raw
    return int(np.clip(1 << max(0, per_shard.bit_length() - 1), 16, 2048))


def _count_filled(slide: Slide, plan: ReadPlan, grid: TileGrid, table: TileTable) -> int:
    """Count the native tiles below the table's tiles that are filled from a finer level."""
    filled, level = slide.filled_tiles(plan.level), slide.levels[plan.level]
    if filled is None:
        return 0
    left, top, right, bottom = grid.boxes0(table.col, table.row).T
    width, height = filled.width * level.downsample_x, filled.height * level.downsample_y
    rows, cols = filled.where.shape
    # The native tiles below each tile, half-open. An edge within 1/1000 of a native tile counts as on its border.
    first_row, first_col = (
        np.clip(np.floor(low + 1e-3), 0, most).astype(np.int64)
        for low, most in ((top / height, rows), (left / width, cols))
    )
    last_row, last_col = (
        np.clip(np.ceil(high - 1e-3), 0, most).astype(np.int64)
        for high, most in ((bottom / height, rows), (right / width, cols))
    )
    # +1 where such a rectangle begins and -1 where it ends sum up to the number of tiles above each native tile.
    change = np.zeros((rows + 1, cols + 1), np.int64)
    np.add.at(change, (first_row, first_col), 1)
    np.add.at(change, (last_row, last_col), 1)
    np.add.at(change, (first_row, last_col), -1)
    np.add.at(change, (last_row, first_col), -1)
    needed = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return int((filled.where & needed).sum())
