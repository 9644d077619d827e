"""From tiles to the shards of a store: chunks copied from the slide, or read and encoded in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import SlideError, UnreadableTilesError
from wsivit.io import progress_bar
from wsivit.slide import MISSING, NativeTiles, Slide, TileFailure, UnreadableBlockError
from wsivit.store import Chunk, Encoded, Status, StoreParameters, StoreWriter, TileTable, encode_jpeg, encode_zstd
from wsivit.tiling.tiling_plan import BlurSource, recorded_sharpness
from wsivit.tissue import line_pairs

OnUnreadableTile: TypeAlias = Literal["skip", "skip-all", "fail"]
Pixels: TypeAlias = NDArray[np.uint8]

MAX_CONSECUTIVE_FAILURES = 1000
"""Unreadable tiles in a row after which it is the slide, or the disk, that cannot be read, and not the tiles."""
_RUN = 32  # of the slide's tiles that are copied at a time: they stay in the processor's cache
_LOCATED_TOGETHER = 1024  # tiles whose native tiles are located at a time
_PADDED = int(Status.PADDED)


class EncodedTiles(NamedTuple):
    """Encoded chunks of consecutive tiles, in C order, and the sharpness of each tile where it is measured."""

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
        Whether the sharpness of tiles is measured when they are decoded.
    """

    def __init__(self, slide: Slide, parameters: StoreParameters, table: TileTable) -> None:
        self._slide, self._parameters, self._table = slide, parameters, table
        self.measuring = parameters.tissue.get("blur") == BlurSource.TILES_WHILE_TILING
        self._native = slide.native_tiles(parameters.plan.level) if parameters.encoding == "copied" else None

    def chunks(self, tiles: NDArray[np.int64]) -> Iterator[EncodedTiles | TileFailure]:
        """Yield the tiles, several at a time where possible, or why one cannot be read.

        Tiles that are yielded together lie within `_RUN` of the given ones, counted from the first: never in two
        shards.
        """
        return self._encoded(tiles) if self._native is None else self._copied(tiles, self._native)

    def _copied(self, tiles: NDArray[np.int64], native: NativeTiles) -> Iterator[EncodedTiles | TileFailure]:
        per_tile, grid, table = self._parameters.chunks_per_tile, self._parameters.grid, self._table
        step = self._run_length(_RUN // per_tile)
        # Columns and rows of the native tiles in each tile, in C order; (n, chunks per tile).
        down, along = np.divmod(np.arange(per_tile), grid.tile_size // native.tile_width)
        for first in range(0, len(tiles), _LOCATED_TOGETHER):
            some = tiles[first : first + _LOCATED_TOGETHER]
            col = (table.col[some] * grid.step // native.tile_width)[:, None] + along
            row = (table.row[some] * grid.step // native.tile_height)[:, None] + down
            # Past the edge a native tile holds whatever the scanner put there, and a hole in the file has no bytes:
            # such tiles are decoded, padded or filled from a finer level, and encoded.
            decode = ((table.status[some] == _PADDED) | native.filled(col, row).any(axis=1)).tolist()
            runs = native.jpegs(col.ravel(), row.ravel(), step * per_tile)
            for start, chunks in zip(range(0, len(some), step), runs, strict=True):
                run = slice(start, start + step)
                if chunks is not None and not any(decode[run]):
                    yield EncodedTiles(chunks, [None] * len(decode[run]))
                    continue
                cells = np.stack([col[run], row[run]], axis=2).tolist()
                for index, places, to_decode in zip(some[run], cells, decode[run], strict=True):
                    if to_decode:
                        yield from self._encoded(np.array([index]))
                    else:
                        yield self._copied_tile(places, native)

    def _run_length(self, most: int) -> int:
        """How many tiles are yielded together: at most so many, and a divisor of a shard's tiles."""
        sizes = (size for size in (32, 16, 8, 4, 2) if size <= most and self._parameters.shard_tiles % size == 0)
        return next(sizes, 1)

    def _copied_tile(self, cells: list[tuple[int, int]], native: NativeTiles) -> EncodedTiles | TileFailure:
        try:
            streams = [native.jpeg(col, row) for col, row in cells]
        except UnreadableBlockError as error:
            return TileFailure(str(error))
        if not any(streams):
            return MISSING
        blank = np.full((native.tile_height, native.tile_width, 3), self._slide.background, np.uint8)
        return EncodedTiles([stream or self._encode(blank) for stream in streams], [None])

    def _encoded(self, tiles: NDArray[np.int64]) -> Iterator[EncodedTiles | TileFailure]:
        table, grid = self._table, self._parameters.grid
        x, y = grid.plane_xy(table.col[tiles], table.row[tiles])
        decoded = self._slide.map_tiles(self._encode_tile, self._parameters.plan, grid.tile_size, x, y)
        step, readable = self._run_length(_RUN), list[_EncodedTile]()
        for _ in range(0, len(tiles), step):
            for tile in islice(decoded, step):
                if isinstance(tile, _EncodedTile):
                    readable.append(tile)
                    continue
                if readable:
                    yield self._joined(readable)
                    readable = []
                yield tile
            if readable:
                yield self._joined(readable)
                readable = []

    def _joined(self, tiles: list[_EncodedTile]) -> EncodedTiles:
        # Measuring tiles together costs a fraction of measuring them one by one.
        lines = [tile.lines for tile in tiles if tile.lines is not None]
        chunks = list(chain.from_iterable(tile.chunks for tile in tiles))
        return EncodedTiles(chunks, recorded_sharpness(lines) if lines else [None] * len(tiles))

    def _encode_tile(self, pixels: Pixels) -> _EncodedTile:
        height, width = self._parameters.chunk
        rows, cols = range(0, pixels.shape[0], height), range(0, pixels.shape[1], width)
        chunks = [self._encode(pixels[y : y + height, x : x + width]) for y in rows for x in cols]
        return _EncodedTile(chunks, line_pairs(pixels) if self.measuring else None)

    def _encode(self, pixels: Pixels) -> bytes:
        pixels = np.ascontiguousarray(pixels)
        if self._parameters.codec == "zstd":
            return encode_zstd(pixels)
        return encode_jpeg(pixels, self._parameters.quality)


def write_shards(
    writer: StoreWriter,
    source: TileSource,
    shards: Sequence[range],
    on_unreadable_tile: OnUnreadableTile,
    progress: bool,
) -> dict[int, str]:
    """Write pending shards; return why tiles failed, by index."""
    # One pass over all shards: what two of them need is decoded once, and no thread waits where one ends.
    tiles = np.concatenate([np.arange(0), *map(np.asarray, shards)])
    with progress_bar(len(tiles), "tiling", "tile", show=progress and bool(shards)) as advance:
        stream = _TileStream(source.chunks(tiles), writer.parameters, on_unreadable_tile, advance)
        for shard in shards:
            sharpness: list[float | None] = []  # filled while the chunks are drawn
            chunks = chain.from_iterable(stream.chunks(shard, sharpness))
            writer.write_shard(shard, chunks, sharpness if source.measuring else None)
    return stream.failures


@dataclass
class _TileStream:
    """The tiles of a source, shard by shard, with a record of those that cannot be read."""

    tiles: Iterator[EncodedTiles | TileFailure]
    parameters: StoreParameters
    on_unreadable_tile: OnUnreadableTile
    advance: Callable[[int], object]
    failures: dict[int, str] = field(default_factory=dict)
    consecutive_failures: int = 0

    def chunks(self, shard: range, sharpness: list[float | None]) -> Iterator[Sequence[Chunk]]:
        """Yield the chunks of a shard's tiles, in C order; append the tiles' sharpness."""
        index = shard.start
        while index < shard.stop:
            result = next(self.tiles)
            if isinstance(result, EncodedTiles):
                self.consecutive_failures, measured = 0, result.sharpness
                yield result.chunks
            else:
                if not result.missing:
                    self._record_failure(index, result.reason)
                measured = [None]
                yield [Status.MISSING if result.missing else None] * self.parameters.chunks_per_tile
            sharpness += measured
            self.advance(len(measured))
            index += len(measured)

    def _record_failure(self, index: int, reason: str) -> None:
        path = self.parameters.slide_path
        if self.on_unreadable_tile == "fail":
            raise UnreadableTilesError(f"{path}: tile {index} cannot be read: {reason}")
        self.failures[index] = reason
        self.consecutive_failures += 1
        if self.consecutive_failures == MAX_CONSECUTIVE_FAILURES and self.on_unreadable_tile != "skip-all":
            raise SlideError(
                f"{path}: gave up after {MAX_CONSECUTIVE_FAILURES} unreadable tiles in a row (last: {reason});"
                " --on-unreadable-tile skip-all continues"
            )
