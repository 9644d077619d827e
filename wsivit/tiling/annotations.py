"""Regions that people drew, as labelled polygons, and the labels that they give to tiles.

Two forms are read: GeoJSON as QuPath writes it (a FeatureCollection, a list of features or a single one;
plain or ``.gz``) and the XML of ASAP (the CAMELYON challenges). Coordinates are level-0 pixels in both.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry import Polygon, shape
from shapely.geometry.base import BaseGeometry

from wsivit.errors import InputNotFoundError, UsageError
from wsivit.slide import series_path, slide_stem

log = logging.getLogger(__name__)

NamedShapes: TypeAlias = Iterator[tuple[str, BaseGeometry]]

# QuPath's objects that are results, or a frame for others; whatever else is there, QuPath takes for annotations too.
_NOT_DRAWN = {"tile", "cell", "detection", "tmaCore", "tma_core", "root"}
_NOT_DRAWN |= {"PathTileObject", "PathCellObject", "PathDetectionObject", "TMACoreObject", "PathRootObject"}
_AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
_MAX_VERTICES = 256
ENDINGS = (".geojson", ".geojson.gz", ".json", ".json.gz", ".xml", ".xml.gz")
"""Of annotation files, in the order in which they are looked for beside a slide."""


@dataclass(frozen=True)
class Annotation:
    """One drawn region.

    Attributes
    ----------
    name : str
        Its class: QuPath's classification (``"Tumor: Positive"`` where nested), or its own name without one.
    geometry : shapely Polygon or MultiPolygon
        Valid, holes kept, in level-0 pixels from the corner of the whole image.
    """

    name: str
    geometry: BaseGeometry


def read_annotations(
    path: str | os.PathLike[str], *, view_origin: tuple[float, float] = (0.0, 0.0)
) -> list[Annotation]:
    """Read the labelled regions of a GeoJSON or ASAP XML file.

    Points, lines, and QuPath's tiles, cells and detections are passed over; so are regions with neither a
    class nor a name, with a word in the log. Self-crossing outlines are repaired.

    Parameters
    ----------
    path : path
        ``.geojson``, ``.json``, ``.xml``, or one of these with ``.gz``.
    view_origin : (float, float), optional
        Corner of the slide's bounds, ``x, y``. QuPath shows slides that have some (MIRAX) from there, so it is added
        to the coordinates of GeoJSON. ASAP counts from the corner of the whole image.

    Returns
    -------
    list of Annotation
        In the order of the file; at least one.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    UsageError
        If it is in neither form, damaged, or holds no labelled region.
    """
    path = Path(path)
    data = _read_bytes(path)
    is_xml = data.lstrip()[:1] == b"<"
    named = _asap(data, path) if is_xml else _geojson(data, path)
    offset = np.zeros(2) if is_xml else np.asarray(view_origin, np.float64)
    skipped: Counter[str] = Counter()
    found = []
    for name, geometry in named:
        region = _region(geometry, path)
        if region.is_empty:
            skipped["without an area"] += 1
        elif not name:
            skipped["without a class or name"] += 1
        else:
            found.append(Annotation(name, shapely.transform(region, lambda xy: xy + offset)))
    if skipped:
        log.warning("%s: passed over %s", path, _counted(skipped))
    if not found:
        why = f"passed over: {_counted(skipped)}" if skipped else "it holds no annotation"
        raise UsageError(
            f"{path}: no labelled region in it ({why}). Give each a class in QuPath and export it as GeoJSON"
        )
    return found


def find_annotations(slide: str | os.PathLike[str]) -> Path | None:
    """Find the file beside a slide that has its name and one of the forms of annotations; None if there is none."""
    path = Path(series_path(os.fspath(slide)))
    stem = path.name if path.is_dir() else slide_stem(path.name)
    stems = dict.fromkeys((stem, path.stem))  # QuPath exports case.ome.geojson of case.ome.tif
    names = (name + end for name in stems for end in ENDINGS)
    return next((near for name in names if (near := path.with_name(name)).is_file()), None)


def label_tiles(
    annotations: Iterable[Annotation], boxes: ArrayLike, min_cover: float = 0.5
) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    """Give each tile the class that covers most of it.

    Where regions of different classes overlap, the smaller one counts: necrosis drawn inside a tumour is cut
    out of the tumour. Overlapping regions of one class are counted once.

    Parameters
    ----------
    annotations : iterable of Annotation
    boxes : array_like (n, 4)
        ``x_min, y_min, x_max, y_max`` of each tile in level-0 pixels (`TileGrid.boxes0`).
    min_cover : float, default 0.5
        The least share of the tile that its class must cover, in (0, 1].

    Returns
    -------
    codes : int16 (n,)
        Index into `classes`; -1 for tiles without a label.
    classes : tuple of str
        Sorted names of all annotations, also of those that cover no tile.

    Raises
    ------
    UsageError
        For a `min_cover` outside (0, 1], or boxes of another shape.
    """
    if not 0 < min_cover <= 1:
        raise UsageError(f"min_cover must be in (0, 1], not {min_cover}")
    corners = np.asarray(boxes, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise UsageError(f"boxes must have the shape (n, 4), not {corners.shape}")
    regions = list(annotations)
    classes = tuple(sorted({region.name for region in regions}))
    if not classes or not len(corners):
        return np.full(len(corners), -1, np.int16), classes
    cover = _cover(regions, classes, corners)
    codes = cover.argmax(axis=1).astype(np.int16)
    # The areas come from clipped polygons: a cover that is exactly the least one may miss it by rounding.
    codes[cover.max(axis=1) < min_cover - 1e-9] = -1
    return codes, classes


def _cover(regions: Sequence[Annotation], classes: Sequence[str], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each box under each class; (n, classes)."""
    tiles = shapely.box(*corners.T)
    tree = shapely.STRtree(tiles)
    area = np.zeros((len(tiles), len(classes)))
    by_class: dict[str, list[BaseGeometry]] = {name: [] for name in classes}
    for name, geometry in _without_overlap(regions):
        by_class[name].append(geometry)
    for code, name in enumerate(classes):
        whole = shapely.union_all(by_class[name])
        pieces = np.array(list(_subdivide(whole)), dtype=object)
        piece, tile = tree.query(pieces, predicate="intersects")
        np.add.at(area[:, code], tile, shapely.area(shapely.intersection(pieces[piece], tiles[tile])))
    share: NDArray[np.float64] = area / np.maximum(shapely.area(tiles), np.finfo(float).tiny)[:, None]
    return share


