"""The native reader: tiled TIFF slides, compressed tiles by offset, decoded by libjpeg-turbo."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from wsivit.errors import SlideError
from wsivit.resolution import Level
from wsivit.slide.base import JpegColor, Pixels, SlideFacts, UnreadableBlockError
from wsivit.slide.jpeg import EOI, Normaliser
from wsivit.slide.metadata import tiff_format, tiff_properties

_JPEG = 7
_PHOTOMETRIC = {2: "rgb", 6: "ycbcr"}


class TiledLevel:
    """One level of a tiled TIFF: where its compressed tiles are, and how they decode.

    Parameters
    ----------
    page : tifffile.TiffPage
    size0 : tuple of int
        Width and height of level 0.
    color : {"auto", "rgb", "ycbcr"}
        What the tiles hold; ``"auto"`` for what the directory says.

    Raises
    ------
    SlideError
        If its tiles are of a kind that this reader does not know.
    """

    def __init__(self, page: tifffile.TiffPage, size0: tuple[int, int], color: JpegColor) -> None:
        if page.compression != _JPEG or page.photometric not in _PHOTOMETRIC or page.planarconfig != 1:
            raise SlideError(f"no JPEG RGB or YCbCr tiles but {_name(page.compression)} {_name(page.photometric)}")
        self.tile_width, self.tile_height = page.tilewidth, page.tilelength
        self.n_cols = -(-page.imagewidth // self.tile_width)
        self.n_rows = -(-page.imagelength // self.tile_height)
        self.offsets = np.array(page.dataoffsets, np.int64)
        self.counts = np.array(page.databytecounts, np.int64)
        if not len(self.offsets) == len(self.counts) == self.n_cols * self.n_rows:
            raise SlideError(
                f"{len(self.offsets)} tiles are indexed where {page.imagewidth}x{page.imagelength} pixels need "
                f"{self.n_cols * self.n_rows}"
            )
        try:
            rgb = (_PHOTOMETRIC[page.photometric] if color == "auto" else color) == "rgb"
            self.normalise = Normaliser(page.jpegtables, rgb, self.tile_width, self.tile_height)
        except ValueError as error:
            raise SlideError(f"its JPEG tables are damaged: {error}") from error
        self.level = Level(
            page.imagewidth,
            page.imagelength,
            size0[0] / page.imagewidth,
            size0[1] / page.imagelength,
            self.tile_width,
            self.tile_height,
            "jpeg",
            tuple(r for r in (1, 2, 4, 8) if self.tile_width % r == self.tile_height % r == 0),
        )


class NativeTiles:
    """The compressed tiles of one level, as complete JPEG streams.

    Attributes
    ----------
    tile_width, tile_height : int
    n_cols, n_rows : int
    """

    def __init__(self, backend: NativeBackend, level: int) -> None:
        tiled = backend.tiled[level]
        self._backend, self._level = backend, level
        self.tile_width, self.tile_height = tiled.tile_width, tiled.tile_height
        self.n_cols, self.n_rows = tiled.n_cols, tiled.n_rows

    def jpeg(self, col: int, row: int) -> bytes | None:
        """Return one tile's stream, header made unambiguous; None where the tile is blank.

        Raises
        ------
        SlideError
            If the tile is not a whole JPEG of the right size.
        """
        stream = self._backend.stream(self._level, col, row)
        if stream is not None and EOI not in stream[-16:]:
            raise UnreadableBlockError(f"level {self._level}, tile ({col}, {row}): JPEG is cut short (no end marker)")
        return stream


class NativeBackend:
    """Reads tiled JPEG TIFFs: Aperio SVS, generic, OME and Philips-like, classic and BigTIFF.

    Parameters
    ----------
    path : Path
    color : {"auto", "rgb", "ycbcr"}, optional
        What the JPEG tiles hold, where the file says the wrong thing.

    Raises
    ------
    SlideError
        If the file is not such a slide; the text says why.
    """

    name = "native"

    def __init__(self, path: Path, color: JpegColor = "auto") -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        try:
            with tifffile.TiffFile(path) as tiff:
                pages = _level_pages(tiff)
                size0 = (pages[0].imagewidth, pages[0].imagelength)
                self.tiled = [TiledLevel(page, size0, color) for page in pages]
                self.facts = SlideFacts(
                    format=tiff_format(tiff),
                    levels=tuple(tiled.level for tiled in self.tiled),
                    properties=tiff_properties(tiff),
                )
        except (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError) as error:
            raise SlideError(f"{path}: not a TIFF that can be read: {error}") from error
        except SlideError as error:
            raise SlideError(f"{path}: the native reader does not read it: {error}") from error
        self._size = path.stat().st_size

    def block_size(self, level: int) -> tuple[int, int]:
        """The file's own tiles."""
        return self.tiled[level].tile_width, self.tiled[level].tile_height

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`; the reduction is done in the DCT domain."""
        stream = self.stream(level, col, row)
        if stream is None:
            return None
        width, height = self.block_size(level)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                stream, "RGB", min_width=width // reduce, min_height=height // reduce, min_factor=reduce
            )
        except ValueError as error:
            raise UnreadableBlockError(f"level {level}, tile ({col}, {row}): {error}") from error
        return pixels

    def stream(self, level: int, col: int, row: int) -> bytes | None:
        """One tile as a complete JPEG stream; None where it is blank."""
        tiled = self.tiled[level]
        index = row * tiled.n_cols + col
        offset, count = tiled.offsets.item(index), tiled.counts.item(index)
        if count == 0:
            return None
        try:
            if offset + count > self._size:
                raise ValueError(f"bytes {offset} to {offset + count} lie beyond the end of the file ({self._size})")
            return tiled.normalise(os.pread(self._file or self._open(), count, offset))
        except (ValueError, OSError) as error:
            raise UnreadableBlockError(f"level {level}, tile ({col}, {row}): {error}") from error

    def _open(self) -> int:
        with self._lock:
            if self._file is None:
                # Shared across a fork without harm: pread does not move the file's position.
                self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._file

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def _level_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages that are the pyramid, finest first: tiled, and all of the first one's picture."""
    first = tiff.pages.first
    if tiff.is_ndpi or not first.is_tiled:
        raise SlideError("its first picture is not stored in tiles")
    if not _is_rgb(first):
        raise SlideError(f"its pixels are {first.samplesperpixel} x {first.dtype}, not 8-bit RGB")
    others = [page for page in [*(first.pages or []), *tiff.pages[1:]] if isinstance(page, tifffile.TiffPage)]
    smaller = [page for page in others if page.is_tiled and _is_rgb(page) and _same_picture(first, page)]
    return sorted([first, *smaller], key=lambda page: -page.imagewidth)


def _is_rgb(page: tifffile.TiffPage) -> bool:
    return page.dtype == np.uint8 and page.samplesperpixel == 3


def _same_picture(first: tifffile.TiffPage, page: tifffile.TiffPage) -> bool:
    """Whether a page is the first one made smaller: by the same factor on both axes, up to a pixel's rounding."""
    if page.imagewidth >= first.imagewidth or page.imagelength >= first.imagelength:
        return False
    factor = first.imagewidth / page.imagewidth
    return abs(first.imagelength / factor - page.imagelength) <= 1 + 0.01 * page.imagelength


def _name(value: object) -> str:
    return str(getattr(value, "name", value))
