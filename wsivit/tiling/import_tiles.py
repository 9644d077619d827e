"""Tiles that another tool has chosen, as a store of the lattice on which they lie."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import ScaleError, UsageError
from wsivit.ranges import Mpp, Overlap, TileSize, check_options
from wsivit.slide import ReadPlan, Slide, TileGrid, plan_downsample
from wsivit.store import TileTable
from wsivit.tiling.options import TileOptions
from wsivit.tiling.tile import TilingResult, TilingTarget, ensure_open, tile_into
from wsivit.tiling.tile_file import TileFile
from wsivit.tiling.tile_files import read_tile_file
from wsivit.tiling.tiling_plan import TilingPlan, store_parameters
from wsivit.tissue import OVERVIEW_MPP, Tissue

_log = logging.getLogger(__name__)


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

    tile_size: TileSize | None = None
    mpp: Mpp | None = None
    overlap: Overlap | None = None
    snap: bool = False

    def __post_init__(self) -> None:
        check_options(self)


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
        ``.h5`` of TRIDENT, CLAM or STAMP, ``.coordinates.npz`` of hs2p (with its ``.meta.json`` next to it),
        ``tile_embeddings/<slide>.npz`` of slide2vec, ``<slide>.embeddings.zarr`` of raw2features, ``.csv`` of WSInfer,
        or what ``wsivit export`` writes as ``h5`` and ``csv``.
    slide : path or Slide
        The slide that they are of.
    output : path or URL
        Folder for ``<slide_id>.zarr`` and ``<slide_id>-preview.png``.
    options : ImportOptions
        What the file does not say; what it says must agree.
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file has no scale or a wrong one.
    force : bool
        Replace a store with other parameters or of another slide.

    Returns
    -------
    TilingResult

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
        A store with other parameters or of another slide exists.
    """
    source = Path(coordinates)
    imported = read_tile_file(source)
    with ensure_open(slide, slide_mpp) as opened:
        try:
            imported = imported.in_pixels((opened.scale.mpp_x, opened.scale.mpp_y))
            _check_slide(opened, imported)
            fit = _best_fit(opened, imported, options)
        except (UsageError, ScaleError) as error:
            raise type(error)(f"{source}: {error}") from None
        if fit.off.any() and not options.snap:
            raise UsageError(
                f"{source}: {fit.off.sum()} of {len(fit.off)} tiles are not on a lattice that starts at the slide's"
                f" corner with a tile every {fit.grid.stride0[0]:g} pixels of level 0, but up to"
                f" {fit.distance[fit.off].max():.0f} pixels off. If they overlap, or the scale is not what the file"
                " says, give overlap, mpp or tile size. Tools that start a lattice at each piece of tissue (CLAM, hs2p)"
                " have none: snap takes the nearest cells, or tile the slide with wsivit"
            )
        cells, fraction = _cells(fit, imported)
        table = TileTable.from_grid(fit.grid, cells[:, 0], cells[:, 1], fraction)
        identity = {"form": imported.form, "file": imported.file, "sha256": imported.sha256}
        how = {"method": "imported", **identity, "snapped": int(fit.off.sum())}
        tissue = Tissue(_covered(opened, fit.grid.boxes0(table.col, table.row)), None, how)
        chosen = TileOptions(fit.plan.requested_mpp, fit.grid.tile_size, fit.grid.overlap, min_tissue=0.0, codec="none")
        parameters = store_parameters(opened, fit.plan, table, fit.grid, tissue, chosen)
        plan = TilingPlan(parameters, table, tissue, qc={})
        return tile_into(TilingTarget.in_folder(output, opened), opened, plan, force=force)


# The lattice that the tiles lie on


def _check_slide(slide: Slide, imported: TileFile) -> None:
    width, height = slide.dimensions
    if imported.slide_size is not None and imported.slide_size != slide.dimensions:
        raise UsageError(
            f"it is of a slide of {imported.slide_size[0]} x {imported.slide_size[1]} pixels, and {slide.path} has"
            f" {width} x {height}: give the slide that it was made of"
        )
    outside = int(((imported.xy < -imported.rounded) | (imported.xy >= slide.dimensions)).any(axis=1).sum())
    if outside:
        raise UsageError(
            f"{outside} of {len(imported.xy)} tiles start outside {slide.path}, which has {width} x {height} pixels:"
            " give the slide that it was made of"
        )


class _Fit(NamedTuple):
    """Tiles on the lattice of one scale: the cell nearest to each, how far in level-0 pixels, and which are too far."""

    plan: ReadPlan
    grid: TileGrid
    cells: NDArray[np.int64]
    distance: NDArray[np.float64]
    off: NDArray[np.bool_]


