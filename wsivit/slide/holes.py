"""Tiles that a level's file leaves out although the slide was scanned there: the next finer level fills them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsivit.io import ByteSource
from wsivit.slide.backend import Backend, Pixels, TileFailure, TileMask, UnreadableBlockError, area_mean
from wsivit.slide.dicom import read_frames, series_files
from wsivit.slide.metadata import TIFF_ERRORS
from wsivit.slide.preflight import stored_tiles
from wsivit.slide.read_plan import Level, ReadPlan, plan_downsample
from wsivit.slide.reading import Request, map_rectangles
from wsivit.slide.tiff_level import tile_size

_MAX_PART, _MIN_PART = 512, 32
_SOURCE = 2048  # side of what one part may be made of: memory stays bounded where levels are missing

Mask = NDArray[np.bool_]


class Holes:
    """Which tiles of each level have no bytes, and which of those a finer level has.

    Parameters
    ----------
    levels : sequence of Level
        Finest first.
    tiles : sequence of TileMask or None
        Of each level, those that have bytes in the file; None where it is not known.
    inherited : bool, optional
        Coarse levels were made of levels with holes, and are black there (Aperio): tiles over filled ones are filled
        themselves.
    """

    def __init__(self, levels: Sequence[Level], tiles: Sequence[TileMask | None], inherited: bool = False) -> None:
        self._levels, self._tiles = levels, tiles
        self._filled: list[TileMask | None] = []
        covered: TileMask | None = None  # what the finer level shows: its own tiles and those that are filled
        for number, (level, own) in enumerate(zip(levels, tiles, strict=True)):
            self._filled.append(None)
            below = self._filled[number - 1] if inherited and number else None
            if own is not None and number and (below is not None or not own.where.all()):
                filled = ~own.where & _covers(covered, levels[number - 1], own, level)
                if below is not None:
                    filled |= _covers(below, levels[number - 1], own, level)
                self._filled[number] = own._replace(where=filled) if filled.any() else None
                own = own._replace(where=own.where | filled)
            covered = own

    def filled(self, level: int) -> TileMask | None:
        """Which tiles of a level are left out and filled; None where none is."""
        return self._filled[level]

    def over_level0(self, level: int) -> Mask | None:
        """Which tiles of a level lie over some that are left out of level 0, bool (rows, columns); None where none."""
        own, finest = self._tiles[level], self._tiles[0]
        if own is None or finest is None or finest.where.all():
            return None
        return _covers(finest._replace(where=~finest.where), self._levels[0], own, self._levels[level])

    def left_out(self, level: int, x: int, y: int, width: int, height: int) -> tuple[Mask, bool] | None:
        """Which pixels of a rectangle lie on tiles that are left out, bool (height, width), and whether any is filled.

        None where all of its tiles are stored.
        """
        tiles = self._tiles[level]
        if tiles is None:
            return None
        rows, columns = np.arange(y, y + height) // tiles.height, np.arange(x, x + width) // tiles.width
        place = np.ix_(rows, columns)
        hole = ~tiles.where[place]
        filled = self._filled[level]
        return (hole, filled is not None and bool(filled.where[place].any())) if hole.any() else None


def _covers(finer: TileMask | None, finer_level: Level, own: TileMask, level: Level) -> Mask:
    """Which tiles of a level have at least one tile of the finer level below them; all where that is not known."""
    if finer is None:
        return np.ones_like(own.where)
    total = np.pad(finer.where, ((1, 0), (1, 0))).astype(np.int64).cumsum(axis=0).cumsum(axis=1)
    edges = []
    for axis, side, finer_side, ratio in (
        (0, own.height, finer.height, level.downsample_y / finer_level.downsample_y),
        (1, own.width, finer.width, level.downsample_x / finer_level.downsample_x),
    ):
        starts, most = np.arange(own.where.shape[axis]) * side, finer.where.shape[axis]
        # Rounded, or a ratio of 4.0000001 would take in the neighbour.
        first = np.floor(starts * ratio / finer_side + 1e-3).astype(np.int64)
        stop = np.ceil((starts + side) * ratio / finer_side - 1e-3).astype(np.int64)
        edges.append((np.clip(first, 0, most), np.clip(stop, 0, most)))
    (top, bottom), (left, right) = edges
    inside = total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)]
    covered: Mask = inside + total[np.ix_(top, left)] > 0
    return covered


def tiff_holes(source: ByteSource, levels: Sequence[Level]) -> Holes:
    """Find the holes of a slide that another reader reads, where it is a TIFF whose pages are those levels."""
    tiles: dict[tuple[int, int], TileMask] = {}
    try:
        with source.open() as file, tifffile.TiffFile(file) as tiff:
            if tiff.is_ndpi:
                return Holes(levels, [None] * len(levels))  # its index is of stripes
            pages = [
                page
                for top_page in tiff.pages
                for page in ([top_page, *(top_page.pages or [])] if isinstance(top_page, tifffile.TiffPage) else [])
                if isinstance(page, tifffile.TiffPage)
            ]
            pages.sort(key=lambda page: not page.is_tiled)  # a thumbnail in strips may have a level's size
            for page in pages:
                size, (width, height) = (page.imagewidth, page.imagelength), tile_size(page)
                columns, rows = -(-size[0] // width), -(-size[1] // height)
                offsets, counts = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
                if len(offsets) != len(counts) or not len(offsets) or len(offsets) % (columns * rows):
                    continue  # a damaged index
                planes = stored_tiles(offsets, counts, source.size).reshape(-1, rows, columns)
                tiles.setdefault(size, TileMask(width, height, np.logical_and.reduce(planes, axis=0)))
    except TIFF_ERRORS:
        pass  # no TIFF, or damaged from there on: its reader has opened it
    return Holes(levels, [_find_level(tiles, level) for level in levels])


def _find_level(tiles: dict[tuple[int, int], TileMask], level: Level) -> TileMask | None:
    """The tiles of the page that is a level: of its size, or (Philips) padded to complete tiles."""

    def beside(size: tuple[int, int]) -> int:
        return max(abs(size[0] - level.width), abs(size[1] - level.height))

    if not tiles:
        return None
    size = min(tiles, key=beside)
    return tiles[size] if beside(size) < min(tiles[size].width, tiles[size].height) else None


def dicom_holes(path: Path, levels: Sequence[Level]) -> Holes:
    """Find the holes of a DICOM slide, whose levels may be tiled sparsely; `path` is any file of its series."""
    parts: dict[tuple[tuple[int, int], str], TileMask] = {}
    for file in series_files(path):
        frames = read_frames(file)
        key = frames.size, frames.concatenation or str(file)
        stored = frames.stored
        if key in parts and parts[key].where.shape == stored.shape:
            stored = stored | parts[key].where
        parts[key] = TileMask(*frames.tile, stored)
    tiles: dict[tuple[int, int], TileMask] = {}
    for (size, _), mask in parts.items():
        # Which of several files of one size is read is not known here: a hole in one may be a hole of the level.
        other = tiles.get(size, mask)
        tiles[size] = mask._replace(where=mask.where & other.where) if mask.where.shape == other.where.shape else mask
    return Holes(levels, [tiles.get((level.width, level.height)) for level in levels])


def read_finer(backend: Backend, level: int, box: tuple[int, int, int, int], reduce: int = 1) -> Pixels | None:
    """Read a rectangle of a level from the next finer one, or where that is damaged from one still finer.

    Parameters
    ----------
    backend : Backend
    level : int
        At least 1.
    box : tuple of int
        ``x, y, width, height`` in pixels of the level, whole multiples of `reduce`.
    reduce : int, optional
        Read it at ``1 / reduce``.

    Returns
    -------
    ndarray of uint8, (height / reduce, width / reduce, 3), or None
        None where nothing was scanned.

    Raises
    ------
    UnreadableBlockError
        If every finer level is damaged there.
    """
    own = backend.facts.levels[level]
    if reduce > 1 and not own.centred:
        # As where wavelet levels are left out, a pixel must lie on the first of those it stands for.
        full = read_finer(backend, level, box)
        if full is None:
            return None
        before, (height, width, _) = reduce // 2, full.shape
        shifted = np.pad(full, ((before, 0), (before, 0), (0, 0)), mode="edge")[:height, :width]
        return area_mean(shifted, reduce)
    wanted = (own.downsample_x * reduce, own.downsample_y * reduce)
    failure: TileFailure | None = None
    for count in range(level, 0, -1):
        plan = plan_downsample(wanted, backend.facts.levels[:count], tolerance=0)
        pixels = _read(backend, plan, (box[0] // reduce, box[1] // reduce, box[2] // reduce, box[3] // reduce))
        if not isinstance(pixels, TileFailure):
            return pixels
        failure = pixels
    raise UnreadableBlockError(f"level {level} is left out at {box[:2]}, and {failure.reason if failure else ''}")


def _read(backend: Backend, plan: ReadPlan, box: tuple[int, int, int, int]) -> Pixels | TileFailure | None:
    """Read a rectangle of a plan's plane in parts; None where nothing was scanned."""
    x, y, width, height = box
    side = int(_SOURCE / max(plan.residual_x, plan.residual_y))
    side = max(_MIN_PART, min(_MAX_PART, side))
    side_x, side_y = min(side, width), min(side, height)
    top, left = (grid.ravel() for grid in np.mgrid[0:height:side_y, 0:width:side_x])
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = backend.facts.background
    scanned = False
    request = Request(plan, side_x, side_y, x + left.astype(np.int64), y + top.astype(np.int64))
    parts = map_rectangles(lambda part: part, backend, request, threads=1)
    for x0, y0, part in zip(left.tolist(), top.tolist(), parts, strict=True):
        if not isinstance(part, TileFailure):
            place = pixels[y0 : y0 + side_y, x0 : x0 + side_x]
            place[:] = part[: place.shape[0], : place.shape[1]]
            scanned = True
        elif not part.missing:
            return part
    return pixels if scanned else None
