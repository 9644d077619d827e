"""What a file says of a slide: TIFF tags, OME-XML, everything that `info` reports, and what could name a patient."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import tifffile
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from wsivit.slide.backend import OtherPicture, Pixels, SlideFacts
from wsivit.slide.read_plan import Level
from wsivit.slide.scale import ScaleSource, SlideScale

_PRIVATE = re.compile(
    r"date|time|user|name|patient|person|birth|operator|artist|barcode|label|title|comment|description|serial|s/n"
    r"|scanscope id|imageid|\bid\b|uid|accession|study|series|institution|physician|slideid|host|copyright|reference",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"resolution|photometric|SOPClassUID|TransferSyntaxUID|ImplementationClassUID|exposure|^openslide\.(associated|level)",
    re.IGNORECASE,
)

_PICTURE_NAME = re.compile(
    r"((scene|series|image|picture|slide|scan|region|scanregion|area|position|pyramid|main|baseline|overview|thumbnail"
    r"|label|macro|barcode|resolution|level|roi|tissue|he|h&e|\d{1,3})[\s#:_.-]*)+",
    re.IGNORECASE,
)
"""Names that programs give pictures: all others may have been written by a person, and name one."""
_LONGEST_NAME = 40
_COLOR_SIDE = 256  # pixels along the longer side are enough to find the commonest colour


@dataclass(frozen=True)
class SlideInfo:
    """A slide in plain values, ready for JSON by `dataclasses.asdict`.

    Attributes
    ----------
    path, id, format, reader, reader_reason, fingerprint : str
    dimensions : tuple of int
        Width and height of level 0.
    levels : tuple of Level
    bounds : tuple of int
        ``x, y, width, height`` of the region that is not empty.
    scale : SlideScale or None
    scale_error : str or None
        Why there is no scale.
    scale_sources : tuple of ScaleSource
        Everything that states the scale, usable or not.
    objective : float or None
        Nominal magnification that the slide states.
    tile_size : tuple of int or None
    compression : str or None
        Of level 0.
    filled_tiles : tuple of int
        Of each level, how many native tiles the file leaves out there and a finer level fills.
    warnings : tuple of str
        What looks wrong in the pixels, and which large pictures of the file are not read.
    private : dict
        What is there that could name a patient or a place: names of metadata and of images (``"image: label"``);
        values only where asked for.
    scene : int or None
        Number of the picture that is read, where the file holds several that could be the slide.
    others : tuple of OtherPicture
        The file's other pictures, with the number that `scene` takes.
    """

    path: str
    id: str
    format: str
    reader: str
    reader_reason: str
    fingerprint: str
    dimensions: tuple[int, int]
    levels: tuple[Level, ...]
    bounds: tuple[int, int, int, int]
    scale: SlideScale | None
    scale_error: str | None
    scale_sources: tuple[ScaleSource, ...]
    objective: float | None
    tile_size: tuple[int, int] | None
    compression: str | None
    filled_tiles: tuple[int, ...]
    warnings: tuple[str, ...]
    private: dict[str, str | None]
    scene: int | None = None
    others: tuple[OtherPicture, ...] = ()


def color_warnings(view: Pixels) -> tuple[str, ...]:
    """Warn where most of a bright slide is one strong colour: glass is white or grey, so its label is wrong."""
    step = max(1, max(view.shape) // _COLOR_SIDE)
    coarse = (view[::step, ::step] >> 4).reshape(-1, 3).astype(np.int64)
    counts = np.bincount(coarse @ np.array([256, 16, 1]))
    red, green, blue = (int(counts.argmax()) >> shift & 15 for shift in (8, 4, 0))
    strong = max(red, green, blue) >= 12 and max(red, green, blue) - min(red, green, blue) >= 5
    if counts.max() < 0.1 * len(coarse) or not strong:
        return ()
    color = f"#{red * 17:02x}{green * 17:02x}{blue * 17:02x}"
    return (f"the commonest colour is {color}, no colour of glass: if it looks wrong, try --jpeg-color rgb or ycbcr",)


def private_items(facts: SlideFacts, values: bool) -> dict[str, str | None]:
    """Metadata and images that could name a patient, a person or a place; their values only if asked for.

    Control characters are escaped, so that a slide cannot send commands to a terminal.
    """
    items: dict[str, str | None] = {
        _escaped(key): _escaped(text) if values else None
        for key, text in sorted(facts.properties.items())
        if text and _PRIVATE.search(key) and not _HARMLESS.search(key)
    }
    return items | {f"image: {_escaped(name)}": None for name in facts.associated if name != "thumbnail"}


def harmless_name(name: str) -> str:
    """A picture's name, or nothing where a person may have written it: it may be a patient's."""
    return name if len(name) <= _LONGEST_NAME and _PICTURE_NAME.fullmatch(name) else ""


def reported_pictures(facts: SlideFacts, private: bool) -> tuple[OtherPicture, ...]:
    """The file's other pictures, with the names that may be reported."""
    return tuple(
        replace(other, name=_escaped(other.name) if private else harmless_name(other.name)) for other in facts.others
    )


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# --- TIFF tags, named as OpenSlide names them

