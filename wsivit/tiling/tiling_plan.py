"""What is decided before the first tile is read: the plan, the grid, the tissue, and so the tiles."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.slide import NativeTiles, OverviewImage, ReadPlan, Slide, TileGrid, check_sha256, plan_read
from wsivit.store import StoreParameters, TileTable
from wsivit.tiling.blur import TELLING, BlurSource, measure_blur
from wsivit.tiling.options import TileOptions
from wsivit.tissue import (
    OVERVIEW_MPP,
    Tissue,
    blur_scores,
    find_tissue,
    qc_fractions,
    read_tissue,
    tissue_file,
    tissue_fractions,
)

_log = logging.getLogger(__name__)

SHARD_BYTES = 32 << 20
"""Shards are cut so that they hold about this much; a JPEG tile is taken for an eighth of its raw size."""


@dataclass(frozen=True)
class TilingPlan:
    """What is decided before the first tile is read.

    Attributes
    ----------
    overview : ndarray of uint8, (h, w, 3), or None
        The whole slide, small, where the layout looked at it.
    """

    plan: ReadPlan
    grid: TileGrid
    tissue: Tissue
    table: TileTable
    qc: dict[str, NDArray[np.float32]]
    parameters: StoreParameters
    overview: NDArray[np.uint8] | None = None


def plan_tiling(slide: Slide, options: TileOptions, *, progress: bool = False) -> TilingPlan:
    """Decide which tiles of a slide are made, and how."""
    sha256 = check_sha256(slide.path, options.sha256)
    plan = slide.plan(options.mpp, tolerance=options.mpp_tolerance, downscale=options.downscale)
    overview = slide.read_overview(OVERVIEW_MPP)
    plan = _trusted_plan(slide, plan, overview)
    grid = TileGrid.from_plan(plan, options.tile_size, options.overlap, options.edge)
    tissue = _find_tissue(slide, overview, options.tissue)
    tissue = replace(tissue, mask=tissue.mask & _scanned(slide, tissue.mask.shape))
    candidates = _candidates(grid, tissue, slide, options)
    if options.max_blur < 1:
        candidates = _in_focus(candidates, slide, plan, options.max_blur, progress)
    table = TileTable.from_grid(grid, candidates.col, candidates.row, candidates.fraction)
    parameters = replace(store_parameters(slide, plan, table, grid, tissue, options), slide_sha256=sha256)
    return TilingPlan(plan, grid, tissue, table, candidates.qc, parameters, overview.pixels)


def _trusted_plan(slide: Slide, plan: ReadPlan, overview: OverviewImage) -> ReadPlan:
    """Read from a finer level where the plan's does not show what level 0 shows."""
    while plan.level:
        found = overview.rejected.get(plan.level)
        if found is None and plan.level != overview.level:
            found = slide.disagreement(plan.level, overview.pixels)
        if found is None:
            break
        wrong, finer = plan.level, slide.levels[: plan.level]
        plan = plan_read(plan.requested_mpp, slide.scale, finer, tolerance=0, downscale=plan.downscale)
        _log.warning("%s: level %d is wrong, %s: tiles are read from level %d", slide.path, wrong, found, plan.level)
    return plan


def _count_filled(slide: Slide, plan: ReadPlan, grid: TileGrid, table: TileTable) -> int:
    """Count the native tiles below the table's tiles that are filled from a finer level."""
    filled, level = slide.filled_tiles(plan.level), slide.levels[plan.level]
    if filled is None:
        return 0
    left, top, right, bottom = grid.boxes0(table.col, table.row).T
    width, height = filled.width * level.downsample_x, filled.height * level.downsample_y
    most_rows, most_cols = filled.where.shape
    starts = (
        np.clip(np.floor(low + 1e-3), 0, most) for low, most in ((top / height, most_rows), (left / width, most_cols))
    )
    stops = (
        np.clip(np.ceil(high - 1e-3), 0, most)
        for high, most in ((bottom / height, most_rows), (right / width, most_cols))
    )
    (first_row, first_col), (last_row, last_col) = ([n.astype(np.int64) for n in ends] for ends in (starts, stops))
    needed = np.zeros((most_rows + 1, most_cols + 1), np.int64)  # differences of how many tiles lie on each
    for rows, columns, step in (
        (first_row, first_col, 1),
        (last_row, last_col, 1),
        (first_row, last_col, -1),
        (last_row, first_col, -1),
    ):
        np.add.at(needed, (rows, columns), step)
    return int((filled.where & (needed.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)).sum())


def _find_tissue(slide: Slide, overview: OverviewImage, method: str) -> Tissue:
    scale, (width, height) = slide.scale, slide.dimensions
    if given := tissue_file(method):
        path, labels = given
        shape = overview.pixels.shape[:2]
        return read_tissue(path, shape, slide.dimensions, labels=labels, view_origin=slide.bounds[:2])
    tissue = find_tissue(overview.pixels, scale.mpp_x * width / overview.pixels.shape[1], method)
    if not overview.unreadable.any():
        return tissue
    # What the overview could not show may be tissue: its tiles are tried, and end as unreadable, not as glass.
    damaged = tissue_fractions(overview.unreadable, _pixel_boxes(tissue.mask, (width, height)), (width, height)) > 0
    return replace(tissue, mask=tissue.mask | damaged.reshape(tissue.mask.shape))


