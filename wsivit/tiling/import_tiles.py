"""Tiles that another tool has chosen, as a store of this one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import ScaleError, UsageError
from wsivit.slide import ReadPlan, Slide, TileGrid, plan_downsample
from wsivit.store import TileTable
from wsivit.tiling.coordinates import Coordinates, read_coordinates
from wsivit.tiling.options import TileOptions
from wsivit.tiling.tile import TilingResult, TilingTarget, ensure_open, tile_into
from wsivit.tiling.tiling_plan import TilingPlan, store_parameters
from wsivit.tissue import OVERVIEW_MPP, Tissue

_log = logging.getLogger(__name__)

_ROUNDED = 1.0
"""Tools round their coordinates, down or to the nearest: a tile is in its cell if it is within this many pixels."""


@dataclass(frozen=True)
class ImportOptions:
    """What the file of coordinates does not say, and what is done about tiles off the grid.

    Parameters
    ----------
    tile_size : int, optional
        Side of a tile, in pixels of its own scale. A CSV does not say it: give it or the scale.
    mpp : float, optional
        Scale of the tiles, in microns per pixel.
    overlap : int, optional
        Pixels that neighbouring tiles share, at the tiles' scale.
    snap : bool
        Where tiles are on no lattice of the slide, take the nearest cells of the grid instead: up to half a tile away.
    """

    tile_size: int | None = None
    mpp: float | None = None
    overlap: int | None = None
    snap: bool = False


def import_tiles(
    coordinates: str | os.PathLike[str],
    slide: str | os.PathLike[str] | Slide,
    output: str | os.PathLike[str] = ".",
    options: ImportOptions = ImportOptions(),
    *,
    slide_mpp: float | None = None,
    force: bool = False,
) -> TilingResult:
    """Make a store of the tiles that another tool has chosen.

    The store holds coordinates only: pixels are read from the slide when they are needed.

    Parameters
    ----------
    coordinates : path
        TRIDENT's or CLAM's ``.h5``, hs2p's ``.coordinates.npz`` (with its ``.meta.json`` beside it), WSInfer's
        ``.csv``, or what ``wsivit export`` writes as ``h5`` and ``csv``.
    slide : path or Slide
        The slide that they are of.
    output : path or URL
        Folder in which ``<slide_id>.zarr`` and ``<slide_id>-preview.png`` are made.
    options : ImportOptions
        What the file does not say; what it says must agree.
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file does not say or is wrong.
    force : bool
        Replace a store made with other parameters or of another slide.

    Returns
    -------
    Tiling

    Raises
    ------
    UsageError
        The file is none of these, is of another slide, does not say enough, or its tiles are not on a lattice that
        starts at the slide's corner.
    SlideError
        The slide cannot be read.
    ScaleError
        Its scale is unknown or absurd, or coarser than that of the tiles.
    StoreMismatchError
        The store is there, with other parameters or of another slide.
    """
    source = Path(coordinates)
    found, identity = read_coordinates(source)
    with ensure_open(slide, slide_mpp) as at:
        try:
            layout = _lay_out(at, found, options, identity)
        except (UsageError, ScaleError) as error:
            raise type(error)(f"{source}: {error}") from None
        return tile_into(TilingTarget.in_folder(output, at), at, layout, force=force)


def _lay_out(slide: Slide, found: Coordinates, options: ImportOptions, identity: dict[str, str]) -> TilingPlan:
    _check_slide(slide, found)
    best = _best_fit(slide, _complete(slide, found, options))
    if best.off.any() and not options.snap:
        raise UsageError(_refusal(best))
    plan, grid = best.plan, best.grid
    cells, fraction = _cells(best, found)
    table = TileTable.from_grid(grid, cells[:, 0], cells[:, 1], fraction)
    how = {"method": "imported", **identity, "snapped": int(best.off.sum())}
    tissue = Tissue(_covered(slide, grid.boxes0(table.col, table.row)), None, how)
    made = TileOptions(plan.requested_mpp, grid.tile_size, grid.overlap, min_tissue=0.0, codec="none")
    return TilingPlan(plan, grid, tissue, table, {}, store_parameters(slide, plan, table, grid, tissue, made))


def _check_slide(slide: Slide, found: Coordinates) -> None:
    if found.slide_size is not None and found.slide_size != slide.dimensions:
        raise UsageError(
            f"it is of a slide of {found.slide_size[0]} x {found.slide_size[1]} pixels, and {slide.path} has"
            f" {slide.dimensions[0]} x {slide.dimensions[1]}: give the slide that it was made of"
        )
    outside = int(((found.xy < -_ROUNDED) | (found.xy >= slide.dimensions)).any(axis=1).sum())
    if outside:
        raise UsageError(
            f"{outside} of {len(found.xy)} tiles start outside {slide.path}, which has {slide.dimensions[0]} x"
            f" {slide.dimensions[1]} pixels: give the slide that it was made of"
        )


class _ImportedGrid(NamedTuple):
    """Coordinates of which all is known that lays a lattice."""

    xy: NDArray[np.float64]
    side0: float
    tile_size: int
    overlap: int
    mpp: float | None
    downsample: float


def _complete(slide: Slide, found: Coordinates, options: ImportOptions) -> _ImportedGrid:
    tile_size = _agreed("tile size", found.tile_size, options.tile_size)
    overlap = _agreed("overlap", found.overlap, options.overlap) or 0
    mpp = options.mpp if options.mpp is not None else found.mpp
    if mpp is not None and not mpp > 0:
        raise UsageError(f"mpp must be above 0, not {mpp}")
    if tile_size is None and mpp is None:
        raise UsageError("it does not say at which scale its tiles are: give their tile size in pixels, or their mpp")
    if tile_size is None:
        assert mpp is not None
        tile_size = round(found.side0 * slide.scale.mpp_x / mpp)
    TileGrid(tile_size, overlap, 1, 1, 1.0, 1.0)  # refuses what makes no sense
    side_mpp = found.side0 / tile_size * slide.scale.mpp_x
    if mpp is not None and abs(side_mpp / mpp - 1) > 1 / tile_size:
        raise UsageError(
            f"tiles of {tile_size} pixels that cover {found.side0:g} of {slide.path} have {side_mpp:.4g} microns per"
            f" pixel, not {mpp:g}: correct the scale of the tiles or of the slide"
        )
    step = tile_size - overlap
    step0 = found.step0 or step * found.side0 / tile_size
    return _ImportedGrid(found.xy, found.side0, tile_size, overlap, mpp, step0 / step)


def _agreed(name: str, told: int | None, given: int | None) -> int | None:
    if told is not None and given is not None and told != given:
        raise UsageError(f"its {name} is {told}, as it says, and not {given}")
    return given if told is None else told


def _plans(slide: Slide, told: _ImportedGrid) -> Iterator[ReadPlan]:
    """Scales that the tiles may be at: as said, as a level has it, and by the sides of a tile."""
    same = 1 / told.side0  # a tile has then the same extent to a pixel
    if told.mpp is not None:
        yield slide.plan(told.mpp, tolerance=same)
    if told.downsample < 1 - same:
        raise ScaleError(
            f"its tiles are finer than the slide itself: {told.tile_size} pixels of {told.side0:g};"
            " nothing is upsampled"
        )
    mpp0 = (slide.scale.mpp_x, slide.scale.mpp_y)
    for tolerance in (same, 0.0):
        downsample = (told.downsample, told.downsample)
        mpp = told.downsample * mpp0[0]
        yield plan_downsample(downsample, slide.levels, tolerance=tolerance, mpp=mpp, mpp0=mpp0)


class _Fit(NamedTuple):
    """Coordinates on the lattice of one scale."""

    plan: ReadPlan
    grid: TileGrid
    cells: NDArray[np.int64]
    distance: NDArray[np.float64]

    @property
    def off(self) -> NDArray[np.bool_]:
        """Which tiles are not in their cell."""
        return self.distance > _ROUNDED


def _best_fit(slide: Slide, told: _ImportedGrid) -> _Fit:
    """The first scale whose lattice all tiles are on, or that which most are on."""
    best: _Fit | None = None
    for plan in _plans(slide, told):
        grid = TileGrid.from_plan(plan, told.tile_size, told.overlap)
        cells = np.rint(told.xy / grid.stride0).astype(np.int64)
        fit = _Fit(plan, grid, cells, np.abs(told.xy - cells * grid.stride0).max(axis=1))
        if best is None or fit.off.sum() < best.off.sum():
            best = fit
    assert best is not None
    return best


def _refusal(best: _Fit) -> str:
    off = best.distance[best.off]
    return (
        f"{len(off)} of {len(best.distance)} tiles are not on a lattice that starts at the slide's corner with a tile"
        f" every {best.grid.stride0[0]:g} pixels of level 0, but up to {off.max():.0f} pixels beside it. If they"
        " overlap, or the scale is not what the file says, give overlap, mpp or tile size. Tools that start a lattice"
        " at each piece of tissue (CLAM, hs2p) have none: snap takes the nearest cells, or tile the slide anew"
    )


def _cells(best: _Fit, found: Coordinates) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cells as (col, row) in reading order, each once, and their tissue fraction."""
    inside = (best.cells < (best.grid.n_cols, best.grid.n_rows)).all(axis=1)
    if not inside.all():
        _log.warning(
            "%d tiles at the slide's edge are left out: their neighbours hold all of the slide that they do",
            int((~inside).sum()),
        )
    by_row, first = np.unique(best.cells[inside][:, ::-1], axis=0, return_index=True)
    if found.tissue_fraction is None:  # chosen by the other tool: tissue
        return by_row[:, ::-1], np.ones(len(by_row), np.float32)
    return by_row[:, ::-1], found.tissue_fraction[inside][first]


def _covered(slide: Slide, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """What the tiles cover of the slide, as a mask."""
    scale = slide.scale
    width, height = slide.dimensions
    shape = (max(1, round(height * scale.mpp_y / OVERVIEW_MPP)), max(1, round(width * scale.mpp_x / OVERVIEW_MPP)))
    mask = np.zeros(shape, np.bool_)
    pixels = boxes * np.tile([shape[1] / width, shape[0] / height], 2)
    for left, top, right, bottom in np.rint(pixels).astype(np.int64).tolist():
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask
