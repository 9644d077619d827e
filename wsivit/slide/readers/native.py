"""The native reader: tiled TIFF slides, compressed tiles by offset, decoded by libjpeg-turbo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import SlideError
from wsivit.io import ByteSource
from wsivit.slide.backend import JpegColor, Pixels, TileMask, UnreadableBlockError
from wsivit.slide.holes import Holes, Mask, read_finer
from wsivit.slide.jpeg import EOI, SplitJpeg
from wsivit.slide.jpeg_levels import JpegTiles
from wsivit.slide.tiff_layout import Layout, read_layout


class JpegStreams(Protocol):
    """Where the compressed tiles of one level come from: the file, or the process that reads it."""

    number: int
    block_width: int
    block_height: int
    n_cols: int
    n_rows: int
    counts: NDArray[np.int64]

    def stream(self, col: int, row: int) -> bytes | None:
        """See `JpegTiles.stream`."""

    def runs(self, col: NDArray[np.int64], row: NDArray[np.int64], size: int) -> Iterator[list[SplitJpeg] | None]:
        """See `JpegTiles.runs`."""


class NativeTiles:
    """The compressed tiles of one level, as complete JPEG streams.

    Attributes
    ----------
    tile_width, tile_height : int
    n_cols, n_rows : int
    """

    def __init__(self, tiles: JpegStreams, filled: TileMask | None = None) -> None:
        self._tiles = tiles
        self._filled = np.zeros((tiles.n_rows, tiles.n_cols), np.bool_) if filled is None else filled.where
        self.tile_width, self.tile_height = tiles.block_width, tiles.block_height
        self.n_cols, self.n_rows = tiles.n_cols, tiles.n_rows

    def jpeg(self, col: int, row: int) -> bytes | None:
        """Return one tile's stream, header made unambiguous; None where the tile is blank.

        Raises
        ------
        SlideError
            If the tile is not a complete JPEG of the right size.
        """
        try:
            stream = self._tiles.stream(col, row)
            if stream is not None and EOI not in stream[-16:]:
                raise ValueError("JPEG is cut short (no end marker)")
        except SlideError:  # the decoding process has died: this concerns all tiles
            raise
        except (ValueError, OSError) as error:
            raise UnreadableBlockError(f"level {self._tiles.number}, tile ({col}, {row}): {error}") from error
        return stream

    def jpegs(self, col: NDArray[np.int64], row: NDArray[np.int64], size: int) -> Iterator[list[SplitJpeg] | None]:
        """Yield the streams of tiles, `size` at a time; None where `jpeg` must check each."""
        return self._tiles.runs(col, row, size)

    def blank(self, col: NDArray[np.int64], row: NDArray[np.int64]) -> Mask:
        """Which tiles are blank or filled, or not there because they lie past the level's end."""
        inside = (col < self.n_cols) & (row < self.n_rows)
        index = np.where(inside, row * self.n_cols + col, 0)
        blank: Mask = ~inside | (self._tiles.counts[index] == 0) | self.filled(col, row)
        return blank

    def filled(self, col: NDArray[np.int64], row: NDArray[np.int64]) -> Mask:
        """Which tiles are left out of the file here but not at a finer level: they are to be read, not copied."""
        inside = (col < self.n_cols) & (row < self.n_rows)
        filled: Mask = inside & self._filled[np.where(inside, row, 0), np.where(inside, col, 0)]
        return filled


class NativeBackend:
    """Reads tiled TIFFs: Aperio SVS, NDPI, generic, OME and Philips-like, classic and BigTIFF.

    Parameters
    ----------
    source : ByteSource
    color : {"auto", "rgb", "ycbcr"}, optional
        What JPEG tiles hold, where the file states it wrongly.
    layout : Layout, optional
        What `read_layout` returned for the same source and colour.

    Raises
    ------
    SlideError
        If the file is not such a slide; the text says why.
    """

    name = "native"

    def __init__(self, source: ByteSource, color: JpegColor = "auto", layout: Layout | None = None) -> None:
        self.source = source
        layout = layout or read_layout(source, color)
        if layout is None:
            raise SlideError(f"{source.name}: not a TIFF")
        if not layout.tiled:
            raise SlideError(f"{source.name}: the native reader does not read it: {layout.refusal}")
        self.tiled, self.facts = layout.tiled, layout.facts
        tiles = [TileMask(tiled.block_width, tiled.block_height, tiled.stored()) for tiled in self.tiled]
        # Aperio makes its coarse levels of levels with holes, and they are black there.
        self.holes = Holes([tiled.level for tiled in self.tiled], tiles, self.facts.format == "aperio")

    def block_size(self, level: int) -> tuple[int, int]:
        """The file's own tiles; many stripes of an NDPI."""
        return self.tiled[level].block_width, self.tiled[level].block_height

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`."""
        filled = self.holes.filled(level)
        # Otherwise a tile is what the file holds, or blank where no finer level has it either.
        if filled is None or not filled.where[row, col]:
            return self.tiled[level].block(col, row, reduce)
        width, height = self.block_size(level)
        return read_finer(self, level, (col * width, row * height, width, height), reduce)

    def filled(self, level: int) -> TileMask | None:
        """See `Backend.filled`."""
        return self.holes.filled(level)

    def native_tiles(self, level: int) -> NativeTiles | None:
        """The level's compressed tiles where each is a JPEG of its own."""
        streams = self.streams(level)
        return None if streams is None else NativeTiles(streams, self.filled(level))

    def streams(self, level: int) -> JpegTiles | None:
        """The level, where its tiles are JPEGs of their own."""
        tiled = self.tiled[level]
        return tiled if isinstance(tiled, JpegTiles) else None

    def close(self) -> None:
        """See `Backend.close`."""
        self.source.close()
