"""A TIFF slide's metadata, named as OpenSlide names it."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

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
_IMAGEJ_UNIT = re.compile(r"^[xy]?unit=(.+)$", re.MULTILINE)


def tiff_format(tiff: tifffile.TiffFile) -> str:
    """The dialect of a TIFF: ``"aperio"``, ``"ome-tiff"``, ``"hamamatsu"``, ``"philips"`` or ``"generic-tiff"``."""
    dialects = {"aperio": tiff.is_svs, "ome-tiff": tiff.is_ome, "hamamatsu": tiff.is_ndpi, "philips": tiff.is_philips}
    return next((name for name, is_it in dialects.items() if is_it), "generic-tiff")


def tiff_properties(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, ome: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the file says of the slide: text tags, resolution, and what Aperio, ImageJ and OME write.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    page : tifffile.TiffPage
        The slide's own directory: its resolution is that of no other. Texts that it lacks are those of the first.
    ome : mapping of str to str, optional
        The attributes of the slide's pixels in the OME-XML.
    """
    tags = page.tags
    properties = _texts(tiff.pages.first) | _texts(page)
    for name in ("XResolution", "YResolution"):
        value = tags.valueof(name)
        if isinstance(value, tuple) and len(value) == 2 and value[1]:
            properties[f"tiff.{name}"] = f"{value[0] / value[1]:.10g}"
    if "tiff.XResolution" in properties:
        properties["tiff.ResolutionUnit"] = _UNITS.get(int(tags.valueof("ResolutionUnit", 2)), "unknown")
    description = properties.get("tiff.ImageDescription", "")
    if tiff.is_svs:
        properties |= aperio_properties(description)
    if tiff.pages.first.is_imagej:
        properties |= _imagej_properties(description, properties)
    return properties | {f"ome.{key}": value for key, value in (ome or {}).items()}


def _texts(page: tifffile.TiffPage) -> dict[str, str]:
    found = {}
    for name in _TEXT_TAGS:
        value = page.tags.valueof(name)
        if isinstance(value, str | bytes) and value:
            found[f"tiff.{name}"] = value if isinstance(value, str) else value.decode("latin-1")
    return found


def _imagej_properties(description: str, properties: Mapping[str, str]) -> dict[str, str]:
    """ImageJ's calibration: its description names the unit of the resolution tags, whose own unit is none."""
    unit = _IMAGEJ_UNIT.search(description)
    found = {}
    for axis in "XY" if unit else "":
        per_unit = float(properties.get(f"tiff.{axis}Resolution", 0))
        if per_unit:
            found[f"imagej.PixelSize{axis}"] = f"{1 / per_unit:.10g}"
            found[f"imagej.PixelSize{axis}Unit"] = unit[1].strip().replace("\\u00B5", "µ")  # type: ignore[index]
    return found


def aperio_properties(description: str) -> dict[str, str]:
    """``|key = value`` pairs of an Aperio description, as ``aperio.key``."""
    pairs = (part.partition("=") for part in description.split("|")[1:])
    return {f"aperio.{key.strip()}": value.strip() for key, sep, value in pairs if sep}
