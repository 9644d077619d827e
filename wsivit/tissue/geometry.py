"""Between masks and the slide's level-0 frame: exact fractions of boxes, polygons out and back in, areas."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.tissue.shapes import pieces

BoolMask = NDArray[np.bool_]


def tissue_fractions(
    mask: BoolMask, boxes: NDArray[np.float64], slide_size: tuple[float, float]
) -> NDArray[np.float32]:
    """Measure how much of each box the mask covers: exact, whatever the scales.

    Parameters
    ----------
    mask : bool ndarray, (h, w)
        Spans the whole slide, at any resolution.
    boxes : float ndarray, (n, 4)
        ``x_min, y_min, x_max, y_max`` in level-0 pixels; clipped to the slide.
    slide_size : (float, float)
        Width and height of level 0.

    Returns
    -------
    float32 ndarray, (n,)
        Covered share of the part of each box that lies on the slide; 0 where none does.
    """
    height, width = mask.shape
    to_mask = np.array([width / slide_size[0], height / slide_size[1]])
    corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2) * to_mask
    corners = np.clip(corners, 0, [width, height])
    table = np.zeros((height + 1, width + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=table[1:, 1:])
    (left, top), (right, bottom) = corners[:, 0].T, corners[:, 1].T
    covered = (
        _interpolate(table, right, bottom)
        - _interpolate(table, left, bottom)
        - _interpolate(table, right, top)
        + _interpolate(table, left, top)
    )
    area = (right - left) * (bottom - top)
    fractions = np.divide(covered, area, out=np.zeros_like(covered), where=area > 0)
    clipped: NDArray[np.float32] = np.clip(fractions, 0, 1).astype(np.float32)
    return clipped


def _interpolate(table: NDArray[np.int64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    # A mask is constant within a pixel, so its integral is bilinear there: interpolating the table is exact.
    col = np.minimum(x.astype(np.int64), table.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), table.shape[0] - 2)
    fx, fy = x - col, y - row
    upper = table[row, col] * (1 - fx) + table[row, col + 1] * fx
    lower = table[row + 1, col] * (1 - fx) + table[row + 1, col + 1] * fx
    value: NDArray[np.float64] = upper * (1 - fy) + lower * fy
    return value


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
        rings.setdefault(_piece_of(contour, numbers), []).append(contour[:, ::-1] - 0.5)
    polygons = [_polygon(ring_set) for ring_set in rings.values()]
    outline = shapely.MultiPolygon(list(shapely.simplify(polygons, tolerance)) if tolerance else polygons)
    if not outline.is_valid:  # two simplified neighbours crossed
        outline = shapely.MultiPolygon(polygons)
    return shapely.transform(outline, lambda xy: xy * np.asarray(downsample))


def _piece_of(contour: NDArray[np.float64], numbers: NDArray[np.int32]) -> int:
    # A contour point lies half-way between a pixel of its piece and one outside.
    y, x = contour[0]
    here = numbers[int(np.floor(y)), int(np.floor(x))]
    return int(here or numbers[int(np.ceil(y)), int(np.ceil(x))])


def _polygon(rings: list[NDArray[np.float64]]) -> shapely.Polygon:
    shells = sorted((shapely.Polygon(ring) for ring in rings), key=lambda ring: -ring.area)
    return shapely.Polygon(shells[0].exterior, [hole.exterior for hole in shells[1:]])


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
    xy = xy / np.asarray(downsample) - 0.5
    same = ring[1:] == ring[:-1]
    return _fill(xy[:-1][same], xy[1:][same], shape)


def _fill(start: NDArray[np.float64], end: NDArray[np.float64], shape: tuple[int, int]) -> BoolMask:
    """Fill what oriented edges wind around; pixel centres lie at whole numbers."""
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