def _scanned(slide: Slide, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels of a mask lie within the slide's bounds: beyond them nothing was scanned (MIRAX)."""
    (width, height), (x, y, bounds_width, bounds_height) = slide.dimensions, slide.bounds
    inside = np.zeros(shape[:2], np.bool_)
    left, right = (round(edge * shape[1] / width) for edge in (x, x + bounds_width))
    top, bottom = (round(edge * shape[0] / height) for edge in (y, y + bounds_height))
    inside[top:bottom, left:right] = True
    return inside


def _pixel_boxes(mask: NDArray[np.bool_], slide_size: tuple[int, int]) -> NDArray[np.float64]:
    """Extents of a mask's pixels, in level-0 pixels, in reading order."""
    (height, width), (slide_width, slide_height) = mask.shape, slide_size
    pixels = TileGrid(1, 0, width, height, slide_width / width, slide_height / height)
    return pixels.boxes0(*pixels.cells())


@dataclass(frozen=True)
class _Candidates:
    """Tiles that may be made: their cells, tissue fraction and quality control, arrays of (n,)."""

    grid: TileGrid
    col: NDArray[np.int64]
    row: NDArray[np.int64]
    fraction: NDArray[np.float32]
    qc: dict[str, NDArray[np.float32]]

    def where(self, keep: NDArray[np.bool_]) -> _Candidates:
        qc = {name: values[keep] for name, values in self.qc.items()}
        return _Candidates(self.grid, self.col[keep], self.row[keep], self.fraction[keep], qc)


def _candidates(grid: TileGrid, tissue: Tissue, slide: Slide, options: TileOptions) -> _Candidates:
    """Choose the tiles by all but their blur."""
    col, row = grid.cells()
    boxes = grid.boxes0(col, row)
    size, (x, y, width, height) = slide.dimensions, slide.bounds
    fraction = tissue_fractions(tissue.mask, boxes, size)
    left, top, right, bottom = boxes.T
    inside = (left < x + width) & (top < y + height) & (right > x) & (bottom > y)
    there = (fraction >= options.min_tissue) & inside
    qc = qc_fractions(tissue, boxes[there], size)
    found, keep = _Candidates(grid, col[there], row[there], fraction[there], qc), np.ones(np.count_nonzero(there), bool)
    for name, limit in options.limits().items():
        if name in qc and name != "blur":
            keep &= qc[name] <= limit
        elif name not in qc and name != "blur" and limit < 1:
            raise UsageError(f"max_{name} cannot be kept to: tissue={options.tissue!r} does not tell {name}; use auto")
    return found.where(keep)


def _in_focus(found: _Candidates, slide: Slide, plan: ReadPlan, max_blur: float, progress: bool) -> _Candidates:
    """Choose among them by their blur, at their own scale."""
    measured = measure_blur(slide, plan, found.grid, (found.col, found.row), progress)
    blur = blur_scores(measured, found.qc.get("blur", 0.0), found.fraction >= TELLING)
    return replace(found, qc={**found.qc, "blur": blur}).where(blur <= max_blur)


def store_parameters(
    slide: Slide, plan: ReadPlan, table: TileTable, grid: TileGrid, tissue: Tissue, options: TileOptions
) -> StoreParameters:
    """Put together what determines a store."""
    native = _copyable(slide, plan, grid) if options.codec == "jpeg" else None
    chunk = (grid.tile_size,) * 2 if native is None else (native.tile_height, native.tile_width)
    return StoreParameters(
        slide_id=slide.id,
        slide_path=slide.path,
        slide_fingerprint=slide.fingerprint,
        slide_size=slide.dimensions,
        slide_mpp=(slide.scale.mpp_x, slide.scale.mpp_y),
        scale=asdict(slide.scale),
        requested_mpp=options.mpp,
        mpp=(plan.mpp_x, plan.mpp_y),
        plan=asdict(plan),
        grid=grid,
        tissue={**tissue.parameters, "limits": options.limits(), "blur": _blur_measure(options, native is not None)},
        min_tissue=options.min_tissue,
        codec=options.codec,
        quality=options.quality,
        encoding="encoded" if native is None else "copied",
        chunk=chunk,
        shard_tiles=_shard_tiles(options),
        open_options=slide.open_options,
        slide_bounds=slide.bounds,
        filled=_count_filled(slide, plan, grid, table),
    )


def _blur_measure(options: TileOptions, copied: bool) -> BlurSource:
    if options.max_blur < 1:
        return BlurSource.TILES_BEFORE_SELECTION
    # Copied bytes are not decoded unless that is asked for: it would take many times as long as copying.
    return BlurSource.OVERVIEW if copied or options.codec == "none" else BlurSource.TILES_WHILE_TILING


def _shard_tiles(options: TileOptions) -> int:
    raw = options.tile_size**2 * 3
    per_shard = SHARD_BYTES * (8 if options.codec == "jpeg" else 2) // raw
    return int(np.clip(1 << max(0, per_shard.bit_length() - 1), 16, 2048))


def _copyable(slide: Slide, plan: ReadPlan, grid: TileGrid) -> NativeTiles | None:
    """Return the slide's compressed tiles if a tile of the grid is a whole number of them."""
    native = slide.native_tiles(plan.level) if plan.native else None
    if native is None:
        return None
    sides = (native.tile_width, native.tile_height)
    fits = all(grid.step % side == 0 and grid.tile_size % side == 0 for side in sides)
    return native if fits else None
