"""Regions that people drew, as labelled polygons, and the labels that they give to tiles."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from wsivit.errors import UsageError
from wsivit.slide import series_path, slide_stem
from wsivit.tiling.annotation_formats import ENDINGS, DrawnRegion, read_file

_log = logging.getLogger(__name__)

_AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
_MAX_VERTICES = 256
_MAX_CROSSINGS = 20_000
"""Self-crossings up to which an outline is repaired, in seconds: the time grows faster than their number."""
_PAIRS_TOGETHER = 4_000_000
_NAMED = 10  # of many regions, so many are named in a warning
IGNORE, FRAME = "Ignore*", "Region*"


@dataclass(frozen=True)
class Annotation:
    """One drawn region.

    Attributes
    ----------
    name : str
        Its class, without spaces around it: QuPath's classification (``"Tumor: Positive"`` where nested), the name of
        a layer in ImageScope and HALO, of a group in ASAP; without one its own name.
    geometry : shapely Polygon or MultiPolygon
        Valid, holes kept, in level-0 pixels from the corner of the whole image.
    """

    name: str
    geometry: BaseGeometry

    @property
    def ignored(self) -> bool:
        """Whether its class ends in ``*``, as QuPath marks what is no class of its own."""
        return self.name.endswith("*")


def read_annotations(
    path: str | os.PathLike[str],
    *,
    view_origin: tuple[float, float] = (0.0, 0.0),
    slide_size: tuple[int, int] | None = None,
) -> list[Annotation]:
    """Read the labelled regions of a file of QuPath, ASAP, Aperio ImageScope or HALO.

    QuPath's tiles, cells and detections are passed over. Regions without an area (points, lines, stray clicks) or
    without a class or name are left out, and regions that lie outside the slide are kept; a warning names each by
    number and place. So are classes whose names differ only in case or spaces. Self-crossing outlines are repaired.

    Parameters
    ----------
    path : path
        GeoJSON (``.geojson``, ``.json``), XML of ASAP or ImageScope (``.xml``), HALO's ``.annotations``, or one of
        these with ``.gz``; the form is found by content.
    view_origin : (float, float), optional
        Corner of the slide's bounds, ``x, y``. QuPath shows slides that have some (MIRAX) from there, so it is added
        to the coordinates of GeoJSON. The others count from the corner of the whole image.
    slide_size : (int, int), optional
        Width and height of level 0, to find regions outside it.

    Returns
    -------
    list of Annotation
        In the order of the file; at least one.

    Raises
    ------
    InputNotFoundError
        If there is no such file.
    UsageError
        If it is in none of the forms, damaged, holds no labelled region, or none on the slide.
    """
    path = Path(path)
    drawn, from_bounds = read_file(path)
    offset = np.asarray(view_origin if from_bounds else (0.0, 0.0), np.float64)
    frame = None if slide_size is None else shapely.box(0, 0, *slide_size)
    annotations: list[Annotation] = []
    flat, unnamed, outside = list[str](), list[str](), list[str]()
    layer: Sequence[BaseGeometry] = ()
    holes = np.empty(0, object)
    for region in drawn:
        if region.holes is not layer:  # all regions of a layer have the same: repaired once
            layer = region.holes
            holes = np.array([_repair(region._replace(geometry=hole), path) for hole in layer], dtype=object)
        area = _repair(region, path)
        for hole in holes[shapely.intersects(holes, area)] if len(holes) else ():
            if not hole.covers(area):  # an island in a hole stays
                area = _areas_only(shapely.difference(area, hole))
        name = region.name.strip()
        if area.is_empty:
            flat.append(_place(region))
        elif not name:
            unnamed.append(_place(region))
        else:
            moved = shapely.transform(area, lambda xy: xy + offset)
            annotations.append(Annotation(name, moved))
            if frame is not None and shapely.intersection(moved, frame).area < moved.area / 2:
                outside.append(_place(region))
    for what, regions in (
        ("left out as without an area, points and lines or stray clicks", flat),
        ("left out as without a class or name", unnamed),
        ("more than half outside the slide", outside),
    ):
        if regions:
            _log.warning("%s: %d regions are %s: %s", path, len(regions), what, _listed(regions))
    for names in similar_names(annotation.name for annotation in annotations):
        _log.warning("%s: classes differ only in case or spaces: %s", path, ", ".join(map(repr, names)))
    if all(annotation.ignored for annotation in annotations):
        counts = {
            "without a class or name": len(unnamed),
            "without an area": len(flat),
            "of classes that end in * and so are ignored": len(annotations),
        }
        why = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "it holds no annotation"
        raise UsageError(
            f"{path}: no labelled region in it ({why}). Give each a class in QuPath and export it as GeoJSON"
        )
    if frame is not None and not any(annotation.geometry.intersects(frame) for annotation in annotations):
        width, height = frame.bounds[2:]
        raise UsageError(
            f"{path}: none of its {len(annotations)} regions lies on the slide of {width:.0f} x {height:.0f}"
            " pixels: are they of another slide, or not in pixels of level 0?"
        )
    return annotations


def find_annotations(slide: str | os.PathLike[str]) -> Path | None:
    """Find the file next to a slide that has its name and one of the forms of annotations; None if there is none."""
    path = Path(series_path(os.fspath(slide)))
    stem = path.name if path.is_dir() else slide_stem(path.name)
    stems = dict.fromkeys((stem, path.stem))  # QuPath exports case.ome.geojson of case.ome.tif
    names = (name + end for name in stems for end in ENDINGS)
    return next((near for name in names if (near := path.with_name(name)).is_file()), None)


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Group names that differ only in case or spaces, and are most likely meant to be one."""
    groups = defaultdict[str, set[str]](set)
    for name in names:
        groups["".join(name.split()).casefold()].add(name)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def _place(region: DrawnRegion) -> str:
    points = shapely.get_coordinates(region.geometry)
    where = f" at {points[0, 0]:.0f}, {points[0, 1]:.0f}" if len(points) and np.isfinite(points[0]).all() else ""
    return f"region {region.number} ({region.name.strip() or 'no class'}){where}"