def _without_overlap(regions: Sequence[Annotation]) -> NamedShapes:
    """Cut out of each region the smaller ones of other classes that lie on it."""
    shapes = np.array([region.geometry for region in regions], dtype=object)
    area = shapely.area(shapes)
    tree = shapely.STRtree(shapes)
    for i, region in enumerate(regions):
        above = [
            j
            for j in tree.query(region.geometry, predicate="intersects")
            if regions[j].name != region.name and (area[j], j) < (area[i], i)
        ]
        yield region.name, shapely.difference(region.geometry, shapely.union_all(shapes[above]))


def _subdivide(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    """Split polygons of many vertices in halves: clipping a tile against one is linear in its vertices."""
    for part in shapely.get_parts(geometry):
        if shapely.get_num_coordinates(part) <= _MAX_VERTICES:
            yield part
            continue
        x0, y0, x1, y1 = part.bounds
        wide = x1 - x0 > y1 - y0
        middle_x, middle_y = ((x0 + x1) / 2, y1) if wide else (x1, (y0 + y1) / 2)
        rest = (middle_x, y0, x1, y1) if wide else (x0, middle_y, x1, y1)
        for half in ((x0, y0, middle_x, middle_y), rest):
            yield from _subdivide(_areas(shapely.intersection(part, shapely.box(*half))))


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise InputNotFoundError(f"{path}: there is no such annotation file")
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise UsageError(f"{path}: damaged gzip file ({error}); export it again") from error


def _geojson(data: bytes, path: Path) -> NamedShapes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: neither GeoJSON nor XML ({error})") from error
    features = deque(_features(document, path))
    while features:
        feature = features.popleft()
        properties = feature.get("properties") or {}
        inside = properties.get("childObjects") or properties.get("children") or []
        features.extendleft(reversed(_features(inside, path)))
        kind = properties.get("objectType") or properties.get("object_type") or feature.get("id")
        if not (isinstance(kind, str) and kind in _NOT_DRAWN):
            yield _class_name(properties), _geometry(feature.get("geometry"), path)


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
        return ": ".join(str(name) for name in names if name)
    return str(classification or properties.get("name") or "")


def _geometry(coordinates: Any, path: Path) -> BaseGeometry:
    if coordinates is None:
        return Polygon()
    try:
        with np.errstate(invalid="ignore"):  # NaN is looked for, and refused, afterwards
            return shape(coordinates)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        shapely.errors.ShapelyError,
    ) as error:
        raise UsageError(f"{path}: a region with a broken outline ({error}); draw it again") from error


def _asap(data: bytes, path: Path) -> NamedShapes:
    # Entities are of no use here, and the way to make a small file unfold into gigabytes.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise UsageError(f"{path}: XML with a document type or entities, which no annotation tool writes")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise UsageError(f"{path}: damaged XML ({error}); export it again") from error
    if root.tag != "ASAP_Annotations":
        raise UsageError(f"{path}: XML of another tool (<{root.tag}>); ASAP's XML and GeoJSON can be read")
    for item in root.iter("Annotation"):
        group = item.get("PartOfGroup") or ""
        name = item.get("Name") or "" if group in ("", "None") else group
        yield name, _asap_polygon(item, path)


def _asap_polygon(item: ElementTree.Element, path: Path) -> BaseGeometry:
    if item.get("Type") not in ("Polygon", "Rectangle", "Spline"):
        return Polygon()
    points = sorted(item.iter("Coordinate"), key=lambda point: float(point.get("Order") or 0))
    try:
        return Polygon([(float(point.attrib["X"]), float(point.attrib["Y"])) for point in points])
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path}: annotation {item.get('Name')!r} has a broken outline ({error})") from error


def _region(geometry: BaseGeometry, path: Path) -> BaseGeometry:
    """Return the areas of a geometry as one valid polygon or multipolygon (empty if it has none)."""
    if geometry.geom_type not in _AREAS or geometry.is_empty:
        return Polygon()
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise UsageError(f"{path}: a region with coordinates that are not numbers; draw it again")
    return _areas(shapely.make_valid(shapely.force_2d(geometry)))


def _areas(geometry: BaseGeometry) -> BaseGeometry:
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else Polygon()


def _counted(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
