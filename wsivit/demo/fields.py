"""Smooth random shapes: scalar fields over a slide from a few coarse nodes, and wavy closed outlines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage
from shapely import Polygon

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Sheet:
    """Named scalar fields over a square slide, each a cubic B-spline on one coarse lattice.

    Attributes
    ----------
    spacing : float
        Level-0 pixels between nodes; node ``k`` lies at ``(k - 1) * spacing``.
    fields : dict of str to float32 (nodes, nodes)
    """

    spacing: float
    fields: dict[str, FloatArray]

    def block(self, name: str, x: int, y: int, side: int) -> FloatArray:
        """Evaluate one field at the pixel centres of a square block; float32 (side, side)."""
        first_x, weights_x = self._weights(x, side)
        first_y, weights_y = self._weights(y, side)
        rows, cols = weights_y.shape[1], weights_x.shape[1]
        nodes = self.fields[name][first_y : first_y + rows, first_x : first_x + cols]
        return (weights_y @ nodes @ weights_x.T).astype(np.float32, copy=False)

    def at(self, name: str, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Evaluate one field at points; bilinear between nodes, which is close enough to place things."""
        where = [np.asarray(axis, np.float64) / self.spacing + 1 for axis in (y, x)]
        values: FloatArray = ndimage.map_coordinates(self.fields[name], where, order=1, mode="nearest")
        return values

    def _weights(self, start: int, length: int) -> tuple[int, FloatArray]:
        place = (start + 0.5 + np.arange(length)) / self.spacing
        node = np.floor(place).astype(np.int64)
        t = place - node
        basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
        weights: FloatArray = np.zeros((length, node[-1] - node[0] + 4), np.float32)
        np.put_along_axis(weights, (node - node[0])[:, None] + np.arange(4), basis / 6, axis=1)
        return int(node[0]), weights


@dataclass(frozen=True)
class Blob:
    """A wavy closed outline round a centre, in level-0 pixels.

    Attributes
    ----------
    x, y, radius : float
    waves : complex128 (k,)
        Relative amplitude and phase of the 2nd, 3rd, … harmonic of the outline.
    """

    x: float
    y: float
    radius: float
    waves: NDArray[np.complex128]

    @classmethod
    def random(cls, rng: np.random.Generator, x: float, y: float, radius: float, wobble: float = 0.2) -> Blob:
        """Draw an outline whose harmonics fade with their order."""
        order = np.arange(2, 7)
        waves = wobble * rng.normal(size=5) / order * np.exp(2j * np.pi * rng.random(5))
        return cls(x, y, radius, np.asarray(waves, np.complex128))

    def reach(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Distance from the centre to the outline in the given directions (radians)."""
        theta = np.asarray(theta, np.float64)
        turns = np.exp(1j * np.multiply.outer(theta, np.arange(2, 2 + len(self.waves))))
        swing = (turns * self.waves.conj()).real.sum(axis=-1)
        reach: NDArray[np.float64] = self.radius * np.maximum(1 + swing, 0.3)
        return reach

    def depth(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Pixels inside the outline along the ray from the centre; negative outside."""
        dx, dy = np.asarray(x) - self.x, np.asarray(y) - self.y
        depth: NDArray[np.float64] = self.reach(np.arctan2(dy, dx)) - np.hypot(dx, dy)
        return depth

    def window(self, margin: float, size: int) -> tuple[slice, slice, NDArray[np.float64]]:
        """Rows, columns and depth of the pixels round the blob, clipped to the slide."""
        reach = float(self.reach(np.linspace(0, 2 * np.pi, 64)).max()) + margin
        ends = [np.clip((c - reach, c + reach), 0, size).astype(int).tolist() for c in (self.y, self.x)]
        rows, cols = slice(*ends[0]), slice(*ends[1])
        yy, xx = np.ogrid[rows, cols]
        return rows, cols, self.depth(xx + 0.5, yy + 0.5)

    def polygon(self, points: int = 48) -> Polygon:
        """Return the outline as a polygon."""
        theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
        reach = self.reach(theta)
        return Polygon(np.stack([self.x + reach * np.cos(theta), self.y + reach * np.sin(theta)], axis=1))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]) -> FloatArray:
    """Return periodic Gaussian noise of unit variance, smoothed over about `sigma` nodes (per axis); float32."""
    # In the Fourier domain wide kernels, which long fibres need, cost no more than narrow ones.
    spectrum = fft.rfftn(rng.standard_normal(shape, np.float32))
    # Wider than a sixth of the period there would be nothing left but the mean.
    for axis, width in enumerate(np.minimum(sigma, np.array(shape) / 6)):
        frequency = fft.fftfreq(shape[axis])[: spectrum.shape[axis]]
        fall = np.exp(-2 * (np.pi * width * frequency) ** 2).astype(np.float32)
        spectrum *= np.expand_dims(fall, tuple(range(1, len(shape) - axis)))
    noise = fft.irfftn(spectrum, shape)
    normal: FloatArray = (noise - noise.mean()) / noise.std()
    return normal


def signed_distance(mask: NDArray[np.bool_], spacing: float) -> FloatArray:
    """Pixels to the edge of a coarse mask, positive inside, smoothed over one node; float32."""
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    distance: FloatArray = ndimage.gaussian_filter(((inside - outside) * spacing).astype(np.float32), 1)
    return distance


def scatter(rng: np.random.Generator, size: int, pitch: float) -> NDArray[np.float64]:
    """Shake a hexagonal lattice of points about `pitch` apart over a square; float64 (n, 2) of x, y."""
    rows, cols = np.mgrid[0 : int(size / pitch / 0.866) + 1, 0 : int(size / pitch) + 1]
    lattice = np.stack([(cols + 0.5 * (rows % 2) + 0.25) * pitch, (rows + 0.5) * 0.866 * pitch], -1).reshape(-1, 2)
    points = lattice + rng.uniform(-0.42, 0.42, lattice.shape) * pitch
    kept: NDArray[np.float64] = points[((points >= 0) & (points < size)).all(axis=1)]
    return kept


def smoothstep(value: FloatArray, low: float, high: float) -> FloatArray:
    """Rise from 0 at `low` to 1 at `high`."""
    t: FloatArray = np.clip((value - low) * (1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)
