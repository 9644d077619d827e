"""From the chunks of tiles to the shards of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np

from wsivit.errors import SlideError, UnreadableTilesError
from wsivit.progress import progress_bar
from wsivit.slide import TileFailure
from wsivit.store import StoreWriter
from wsivit.tiling.source import MadeTile, TileSource

Tiles: TypeAlias = Iterator[tuple[int, MadeTile | TileFailure]]
OnBadTile: TypeAlias = Literal["skip", "skip-all", "fail"]

HOPELESS = 1000
"""Unreadable tiles in a row after which it is the slide, or the disk, that cannot be read, and not the tiles."""


def write_shards(
    writer: StoreWriter, source: TileSource, shards: Sequence[range], on_bad_tile: OnBadTile, progress: bool
) -> dict[int, str]:
    """Write some of the pending shards; return why tiles failed, by index."""
    failures: dict[int, str] = {}
    # One pass over all shards: what two of them need is decoded once, and no thread waits where one ends.
    tiles = np.concatenate([np.arange(0), *map(np.asarray, shards)])
    stream: Tiles = zip(tiles.tolist(), source.chunks(tiles), strict=True)
    if on_bad_tile != "skip-all":
        stream = _until_hopeless(stream, writer.parameters.slide_path)
    with progress_bar(len(tiles), "tiling", "tile", show=progress and bool(shards)) as advance:
        for shard in shards:
            bad: dict[int, str] = {}
            sharpness: list[float | None] = []
            made = _tell(islice(stream, len(shard)), bad, sharpness, advance)
            chunks = _chunks(made, writer.parameters.chunks_per_tile)
            writer.write_shard(shard, chunks, sharpness if source.measuring else None)
            failures |= bad
            if bad and on_bad_tile == "fail":
                index, reason = next(iter(bad.items()))
                raise UnreadableTilesError(f"{writer.parameters.slide_path}: tile {index} cannot be read: {reason}")
    return failures


def _until_hopeless(tiles: Tiles, path: str) -> Tiles:
    """Pass tiles on until too many in a row cannot be read."""
    in_a_row = 0
    for index, tile in tiles:
        in_a_row = in_a_row + 1 if isinstance(tile, TileFailure) else 0
        if isinstance(tile, TileFailure) and in_a_row == HOPELESS:
            raise SlideError(
                f"{path}: given up after {HOPELESS} unreadable tiles in a row (the last: {tile.reason});"
                " --on-bad-tile skip-all goes on"
            )
        yield index, tile


def _tell(
    tiles: Tiles,
    bad: dict[int, str],
    sharpness: list[float | None],
    advance: Callable[[int], object],
) -> Iterator[MadeTile | TileFailure]:
    """Pass tiles on; why some are unreadable goes to `bad`, how sharp the others are to `sharpness`."""
    for index, tile in tiles:
        if isinstance(tile, TileFailure):
            bad[index] = tile.reason
        sharpness.append(None if isinstance(tile, TileFailure) else tile.sharpness)
        yield tile
        advance(1)


def _chunks(tiles: Iterable[MadeTile | TileFailure], per_tile: int) -> Iterator[bytes | None]:
    """Yield the chunks of tiles in C order; None for those of an unreadable tile."""
    for tile in tiles:
        yield from [None] * per_tile if isinstance(tile, TileFailure) else tile.chunks
