"""OME-XML: which pictures an OME-TIFF holds, in which directories their planes lie, and at what scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

_ORDER = "XYCZT"
_RED_GREEN_BLUE = ({"red", "r"}, {"green", "g"}, {"blue", "b"})
_FLUORESCENCE = ("EmissionWavelength", "ExcitationWavelength", "Fluor")


class Channels(NamedTuple):
    """What the XML says of a picture's planes.

    Attributes
    ----------
    names : tuple of str
    fluorescent : bool
        Whether a channel has a fluorophore or a wavelength.
    """

    names: tuple[str, ...] = ()
    fluorescent: bool = False

    @property
    def rgb(self) -> bool | None:
        """Whether the planes are red, green and blue; None where the XML leaves it open."""
        if self.fluorescent:
            return False
        named = [name.strip().lower() for name in self.names if not _is_default(name)]
        if not named:
            return None
        return len(named) == 3 and all(name in wanted for name, wanted in zip(named, _RED_GREEN_BLUE, strict=True))


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
    channels : Channels
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
    channels: Channels
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
        _image(image, pixels, root.get("UUID"), n_directories)
        for image in _children(root, "Image")
        for pixels in _children(image, "Pixels")
    )


def _image(image: Element, pixels: Element, uuid: str | None, n_directories: int) -> OmeImage:
    channels = list(_children(pixels, "Channel"))
    samples = max([1, *(_count(channel, "SamplesPerPixel") for channel in channels)])
    sizes = {axis: _count(pixels, f"Size{axis}") for axis in "CZT"}
    sizes["C"] = max(1, sizes["C"] // samples)
    order = pixels.get("DimensionOrder", _ORDER)
    if sorted(order) != sorted(_ORDER) or math.prod(sizes.values()) > 1 << 20:
        raise ValueError("its OME-XML states an impossible order or number of planes")
    planes = _planes(pixels, order[2:], sizes, samples, uuid, n_directories)
    step = math.prod(sizes[axis] for axis in order[2 : order.index("C")])
    width, height = pixels.get("SizeX"), pixels.get("SizeY")
    return OmeImage(
        name=image.get("Name", ""),
        size=(int(width), int(height)) if width and height else None,
        planes=tuple(planes.get(c * step) for c in range(sizes["C"])),
        directories=frozenset(planes.values()),
        samples=samples,
        channels=Channels(
            tuple(channel.get("Name", "") for channel in channels),
            any(channel.get(key) for channel in channels for key in _FLUORESCENCE),
        ),
        depth=sizes["Z"],
        times=sizes["T"],
        scale={key: value for key, value in pixels.attrib.items() if key.startswith("PhysicalSize")},
    )


def _planes(
    pixels: Element, order: str, sizes: dict[str, int], samples: int, uuid: str | None, n_directories: int
) -> dict[int, int]:
    """Directory of each plane, by its place in the order of dimensions."""
    found: dict[int, int] = {}
    total = math.prod(sizes.values())
    entries = list(_children(pixels, "TiffData"))
    uuids = {_uuid(entry) for entry in entries} - {None}
    for entry in entries:
        # A file under another name than its XML's is still this one, as long as no part of it is known to be elsewhere.
        if _uuid(entry) not in (None, uuid) and (uuid in uuids or len(uuids) > 1):
            continue
        first, step = 0, 1
        for axis in order:
            place = _count(entry, f"First{axis}", 0)
            first += step * (place // samples if axis == "C" else place)
            step *= sizes[axis]
        alone = entry.get("IFD") is not None
        count = _count(entry, "PlaneCount", 1 if alone else total)
        start = _count(entry, "IFD", 0)
        found |= {first + i: start + i for i in range(min(count, total - first, n_directories - start))}
    return found if entries else {i: i for i in range(min(total, n_directories))}


def _uuid(entry: Element) -> str | None:
    return next((child.text for child in _children(entry, "UUID")), None)


def _children(parent: Element, name: str) -> Iterator[Element]:
    """Children of that name in whatever namespace: the schema's changes with its year."""
    return (child for child in parent if child.tag.rpartition("}")[2] == name)


def _count(element: Element, name: str, default: int = 1) -> int:
    return max(0, int(element.get(name) or default))


def _is_default(name: str) -> bool:
    """Whether a channel's name is none: empty, or a number as programs fill it in."""
    return not name.strip() or name.strip().lower().removeprefix("channel").strip(" :#0123456789") == ""