TIFF_ERRORS = (
    *(tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(ArithmeticError, struct.error),
)
"""What tifffile raises on a damaged file."""
_TEXT_TAGS = (
    *("ImageDescription", "DocumentName", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer"),
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
    properties = {}
    for source in (tiff.pages.first, page):
        for name in _TEXT_TAGS:
            text = source.tags.valueof(name)
            if isinstance(text, str | bytes) and text:
                properties[f"tiff.{name}"] = text if isinstance(text, str) else text.decode("latin-1")
    for name in ("XResolution", "YResolution"):
        value = page.tags.valueof(name)
        if isinstance(value, tuple) and len(value) == 2 and value[1]:
            properties[f"tiff.{name}"] = f"{value[0] / value[1]:.10g}"
    if "tiff.XResolution" in properties:
        properties["tiff.ResolutionUnit"] = _UNITS.get(int(page.tags.valueof("ResolutionUnit", 2)), "unknown")
    description = properties.get("tiff.ImageDescription", "")
    if tiff.is_svs:  # |key = value pairs
        pairs = (part.partition("=") for part in description.split("|")[1:])
        properties |= {f"aperio.{key.strip()}": value.strip() for key, sep, value in pairs if sep}
    unit = _IMAGEJ_UNIT.search(description) if tiff.pages.first.is_imagej else None
    for axis in "XY" if unit else "":
        # ImageJ's description names the unit of the resolution tags, whose own unit is none.
        per_unit = float(properties.get(f"tiff.{axis}Resolution", 0))
        if per_unit:
            properties[f"imagej.PixelSize{axis}"] = f"{1 / per_unit:.10g}"
            properties[f"imagej.PixelSize{axis}Unit"] = unit[1].strip().replace("\\u00B5", "µ")  # type: ignore[index]
    return properties | {f"ome.{key}": value for key, value in (ome or {}).items()}


# --- OME-XML: which pictures an OME-TIFF holds, in which directories their planes lie, and at what scale

_ORDER = "XYCZT"
_RED_GREEN_BLUE = ({"red", "r"}, {"green", "g"}, {"blue", "b"})
_FLUORESCENCE = ("EmissionWavelength", "ExcitationWavelength", "Fluor")


@dataclass(frozen=True)
class OmeImage:
    """One picture of an OME-TIFF.

    Attributes
    ----------
    name : str
    size : tuple of int or None
        Width and height of its level 0; None where not said.
    planes : tuple of int or None
        TIFF directories of the channels of the first focal plane and time; None for one that is not in this file.
    directories : frozenset of int
        Those of all its planes.
    samples : int
        Colours in each plane.
    rgb : bool or None
        Whether the planes are red, green and blue; None where the XML leaves it open.
    depth, times : int
        How many focal planes and points in time there are.
    scale : dict of str to str
        ``PhysicalSizeX``, ``PhysicalSizeXUnit`` and the same for Y, as far as the file says them.
    """

    name: str
    size: tuple[int, int] | None
    planes: tuple[int | None, ...]
    directories: frozenset[int]
    samples: int
    rgb: bool | None
    depth: int
    times: int
    scale: dict[str, str] = field(default_factory=dict)


def ome_images(text: str, n_directories: int) -> tuple[OmeImage, ...]:
    """Read the pictures that an OME-XML describes, in its order.

    Parameters
    ----------
    text : str
    n_directories : int
        Directories in the file's chain, which planes are looked for in where the XML does not place them.

    Raises
    ------
    ValueError
        If it cannot be parsed, or contradicts itself.
    """
    try:
        root = fromstring(text)
    except (ParseError, DefusedXmlException) as error:
        raise ValueError(f"its OME-XML cannot be parsed: {error}") from error
    return tuple(
        _ome_image(image, pixels, root.get("UUID"), n_directories)
        for image in _children(root, "Image")
        for pixels in _children(image, "Pixels")
    )


def _ome_image(image: Element, pixels: Element, uuid: str | None, n_directories: int) -> OmeImage:
    channels = list(_children(pixels, "Channel"))
    samples = max([1, *(_count(channel, "SamplesPerPixel") for channel in channels)])
    sizes = {axis: _count(pixels, f"Size{axis}") for axis in "CZT"}
    sizes["C"] = max(1, sizes["C"] // samples)
    order = pixels.get("DimensionOrder", _ORDER)
    if sorted(order) != sorted(_ORDER) or math.prod(sizes.values()) > 1 << 20:
        raise ValueError("its OME-XML states an impossible order or number of planes")
    planes = _plane_directories(pixels, order[2:], sizes, samples, uuid, n_directories)
    step = math.prod(sizes[axis] for axis in order[2 : order.index("C")])
    names = [channel.get("Name", "").strip().lower() for channel in channels]
    # Programs number channels that have no name.
    names = [name for name in names if name.removeprefix("channel").strip(" :#0123456789")]
    rgb = len(names) == 3 and all(name in known for name, known in zip(names, _RED_GREEN_BLUE, strict=True))
    fluorescent = any(channel.get(key) for channel in channels for key in _FLUORESCENCE)
    width, height = pixels.get("SizeX"), pixels.get("SizeY")
    return OmeImage(
        name=image.get("Name", ""),
        size=(int(width), int(height)) if width and height else None,
        planes=tuple(planes.get(c * step) for c in range(sizes["C"])),
        directories=frozenset(planes.values()),
        samples=samples,
        rgb=rgb and not fluorescent if names or fluorescent else None,
        depth=sizes["Z"],
        times=sizes["T"],
        scale={key: value for key, value in pixels.attrib.items() if key.startswith("PhysicalSize")},
    )


def _plane_directories(
    pixels: Element, order: str, sizes: dict[str, int], samples: int, uuid: str | None, n_directories: int
) -> dict[int, int]:
    """Directory of each plane, by its place in the order of dimensions."""
    total = math.prod(sizes.values())
    entries = list(_children(pixels, "TiffData"))
    if not entries:
        return {i: i for i in range(min(total, n_directories))}
    planes: dict[int, int] = {}
    entry_uuids = [next((child.text for child in _children(entry, "UUID")), None) for entry in entries]
    uuids = set(entry_uuids) - {None}
    for entry, entry_uuid in zip(entries, entry_uuids, strict=True):
        # A file under another name than its XML's is still this one, as long as no part of it is known to be elsewhere.
        if entry_uuid not in (None, uuid) and (uuid in uuids or len(uuids) > 1):
            continue
        first, step = 0, 1
        for axis in order:
            place = _count(entry, f"First{axis}", 0)
            first += step * (place // samples if axis == "C" else place)
            step *= sizes[axis]
        has_directory = entry.get("IFD") is not None
        n_planes, start = _count(entry, "PlaneCount", 1 if has_directory else total), _count(entry, "IFD", 0)
        planes |= {first + i: start + i for i in range(min(n_planes, total - first, n_directories - start))}
    return planes


def _children(parent: Element, name: str) -> Iterator[Element]:
    """Children of that name in whatever namespace: the schema's changes with its year."""
    return (child for child in parent if child.tag.rpartition("}")[2] == name)


def _count(element: Element, name: str, default: int = 1) -> int:
    return max(0, int(element.get(name) or default))
