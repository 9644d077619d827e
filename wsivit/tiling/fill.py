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
from wsivit.tiling.source import TileSource

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
            parts = _parts(islice(stream, len(shard)), writer.parameters.chunks_per_tile, bad, advance)
            writer.write_shard(shard, parts)
            failures |= bad
            if bad and on_bad_tile == "fail":
                index, reason = next(iter(bad.items()))
                raise UnreadableTilesError(f"{writer.parameters.slide_path}: tile {index} cannot be read: {reason}")
    return failures


def _parts(
    tiles: Iterable[tuple[int, list[bytes] | TileFailure]],
    per_tile: int,
    bad: dict[int, str],
    advance: Callable[[int], object],
) -> Iterator[bytes | None]:
    """Yield a shard's chunks in C order; None for those of an unreadable tile, whose reason goes to `bad`."""
    for index, chunks in tiles:
        if isinstance(chunks, TileFailure):
            bad[index] = chunks.reason
            yield from [None] * per_tile
        else:
            yield from chunks
        advance(1)