def _best_fit(slide: Slide, imported: TileFile, options: ImportOptions) -> _Fit:
    """Fit the lattice on which most tiles lie, of the scales that they may be at."""
    tile_size = _agreed("tile size", imported.tile_size, options.tile_size)
    overlap = _agreed("overlap", imported.overlap, options.overlap) or 0
    mpp = options.mpp if options.mpp is not None else imported.mpp
    side0, mpp0 = imported.side0, (slide.scale.mpp_x, slide.scale.mpp_y)
    if mpp is not None and not mpp > 0:
        raise UsageError(f"mpp must be above 0, not {mpp}")
    if side0 is None:
        if mpp is None or tile_size is None:
            raise UsageError(
                "it does not say how large its tiles are: give their tile size in pixels and their mpp, or import the"
                " file of coordinates that it was made from first"
            )
        side0 = tile_size * mpp / mpp0[0]
    if tile_size is None:
        if mpp is None:
            raise UsageError(
                "it does not say at which scale its tiles are: give their tile size in pixels, or their mpp"
            )
        tile_size = round(side0 * mpp0[0] / mpp)
    TileGrid(tile_size, overlap, 1, 1, 1.0, 1.0)  # refuses sizes that make no sense
    side_mpp = side0 / tile_size * mpp0[0]
    if mpp is not None and abs(side_mpp / mpp - 1) > 1 / tile_size:
        raise UsageError(
            f"tiles of {tile_size} pixels that cover {side0:g} of {slide.path} have {side_mpp:.4g} microns per"
            f" pixel, not {mpp:g}: correct the scale of the tiles or of the slide"
        )
    step = tile_size - overlap
    downsamples = [(imported.step0 or step * side0 / tile_size) / step]
    if imported.step0 is None:  # STAMP rounds the side up
        downsamples += [math.ceil(side0) / tile_size]
    downsample = downsamples[0]
    # Tools round sides and steps to whole pixels, so the scale is known to a range only. Candidates: as the file says,
    # a level within that range, and exactly by the step.
    same = 1 / side0  # a relative change of scale that changes a tile's extent by one pixel
    plans = [slide.plan(mpp, tolerance=same)] if mpp is not None else []
    if downsample < 1 - same:
        raise ScaleError(
            f"its tiles are finer than the slide itself: {tile_size} pixels of {side0:g}; nothing is upsampled"
        )
    plans += [
        plan_downsample(
            (downsample, downsample), slide.levels, tolerance=tolerance, mpp=downsample * mpp0[0], mpp0=mpp0
        )
        for downsample in dict.fromkeys(downsamples)
        for tolerance in (same, 0.0)
    ]
    fits = []
    for plan in plans:
        grid = TileGrid.from_plan(plan, tile_size, overlap)
        cells = np.rint(imported.xy / grid.stride0).astype(np.int64)
        distance = np.abs(imported.xy - cells * grid.stride0).max(axis=1)
        fits.append(_Fit(plan, grid, cells, distance, distance > imported.rounded))
    return min(fits, key=lambda fit: int(fit.off.sum()))


def _agreed(name: str, of_file: int | None, given: int | None) -> int | None:
    if of_file is not None and given is not None and of_file != given:
        raise UsageError(f"its {name} is {of_file}, as it says, and not {given}")
    return given if of_file is None else of_file


def _cells(fit: _Fit, imported: TileFile) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cells as (col, row) in reading order, each once, and their tissue fraction."""
    inside = (fit.cells < (fit.grid.n_cols, fit.grid.n_rows)).all(axis=1)
    if not inside.all():
        _log.warning(
            "%d tiles at the slide's edge are left out: their neighbours cover all of the slide that they cover",
            int((~inside).sum()),
        )
    by_row, first = np.unique(fit.cells[inside][:, ::-1], axis=0, return_index=True)
    if imported.tissue_fraction is None:  # what the other tool chose counts as tissue
        return by_row[:, ::-1], np.ones(len(by_row), np.float32)
    return by_row[:, ::-1], imported.tissue_fraction[inside][first]


def _covered(slide: Slide, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of what the tiles cover of the slide."""
    scale = slide.scale
    width, height = slide.dimensions
    shape = (max(1, round(height * scale.mpp_y / OVERVIEW_MPP)), max(1, round(width * scale.mpp_x / OVERVIEW_MPP)))
    mask = np.zeros(shape, np.bool_)
    pixels = boxes * np.tile([shape[1] / width, shape[0] / height], 2)
    for left, top, right, bottom in np.rint(pixels).astype(np.int64).tolist():
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask
