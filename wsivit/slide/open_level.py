"""Which class reads a level of a TIFF: decided by its compression, colours and planes."""

from __future__ import annotations

from collections.abc import Sequence

import tifffile

from wsivit.errors import SlideError
from wsivit.io import ByteSource
from wsivit.slide.backend import WHITE, JpegColor
from wsivit.slide.codec_levels import (
    CODECS,
    GREY,
    JPEG,
    JPEG2000,
    RGB,
    SEPARATE,
    CodecTiles,
    Jpeg2000Tiles,
    PlanarTiles,
    StripLevel,
)
from wsivit.slide.jpeg_levels import JpegTiles, NdpiStripeLevel
from wsivit.slide.tiff_level import TiledLevel

_PHOTOMETRIC = {RGB: "rgb", 6: "ycbcr"}


def open_level(
    planes: Sequence[tifffile.TiffPage], size0: tuple[int, int], source: ByteSource, number: int, color: JpegColor
) -> TiledLevel:
    """Make the reader of a level: its planes, the size of level 0, and the level's number.

    Raises
    ------
    SlideError
        If there is none; the text says what its tiles are.
    """
    level: TiledLevel
    if not planes[0].is_tiled:
        if number == 0:
            raise SlideError("its first picture is not stored in tiles")
        level = _strip_level(planes[0], size0, source, number)
    elif _is_planar(planes):
        level = PlanarTiles(planes, size0, source, number)
    else:
        level = _tiled_level(planes[0], size0, source, number, color)
    level.directories = tuple(plane.offset for plane in planes)
    return level


def _is_planar(pages: Sequence[tifffile.TiffPage]) -> bool:
    """Whether `PlanarTiles` reads a level: three grey planes, three planes of one directory, or one grey plane."""
    page = pages[0]
    grey = all((other.photometric, other.samplesperpixel) == (GREY, 1) for other in pages)
    separate = (page.photometric, page.samplesperpixel, page.planarconfig) == (RGB, 3, SEPARATE)
    known = all(other.compression == JPEG or other.compression in CODECS for other in pages)
    return known and ((grey and len(pages) in (1, 3)) or (separate and len(pages) == 1))


def _strip_level(page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int) -> StripLevel:
    """Make the reader for a level in strips; `SlideError` if there is none."""
    plain = page.photometric in _PHOTOMETRIC and page.planarconfig == 1
    if page.compression not in CODECS or page.compression in JPEG2000 or not plain:
        raise SlideError("its strips are of another kind")
    return StripLevel(page, size0, source, number, WHITE)


def _tiled_level(
    page: tifffile.TiffPage, size0: tuple[int, int], source: ByteSource, number: int, color: JpegColor
) -> TiledLevel:
    """Make the reader for a page's tiles.

    Raises
    ------
    SlideError
        If there is none; the text says what its tiles are.
    """
    try:
        plain = page.photometric in _PHOTOMETRIC and page.planarconfig == 1
        if page.compression == JPEG and plain and page.samplesperpixel == 3:
            rgb = (_PHOTOMETRIC[page.photometric] if color == "auto" else color) == "rgb"
            return (NdpiStripeLevel if page.jpegheader else JpegTiles)(page, size0, source, number, rgb)
        if page.compression in CODECS and plain:
            kind = Jpeg2000Tiles if page.compression in JPEG2000 else CodecTiles
            return kind(page, size0, source, number, WHITE)
    except ValueError as error:
        raise SlideError(f"its JPEG tables are damaged: {error}") from error
    names = (getattr(value, "name", value) for value in (page.compression, page.photometric, page.planarconfig))
    raise SlideError(f"its tiles are {' '.join(map(str, names))}")