def _listed(regions: Sequence[str]) -> str:
    more = f"; and {len(regions) - _NAMED} more" if len(regions) > _NAMED else ""
    return "; ".join(regions[:_NAMED]) + more


# Outlines


def _repair(region: DrawnRegion, path: Path) -> BaseGeometry:
    """Return the areas of a region as one valid polygon or multipolygon; empty if it has none."""
    geometry = region.geometry
    if geometry.geom_type not in _AREAS or geometry.is_empty:
        return Polygon()
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise UsageError(f"{path}: {_place(region)} has coordinates that are not numbers; draw it again")
    geometry = shapely.force_2d(geometry)
    try:
        if geometry.is_valid:
            return _areas_only(geometry)
        if _crosses_too_often(geometry):
            raise UsageError(
                f"{path}: {_place(region)} crosses itself more than {_MAX_CROSSINGS:,} times; draw it again"
            )
        # "structure" fills what an outline runs around twice, as the person meant who drew on past its start; the other
        # method cuts it out, and takes 40 times as long.
        return _areas_only(shapely.make_valid(geometry, method="structure", keep_collapsed=False))
    except (shapely.errors.ShapelyError, MemoryError) as error:
        raise UsageError(f"{path}: {_place(region)} has an outline that cannot be repaired ({error})") from error


