"""The files in which other tools keep regions: QuPath's GeoJSON, and the XML of ASAP, Aperio ImageScope and HALO.

Coordinates are level-0 pixels in all of them. Each reader yields the regions in the order of the file, as drawn: also
points, lines and clicks without an area, so that the caller can name what it leaves out.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import shapely
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from shapely.geometry import GeometryCollection, MultiPoint, Polygon, shape
from shapely.geometry.base import BaseGeometry

from wsivit.errors import InputNotFoundError, UsageError

ENDINGS = (".geojson", ".geojson.gz", ".json", ".json.gz", ".xml", ".xml.gz", ".annotations")
"""Of annotation files, in the order in which they are looked for next to a slide."""

# QuPath's objects that are results, or a frame for others. It takes whatever else there is for annotations too.
_NOT_DRAWN = {"tile", "cell", "detection", "tmaCore", "tma_core", "root"}
_NOT_DRAWN |= {"PathTileObject", "PathCellObject", "PathDetectionObject", "TMACoreObject", "PathRootObject"}
_ELLIPSE = np.linspace(0, 2 * math.pi, 128, endpoint=False)
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, shapely.errors.ShapelyError)


class DrawnRegion(NamedTuple):
    """A region as a file has it.

    Attributes
    ----------
    number : int
        In the file, from 1.
    name : str
        Its class; may be empty.
    geometry : shapely geometry
        Of any kind, valid or not.
    holes : sequence of shapely Polygon
        To be cut out of it, unless it lies in one; the same object for all regions of a layer.
    """

    number: int
    name: str
    geometry: BaseGeometry
    holes: Sequence[BaseGeometry] = ()


class AnnotationFile(NamedTuple):
    """The regions of a file, and whether they count from the corner of the slide's bounds and not of the image."""

    regions: list[DrawnRegion]
    from_bounds: bool


def read_file(path: Path) -> AnnotationFile:
    """Read all regions of a file; its form is found by content.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    UsageError
        If it is of none of the forms, or damaged; the text names the region.
    """
    if not path.is_file():
        raise InputNotFoundError(f"{path}: there is no such annotation file")
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{path}: damaged gzip file ({error}); export it again") from error
    # A byte order mark and UTF-16 are common in XML of Windows programs.
    if data[:64].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n").startswith(b"<"):
        return AnnotationFile(list(_xml(data, path)), from_bounds=False)
    return AnnotationFile(list(_geojson(data, path)), from_bounds=True)


def _broken(path: Path, number: int, name: str, why: object) -> UsageError:
    return UsageError(f"{path}: region {number} ({name or 'no class'}) has a broken outline ({why}); draw it again")


def _polygon(rings: Sequence[Any]) -> BaseGeometry:
    """Make a polygon of an outline and its holes; a click, with less than three points, becomes points."""
    outlines = [np.asarray(ring, np.float64)[:, :2] for ring in rings]
    if not outlines:
        return Polygon()
    # Two points and the first again make a ring of three that shapely refuses.
    if len(outlines[0]) < 3 or (len(outlines[0]) == 3 and (outlines[0][0] == outlines[0][2]).all()):
        return MultiPoint(outlines[0])
    return Polygon(outlines[0], [hole for hole in outlines[1:] if len(hole) > 3 or len(np.unique(hole, axis=0)) > 2])


# QuPath


def _geojson(data: bytes, path: Path) -> Iterator[DrawnRegion]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: neither GeoJSON nor XML ({error})") from error
    features, number = deque(_features(document, path)), 0
    while features:
        feature = features.popleft()
        properties = feature.get("properties") or {}
        inside = properties.get("childObjects") or properties.get("children") or []
        features.extendleft(reversed(_features(inside, path)))
        kind = properties.get("objectType") or properties.get("object_type") or feature.get("id")
        if isinstance(kind, str) and kind in _NOT_DRAWN:
            continue
        number, name = number + 1, _class_name(properties)
        try:
            with np.errstate(invalid="ignore"):  # NaN is looked for, and refused, afterwards
                yield DrawnRegion(number, name, _geometry(feature.get("geometry")))
        except _BROKEN as error:
            raise _broken(path, number, name, error) from error


