"""Tissue that a person gives or edits: GeoJSON outlines in and out, and mask images."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.tissue.mask_images import read_mask_image
from wsivit.tissue.masks import Tissue
from wsivit.tissue.operations import BoolMask, pieces

_log = logging.getLogger(__name__)

METHODS = ("auto", "otsu", "none")


def tissue_file(tissue: str) -> tuple[Path, tuple[int, ...]] | None:
    r"""Split the tissue of a command line, ``mask.png:1,2``, into file and labels; None where it names a method.

    A file whose name is all of the text goes first; a drive (``C:\mask.png``) is never taken for labels.

    Parameters
    ----------
    tissue : str

    Returns
    -------
    file : Path
    labels : tuple of int
        The values that are tissue; empty for everything but 0.
    """
    if tissue in METHODS:
        return None
    complete, labelled = Path(tissue), re.fullmatch(r"(.+):(\d+(?:,\d+)*)", tissue)
    if complete.is_file() or not labelled:
        return (complete, ()) if complete.is_file() or complete.suffix else None
    return Path(labelled[1]), tuple(int(label) for label in labelled[2].split(","))


def read_tissue(
    path: str | Path,
    shape: tuple[int, int],
    slide_size: tuple[int, int],
    *,
    labels: Sequence[int] = (),
    view_origin: tuple[float, float] = (0.0, 0.0),
) -> Tissue:
    """Read the tissue that a person drew: GeoJSON outlines, or a mask image of the complete slide.

    Parameters
    ----------
    path : path
        ``.geojson`` or ``.json``, or one of them compressed as ``.gz``: every area in it is tissue, in level-0
        pixels. Anything else is an image of any size in the slide's proportions: all that is neither 0 (black) nor
        transparent is tissue.
    shape : (int, int)
        Height and width of the mask that outlines are filled into; an image keeps its own, up to 33 million pixels.
    slide_size : (int, int)
        Width and height of level 0.
    labels : sequence of int, optional
        The values of an image that are tissue, instead of everything but 0.
    view_origin : (float, float), optional
        Where on the slide the outlines' origin lies: QuPath counts from the corner of the slide's bounds (MIRAX).

    Returns
    -------
    Tissue
        Its parameters have the file's name and checksum, and of an image the rule that was applied.

    Raises
    ------
    UsageError
        If the file is missing, not readable as what its name says, holds no area, or is not of the complete slide.
    LimitError
        If an image can only be decoded at once and is too large for that.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            identity = {"file": source.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise UsageError(f"cannot read the tissue mask {path}: {error.strerror}") from error
    gzipped = source.suffix.lower() == ".gz"
    if Path(source.stem if gzipped else source).suffix.lower() not in (".geojson", ".json"):
        mask, rule = read_mask_image(source, slide_size, labels)
        _log.info("tissue mask %s: %s (%.1f %% of the slide)", path, rule["rule"], 100 * mask.mean())
        return Tissue(mask, None, {"method": "image", **rule, **identity})
    if labels:
        raise UsageError(f"{source} holds outlines, which have no labels to choose from; leave :{labels[0]} … out")
    try:
        content = source.read_bytes()
        document = json.loads(gzip.decompress(content) if gzipped else content)
        features = document if isinstance(document, list) else [document]
        outlines = np.array([shapely.from_geojson(json.dumps(feature)) for feature in features])
        moved = shapely.transform(outlines, lambda xy: xy + np.asarray(view_origin))
    except (ValueError, OSError, EOFError, zlib.error, shapely.errors.GEOSException) as error:
        raise UsageError(f"{source} is not GeoJSON: {error}") from error
    downsample = (slide_size[0] / shape[1], slide_size[1] / shape[0])
    try:
        mask = polygons_mask(moved, shape, downsample)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error
    return Tissue(mask, None, {"method": "polygons", "downsample": list(downsample), **identity})


def tissue_geojson(
    mask: BoolMask,
    downsample: tuple[float, float],
    mpp: tuple[float, float] | None = None,
    *,
    view_origin: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Any]:
    """Turn a mask into GeoJSON for QuPath: one annotation per piece, with its area where the scale is known.

    Parameters
    ----------
    mask : bool ndarray, (h, w)
    downsample : (float, float)
        Level-0 pixels per mask pixel, x and y.
    mpp : (float, float) or None
        Microns per level-0 pixel.
    view_origin : (float, float), optional
        Where on the slide the outlines' origin shall lie: QuPath counts from the corner of the slide's bounds (MIRAX).

    Returns
    -------
    dict
        A FeatureCollection; `json.dump` it, edit it in QuPath, and give it back to :func:`read_tissue`.
    """
    features = []
    for piece in mask_polygons(mask, downsample).geoms:
        properties: dict[str, Any] = {"objectType": "annotation", "classification": {"name": "Tissue"}}
        if mpp is not None:
            properties["measurements"] = {"Area mm^2": round(piece.area * mpp[0] * mpp[1] / 1e6, 6)}
        shown = shapely.transform(piece, lambda xy: np.round(xy - np.asarray(view_origin), 2))
        geometry = json.loads(shapely.to_geojson(shown))
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def mask_polygons(mask: BoolMask, downsample: tuple[float, float], *, tolerance: float = 0.5) -> shapely.MultiPolygon:
    """Outline a mask as valid polygons with holes, in level-0 pixels.

    Parameters
    ----------
    mask : bool ndarray, (h, w)
    downsample : (float, float)
        Level-0 pixels per mask pixel, x and y.
    tolerance : float
        How far, in mask pixels, an outline may move to lose its staircase; 0 keeps every mask pixel
        (:func:`polygons_mask` then gives the mask back exactly).
    """
    from skimage.measure import find_contours

    rings: dict[int, list[NDArray[np.float64]]] = {}
    padded = np.pad(mask, 1)
    numbers, _ = pieces(padded)
    contours = find_contours(padded.astype(np.uint8), 0.5, fully_connected="low")  # type: ignore[no-untyped-call]
    for contour in contours:
        # A contour point lies half-way between a pixel of its piece and one outside, which has number 0.
        (top, left), (bottom, right) = np.floor(contour[0]).astype(int), np.ceil(contour[0]).astype(int)
        rings.setdefault(int(numbers[top, left] or numbers[bottom, right]), []).append(contour[:, ::-1] - 0.5)
    polygons = []
    for of_piece in rings.values():  # the largest ring of a piece is its shell
        shell, *holes = sorted((shapely.Polygon(ring) for ring in of_piece), key=lambda ring: -ring.area)
        polygons.append(shapely.Polygon(shell.exterior, [hole.exterior for hole in holes]))
    outline = shapely.MultiPolygon(list(shapely.simplify(polygons, tolerance)) if tolerance else polygons)
    if not outline.is_valid:  # two simplified neighbours crossed
        outline = shapely.MultiPolygon(polygons)
    return shapely.transform(outline, lambda xy: xy * np.asarray(downsample))


def polygons_mask(
    geometries: Iterable[shapely.Geometry], shape: tuple[int, int], downsample: tuple[float, float]
) -> BoolMask:
    """Fill polygons into a mask: a pixel belongs to a polygon that holds its centre.

    Parameters
    ----------
    geometries : iterable of shapely geometries
        (Multi)polygons and collections in level-0 pixels; their union counts, holes stay open.
    shape : (int, int)
        Height and width of the mask.
    downsample : (float, float)
        Level-0 pixels per mask pixel, x and y.

    Raises
    ------
    UsageError
        Where there is no polygon at all.
    """
    valid = [shapely.make_valid(geometry) for geometry in geometries]
    parts = shapely.get_parts(shapely.get_parts(valid))
    polygons = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    rings = shapely.get_rings(shapely.orient_polygons(polygons))
    if not len(rings):
        raise UsageError("no polygon among the tissue outlines: draw areas, not points or lines")
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    xy = xy / np.asarray(downsample) - 0.5  # pixel centres then lie at whole numbers
    same = ring[1:] == ring[:-1]
    start, end = xy[:-1][same], xy[1:][same]
    # Each edge turns the count of windings on the rows that it crosses; what is wound around is inside.
    height, width = shape
    down = end[:, 1] > start[:, 1]
    upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, height).astype(np.int64)
    count = np.clip(np.ceil(lower[:, 1]), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    run, rise = (lower[edge] - upper[edge]).T
    crossing = upper[edge, 0] + (row - upper[edge, 1]) * run / rise
    col = np.clip(np.ceil(crossing), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (row, col), np.where(down, 1, -1)[edge])
    inside: BoolMask = np.cumsum(turns, axis=1)[:, :width] != 0
    return inside
