"""Draws a sample slide: where what lies, cells stamped as densities of stain, colours by the Beer-Lambert law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import fft, ndimage
from shapely.geometry.base import BaseGeometry
from skimage.measure import find_contours

from wsivit.io import progress_bar

FloatArray = NDArray[np.float32]
Points = NDArray[np.float64]
Canvas = NDArray[np.uint8]  # (size, size, 3): densities of hematoxylin and eosin, emptiness; then red, green, blue
HEMATOXYLIN, EOSIN, HOLE = 0, 1, 2
BLOCK = 512
_SMALLEST_REGION = 64 * 64  # px²: a person drawing regions would pass over anything smaller
# Optical density (base e) of the strongest stains, between those of Ruifrok & Johnston (2001) and of Macenko (2009);
# of a blue and of a green marker.
_STAINS = 3.0 * np.array([[0.62, 0.71, 0.33], [0.13, 0.90, 0.38]])
_INKS = np.array([[1.45, 0.80, 0.18], [1.50, 0.45, 0.95]])


@dataclass(frozen=True)
class Layout:
    """What lies where on a slide, in level-0 pixels.

    Attributes
    ----------
    size : int
        Side of the slide.
    fields : dict of str to float32 (nodes, nodes)
        Low-resolution images of the slide. ``tissue``, ``tumor``, ``fold``, ``pen``: distance to the edge, negative
        outside; ``crowd``, ``nests``: unit noise; ``along``, ``across``: coordinates that follow the collagen;
        ``angle``: its own.
    glands : float64 (n, 3)
        ``x``, ``y`` and radius of lumens.
    """

    size: int
    fields: dict[str, FloatArray]
    glands: Points

    def at(self, name: str, points: Points) -> FloatArray:
        """Look one field up at points (n, 2) of x, y."""
        col, row = (points.T * len(self.fields[name]) / self.size).astype(np.int64)
        return np.asarray(self.fields[name][row, col])

    def block(self, name: str, x: int, y: int, width: int, height: int) -> FloatArray:
        """Interpolate one field at the pixels of a block; float32 (height, width)."""
        left, top, right, bottom = np.array([x, y, x + width, y + height]) * len(self.fields[name]) / self.size
        field = Image.fromarray(self.fields[name])
        return np.asarray(field.resize((width, height), Image.Resampling.BICUBIC, (left, top, right, bottom)))

    def regions(self) -> dict[str, list[BaseGeometry]]:
        """Outline both kinds of tissue: polygons in level-0 px, with holes for lumens."""
        lumens = shapely.union_all(shapely.buffer(shapely.points(self.glands[:, :2]), self.glands[:, 2]))
        tissue, tumor = self._area("tissue").difference(lumens), self._area("tumor")
        areas = {"tumor": tissue.intersection(tumor), "stroma": tissue.difference(tumor)}
        return {kind: [p for p in shapely.get_parts(area) if p.area > _SMALLEST_REGION] for kind, area in areas.items()}

    def _area(self, name: str) -> BaseGeometry:
        """Where a field is above 0."""
        field = np.pad(self.fields[name], 1, constant_values=-1)  # so that every contour is closed
        lines = find_contours(field, 0)  # type: ignore[no-untyped-call]
        rings = [shapely.linestrings((line[:, ::-1] - 0.5) * self.size / len(self.fields[name])) for line in lines]
        return shapely.build_area(shapely.multilinestrings(rings)).intersection(shapely.box(0, 0, *(self.size,) * 2))


def draw_slide(seed: int, size: int, *, progress: bool = False) -> tuple[Layout, Canvas]:
    """Draw a slide in memory; its layout, and uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    layout, canvas = _lay_out(rng, size), np.zeros((size, size, 3), np.uint8)
    _stamp_cells(canvas, layout, rng)
    _develop(canvas, layout, rng, progress)
    return layout, canvas


