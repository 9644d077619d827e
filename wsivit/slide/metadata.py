"""A TIFF slide's metadata, named as OpenSlide names it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

import tifffile

TIFF_ERRORS = (
    *(tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(ArithmeticError, struct.error),
)
"""What tifffile raises on a damaged file."""
_TEXT_TAGS = (
    "ImageDescription",
    "DocumentName",
    "Make",
    "Model",
    "Software",
    "DateTime",
    "Artist",
    "HostComputer",
    "Copyright",
)
_UNITS = {1: "none", 2: "inch", 3: "centimeter"}
_OME_SIZE = re.compile(r'\b(PhysicalSize[XY](?:Unit)?)="([^"]*)"')


def tiff_format(tiff: tifffile.TiffFile) -> str:
    """The dialect of a TIFF: ``"aperio"``, ``"ome-tiff"``, ``"hamamatsu"``, ``"philips"`` or ``"generic-tiff"``."""
    dialects = {"aperio": tiff.is_svs, "ome-tiff": tiff.is_ome, "hamamatsu": tiff.is_ndpi, "philips": tiff.is_philips}
    return next((name for name, is_it in dialects.items() if is_it), "generic-tiff")


def tiff_properties(tiff: tifffile.TiffFile) -> dict[str, str]:
    """What the first directory says of the slide: its text tags, resolution, and what Aperio and OME write."""
    tags = tiff.pages.first.tags
    properties = {}
    for name in _TEXT_TAGS:
        value = tags.valueof(name)
        if isinstance(value, str | bytes) and value:
            properties[f"tiff.{name}"] = value if isinstance(value, str) else value.decode("latin-1")
    for name in ("XResolution", "YResolution"):
        value = tags.valueof(name)
        if isinstance(value, tuple) and len(value) == 2 and value[1]:
            properties[f"tiff.{name}"] = f"{value[0] / value[1]:.10g}"
    if "tiff.XResolution" in properties:
        properties["tiff.ResolutionUnit"] = _UNITS.get(int(tags.valueof("ResolutionUnit", 2)), "unknown")
    description = properties.get("tiff.ImageDescription", "")
    if tiff.is_svs:
        properties |= aperio_properties(description)
    if tiff.is_ome:
        properties |= {f"ome.{key}": value for key, value in reversed(_OME_SIZE.findall(description))}
    return properties


def aperio_properties(description: str) -> dict[str, str]:
    """``|key = value`` pairs of an Aperio description, as ``aperio.key``."""
    pairs = (part.partition("=") for part in description.split("|")[1:])
    return {f"aperio.{key.strip()}": value.strip() for key, sep, value in pairs if sep}


def aperio_associated(pages: Iterable[tifffile.TiffPage]) -> tuple[str, ...]:
    """Which images of labels and of the whole glass stand beside an Aperio pyramid: their descriptions say so."""
    descriptions = (page.description.splitlines() for page in pages if not page.is_tiled)
    names = {lines[1].partition(" ")[0] for lines in descriptions if len(lines) > 1}
    return tuple(sorted(names & {"label", "macro"}))
