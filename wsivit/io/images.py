"""Opening images safely, whatever their names, and the font of labels in images."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from PIL import Image, ImageFont

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow decodes by itself: for PostScript it would run Ghostscript."""
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are damaged, or not images."""
_SCAN, _MAX_SCANS = b"\xff\xda", 100


def open_picture(source: str | Path | IO[bytes]) -> Image.Image:
    """Open an image of a format that Pillow decodes without other programs.

    Raises
    ------
    One of `PICTURE_ERRORS`
        Also where a JPEG has so many scans that decoding it would take hours: each passes over all pixels.
    """
    picture = Image.open(source, formats=FORMATS)
    if "progressive" in picture.info and picture.fp is not None:
        place = picture.fp.tell()
        picture.fp.seek(0)
        scans = picture.fp.read().count(_SCAN)
        picture.fp.seek(place)
        if scans > _MAX_SCANS:
            picture.close()
            raise ValueError(f"a JPEG of {scans:,} scans")
    return picture


@cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which has a µ (Pillow's has not), without the time that importing it takes."""
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
