"""Turns the stream of a shard's chunks into those that are stored, several tiles at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.store.codec import Encoded
from wsivit.store.parameters import NO_PIXEL_STATUSES, Status

Chunk: TypeAlias = Encoded | Status | None

_RUN = 32  # tiles looked at together
_NO_PIXELS = {type(None), Status}
_UNREADABLE, _MISSING = int(Status.UNREADABLE), int(Status.MISSING)


def chunk_batches(
    tiles: range, chunks: Iterator[Chunk], per_tile: int, status: NDArray[np.uint8]
) -> Iterator[list[Encoded | None]]:
    """Draw the chunks of a shard's tiles; yield those that are to be stored, of several tiles at a time.

    Parameters
    ----------
    tiles : range
    chunks : iterator of encoded chunks, Status or None
        As of `StoreWriter.write_shard`.
    per_tile : int
        Chunks of each tile.
    status : ndarray of uint8
        Of all tiles of the store, changed in place: a tile that is without pixels has none stored; one of which a chunk
        is missing is set to be without.

    Raises
    ------
    StoreError
        For too few or too many chunks.
    """
    without = np.isin(status[tiles.start : tiles.stop], NO_PIXEL_STATUSES).tolist()
    for first in range(0, len(tiles), _RUN):
        run = tiles[first : first + _RUN]
        parts = list(islice(chunks, len(run) * per_tile))
        if len(parts) != len(run) * per_tile:
            raise StoreError(f"too few chunks for {tiles}: they end at tile {run[len(parts) // per_tile]}")
        if any(without[first : first + _RUN]) or not _NO_PIXELS.isdisjoint(map(type, parts)):
            _finish_tiles(run, parts, per_tile, status)
        yield cast("list[Encoded | None]", parts)
    if next(chunks, status) is not status:
        raise StoreError(f"too many chunks for {tiles}")


def _finish_tiles(tiles: range, chunks: list[Chunk], per_tile: int, status: NDArray[np.uint8]) -> None:
    """Settle the status of tiles of which some have no pixels, and take out what is not to be stored."""
    for place, tile in enumerate(tiles):
        there = slice(place * per_tile, (place + 1) * per_tile)
        parts = chunks[there]
        if None in parts or _MISSING in parts or status[tile] in NO_PIXEL_STATUSES:
            status[tile] = _MISSING if all(part == _MISSING for part in parts) else _UNREADABLE
            chunks[there] = [None] * per_tile
