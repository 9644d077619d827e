"""The encoded chunks of tiles: copied from the slide, or read and encoded in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.resolution import ReadPlan
from wsivit.slide import NativeTiles, Slide, TileFailure
from wsivit.slide.base import UnreadableBlockError
from wsivit.store import Status, StoreParameters, StoreWriter, TileTable
from wsivit.store.codec import encode_jpeg, encode_zstd
from wsivit.tiling.blur import MEASURED_WHILE_MADE, recorded_sharpness
from wsivit.tiling.layout import Layout

Pixels: TypeAlias = NDArray[np.uint8]

PADDED = int(Status.PADDED)
THUMBNAIL_SIDE = 2048
"""Longer side of the thumbnail kept in the store, in pixels."""


def write_overview(writer: StoreWriter, slide: Slide, layout: Layout) -> None:
    """Write what is known at low power: tissue mask, quality control, thumbnail."""
    for name, values in layout.qc.items():
        writer.write_qc(name, values)
    (width, height), mask = slide.dimensions, layout.tissue.mask
    writer.write_mask(mask, (width / mask.shape[1], height / mask.shape[0]))
    thumbnail = slide.thumbnail(THUMBNAIL_SIDE)
    writer.write_thumbnail(thumbnail, (width / thumbnail.shape[1], height / thumbnail.shape[0]))


class MadeTile(NamedTuple):
    """A tile's encoded chunks in C order, and its sharpness where it was measured."""

    chunks: list[bytes]
    sharpness: float | None = None


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

    def chunks(self, tiles: NDArray[np.int64]) -> Iterator[MadeTile | TileFailure]:
        """Make each tile, or say why it cannot be read."""
        return self._encoded(tiles) if self._native is None else self._copied(tiles, self._native)

    def _copied(self, tiles: NDArray[np.int64], native: NativeTiles) -> Iterator[MadeTile | TileFailure]:
        table, grid = self._table, self._parameters.grid
        width, height = native.tile_width, native.tile_height
        parts = [(x, y) for y in range(grid.tile_size // height) for x in range(grid.tile_size // width)]
        # Plain lists: reading a numpy scalar costs as much as copying the tile.
        left, top = (table.col[tiles] * grid.step // width).tolist(), (table.row[tiles] * grid.step // height).tolist()
        for i, state, x, y in zip(tiles.tolist(), table.status[tiles].tolist(), left, top, strict=True):
            if state == PADDED:
                # Its native tiles hold whatever the scanner put past the edge, so it is read and padded like any other.
                yield from self._encoded(np.array([i]))
                continue
            try:
                yield MadeTile([native.jpeg(x + dx, y + dy) or self._blank(height, width) for dx, dy in parts])
            except UnreadableBlockError as error:
                yield TileFailure(str(error))

    def _blank(self, height: int, width: int) -> bytes:
        return self._encode(np.full((height, width, 3), self._slide.background, np.uint8))

    def _encoded(self, tiles: NDArray[np.int64]) -> Iterator[MadeTile | TileFailure]:
        table, grid = self._table, self._parameters.grid
        x, y = grid.plane_xy(table.col[tiles], table.row[tiles])
        return self._slide.map_tiles(self._encode_tile, self._plan, grid.tile_size, x, y)

    def _encode_tile(self, pixels: Pixels) -> MadeTile:
        height, width = self._parameters.chunk
        rows = range(0, pixels.shape[0], height)
        chunks = [
            self._encode(pixels[y : y + height, x : x + width]) for y in rows for x in range(0, pixels.shape[1], width)
        ]
        return MadeTile(chunks, recorded_sharpness(pixels) if self.measuring else None)

    def _encode(self, pixels: Pixels) -> bytes:
        pixels = np.ascontiguousarray(pixels)
        return (
            encode_zstd(pixels) if self._parameters.codec == "zstd" else encode_jpeg(pixels, self._parameters.quality)
        )
