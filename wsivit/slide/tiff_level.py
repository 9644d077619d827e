"""One level of a TIFF as a grid of blocks: where its compressed tiles are in the file. How they decode is elsewhere.

`jpeg_levels` and `codec_levels` decode; `open_level` chooses between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsivit.errors import SlideError
from wsivit.io import ByteSource
from wsivit.slide.backend import BlockLimitError, Pixels, UnreadableBlockError
from wsivit.slide.jpeg import JpegLimitError
from wsivit.slide.preflight import HEADER, max_tile_bytes, stored_tiles
from wsivit.slide.read_plan import Level

BLOCK_ROWS = 256
"""Rows of stripes or strips that are decoded at once."""
_MAX_ZERO_LENGTHS = 64  # tiles; more are left out on purpose and not damaged
_ERRORS = (OSError, ValueError, RuntimeError, TypeError, IndexError, SyntaxError)


def tile_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Width and height of a page's tiles; a strip is a tile as wide as the page."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


class TiledLevel(ABC):
    """A level as a grid of blocks that are decoded one by one.

    Attributes
    ----------
    level : Level
    size : tuple of int
        Width and height of the picture as stored: more than the level's own where it is padded to complete tiles.
    block_width, block_height : int
    n_cols, n_rows : int
    counts : ndarray of int64
        Compressed bytes of each tile, in reading order; 0 for a blank one, -1 where the index falsely says 0.
    weights : ndarray of int64 or None
        Compressed bytes of each block; None where pixels need not tell what the level is (NDPI states it).
    max_bytes : int
        A tile of more bytes is not read.
    directories : tuple of int
        Where the TIFF directories of its planes lie in the file.
    """

    compression: str
    start_marker = b""
    """What every tile begins with, where the codec has such a marker."""
    directories: tuple[int, ...] = ()

    def __init__(self, page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int) -> None:
        self.source, self.number = source, number
        self.size = page.imagewidth, page.imagelength
        self.block_width, self.block_height = tile_size(page)
        self.n_cols = -(-page.imagewidth // self.block_width)
        self.n_rows = -(-page.imagelength // self.block_height)
        self.offsets = np.array(page.dataoffsets, np.int64)
        self.counts = np.array(page.databytecounts, np.int64)
        self.max_bytes = max_tile_bytes(self.block_width, self.block_height)
        needed = self.n_cols * self.n_rows
        if min(len(self.offsets), len(self.counts)) < needed:
            raise SlideError(f"{len(self.offsets)} tiles are indexed where {needed} are needed")
        # A tile that begins where the index says that there is nothing: the index is damaged, unless many are left out.
        zero = (self.counts == 0) & (self.offsets > 0) & (self.offsets + len(self.start_marker) <= source.size)
        if self.start_marker and 0 < zero.sum() <= _MAX_ZERO_LENGTHS:
            zero &= ~np.isin(self.offsets, self.offsets[self.counts > 0])
            for tile in np.flatnonzero(zero).tolist():
                if source.read(self.offsets.item(tile), len(self.start_marker)) == self.start_marker:
                    self.counts[tile] = -1
        (width, height), sides = self.size, (self.block_width, self.block_height)
        self.level = Level(width, height, size0[0] / width, size0[1] / height, *sides, self.compression)
        self.weights: NDArray[np.int64] | None = self.counts

    def stored(self) -> NDArray[np.bool_]:
        """Which blocks have all their bytes in the file; (rows, columns)."""
        stored = stored_tiles(self.offsets, self.counts, self.source.size)[: self.n_cols * self.n_rows]
        return stored.reshape(self.n_rows, self.n_cols)

    def in_header(self) -> bool:
        """Whether some tiles have bytes, but their place is the file's header."""
        counts = self.counts[: len(self.offsets)]
        return bool(((counts > 0) & (self.offsets[: len(counts)] < HEADER)).any())

    def block(self, col: int, row: int, reduce: int) -> Pixels | None:
        """Decode one block at ``1 / reduce``; None where it is blank.

        Raises
        ------
        UnreadableBlockError
            With what is wrong.
        """
        try:
            return self.decode(col, row, reduce)
        except _ERRORS as error:
            reason = str(error) or type(error).__name__
            kind = BlockLimitError if isinstance(error, JpegLimitError) else UnreadableBlockError
            raise kind(f"level {self.number}, tile ({col}, {row}): {reason}") from error

    @abstractmethod
    def decode(self, col: int, row: int, reduce: int) -> Pixels | None:
        """`block`, raising whatever is wrong."""

    def compressed(self, index: int) -> bytes | None:
        """The stored bytes of a tile; None where there are none.

        Raises
        ------
        ValueError, OSError
            If they are not all there.
        """
        offset, count = self.offsets.item(index), self.counts.item(index)
        if count == 0:
            return None
        if count < 0:
            raise ValueError("the index says that it has no bytes, but one begins at its place")
        if offset < HEADER:  # uncompressed, the header itself would pass for pixels
            raise ValueError(f"its place, {offset}, lies in the header of the file")
        if offset + count > self.source.size:
            raise ValueError(f"bytes {offset} to {offset + count} lie beyond the end of the file ({self.source.size})")
        if count > self.max_bytes:
            raise JpegLimitError(f"{count:,} bytes are too many for {self.block_width}x{self.block_height} pixels")
        return self.source.read(offset, count)
