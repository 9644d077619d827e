"""From the chunks of tiles to the shards of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeAlias

import numpy as np

from wsivit.errors import SlideError, UnreadableTilesError
from wsivit.io import progress_bar
from wsivit.slide import TileFailure
from wsivit.store import Chunk, Status, StoreWriter
from wsivit.tiling.tile_source import MadeTiles, TileSource

OnUnreadableTile: TypeAlias = Literal["skip", "skip-all", "fail"]

MAX_CONSECUTIVE_FAILURES = 1000
"""Unreadable tiles in a row after which it is the slide, or the disk, that cannot be read, and not the tiles."""


def write_shards(
    writer: StoreWriter,
    source: TileSource,
    shards: Sequence[range],
    on_unreadable_tile: OnUnreadableTile,
    progress: bool,
) -> dict[int, str]:
    """Write some of the pending shards; return why tiles failed, by index."""
    failures: dict[int, str] = {}
    # One pass over all shards: what two of them need is decoded once, and no thread waits where one ends.
    tiles = np.concatenate([np.arange(0), *map(np.asarray, shards)])
    stream = source.chunks(tiles)
    with progress_bar(len(tiles), "tiling", "tile", show=progress and bool(shards)) as advance:
        told = TileProgress(
            writer.parameters.slide_path, writer.parameters.chunks_per_tile, on_unreadable_tile, advance
        )
        for shard in shards:
            told.bad, told.sharpness = {}, []
            chunks = told.chunks(shard, stream)
            writer.write_shard(shard, chain.from_iterable(chunks), told.sharpness if source.measuring else None)
            failures |= told.bad
    return failures


@dataclass
class TileProgress:
    """Draws the chunks out of tiles, and keeps what is to be told of them."""

    path: str
    per_tile: int
    on_unreadable_tile: OnUnreadableTile
    advance: Callable[[int], object]
    bad: dict[int, str] = field(default_factory=dict)
    sharpness: list[float | None] = field(default_factory=list)
    bad_in_a_row: int = 0

    def chunks(self, tiles: range, stream: Iterator[MadeTiles | TileFailure]) -> Iterator[Sequence[Chunk]]:
        """Draw the chunks of some tiles, in C order, as `StoreWriter.write_shard` takes them."""
        index = tiles.start
        while index < tiles.stop:
            made = next(stream)
            if isinstance(made, TileFailure):
                if not made.missing:
                    self._note(index, made.reason)
                sharpness: list[float | None] = [None]
                yield [Status.MISSING if made.missing else None] * self.per_tile
            else:
                self.bad_in_a_row, sharpness = 0, made.sharpness
                yield made.chunks
            self.sharpness += sharpness
            self.advance(len(sharpness))
            index += len(sharpness)

    def _note(self, index: int, reason: str) -> None:
        if self.on_unreadable_tile == "fail":
            raise UnreadableTilesError(f"{self.path}: tile {index} cannot be read: {reason}")
        self.bad[index] = reason
        self.bad_in_a_row += 1
        if self.bad_in_a_row == MAX_CONSECUTIVE_FAILURES and self.on_unreadable_tile != "skip-all":
            raise SlideError(
                f"{self.path}: gave up after {MAX_CONSECUTIVE_FAILURES} unreadable tiles in a row (last: {reason});"
                " --on-unreadable-tile skip-all goes on"
            )
