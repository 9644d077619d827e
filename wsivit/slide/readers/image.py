"""The flat-image reader: PNG, JPEG, BMP and plain TIFF, held in memory as one level."""

from __future__ import annotations

import warnings
from typing import IO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsivit.errors import LimitError, SlideError, WsivitError
from wsivit.io import ByteSource, open_picture
from wsivit.slide.backend import WHITE, Pixels, SlideFacts, area_mean, over_background, reducible
from wsivit.slide.metadata import TIFF_ERRORS
from wsivit.slide.read_plan import Level
from wsivit.slide.tiff_layout import Layout
from wsivit.slide.tiff_level import tile_size

MAX_PIXELS = 500_000_000
_BLOCK = 256
_PARTLY = "some strips or tiles are left out of some of its colour planes only: the file is damaged"
_MODES = {"RGB", "RGBA", "L", "LA", "P", "PA"}


class ImageBackend:
    """Reads a picture that has no pyramid, all of it at once.

    Parameters
    ----------
    source : ByteSource
    layout : Layout, optional
        Of a TIFF: which of its pictures.

    Raises
    ------
    SlideError
        If it is no picture, or one of pixels that are not 8-bit RGB or grey.
    LimitError
        If it is too large to be held in memory.
    """

    name = "image"

    def __init__(self, source: ByteSource, layout: Layout | None = None) -> None:
        with source.open() as file:
            if layout is None:
                pixels, form, properties = _read_picture(file, source.name)
            else:
                pixels, form, properties = _read_tiff(file, layout), layout.facts.format, dict(layout.facts.properties)
        self._blank = None
        if pixels.shape[2] == 4:
            # A block is blank where all of it is transparent.
            rows, columns = (np.arange(0, side, _BLOCK) for side in pixels.shape[:2])
            self._blank = np.maximum.reduceat(np.maximum.reduceat(pixels[..., 3], rows, axis=0), columns, axis=1) == 0
            pixels = over_background(pixels, WHITE)
        self._pixels = pixels
        self._pixels.flags.writeable = False  # blocks are views of it
        height, width = self._pixels.shape[:2]
        self.facts = SlideFacts(form, (reducible(Level(width, height, 1.0, 1.0), _BLOCK, _BLOCK),), properties)

    def block_size(self, level: int) -> tuple[int, int]:
        """Pieces of 256 x 256."""
        return _BLOCK, _BLOCK

    def block(self, level: int, col: int, row: int, reduce: int) -> Pixels | None:
        """See `Backend.block`."""
        if self._blank is not None and self._blank[row, col]:
            return None
        x, y = col * _BLOCK, row * _BLOCK
        return area_mean(self._pixels[y : y + _BLOCK, x : x + _BLOCK], reduce)

    def filled(self, level: int) -> None:
        """See `Backend.filled`: nothing is finer than the one level."""

    def close(self) -> None:
        """Nothing is open."""


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise LimitError(
            f"{name}: a flat image of {width}x{height} pixels does not fit into memory (limit {MAX_PIXELS:,}); "
            "convert it to a tiled, pyramidal TIFF"
        )


def _read_picture(file: IO[bytes], name: str) -> tuple[Pixels, str, dict[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked here instead
            with open_picture(file) as image:
                _check_size(name, *image.size)
                if image.mode not in _MODES:
                    raise SlideError(f"{name}: pixels of mode {image.mode} are not supported, only 8-bit RGB and grey")
                properties = {}
                if dpi := image.info.get("dpi"):  # in the terms of TIFF
                    x, y = (f"{float(side):.10g}" for side in dpi)
                    properties = {"tiff.XResolution": x, "tiff.YResolution": y, "tiff.ResolutionUnit": "inch"}
                return np.asarray(image.convert("RGBA")), str(image.format).lower(), properties
    except Image.DecompressionBombError as error:
        raise LimitError(f"{name}: {error}; convert it to a tiled, pyramidal TIFF") from error
    except UnidentifiedImageError as error:
        raise SlideError(f"{name}: not a picture of a known format") from error
    except WsivitError:  # ours are OSError or ValueError too, which Pillow raises of damaged files
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(f"{name}: the picture cannot be read: {error}") from error


def _read_tiff(file: IO[bytes], layout: Layout) -> Pixels:
    try:
        with tifffile.TiffFile(file) as tiff:
            planes = [_read_plane(tiff, offset, layout.name) for offset in layout.directories[0]]
    except WsivitError:
        raise
    except (RuntimeError, *TIFF_ERRORS) as error:
        raise SlideError(f"{layout.name}: the TIFF cannot be read: {error}") from error
    pixels, alpha = planes[0]
    first = None if alpha is None else alpha.tobytes()
    if len(planes) == 3:
        if any((None if other is None else other.tobytes()) != first for _, other in planes):
            raise SlideError(f"{layout.name}: {_PARTLY}")
        pixels = np.concatenate([plane[..., :1] for plane, _ in planes], axis=2)
    return pixels if alpha is None else np.dstack([pixels, alpha])


def _read_plane(tiff: tifffile.TiffFile, offset: int, name: str) -> tuple[Pixels, NDArray[np.uint8] | None]:
    """Read the picture whose directory lies there.

    Returns uint8 (h, w, 3), and what is transparent because the file leaves it out, uint8 (h, w); None if nothing is.
    """
    tiff.filehandle.seek(offset)
    page = tifffile.TiffPage(tiff, 0)
    _check_size(name, page.imagewidth, page.imagelength)
    kind = f"{page.samplesperpixel} x {page.dtype}, {getattr(page.photometric, 'name', page.photometric)}"
    plain = page.dtype == np.uint8 and (page.photometric, page.samplesperpixel) in {(2, 3), (6, 3), (1, 1)}
    if not plain:
        raise SlideError(f"{name}: pixels of {kind} are not supported, only 8-bit RGB and grey")
    offsets, counts = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
    left_out = (counts == 0) | (offsets == 0)
    # tifffile passes over what has neither place nor bytes, and would decode what has a place only.
    page.dataoffsets, page.databytecounts = (tuple(np.where(left_out, 0, v).tolist()) for v in (offsets, counts))
    pixels = page.asarray()
    if page.planarconfig == 2 and page.samplesperpixel == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape != (page.imagelength, page.imagewidth, 3):
        raise SlideError(f"{name}: its pixels decode to {pixels.shape}: the TIFF contradicts itself")
    if not left_out.any():
        return np.ascontiguousarray(pixels), None
    width, height = tile_size(page)
    planes = left_out.reshape(-1, -(-page.imagelength // height), -(-page.imagewidth // width))
    if (planes != planes[0]).any():
        raise SlideError(f"{name}: {_PARTLY}")
    alpha = np.where(planes[0], 0, 255).astype(np.uint8).repeat(height, axis=0).repeat(width, axis=1)
    return pixels, alpha[: pixels.shape[0], : pixels.shape[1]]