def _features(document: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    features = document if isinstance(document, list) else [document]
    if not all(isinstance(feature, dict) and feature.get("type") == "Feature" for feature in features):
        raise UsageError(f"{path}: JSON, but not GeoJSON features; export the regions as GeoJSON in QuPath")
    return features


def _class_name(properties: dict[str, Any]) -> str:
    """Class of a QuPath object: ``name`` until version 0.4, a list of ``names`` for nested classes since."""
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names") or [classification.get("name")]
        return ": ".join(str(name).strip() for name in names if name)
    # Scripts that write GeoJSON themselves have a property of their own.
    own = (properties.get(key) for key in ("class", "label", "name"))
    return str(classification or next((name for name in own if name), ""))


def _geometry(geometry: Any) -> BaseGeometry:
    parts = list(_parts(geometry))
    return parts[0] if len(parts) == 1 else GeometryCollection(parts)


def _parts(geometry: Any) -> Iterator[BaseGeometry]:
    if geometry is None:
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _parts(part)
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
        yield from map(_polygon, polygons)
    else:
        yield shape(geometry)


# XML


def _xml(data: bytes, path: Path) -> Iterator[DrawnRegion]:
    try:
        # Entities are of no use here, and the way to make a small file unfold into gigabytes.
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise UsageError(f"{path}: XML with a document type or entities, which no annotation tool writes") from error
    except (ParseError, ValueError, LookupError) as error:
        raise UsageError(f"{path}: damaged XML ({error}); export it again") from error
    if root.tag == "ASAP_Annotations":
        return _asap(root, path)
    if root.tag == "Annotations" and root.find("Annotation") is not None:
        return _layers(root, path)
    raise UsageError(
        f"{path}: XML of another tool (<{root.tag}>) or without regions; the XML of ASAP, ImageScope and HALO and"
        " GeoJSON can be read"
    )


def _points(items: Sequence[Element]) -> list[tuple[float, float]]:
    # Some locales write a decimal comma.
    return [(float(item.attrib["X"].replace(",", ".")), float(item.attrib["Y"].replace(",", "."))) for item in items]


def _asap(root: Element, path: Path) -> Iterator[DrawnRegion]:
    for number, item in enumerate(root.iter("Annotation"), 1):
        group = item.get("PartOfGroup") or ""
        name = item.get("Name") or "" if group in ("", "None") else group
        try:
            points = _points(sorted(item.iter("Coordinate"), key=lambda point: float(point.get("Order") or 0)))
            has_area = item.get("Type") in ("Polygon", "Rectangle", "Spline")
            yield DrawnRegion(number, name, _polygon([points]) if has_area and points else MultiPoint(points))
        except _BROKEN as error:
            raise _broken(path, number, name, error) from error


def _layers(root: Element, path: Path) -> Iterator[DrawnRegion]:
    """Yield the regions of ImageScope and HALO: layers of one class each, whose negative regions are holes."""
    number = 0
    for layer in root.findall("Annotation"):
        positive, negative = list[DrawnRegion](), list[BaseGeometry]()
        descriptions = [item.get("Value") for item in layer.iterfind("Attributes/Attribute")]
        for item in layer.iterfind("Regions/Region"):
            number += 1
            # ImageScope users name a layer, or describe it, or write the class on each region.
            names = (layer.get("Name"), *descriptions, item.get("Text"))
            name = next((name for name in names if name and name.strip()), "")
            try:
                region = DrawnRegion(number, name, _layer_shape(item))
            except _BROKEN as error:
                raise _broken(path, number, name, error) from error
            is_hole = item.get("NegativeROA", "0").strip().lower() in ("1", "true")
            if not is_hole:
                positive.append(region)
            elif region.geometry.geom_type == "Polygon":
                negative.append(region.geometry)
        yield from (region._replace(holes=negative) for region in positive)


def _layer_shape(region: Element) -> BaseGeometry:
    """Shape of a region: ImageScope numbers its kinds, HALO names them; a ruler, an arrow or a pin has no area."""
    kind = region.get("Type", "0")
    points = _points([*region.iterfind("Vertices/Vertex"), *region.iterfind("Vertices/V")])
    if kind not in ("0", "1", "2", "Polygon", "Rectangle", "Ellipse") or not points:
        return MultiPoint(points)
    if kind in ("0", "Polygon") or len(points) > 4:
        return _polygon([points])
    # A rectangle or ellipse is given by two opposite corners of its frame, or by all four.
    if len(points) == 4 and kind in ("1", "Rectangle"):
        return _polygon([points])  # may be rotated
    (left, top), (right, bottom) = np.min(points, axis=0), np.max(points, axis=0)
    if kind in ("1", "Rectangle"):
        return _polygon([[(left, top), (right, top), (right, bottom), (left, bottom)]])
    x = (left + right) / 2 + (right - left) / 2 * np.cos(_ELLIPSE)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(_ELLIPSE)
    return _polygon([np.stack([x, y], axis=1)])
