"""Cells and the holes between them, stamped onto a canvas of stain densities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from wsivit.demo.fields import Blob, scatter, smooth_noise
from wsivit.demo.regions import Layout

Canvas = NDArray[np.uint8]
Points = NDArray[np.float64]
HEMATOXYLIN, EOSIN, HOLE = 0, 1, 2
_ANGLES = 24


@dataclass(frozen=True)
class Nucleus:
    """How one kind of nucleus looks.

    Attributes
    ----------
    length, width : float
        Half axes in level-0 pixels.
    spread : float
        Relative variation of size and shape.
    density : float
        Mean density of hematoxylin, 0 to 255.
    chromatin, rim, nucleolus : float
        Relative strength of the clumps inside, of the membrane, and of the nucleolus.
    """

    length: float
    width: float
    spread: float
    density: float
    chromatin: float
    rim: float
    nucleolus: float


TUMOR = Nucleus(10.2, 7.6, 0.20, 84, 0.34, 0.5, 1.1)
COLUMNAR = Nucleus(11.5, 6.2, 0.12, 96, 0.28, 0.35, 0.5)
MITOSIS = Nucleus(8.5, 3.4, 0.25, 190, 0.35, 0.0, 0.0)
FIBROBLAST = Nucleus(14.0, 2.9, 0.25, 105, 0.15, 0.2, 0.0)
LYMPHOCYTE = Nucleus(6.2, 5.7, 0.10, 150, 0.22, 0.1, 0.0)


def paint_structures(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Open the lumens of glands, vessels and fat cells, with the walls and the blood of the vessels."""
    for gland in layout.glands:
        rows, cols, depth = gland.window(4, layout.size)
        content = rng.choice([1.0, 0.97, 0.86])
        _raise(canvas[rows, cols, HOLE], 255 * content * np.clip(depth / 2 + 0.5, 0, 1))
    for vessel in layout.vessels:
        _paint_vessel(canvas, vessel, rng)
    for lobule in layout.lobules:
        _paint_fat(canvas, lobule, rng)


