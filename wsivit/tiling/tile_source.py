"""The encoded chunks of tiles: copied from the slide, or read and encoded in threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.slide import MISSING, NativeTiles, ReadPlan, Slide, TileFailure, UnreadableBlockError
from wsivit.store import Encoded, Status, StoreParameters, StoreWriter, TileTable, encode_jpeg, encode_zstd
from wsivit.tiling.blur import MEASURED_WHILE_MADE, recorded_sharpness
from wsivit.tiling.tiling_plan import TilingPlan
from wsivit.tissue import line_pairs

Pixels: TypeAlias = NDArray[np.uint8]
Cells: TypeAlias = NDArray[np.int64]

PADDED = int(Status.PADDED)
_RUN = 32  # of the slide's tiles that are copied at a time: they stay in the processor's cache
_LAID_OUT = 1024  # tiles whose places in the slide are worked out at a time
THUMBNAIL_SIDE = 2048
"""Longer side of the thumbnail kept in the store, in pixels."""


def write_overview(writer: StoreWriter, slide: Slide, layout: TilingPlan) -> None:
    """Write what is known at low power: tissue mask, quality control, thumbnail."""
    for name, values in layout.qc.items():
        writer.write_qc(name, values)
    (width, height), mask = slide.dimensions, layout.tissue.mask
    writer.write_mask(mask, (width / mask.shape[1], height / mask.shape[0]))
    thumbnail = _thumbnail(slide, layout)
    writer.write_thumbnail(thumbnail, (width / thumbnail.shape[1], height / thumbnail.shape[0]))


def _thumbnail(slide: Slide, layout: TilingPlan) -> Pixels:
    """The whole slide at the thumbnail's size: of the layout's overview where that is larger, or else read."""
    if layout.overview is None or max(layout.overview.shape) < THUMBNAIL_SIDE:
        return slide.thumbnail(THUMBNAIL_SIDE)
    height, width, _ = layout.overview.shape
    factor = max(height, width) / THUMBNAIL_SIDE
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(layout.overview).resize(size, Image.Resampling.BOX))


class MadeTiles(NamedTuple):
    """Encoded chunks of tiles that follow each other, in C order, and the sharpness of each where it was measured."""

    chunks: Sequence[Encoded]
    sharpness: list[float | None]


class _EncodedTile(NamedTuple):
    """Encoded chunks of a tile, and its `line_pairs` where its sharpness is measured."""

    chunks: Sequence[Encoded]
    lines: Pixels | None


class TileSource:
    """The encoded chunks of any run of tiles, in order.

    Parameters
    ----------
    slide : Slide
    parameters : StoreParameters
        Of the store that they are for.
    table : TileTable
        Its tiles.

    Attributes
    ----------
    measuring : bool
        Whether the sharpness of tiles is measured while they are made.
    """

    def __init__(self, slide: Slide, parameters: StoreParameters, table: TileTable) -> None:
        self._slide, self._parameters, self._table = slide, parameters, table
        self._plan = ReadPlan(**parameters.plan)
        self.measuring = parameters.tissue.get("blur") == MEASURED_WHILE_MADE
        self._native = slide.native_tiles(self._plan.level) if parameters.encoding == "copied" else None

    def chunks(self, tiles: NDArray[np.int64]) -> Iterator[MadeTiles | TileFailure]:
        """Make the tiles, several at a time where they are copied, or say why one cannot be read.

        Tiles that are made together lie within `_RUN` of the given ones, counted from the first: not on two shards.
        """
        return self._encoded(tiles) if self._native is None else self._copied(tiles, self._native)

    def _copied(self, tiles: NDArray[np.int64], native: NativeTiles) -> Iterator[MadeTiles | TileFailure]:
        per_tile = self._parameters.chunks_per_tile
        step = self._together(_RUN // per_tile)
        for first in range(0, len(tiles), _LAID_OUT):
            some = tiles[first : first + _LAID_OUT]
            col, row = self._native_cells(some, native)
            # Past the edge a native tile holds whatever the scanner put there, and what is left out has no bytes.
            read = ((self._table.status[some] == PADDED) | native.filled(col, row).any(axis=1)).tolist()
            runs = native.jpegs(col.ravel(), row.ravel(), step * per_tile)
            for start, chunks in zip(range(0, len(some), step), runs, strict=True):
                run = slice(start, start + step)
                if chunks is not None and not any(read[run]):
                    yield MadeTiles(chunks, [None] * len(read[run]))
                    continue
                cells = np.stack([col[run], row[run]], axis=2).tolist()
                for i, places, to_read in zip(some[run], cells, read[run], strict=True):
                    yield from self._encoded(np.array([i])) if to_read else [self._copied_tile(places, native)]

    def _together(self, most: int) -> int:
        """How many tiles are made together, at most so many: shards hold a whole number of times as many."""
        sizes = (size for size in (32, 16, 8, 4, 2) if size <= most and self._parameters.shard_tiles % size == 0)
        return next(sizes, 1)

    def _copied_tile(self, cells: list[tuple[int, int]], native: NativeTiles) -> MadeTiles | TileFailure:
        try:
            streams = [native.jpeg(col, row) for col, row in cells]
        except UnreadableBlockError as error:
            return TileFailure(str(error))
        return MadeTiles([stream or self._blank(native) for stream in streams], [None]) if any(streams) else MISSING

    def _native_cells(self, tiles: NDArray[np.int64], native: NativeTiles) -> tuple[Cells, Cells]:
        """Columns and rows of the slide's own tiles in each tile, in C order; (n, chunks per tile)."""
        table, grid = self._table, self._parameters.grid
        width, height = native.tile_width, native.tile_height
        down, along = np.divmod(np.arange(self._parameters.chunks_per_tile), grid.tile_size // width)
        left, top = table.col[tiles] * grid.step // width, table.row[tiles] * grid.step // height
        return left[:, None] + along, top[:, None] + down

    def _blank(self, native: NativeTiles) -> bytes:
        return self._encode(np.full((native.tile_height, native.tile_width, 3), self._slide.background, np.uint8))

    def _encoded(self, tiles: NDArray[np.int64]) -> Iterator[MadeTiles | TileFailure]:
        table, grid = self._table, self._parameters.grid
        x, y = grid.plane_xy(table.col[tiles], table.row[tiles])
        made = self._slide.map_tiles(self._encode_tile, self._plan, grid.tile_size, x, y)
        step = self._together(_RUN)
        for _ in range(0, len(tiles), step):
            yield from self._gathered(islice(made, step))

    def _gathered(self, tiles: Iterable[_EncodedTile | TileFailure]) -> Iterator[MadeTiles | TileFailure]:
        whole: list[_EncodedTile] = []
        for tile in tiles:
            if isinstance(tile, _EncodedTile):
                whole.append(tile)
                continue
            if whole:
                yield self._measured(whole)
                whole = []
            yield tile
        if whole:
            yield self._measured(whole)

    def _measured(self, tiles: list[_EncodedTile]) -> MadeTiles:
        """Measure tiles together, which costs a fraction of what it does one by one."""
        lines = [tile.lines for tile in tiles if tile.lines is not None]
        chunks = list(chain.from_iterable(tile.chunks for tile in tiles))
        return MadeTiles(chunks, recorded_sharpness(lines) if lines else [None] * len(tiles))

    def _encode_tile(self, pixels: Pixels) -> _EncodedTile:
        height, width = self._parameters.chunk
        rows = range(0, pixels.shape[0], height)
        chunks = [
            self._encode(pixels[y : y + height, x : x + width]) for y in rows for x in range(0, pixels.shape[1], width)
        ]
        return _EncodedTile(chunks, line_pairs(pixels) if self.measuring else None)

    def _encode(self, pixels: Pixels) -> bytes:
        pixels = np.ascontiguousarray(pixels)
        return (
            encode_zstd(pixels) if self._parameters.codec == "zstd" else encode_jpeg(pixels, self._parameters.quality)
        )
