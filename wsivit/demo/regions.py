"""What lies where on a sample slide: pieces of tissue of two kinds, glands, vessels, fat, a fold, a pen mark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry.base import BaseGeometry
from skimage.measure import find_contours

from wsivit.demo.fields import Blob, FloatArray, Sheet, scatter, signed_distance, smooth_noise

KINDS = ("tumor", "stroma")
_SMALLEST_REGION = 64 * 64  # px²: a person drawing regions would pass over anything smaller
_SMALLEST_HOLE = 40 * 40


@dataclass(frozen=True)
class Layout:
    """The plan of a slide.

    Attributes
    ----------
    size : int
        Side of the slide in level-0 pixels.
    sheet : Sheet
        ``tissue``, ``tumor``, ``fold``, ``pen``: pixels inside, negative outside; ``nests``, ``crowd``,
        ``thickness``: unit noise; ``along``, ``across``: coordinates bent to follow the collagen, in pixels.
    glands, vessels, lobules : tuple of Blob
        Gland lumens, vessel lumens and lobules of fat.
    """

    size: int
    sheet: Sheet
    glands: tuple[Blob, ...]
    vessels: tuple[Blob, ...]
    lobules: tuple[Blob, ...]

    def kind_at(self, points: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
        """Pixels inside the tissue, and inside the tumor, at points (n, 2)."""
        x, y = points.T
        return self.sheet.at("tissue", x, y), self.sheet.at("tumor", x, y)

    def regions(self) -> dict[str, list[BaseGeometry]]:
        """Outline each kind of tissue: polygons in level-0 px, holes where there is lumen or fat instead."""
        outlines = [line for name in ("tissue", "tumor") for line in self._contours(name)]
        faces = shapely.polygonize([shapely.unary_union(outlines)])
        holes = [blob.polygon() for blob in (*self.glands, *self.vessels, *self.lobules)]
        gaps = shapely.unary_union([hole for hole in holes if hole.area > _SMALLEST_HOLE])
        regions: dict[str, list[BaseGeometry]] = {kind: [] for kind in KINDS}
        for face in faces.geoms:
            tissue, tumor = self.kind_at(shapely.get_coordinates(face.representative_point()))
            if tissue[0] > 0:
                rest = shapely.get_parts(face.difference(gaps))
                regions[KINDS[0] if tumor[0] > 0 else KINDS[1]] += [p for p in rest if p.area > _SMALLEST_REGION]
        return regions

    def _contours(self, name: str) -> Iterator[BaseGeometry]:
        for line in find_contours(self.sheet.fields[name], 0):  # type: ignore[no-untyped-call]
            if len(line) > 3:
                yield shapely.LineString((line[:, ::-1] - 1) * self.sheet.spacing)


def lay_out(rng: np.random.Generator, size: int) -> Layout:
    """Draw the plan of a slide of `size` pixels a side."""
    spacing = max(8.0, size / 512)
    nodes = (np.arange(int(np.ceil(size / spacing)) + 4, dtype=np.float64) - 1) * spacing
    pieces = _place_pieces(rng, size)
    marks = {"fold": _fold(rng, nodes, pieces[0]), "pen": _pen(rng, size, nodes, pieces[0])}
    fields = {**_tissue_fields(rng, size, nodes, pieces), **_texture_fields(rng, nodes), **marks}
    sheet = Sheet(spacing, {name: np.asarray(field, np.float32) for name, field in fields.items()})
    glands, vessels, lobules = _place_structures(rng, Layout(size, sheet, (), (), ()))
    return Layout(size, sheet, glands, vessels, lobules)


def _place_pieces(rng: np.random.Generator, size: int) -> list[Blob]:
    """One piece on a small slide, two or three on a large one, as far apart as 400 throws allow."""
    radii = [0.33] if size < 4096 else [0.27, 0.19, 0.13][: rng.integers(2, 4)]
    radii = [radius * rng.uniform(0.92, 1.08) for radius in radii]

    def gap(centres: NDArray[np.float64]) -> float:
        pairs = [(i, j) for i in range(len(radii)) for j in range(i)]
        free = [np.hypot(*(centres[i] - centres[j])) - radii[i] - radii[j] for i, j in pairs]
        return float(min(free, default=0.0))

    margin = np.array(radii)[:, None] * 1.18 + 0.02
    throws = [margin + rng.random((len(radii), 2)) * (1 - 2 * margin) for _ in range(400)]
    best = max(throws, key=gap)
    return [Blob.random(rng, x, y, r * size, 0.22) for (x, y), r in zip(best * size, radii, strict=True)]


def _tissue_fields(
    rng: np.random.Generator, size: int, nodes: NDArray[np.float64], pieces: list[Blob]
) -> dict[str, FloatArray]:
    """Draw the outline of the tissue and of the tumor in it: half of the area each."""
    spacing, shape = nodes[1] - nodes[0], (len(nodes),) * 2
    cells = size / spacing
    depth = np.max([piece.depth(nodes[None, :], nodes[:, None]) for piece in pieces], axis=0)
    ragged = 0.016 * smooth_noise(rng, shape, 0.025 * cells) + 0.007 * smooth_noise(rng, shape, 0.007 * cells)
    mask = ndimage.binary_opening(depth + ragged * size > 0, iterations=2)
    tissue = signed_distance(mask, spacing)
    core = np.minimum(depth / pieces[0].radius, 0.4) * 2.5
    mixture = core + smooth_noise(rng, shape, 0.055 * cells) + 0.35 * smooth_noise(rng, shape, 0.016 * cells)
    tumor = ndimage.median_filter(mixture > np.median(mixture[mask]), 7)
    return {"tissue": tissue, "tumor": signed_distance(tumor, spacing)}


def _texture_fields(rng: np.random.Generator, nodes: NDArray[np.float64]) -> dict[str, FloatArray]:
    """Draw the slow variation of all that is fine: nests, crowding, section thickness, run of the fibres."""
    spacing, shape = nodes[1] - nodes[0], (len(nodes),) * 2

    def noise(wavelength: float) -> FloatArray:
        return smooth_noise(rng, shape, wavelength / 4 / spacing)

    x, y = np.meshgrid(nodes, nodes)
    angle = rng.uniform(0, np.pi)
    return {
        "nests": noise(260) + 0.3 * noise(110),
        "crowd": noise(700) + 0.5 * noise(200),
        "thickness": noise(2400) + 0.5 * noise(500),
        "along": np.cos(angle) * x + np.sin(angle) * y + 230 * noise(1600) + 18 * noise(420),
        "across": -np.sin(angle) * x + np.cos(angle) * y + 230 * noise(1600) + 18 * noise(420),
    }


def _fold(rng: np.random.Generator, nodes: NDArray[np.float64], piece: Blob) -> NDArray[np.float64]:
    """Lay a gently curved band across a part of the piece; it thins out to both ends."""
    x, y = np.meshgrid(nodes - piece.x, nodes - piece.y)
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    along = along - rng.uniform(-0.3, 0.3) * piece.radius
    across = across - (rng.uniform(-0.3, 0.3) + 0.1 * np.sin(3.5 * along / piece.radius)) * piece.radius
    half_length = rng.uniform(0.5, 0.8) * piece.radius
    fold: NDArray[np.float64] = (14 + 0.024 * piece.radius) * (1 - (along / half_length) ** 2) - np.abs(across)
    return fold


def _pen(rng: np.random.Generator, size: int, nodes: NDArray[np.float64], piece: Blob) -> NDArray[np.float64]:
    """Draw a marker stroke along the edge of the piece, partly over it, on the side with the most glass."""
    x, y = np.meshgrid(nodes - piece.x, nodes - piece.y)
    theta = np.arctan2(y, x)
    middle = np.arctan2(size / 2 - piece.y, size / 2 - piece.x) + rng.uniform(-0.7, 0.7)
    turn = np.abs(np.angle(np.exp(1j * (theta - middle))))
    path = piece.reach(theta) * (1.04 + 0.05 * np.sin(2.3 * (theta - middle) + rng.uniform(0, 6)))
    half_width = 0.014 * size * np.clip((rng.uniform(0.5, 0.75) - turn) * 25, -2, 1)
    pen: NDArray[np.float64] = half_width - np.abs(np.hypot(x, y) - path)
    return pen


def _place_structures(
    rng: np.random.Generator, layout: Layout
) -> tuple[tuple[Blob, ...], tuple[Blob, ...], tuple[Blob, ...]]:
    """Place glands in the tumor's nests, vessels and fat in the stroma, none over another."""
    size = layout.size

    def place(pitch: float, radius: tuple[float, float], wobble: float) -> list[Blob]:
        points = scatter(rng, size, pitch)
        radii = radius[0] * (radius[1] / radius[0]) ** rng.random(len(points))
        return [Blob.random(rng, x, y, r, wobble) for (x, y), r in zip(points, radii, strict=True)]

    def inside(blob: Blob, kind: str, margin: float) -> bool:
        tissue, tumor = layout.kind_at(np.array([[blob.x, blob.y]]))
        side = tumor[0] if kind == "tumor" else -tumor[0]
        return bool(min(tissue[0], side) > blob.radius * 1.3 + margin)

    lobules = [
        b for b in place(0.1 * size, (0.014 * size, 0.03 * size), 0.5) if b.radius > 100 and inside(b, "stroma", 10)
    ]
    glands = [b for b in place(290, (14, 58), 0.35) if inside(b, "tumor", 40) and rng.random() < 0.75]
    vessels = [b for b in place(420, (9, 48), 0.6) if inside(b, "stroma", 15) and rng.random() < 0.8]
    clear = [b for b in vessels if all(fat.depth(b.x, b.y) < -1.5 * b.radius for fat in lobules)]
    return tuple(glands), tuple(clear), tuple(lobules)