def paint_cells(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Stamp the cells of both kinds, then the lining of glands and vessels."""
    _paint_tumor(canvas, layout, rng)
    _paint_linings(canvas, layout, rng)
    _paint_stroma(canvas, layout, rng)


def _raise(target: NDArray[np.uint8], values: ArrayLike) -> None:
    np.maximum(target, np.asarray(values).astype(np.uint8), out=target)


def _paint_vessel(canvas: Canvas, vessel: Blob, rng: np.random.Generator) -> None:
    """Paint a hyaline wall round a lumen that is filled with red cells in part."""
    wall = 4 + 0.2 * vessel.radius
    rows, cols, depth = vessel.window(wall + 3, canvas.shape[0])
    lumen = np.clip(depth / 2 + 0.5, 0, 1)
    ring = np.clip((depth + wall) / 3, 0, 1) * (1 - lumen)
    points = scatter(rng, max(depth.shape), 11.5)
    x, y = _pixel(points[rng.random(len(points)) < rng.choice([0.0, 0.5, 0.9])])
    away = np.ones((max(depth.shape),) * 2, bool)
    away[y, x] = False
    cells = ndimage.distance_transform_edt(away)[: depth.shape[0], : depth.shape[1]]
    red = np.clip(6.2 - cells, 0, 1) if len(x) else np.zeros(depth.shape)
    red *= lumen
    _raise(canvas[rows, cols, EOSIN], np.maximum(62 * ring, 118 * red))
    _raise(canvas[rows, cols, HOLE], 255 * lumen * (1 - red))


def _paint_fat(canvas: Canvas, lobule: Blob, rng: np.random.Generator) -> None:
    """Paint empty fat cells: the Voronoi cells of shaken points, but for thin membranes."""
    step, margin = 2, 60
    rows, cols, _ = lobule.window(margin, canvas.shape[0])
    height, width = rows.stop - rows.start, cols.stop - cols.start
    centres = scatter(rng, max(height, width), 84)
    yy, xx = np.mgrid[0 : height + step : step, 0 : width + step : step]
    distance, nearest = cKDTree(centres).query(np.stack([xx, yy], -1), k=3)
    inside = lobule.depth(centres[:, 0] + cols.start, centres[:, 1] + rows.start) > 0
    # The harmonic sum of the distances to the two next cells rounds the corners.
    gaps = np.maximum(distance[..., 1:] - distance[..., :1], 0.01)
    room = np.where(inside[nearest[..., 0]], 1 / (1 / gaps).sum(-1), -9)
    room = ndimage.zoom(room, step, order=1)[:height, :width]
    _raise(canvas[rows, cols, HOLE], 255 * np.clip((room - 2) / 2, 0, 1))
    _raise(canvas[rows, cols, EOSIN], 30 * np.clip((room + 6) / 6, 0, 1))


def _paint_tumor(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Fill the nests of the tumor with crowded, large, vesicular nuclei in their cytoplasm."""
    points = scatter(rng, layout.size, 26)
    tissue, tumor = layout.kind_at(points)
    nests = layout.sheet.at("nests", *points.T)
    nested = (tissue > 8) & (tumor + rng.normal(0, 3, len(points)) > 0) & (nests > -0.75)
    points = points[nested & (rng.random(len(points)) < 0.9)]
    points = _push_apart(_clear_of(points, layout.glands, 30), 24)
    x, y = _pixel(points)
    points = points[canvas[y, x, HOLE] < 60]
    _stamp_cytoplasm(canvas, points, rng)
    dividing = rng.random(len(points)) < 0.006
    for nucleus, chosen in ((TUMOR, points[~dividing]), (MITOSIS, points[dividing])):
        _stamp_nuclei(canvas, nucleus, chosen, rng.uniform(0, np.pi, len(chosen)), rng)


def _paint_linings(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Set columnar nuclei upright round the glands, and flat ones along the vessels."""
    points, outward = _round(layout.glands, 15, 15.5, rng)
    _stamp_cytoplasm(canvas, points, rng)
    _stamp_nuclei(canvas, COLUMNAR, points, outward, rng)
    points, outward = _round(layout.vessels, 3, 34, rng)
    _stamp_nuclei(canvas, FIBROBLAST, points, outward + np.pi / 2, rng)


def _paint_stroma(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Lay fibroblasts along the fibres, and lymphocytes where the stroma is inflamed."""
    for nucleus, pitch in ((FIBROBLAST, 34.0), (LYMPHOCYTE, 15.0)):
        points = scatter(rng, layout.size, pitch)
        tissue, _ = layout.kind_at(points)
        crowd = layout.sheet.at("crowd", *points.T)
        share = 0.62 - 0.1 * crowd if nucleus is FIBROBLAST else np.clip(0.4 * crowd - 0.06, 0.015, 0.75)
        x, y = _pixel(points)
        empty = (canvas[y, x, EOSIN] == 0) & (canvas[y, x, HOLE] == 0)
        points = points[(tissue > 6) & empty & (rng.random(len(points)) < share)]
        _stamp_nuclei(canvas, nucleus, points, _fibre_angle(layout, points) + rng.normal(0, 0.22, len(points)), rng)


def _fibre_angle(layout: Layout, points: Points) -> NDArray[np.float64]:
    """Direction of the collagen at points: along the lines of equal ``across``."""
    x, y = points.T
    step = layout.sheet.spacing
    dx, dy = (
        layout.sheet.at("across", x + ox, y + oy) - layout.sheet.at("across", x - ox, y - oy)
        for ox, oy in ((step, 0.0), (0.0, step))
    )
    angle: NDArray[np.float64] = np.arctan2(dx, -dy).astype(np.float64)
    return angle


def _round(
    blobs: Iterable[Blob], distance: float, pitch: float, rng: np.random.Generator
) -> tuple[Points, NDArray[np.float64]]:
    """Points round each outline, and the outward direction at each."""
    points, outward = [np.empty((0, 2))], [np.empty(0)]
    for blob in blobs:
        count = max(3, int(2 * np.pi * (blob.radius + distance) / pitch))
        theta = (np.arange(count) + rng.uniform(-0.2, 0.2, count)) * 2 * np.pi / count
        reach = blob.reach(theta) + distance + rng.normal(0, 1.5, count)
        points.append(np.stack([blob.x + reach * np.cos(theta), blob.y + reach * np.sin(theta)], 1))
        outward.append(theta)
    return np.concatenate(points), np.concatenate(outward)


def _pixel(points: Points) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    whole = points.astype(np.int64)
    return whole[:, 0], whole[:, 1]


def _clear_of(points: Points, blobs: tuple[Blob, ...], margin: float) -> Points:
    """Drop the points that lie in a blob or within `margin` pixels of it."""
    keep, tree = np.ones(len(points), bool), cKDTree(points)
    for blob in blobs:
        near = np.asarray(tree.query_ball_point((blob.x, blob.y), 1.9 * blob.radius + margin), np.int64)
        if len(near):
            keep[near] &= blob.depth(*points[near].T) < -margin
    return points[keep]


def _push_apart(points: Points, pitch: float) -> Points:
    """Move points that are closer than `pitch` away from their nearest neighbour, twice."""
    for _ in range(2 if len(points) > 1 else 0):
        distance, index = cKDTree(points).query(points, k=2)
        away = points - points[index[:, 1]]
        push = np.clip(pitch - distance[:, 1], 0, None) / np.maximum(distance[:, 1], 1e-3)
        points = points + 0.45 * push[:, None] * away
    return points


def _nucleus_bank(nucleus: Nucleus, variants: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render nuclei of one kind; uint8 (angles, variants, side, side) of hematoxylin."""
    count, half = _ANGLES * variants, int(np.ceil(nucleus.length * (1 + 2 * nucleus.spread))) + 3
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle = np.repeat(np.arange(_ANGLES) * np.pi / _ANGLES, variants)[:, None, None]
    scale = 1 + nucleus.spread * np.clip(rng.standard_normal((2, count, 1, 1)), -2, 2)
    long, short = nucleus.length * scale[0], nucleus.width * scale[1]
    u = (np.cos(angle) * xx + np.sin(angle) * yy) / long
    v = (-np.sin(angle) * xx + np.cos(angle) * yy) / short
    theta = np.arctan2(v, u) + rng.uniform(0, 2 * np.pi, (count, 1, 1))
    bumps = 1 + 0.5 * nucleus.spread * (np.cos(2 * theta) * 0.4 + np.cos(3 * theta) * 0.5)
    inside = (bumps - np.hypot(u, v)) * np.minimum(long, short)
    clumps = smooth_noise(rng, (count, 2 * half + 1, 2 * half + 1), (0, 1.1, 1.1))
    body = 1 + nucleus.chromatin * clumps + nucleus.rim * np.exp(-(((inside - 1.3) / 1.1) ** 2))
    spot = rng.uniform(-0.4, 0.4, (2, count, 1, 1)) * (long, short)
    body = body + nucleus.nucleolus * np.exp(-(((u * long - spot[0]) ** 2 + (v * short - spot[1]) ** 2) / 3.5))
    tone = nucleus.density * (1 + 0.16 * rng.standard_normal((count, 1, 1)))
    patches = np.clip(tone * body, 0, 255) * np.clip(inside / 1.6 + 0.3, 0, 1)
    bank: NDArray[np.uint8] = patches.astype(np.uint8).reshape(_ANGLES, variants, *yy.shape)
    return bank


def _stamp_nuclei(
    canvas: Canvas, nucleus: Nucleus, points: Points, angle: NDArray[np.float64], rng: np.random.Generator
) -> None:
    variants = 14
    bank = _nucleus_bank(nucleus, variants, rng)
    turn = np.rint(angle / np.pi * _ANGLES).astype(np.int64) % _ANGLES
    _stamp(canvas, HEMATOXYLIN, points, bank[turn, rng.integers(0, variants, len(points))])


def _stamp_cytoplasm(canvas: Canvas, points: Points, rng: np.random.Generator) -> None:
    """Give each cell a territory of eosin: overlapping cones, whose valleys are the borders of the cells."""
    yy, xx = np.mgrid[-21:22, -21:22]
    radius = np.hypot(xx, yy)
    cone = np.interp(radius, [0, 9, 14, 17, 21], [0.9, 1.0, 0.86, 0.6, 0.0])
    bank = (cone * np.linspace(30, 56, 8)[:, None, None]).astype(np.uint8)
    _stamp(canvas, EOSIN, points, bank[rng.integers(0, len(bank), len(points))])


def _stamp(canvas: Canvas, channel: int, points: Points, patches: NDArray[np.uint8]) -> None:
    """Lay square patches over one channel, the denser wins; those that reach past the slide are left out."""
    side, size = patches.shape[-1], canvas.shape[0]
    corner = points.astype(np.int64) - side // 2
    for (x, y), patch in zip(corner.tolist(), patches, strict=True):
        if 0 <= x <= size - side and 0 <= y <= size - side:
            target = canvas[y : y + side, x : x + side, channel]
            np.maximum(target, patch, out=target)
