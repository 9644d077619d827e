"""Where the page's pixels come from: the levels of a slide, or the tiles of a store whose slide is gone.

A pyramid is a list of levels, finest first; each is a grid of JPEGs. Native JPEG tiles of a slide are passed on as they
are. Between levels that are far apart, and below the coarsest, further levels are decoded at a reduction.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from wsivit.errors import SlideError, StoreError, UnreadableTilesError
from wsivit.slide import NativeTiles, ReadPlan, Slide, plan_downsample
from wsivit.store import Status, TileStore

State: TypeAlias = Literal["ok", "blank", "unreadable"]

_SIDE = 256  # about the side of a decoded tile
_FURTHEST = 3.0  # between two levels; more costs the page too many tiles
_COARSEST = 1024  # longest side of the coarsest level: below it there is the thumbnail
_REDUCED = (2, 4, 8)
_NATIVE_SIDES = range(64, 2049)
_QUALITY = 88


@dataclass(frozen=True)
class PyramidLevel:
    """One level, as the page needs it.

    Attributes
    ----------
    width, height : int
        In pixels of the level.
    downsample : (float, float)
        Level-0 pixels per pixel, ``x, y``; exact.
    tile : (int, int)
        Width and height of a JPEG; those at the end may reach past the level.
    step : (int, int)
        Distance of neighbours: less than `tile` where they overlap.
    native : bool
        Whether its JPEGs are passed on as they are, without decoding.
    """

    width: int
    height: int
    downsample: tuple[float, float]
    tile: tuple[int, int]
    step: tuple[int, int]
    native: bool = False

    def has(self, col: int, row: int) -> bool:
        """Whether a tile begins inside the level."""
        return 0 <= col * self.step[0] < self.width and 0 <= row * self.step[1] < self.height


@dataclass(frozen=True)
class TileAnswer:
    """What there is of one tile: a JPEG, or why there is none."""

    state: State
    jpeg: bytes = b""


BLANK, UNREADABLE = TileAnswer("blank"), TileAnswer("unreadable")


class Pyramid(ABC):
    """Levels of JPEG tiles; read from several threads at once."""

    levels: tuple[PyramidLevel, ...]

    @abstractmethod
    def tile(self, level: int, col: int, row: int) -> TileAnswer:
        """Return one tile."""

    @abstractmethod
    def thumbnail(self, max_side: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """Return the complete slide, uint8 (h, w, 3), and its level-0 pixels per pixel, ``x, y``."""

    def close(self) -> None:  # noqa: B027 - a store holds nothing open
        """Close what is open."""


class SlidePyramid(Pyramid):
    """The levels of a slide."""

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        readers: list[tuple[PyramidLevel, ReadPlan, NativeTiles | None]] = []
        for index in range(len(slide.levels)):
            readers.append(self._level(index))
            next_coarser = slide.levels[index + 1].downsample_x if index + 1 < len(slide.levels) else math.inf
            for reduce in _REDUCED:
                coarsest = readers[-1][0]
                near = next_coarser <= _FURTHEST * coarsest.downsample[0]
                if near or max(coarsest.width, coarsest.height) <= _COARSEST:
                    break
                readers.append(self._reduced(index, reduce))
        self.levels = tuple(level for level, _, _ in readers)
        self._readers = readers

    def tile(self, level: int, col: int, row: int) -> TileAnswer:
        """Return one tile: the slide's own bytes where it has them, else decoded pixels."""
        at, plan, native = self._readers[level]
        try:
            if native is not None and not native.filled(np.array([col]), np.array([row]))[0]:
                jpeg = native.jpeg(col, row)
                return BLANK if jpeg is None else TileAnswer("ok", jpeg)
            (width, height), (step_x, step_y) = at.tile, at.step
            return TileAnswer("ok", encode(self._slide.read(plan, col * step_x, row * step_y, width, height)))
        except (SlideError, UnreadableTilesError):
            return UNREADABLE

    def thumbnail(self, max_side: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """See `Pyramid.thumbnail`."""
        pixels = self._slide.thumbnail(max_side)
        (width, height), (h, w, _) = self._slide.dimensions, pixels.shape
        return pixels, (width / w, height / h)

    def close(self) -> None:
        """Close the slide's files."""
        self._slide.close()

    def _level(self, index: int) -> tuple[PyramidLevel, ReadPlan, NativeTiles | None]:
        level, native = self._slide.levels[index], self._slide.native_tiles(index)
        exact = (level.downsample_x, level.downsample_y)
        plan = plan_downsample(exact, self._slide.levels, tolerance=0.0)
        if native is not None and native.tile_width in _NATIVE_SIDES and native.tile_height in _NATIVE_SIDES:
            tile = native.tile_width, native.tile_height
            return PyramidLevel(level.width, level.height, exact, tile, tile, native=True), plan, native
        return _decoded_level(plan, self._blocks(index, 1)), plan, None

    def _reduced(self, index: int, reduce: int) -> tuple[PyramidLevel, ReadPlan, None]:
        level = self._slide.levels[index]
        wanted = (level.downsample_x * reduce, level.downsample_y * reduce)
        plan = plan_downsample(wanted, self._slide.levels, tolerance=0.0)
        return _decoded_level(plan, self._blocks(index, reduce)), plan, None

    def _blocks(self, index: int, reduce: int) -> tuple[int, int]:
        """Size of the file's own tiles once reduced: tiles that are made of whole ones decode each once."""
        level = self._slide.levels[index]
        sides = []
        for side in (level.tile_width, level.tile_height):
            known = side if side and 128 <= side <= 1024 and side % reduce == 0 else 256 * reduce
            sides.append(known // reduce)
        return sides[0], sides[1]


class StorePyramid(Pyramid):
    """The tiles of a store, for a slide that is gone: complete tissue at the store's scale, the rest at low power."""

    def __init__(self, store: TileStore) -> None:
        self._store, grid = store, store.grid
        self._index = np.full((grid.n_rows, grid.n_cols), -1, np.int32)
        self._index[store.row, store.col] = np.arange(len(store), dtype=np.int32)
        levels = []
        for reduce in (1, *_REDUCED) if store.has_pixels else ():
            if grid.step % reduce or grid.tile_size % reduce:
                break
            # A reduced tile is made of so many of the store's, on each axis.
            many = 1 if reduce == 1 else max(1, round(_SIDE * reduce / grid.step))
            step = many * grid.step // reduce
            size = grid.tile_size if reduce == 1 else step
            downsample = grid.downsample_x * reduce, grid.downsample_y * reduce
            width, height = -(-grid.plane_width // reduce), -(-grid.plane_height // reduce)
            levels.append((PyramidLevel(width, height, downsample, (size, size), (step, step)), reduce, many))
        self.levels = tuple(level for level, _, _ in levels)
        self._made = [(reduce, many) for _, reduce, many in levels]

    def tile(self, level: int, col: int, row: int) -> TileAnswer:
        """Return one tile of the store, or several of them reduced and joined."""
        reduce, many = self._made[level]
        within = self._index[row * many : (row + 1) * many, col * many : (col + 1) * many]
        if not (within >= 0).any():
            return BLANK
        try:
            if reduce == 1:
                return store_tile(self._store, int(within[0, 0]))
            return TileAnswer("ok", encode(self._joined(level, col, row, within)))
        except (StoreError, UnreadableTilesError):
            return UNREADABLE

    def thumbnail(self, max_side: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """Return the thumbnail that the store keeps, no larger than `max_side`."""
        pixels, downsample = self._store.thumbnail
        return shrink(pixels, downsample, max_side)

    def _joined(self, level: int, col: int, row: int, within: NDArray[np.int32]) -> NDArray[np.uint8]:
        reduce, many = self._made[level]
        at, grid = self.levels[level], self._store.grid
        joined = self._ground(at, col, row)
        part = grid.step // reduce
        readable = [i for i in within[within >= 0].tolist() if self._store.status[i] in (Status.OK, Status.PADDED)]
        for index, pixels in zip(readable, self._store.read(readable, threads=1), strict=True):
            small = np.asarray(Image.fromarray(pixels).reduce(reduce))[:part, :part]
            x = (int(self._store.col[index]) - col * many) * part
            y = (int(self._store.row[index]) - row * many) * part
            joined[y : y + part, x : x + part] = small
        return joined

    def _ground(self, at: PyramidLevel, col: int, row: int) -> NDArray[np.uint8]:
        """The thumbnail under a tile of a level: what the store has of glass."""
        pixels, downsample = self._store.thumbnail
        size = np.array([pixels.shape[1], pixels.shape[0]])
        scale = np.array(at.downsample) / downsample
        corner = np.array([col, row]) * at.step * scale
        box = (*np.minimum(corner, size - 1e-3), *np.minimum(corner + np.array(at.tile) * scale, size))
        return np.array(Image.fromarray(pixels).resize(at.tile, Image.Resampling.BILINEAR, box=box))


def store_tile(store: TileStore, index: int) -> TileAnswer:
    """Return a store's tile as a JPEG: the stored bytes where they are one, else encoded.

    Raises
    ------
    UnreadableTilesError, StoreError
        If it has no pixels, or the store is damaged.
    """
    if store.status[index] == Status.MISSING:
        return BLANK
    parameters = store.parameters
    if parameters.codec == "jpeg" and parameters.chunks_per_tile == 1:
        return TileAnswer("ok", store.encoded(index)[0])
    return TileAnswer("ok", encode(store.read([index], threads=1)[0]))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels for the page."""
    jpeg: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=_QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return jpeg


def shrink(
    pixels: NDArray[np.uint8], downsample: tuple[float, float], max_side: int
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Bring a picture to at most `max_side` pixels, with its level-0 pixels per pixel."""
    height, width = pixels.shape[:2]
    factor = max(width, height) / max_side
    if factor <= 1:
        return pixels, downsample
    size = max(1, round(width / factor)), max(1, round(height / factor))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    return small, (downsample[0] * width / size[0], downsample[1] * height / size[1])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a mask or picture without loss."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _decoded_level(plan: ReadPlan, block: tuple[int, int]) -> PyramidLevel:
    width, height = (side * max(1, round(_SIDE / side)) for side in block)
    tile = width, height
    return PyramidLevel(plan.width, plan.height, (plan.downsample_x, plan.downsample_y), tile, tile)