def _lay_out(rng: np.random.Generator, size: int) -> Layout:
    spacing = max(8, size // 512)
    y, x = (np.mgrid[: size // spacing, : size // spacing] + 0.5) * spacing

    def noise(width: float) -> FloatArray:
        return _noise(rng, x.shape, width / spacing)

    def distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        both = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        return np.asarray(ndimage.gaussian_filter(both * spacing, 1))

    pieces = np.array([(0.64, 0.64, 0.26), (0.23, 0.23, 0.17)])  # x, y, radius in shares of the slide
    pieces[:, :2] = 0.5 + (pieces[:, :2] - 0.5) * rng.choice([-1, 1], 2) + rng.uniform(-0.02, 0.02, 2)
    depth = np.max([r * size - np.hypot(x - left * size, y - top * size) for left, top, r in pieces], axis=0)
    ragged = 0.03 * noise(0.06 * size) + 0.012 * noise(0.02 * size) + 0.005 * noise(0.006 * size)
    tissue = ndimage.binary_opening(depth + size * ragged > 0, iterations=2)
    # Tumor fills the middle of the tissue rather than its edge, and half of its area.
    left, top, radius = pieces[0] * size
    mixture = 2.5 * np.minimum(depth / radius, 0.4) + noise(0.055 * size) + 0.35 * noise(0.016 * size)
    tumor = ndimage.median_filter(mixture > np.median(mixture[tissue]), 7)
    # The fold runs across the fibres; the pen around the largest piece, partly over it, where there is most glass.
    spot, (turn, shift, phase) = x - left + 1j * (y - top), rng.uniform((0, -0.3, 0), (np.pi, 0.3, 6))
    fold, towards = spot * np.exp(-1j * turn), np.angle(spot / (size / 2 - left + 1j * (size / 2 - top))) + shift
    bend = (shift + 0.1 * np.sin(3.5 * fold.real / radius)) * radius
    path = radius * (1.04 + 0.05 * np.sin(2.3 * towards + phase))
    across = fold.real + 230 * noise(400) + 18 * noise(105)
    slope_y, slope_x = np.gradient(across)
    fields = {
        "tissue": distance(tissue),
        "tumor": distance(tumor),
        "fold": (14 + 0.024 * radius) * (1 - (fold.real / radius / 0.65) ** 2) - np.abs(fold.imag - bend),
        "pen": np.minimum(0.014 * size - np.abs(np.abs(spot) - path), (0.6 - np.abs(towards)) * radius),
        "crowd": noise(175) + 0.5 * noise(50),
        "along": fold.imag + 230 * noise(400) + 18 * noise(105),
        "across": across,
        "angle": np.arctan2(slope_x, -slope_y),
        "nests": noise(65) + 0.3 * noise(27),
    }
    layout = Layout(size, {name: np.asarray(field, np.float32) for name, field in fields.items()}, np.empty((0, 3)))
    points = _scatter(rng, size, 310)
    lumens = 14 * 4 ** rng.random(len(points))
    room = np.minimum(layout.at("tissue", points), layout.at("tumor", points)) - 1.3 * lumens
    return Layout(size, layout.fields, np.column_stack([points, lumens])[room > 40])


def _stamp_cells(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Open the glands, line them with nuclei, and fill what is left with cells."""

    def scatter(pitch: int) -> Points:
        """Points in tissue where nothing is yet."""
        points = _scatter(rng, layout.size, pitch)
        x, y = points.astype(np.int64).T
        free: Points = points[(layout.at("tissue", points) > 8) & (canvas[y, x, EOSIN] == 0)]
        return free

    def stamp_cells(points: Points, angle: Points, *shape: float) -> None:
        # Overlapping cones of cytoplasm: their valleys are the borders of the cells.
        cone = np.interp(np.hypot(*np.mgrid[-21:22, -21:22]), [0, 9, 14, 17, 21], [0.9, 1.0, 0.86, 0.6, 0.0])
        _stamp(canvas, EOSIN, points, cone * np.linspace(30, 56, 8)[:, None, None], rng.integers(0, 8, len(points)))
        _stamp_nuclei(canvas, points, angle, rng, *shape)

    lining = [np.empty((0, 3))]
    for x, y, radius in layout.glands:
        inside = _wavy_ellipses(rng, [radius], [radius], [0.0])
        hole = 255 * np.clip(inside / 2 + 0.5, 0, rng.uniform(0.9, 1))
        _stamp(canvas, HOLE, np.array([[x, y]]), hole, np.zeros(1, np.int64))
        _stamp(canvas, EOSIN, np.array([[x, y]]), np.clip(15 * (inside + 5), 0, 45), np.zeros(1, np.int64))
        theta = np.arange(0, 2 * np.pi, 15.5 / (radius + 15))
        reach = radius + 15 + rng.normal(0, 1.5, len(theta))
        lining.append(np.stack([x + reach * np.cos(theta), y + reach * np.sin(theta), theta], axis=1))
    points = np.concatenate(lining)
    stamp_cells(points[:, :2], points[:, 2], 11.5, 6.2, 96, 0.3)
    points = scatter(24)
    # A tumor's region has stroma between its nests, as one that a person draws has: its tiles are not all alike.
    nested = layout.at("nests", points) > -0.6
    points = points[(layout.at("tumor", points) + rng.normal(0, 3, len(points)) > 0) & nested]
    stamp_cells(points, rng.uniform(0, np.pi, len(points)), 10.2, 7.6, 84, 0.5)
    points = scatter(32)  # fibroblasts, along the fibres
    points = points[rng.random(len(points)) < 0.62 - 0.1 * layout.at("crowd", points)]
    _stamp_nuclei(canvas, points, layout.at("angle", points) + rng.normal(0, 0.2, len(points)), rng, 14, 2.9, 105, 0.1)
    points = scatter(14)  # lymphocytes
    points = points[rng.random(len(points)) < np.clip(0.4 * layout.at("crowd", points) - 0.06, 0.015, 0.75)]
    _stamp_nuclei(canvas, points, np.zeros(len(points)), rng, 6.2, 5.7, 150, 0)


def _stamp_nuclei(
    canvas: Canvas, points: Points, angle: NDArray[np.float64], rng: np.random.Generator,
    length: float, width: float, density: float, membrane: float,
) -> None:  # fmt: skip
    turns, variants = 24, 14
    long, short = np.array([[length], [width]]) * rng.uniform(0.75, 1.25, turns * variants)
    inside = _wavy_ellipses(rng, long, short, np.repeat(np.arange(turns) * np.pi / turns, variants))
    chromatin = 1 + 0.25 * _noise(rng, inside.shape, (0, 1.1, 1.1)) + membrane * np.exp(-(((inside - 1.3) / 1.1) ** 2))
    tone = density * rng.normal(1, 0.16, (turns * variants, 1, 1)) * np.clip(inside / 1.6 + 0.3, 0, 1)
    which = np.rint(angle / np.pi * turns).astype(np.int64) % turns * variants + rng.integers(0, variants, len(points))
    _stamp(canvas, HEMATOXYLIN, points, tone * chromatin, which)


def _stamp(canvas: Canvas, channel: int, points: Points, patches: Points, which: NDArray[np.int64]) -> None:
    """Lay square patches over a channel, the denser wins; those that reach past the slide are left out."""
    bank, side, size = np.clip(patches, 0, 255).astype(np.uint8), patches.shape[-1], len(canvas)
    for (x, y), k in zip((points.astype(np.int64) - side // 2).tolist(), which.tolist(), strict=True):
        if 0 <= x <= size - side and 0 <= y <= size - side:
            target = canvas[y : y + side, x : x + side, channel]
            np.maximum(target, bank[k], out=target)


def _develop(canvas: Canvas, layout: Layout, rng: np.random.Generator, progress: bool) -> None:
    """Turn densities into colours, block by block and in place."""
    # Stains turn by a few degrees and change by a tenth from slide to slide, as between batches of a laboratory.
    stains = (_STAINS + rng.normal(0, 0.06, (2, 3))) * rng.uniform(0.88, 1.12, (2, 1)) / 255
    absorbed = np.array([*stains, rng.choice(_INKS)], np.float32)
    glass = np.asarray(243 + rng.uniform(-2.5, 2.5, 3), np.float32)
    strands = ((0.7, 16.0, 70.0), (0.6, 5.0, 50.0), (0.35, 2.2, 26.0))
    texture = sum(weight * _noise(rng, (1024, 1024), (width, length)) for weight, width, length in strands)
    texture = np.clip(0.55 + 0.22 * texture, 0, 1)
    grain, fringe = (_noise(rng, (BLOCK, BLOCK), width) for width in (1.1, 6))

    corners = [(x, y) for y in range(0, layout.size, BLOCK) for x in range(0, layout.size, BLOCK)]
    with progress_bar(len(corners), "painting", "block", show=progress) as advance:
        for x, y in corners:
            block = canvas[y : y + BLOCK, x : x + BLOCK]
            height, width = block.shape[:2]
            tissue, pen, fold, across, along = (
                layout.block(name, x, y, width, height) for name in ("tissue", "pen", "fold", "across", "along")
            )
            ink = _rise(pen, -9, 9) * (0.8 + 0.35 * np.exp(-(((pen - 9) / 8) ** 2)))  # with a darker rim
            nuclear, eosin, hole = np.moveaxis(block.astype(np.float32), 2, 0)
            cell = _rise(eosin, 4, 26)
            # Two samples of the texture per pixel across the fibres, one along them.
            fibres = texture[(2 * across).astype(np.int32) & 1023, along.astype(np.int32) & 1023]
            slits = 0.92 * _rise(-fibres, -0.22, -0.08) * (1 - _rise(nuclear, 10, 50)) * (1 - cell)
            dose = _rise(tissue + 7 * fringe[:height, :width], -1.5, 1.5) * (1 - hole / 255)
            dose *= (1 - slits) * (1 + 1.1 * _rise(fold, -3, 5))
            hematoxylin = dose * (nuclear + 15 * cell + (1 - cell) * (4 + 8 * fibres))
            eosin = eosin * (1 + 0.1 * grain[:height, :width]) + (1 - cell) * (15 + 51 * fibres)
            eosin *= dose * (1 - 0.25 * _rise(nuclear, 20, 90))
            colors = glass * np.exp(-np.stack([hematoxylin, eosin, ink], axis=2) @ absorbed)
            noise = 1.6 * rng.standard_normal((height, width, 1), np.float32)
            block[:] = np.clip(np.rint(colors + noise), 0, 255)
            advance(1)


def _wavy_ellipses(rng: np.random.Generator, length: ArrayLike, width: ArrayLike, angle: ArrayLike) -> Points:
    """Pixels inside the outline of n ellipses of given half axes, negative outside; float64 (n, side, side)."""
    half = int(1.15 * np.max(length)) + 6
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    long, short, turn = (np.asarray(each)[:, None, None] for each in (length, width, angle))
    u, v = (np.cos(turn) * xx + np.sin(turn) * yy) / long, (np.cos(turn) * yy - np.sin(turn) * xx) / short
    wave = 0.08 * np.cos(3 * np.arctan2(v, u) + rng.uniform(0, 2 * np.pi, turn.shape))
    return np.asarray((1 + wave - np.hypot(u, v)) * np.minimum(long, short))


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]) -> FloatArray:
    """Periodic Gaussian noise of unit variance, smoothed over `sigma` nodes (per axis)."""
    # In the Fourier domain wide kernels, which long fibres need, cost no more than narrow ones. Wider than a sixth of
    # the period there would be nothing left but the mean.
    spectrum = fft.rfftn(rng.standard_normal(shape, np.float32))
    noise = fft.irfftn(ndimage.fourier_gaussian(spectrum, np.minimum(sigma, np.array(shape) / 6), shape[-1]), shape)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _scatter(rng: np.random.Generator, size: int, pitch: int) -> Points:
    """Shake a lattice of points `pitch` apart over a square; float64 (n, 2) of x, y."""
    lattice = np.moveaxis(np.mgrid[: size // pitch, : size // pitch], 0, 2).reshape(-1, 2)
    return (lattice + rng.uniform(0.15, 0.85, lattice.shape)) * pitch


def _rise(value: FloatArray, low: float, high: float) -> FloatArray:
    """Go smoothly from 0 at `low` to 1 at `high`."""
    t: FloatArray = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
