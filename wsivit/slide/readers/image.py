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

MAX_PIXELS = 500_000_000
_BLOCK = 256
_MODES = {"RGB", "RGBA", "L", "LA", "P", "PA"}


class ImageBackend:
    """Reads a picture that has no pyramid, whole.

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
        self._blank = _blank(pixels[..., 3]) if pixels.shape[2] == 4 else None
        self._pixels = over_background(pixels, WHITE) if pixels.shape[2] == 4 else pixels
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


def _blank(alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which blocks are wholly transparent."""
    rows, columns = (np.arange(0, side, _BLOCK) for side in alpha.shape)
    highest: NDArray[np.uint8] = np.maximum.reduceat(np.maximum.reduceat(alpha, rows, axis=0), columns, axis=1)
    blank: NDArray[np.bool_] = highest == 0
    return blank


def _limit(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise LimitError(
            f"{name}: a flat image of {width}x{height} pixels does not fit into memory (limit {MAX_PIXELS:,}); "
            "convert it to a tiled, pyramidal TIFF"
        )


def _read_picture(file: IO[bytes], name: str) -> tuple[Pixels, str, dict[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _limit is the limit
            with open_picture(file) as image:
                _limit(name, *image.size)
                if image.mode not in _MODES:
                    raise SlideError(f"{name}: pixels of mode {image.mode} are not supported, only 8-bit RGB and grey")
                form = str(image.format).lower()
                return np.asarray(image.convert("RGBA")), form, _dpi(image)
    except Image.DecompressionBombError as error:
        raise LimitError(f"{name}: {error}; convert it to a tiled, pyramidal TIFF") from error
    except UnidentifiedImageError as error:
        raise SlideError(f"{name}: not a picture of a known format") from error
    except WsivitError:  # ours are OSError or ValueError too, which Pillow raises of damaged files
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(f"{name}: the picture cannot be read: {error}") from error


def _dpi(image: Image.Image) -> dict[str, str]:
    """The resolution that a picture states, in the terms of TIFF."""
    dpi = image.info.get("dpi")
    if not dpi:
        return {}
    x, y = (f"{float(side):.10g}" for side in dpi)
    return {"tiff.XResolution": x, "tiff.YResolution": y, "tiff.ResolutionUnit": "inch"}


def _read_tiff(file: IO[bytes], layout: Layout) -> Pixels:
    name = layout.name
    try:
        with tifffile.TiffFile(file) as tiff:
            planes = [_plane(tiff, offset, name) for offset in layout.offsets]
    except WsivitError:
        raise
    except (RuntimeError, *TIFF_ERRORS) as error:
        raise SlideError(f"{name}: the TIFF cannot be read: {error}") from error
    if len(planes) == 3:
        return np.concatenate([plane[..., :1] for plane in planes], axis=2)
    return planes[0]


def _plane(tiff: tifffile.TiffFile, offset: int, name: str) -> Pixels:
    """Read the picture whose directory lies there; uint8 (h, w, 3)."""
    tiff.filehandle.seek(offset)
    page = tifffile.TiffPage(tiff, 0)
    _limit(name, page.imagewidth, page.imagelength)
    kind = f"{page.samplesperpixel} x {page.dtype}, {getattr(page.photometric, 'name', page.photometric)}"
    plain = page.dtype == np.uint8 and (page.photometric, page.samplesperpixel) in {(2, 3), (6, 3), (1, 1)}
    if not plain:
        raise SlideError(f"{name}: pixels of {kind} are not supported, only 8-bit RGB and grey")
    pixels = page.asarray()
    if page.planarconfig == 2 and page.samplesperpixel == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape != (page.imagelength, page.imagewidth, 3):
        raise SlideError(f"{name}: its pixels come as {pixels.shape}: the TIFF contradicts itself")
    return np.ascontiguousarray(pixels)
