"""From the chunks of tiles to the shards of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np

from wsivit.errors import UnreadableTilesError
from wsivit.progress import progress_bar
from wsivit.slide import TileFailure
from wsivit.store import StoreWriter
from wsivit.tiling.source import MadeTile, TileSource

OnBadTile: TypeAlias = Literal["skip", "fail"]


def write_shards(
    writer: StoreWriter, source: TileSource, shards: Sequence[range], on_bad_tile: OnBadTile, progress: bool
) -> dict[int, str]:
    """Write some of the pending shards; return why tiles failed, by index."""
    failures: dict[int, str] = {}
    # One pass over all shards: what two of them need is decoded once, and no thread waits where one ends.
    tiles = np.concatenate([np.arange(0), *map(np.asarray, shards)])
    stream = zip(tiles.tolist(), source.chunks(tiles), strict=True)
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


def _tell(
    tiles: Iterable[tuple[int, MadeTile | TileFailure]],
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
