"""Opening pictures, whatever their names say."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow decodes by itself: on PostScript it would have Ghostscript run."""
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises of a picture that is damaged, or none."""


def open_picture(source: str | Path | IO[bytes]) -> Image.Image:
    """Open a picture of a format that no other program is needed for."""
    return Image.open(source, formats=FORMATS)