def _crosses_too_often(geometry: BaseGeometry) -> bool:
    """Count the crossings of an outline in bounded memory: `make_valid` needs memory and time for each of them."""
    rings = shapely.get_rings(shapely.get_parts(geometry))
    ends = [(points[:-1], points[1:]) for points in map(shapely.get_coordinates, rings)]
    segments = shapely.linestrings(np.stack([np.concatenate(part) for part in zip(*ends, strict=True)], axis=1))
    tree, crossings = shapely.STRtree(segments), 0
    # Each segment may cross all others: few enough are tried at a time that the pairs fit into memory.
    step = max(1, _PAIRS_TOGETHER // len(segments))
    for start in range(0, len(segments), step):
        pairs = tree.query(segments[start : start + step], predicate="intersects")
        # A segment meets itself and its two neighbours, and each crossing is found from both sides.
        crossings += max(0, pairs.shape[1] - 3 * len(segments[start : start + step]))
        if crossings > 2 * _MAX_CROSSINGS:
            return True
    return False


def _areas_only(geometry: BaseGeometry) -> BaseGeometry:
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else Polygon()


# Labels


def label_tiles(
    annotations: Iterable[Annotation], boxes: ArrayLike, min_cover: float = 0.5
) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    """Give each tile the class that covers most of it.

    Where regions of different classes overlap, the smaller one counts: necrosis drawn inside a tumour is cut
    out of the tumour. Overlapping regions of one class are counted once. A class that ends in ``*`` labels no tile, as
    in QuPath, but its smaller regions are cut out like others; ``Ignore*`` is cut out of all, and ``Region*``, a frame
    around what is annotated, of none.

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
        Sorted names of all annotations but those that end in ``*``, also of those that cover no tile.

    Raises
    ------
    UsageError
        For a `min_cover` outside (0, 1], boxes of another shape, or outlines that cannot be cut out of each other.
    """
    if not 0 < min_cover <= 1:
        raise UsageError(f"min_cover must be in (0, 1], not {min_cover}")
    corners = np.asarray(boxes, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise UsageError(f"boxes must have the shape (n, 4), not {corners.shape}")
    regions = [region for region in annotations if region.name != FRAME]
    classes = tuple(sorted({region.name for region in regions if not region.ignored}))
    if not classes or not len(corners):
        return np.full(len(corners), -1, np.int16), classes
    tiles = shapely.box(*corners.T)
    tree = shapely.STRtree(tiles)
    area = np.zeros((len(tiles), len(classes)))
    by_class: dict[str, list[BaseGeometry]] = {name: [] for name in classes}
    try:
        for name, geometry in _without_overlap(regions):
            by_class[name].append(geometry)
        for code, name in enumerate(classes):
            pieces = np.array(list(_subdivide(shapely.union_all(by_class[name]))), dtype=object)
            piece, tile = tree.query(pieces, predicate="intersects")
            np.add.at(area[:, code], tile, shapely.area(shapely.intersection(pieces[piece], tiles[tile])))
    except shapely.errors.ShapelyError as error:
        raise UsageError(f"the annotations cannot be cut out of each other ({error}); draw simpler outlines") from error
    cover = area / np.maximum(shapely.area(tiles), np.finfo(float).tiny)[:, None]
    codes = cover.argmax(axis=1).astype(np.int16)
    # The areas come from clipped polygons: a cover that is exactly the least one may miss it by rounding.
    codes[cover.max(axis=1) < min_cover - 1e-9] = -1
    return codes, classes


def _without_overlap(regions: Sequence[Annotation]) -> Iterator[tuple[str, BaseGeometry]]:
    """Cut out of each region with a class the smaller ones of other classes that lie on it, and all ``Ignore*``."""
    shapes = np.array([region.geometry for region in regions], dtype=object)
    area = shapely.area(shapes)
    tree = shapely.STRtree(shapes)
    for i, region in enumerate(regions):
        if region.ignored:
            continue
        above = [
            j
            for j in tree.query(region.geometry, predicate="intersects")
            if regions[j].name != region.name and (regions[j].name == IGNORE or (area[j], j) < (area[i], i))
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
            yield from _subdivide(_areas_only(shapely.intersection(part, shapely.box(*half))))
