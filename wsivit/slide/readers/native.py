"""The native reader: tiled TIFF slides, compressed tiles by offset, decoded by libjpeg-turbo."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsivit.errors import SlideError
from wsivit.io import ByteSource
from wsivit.slide.backend import JpegColor, Pixels, SlideFacts, TileMask, UnreadableBlockError
from wsivit.slide.holes import Holes, Mask, read_finer
from wsivit.slide.jpeg import EOI, SplitJpeg
from wsivit.slide.metadata import TIFF_ERRORS, aperio_associated, tiff_format, tiff_properties
from wsivit.slide.tiff_level import JpegTiles, tiled_level

_NDPI_FOCUS = 65424
# What tifffile has to say of a damaged file is in our own errors; without a handler it would go to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


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
            If the tile is not a whole JPEG of the right size.
        """
        try:
            stream = self._tiles.stream(col, row)
            if stream is not None and EOI not in stream[-16:]:
                raise ValueError("JPEG is cut short (no end marker)")
        except SlideError:  # the process that decodes has died: no matter of one tile
            raise
        except (ValueError, OSError) as error:
            raise UnreadableBlockError(f"level {self._tiles.number}, tile ({col}, {row}): {error}") from error
        return stream

    def jpegs(self, col: NDArray[np.int64], row: NDArray[np.int64], size: int) -> Iterator[list[SplitJpeg] | None]:
        """Yield the streams of tiles, `size` at a time; None where one is not as usual: `jpeg` says of each what is."""
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
        What JPEG tiles hold, where the file says the wrong thing.

    Raises
    ------
    SlideError
        If the file is not such a slide; the text says why.
    """

    name = "native"

    def __init__(self, source: ByteSource, color: JpegColor = "auto") -> None:
        self.source = source
        try:
            with source.open() as file, tifffile.TiffFile(file) as tiff:
                pages = _level_pages(tiff)
                size0 = (pages[0].imagewidth, pages[0].imagelength)
                self.tiled = [tiled_level(page, size0, source, n, color) for n, page in enumerate(pages)]
                tiles = [TileMask(one.block_width, one.block_height, one.stored()) for one in self.tiled]
                self.holes = Holes([tiled.level for tiled in self.tiled], tiles, tiff.is_svs)
                self.facts = SlideFacts(
                    format=tiff_format(tiff),
                    levels=tuple(tiled.level for tiled in self.tiled),
                    properties=tiff_properties(tiff),
                    associated=aperio_associated(_readable_pages(tiff)) if tiff.is_svs else (),
                )
        except TIFF_ERRORS as error:
            raise SlideError(f"{source.name}: not a TIFF that can be read: {error}") from error
        except SlideError as error:
            raise SlideError(f"{source.name}: the native reader does not read it: {error}") from error

    def block_size(self, level: int) -> tuple[int, int]:
        """The file's own tiles; many stripes of an NDPI."""
        return self.tiled[level].block_width, self.tiled[level].block_height

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`."""
        filled = self.holes.filled(level)
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
        """Close the file; the next read opens it again."""
        self.source.close()


def _level_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages that are the pyramid, finest first: tiled, and all of the first one's picture."""
    first = tiff.pages.first
    if tiff.is_scn or tiff.is_bif or tiff.is_philips:
        raise SlideError("its tiles do not simply lie side by side (a Leica, Ventana or Philips slide)")
    if not first.is_tiled:
        raise SlideError("its first picture is not stored in tiles")
    if not _is_rgb(first):
        raise SlideError(f"its pixels are {first.samplesperpixel} x {first.dtype}, not 8-bit RGB")
    found = [first]
    for page in [*(first.pages or []), *_readable_pages(tiff)]:
        tiled = isinstance(page, tifffile.TiffPage) and page.is_tiled and _is_rgb(page) and _in_focus(page)
        if tiled and _same_picture(first, page) and all(page.imagewidth != other.imagewidth for other in found):
            found.append(page)
    return sorted(found, key=lambda page: -page.imagewidth)


def _readable_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """The pages after the first, up to one that is damaged."""
    number = 1
    while True:
        try:
            yield tiff.pages[number]  # type: ignore[misc]
        except (IndexError, *TIFF_ERRORS):
            return
        number += 1


def _is_rgb(page: tifffile.TiffPage) -> bool:
    """Whether pixels are 8-bit RGB, with or without alpha."""
    alpha = page.samplesperpixel == 4 and page.extrasamples[:1] in ((1,), (2,))
    return page.dtype == np.uint8 and (page.samplesperpixel == 3 or alpha)


def _in_focus(page: tifffile.TiffPage) -> bool:
    """Whether a page is of the middle focal plane; NDPI stores others besides."""
    return not page.parent.is_ndpi or page.tags.valueof(_NDPI_FOCUS) in (None, 0)


def _same_picture(first: tifffile.TiffPage, page: tifffile.TiffPage) -> bool:
    """Whether a page is the first one made smaller: by the same factor on both axes, up to a pixel's rounding."""
    if page.imagewidth >= first.imagewidth or page.imagelength >= first.imagelength:
        return False
    factor = first.imagewidth / page.imagewidth
    return abs(first.imagelength / factor - page.imagelength) <= 1 + 0.01 * page.imagelength
