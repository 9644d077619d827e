"""Pen on the slide: smooth strokes whose colour or depth is not that of this slide's tissue.

No colour is ink by itself: green is collagen in one stain and a marker in another. How tissue is stained on this slide
is learned from what has texture (ink is smooth at ten microns per pixel); ink is what is smooth and of a colour that
the textured part does not have, or far deeper than it. From there it is followed over tissue, where it is not smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsivit.tissue.classes import BoolMask, FloatImage
from wsivit.tissue.shapes import close_gaps, dilate, erode, open_up, piece_means, pieces, smoothed

POOL_UM = 20.0
RIM_UM = 64.0  # the rims of what is stained have texture of their own
TEXTURED, SMOOTH = 0.03, 0.02  # fine contrast over density: liver is at 0.05, ink below 0.01
ALIEN, KIN = 5.0, 3.5  # distance from the tissue's colours, in deviations: to be ink, to be followed as ink
LEAST_SPREAD = 0.012
DEEP = 1.5  # times the depth of the tissue's deepest tenth
STROKE_UM, STROKE_MM2 = 80.0, 0.03  # the narrowest and smallest that is called ink


@dataclass(frozen=True)
class Pooled:
    """What a neighbourhood of `POOL_UM` is like.

    Attributes
    ----------
    depth : float32 ndarray, (h, w)
        Mean density.
    shares : float32 ndarray, (h, w, 2)
        Shares of red and blue in the density: its colour, whatever its depth.
    contrast : float32 ndarray, (h, w)
        Deviation of the finest detail over the depth.
    """

    depth: FloatImage
    shares: FloatImage
    contrast: FloatImage

    def chroma(self) -> FloatImage:
        """Standard deviation of the three shares: 0 for grey."""
        red, blue = self.shares[..., 0], self.shares[..., 1]
        chroma: FloatImage = np.stack([red, blue, 1 - red - blue]).std(axis=0)
        return chroma


def pool(density: FloatImage, um: float, over_um: float = POOL_UM) -> Pooled:
    """Pool density (h, w, 3) over a neighbourhood."""
    sigma = over_um / um
    channels = np.stack([smoothed(density[..., c], sigma) for c in range(3)], axis=2)
    grey = density.mean(axis=2)
    fine = grey - smoothed(grey, 1.0)
    depth = channels.mean(axis=2)
    floor = np.maximum(depth, 0.02)
    shares = channels[..., [0, 2]] / (3 * floor[..., None])
    return Pooled(depth, shares, np.sqrt(smoothed(fine * fine, sigma)) / floor)


@dataclass(frozen=True)
class Stain:
    """How this slide's tissue is stained: colour (mean and covariance of shares), depth, fine contrast, chroma."""

    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    depth: float
    deepest: float
    contrast: float
    chroma: float

    def distance(self, shares: FloatImage) -> FloatImage:
        """Mahalanobis distance of shares (..., 2) from the stain's."""
        inverse = np.linalg.inv(self.spread)
        off = shares - self.center.astype(np.float32)
        square = inverse[0, 0] * off[..., 0] ** 2 + inverse[1, 1] * off[..., 1] ** 2
        square += 2 * inverse[0, 1] * off[..., 0] * off[..., 1]
        distance: FloatImage = np.sqrt(np.maximum(square, 0)).astype(np.float32)
        return distance


def learn_stain(pooled: Pooled, solid: BoolMask, um: float) -> Stain | None:
    """Learn the stain from the textured inside of what is stained; None where nothing is."""
    core = erode(solid, RIM_UM / um)
    textured = core & (pooled.contrast > TEXTURED)
    if textured.sum() * um**2 < 0.1e6 or textured.sum() < 0.02 * core.sum():
        return None
    shares, depth = pooled.shares[textured].astype(np.float64), pooled.depth[textured]
    # From the commonest colour outwards: ink over tissue is textured too, and must not widen the stain to itself.
    center, spread = _commonest(shares, pooled.contrast[textured]), 0.03**2 * np.eye(2)
    for _ in range(5):
        off = shares - center
        keep = np.einsum("ni,ij,nj->n", off, np.linalg.inv(spread), off) < 9.0
        center = shares[keep].mean(axis=0)
        spread = np.cov(shares[keep].T) + LEAST_SPREAD**2 * np.eye(2)
    red, blue = center
    chroma = float(np.std([red, blue, 1 - red - blue]))
    deepest = float(np.percentile(depth[keep], 90))
    contrast = float(np.median(pooled.contrast[textured]))
    return Stain(center, spread, float(np.median(depth[keep])), deepest, contrast, chroma)


def _commonest(shares: NDArray[np.float64], weights: FloatImage) -> NDArray[np.float64]:
    edges = np.linspace(-0.5, 1.5, 201)
    counts, _, _ = np.histogram2d(shares[:, 0], shares[:, 1], bins=(edges, edges), weights=weights)
    peak = np.unravel_index(np.argmax(ndimage.gaussian_filter(counts, 2.0)), counts.shape)
    commonest: NDArray[np.float64] = edges[np.array(peak)] + (edges[1] - edges[0]) / 2
    return commonest


def find_ink(density: FloatImage, pooled: Pooled, solid: BoolMask, stain: Stain | None, um: float) -> BoolMask:
    """Find the ink among what is stained.

    Parameters
    ----------
    density : float32 ndarray, (h, w, 3)
    pooled : Pooled
        The same, pooled.
    solid : bool ndarray, (h, w)
        What is stained, gaps closed.
    stain : Stain or None
        The tissue's; None where nothing has texture, and ink must be told by smoothness and depth alone.
    um : float
        Microns per pixel.
    """
    smooth = solid & (pooled.contrast < SMOOTH)
    if stain is None:
        return dilate(_strokes(smooth & ((pooled.depth > 0.6) | _not_a_stain(pooled)), um), (RIM_UM + 24) / um)
    alien = smooth & (stain.distance(pooled.shares) > ALIEN) & (pooled.depth > 0.5 * stain.depth)
    deep = smooth & (pooled.depth > DEEP * stain.deepest)
    # A deep or reddish patch inside tissue is blood, colloid or keratin; a stroke lies on glass as well.
    seeds = _strokes(alien & _not_a_stain(pooled), um) | _beside_glass(_strokes(alien | deep, um), solid, um)
    if not seeds.any():
        return seeds
    close = pool(density, um, 8.0)
    kin = (stain.distance(close.shares) > KIN) | (close.depth > DEEP * stain.deepest)
    kin |= smooth & (pooled.depth > stain.deepest)
    followed = ndimage.binary_propagation(seeds, mask=seeds | (solid & kin & (close.depth > 0.5 * stain.depth)))
    return dilate(close_gaps(followed, 32 / um), 24 / um)


def _not_a_stain(pooled: Pooled) -> BoolMask:
    """Tell colours that take less green than red or blue: hematoxylin, eosin, PAS and blood do not."""
    red, blue = pooled.shares[..., 0], pooled.shares[..., 1]
    green = 1 - red - blue
    other: BoolMask = green < 1.03 * np.maximum(red, blue)
    return other


def _strokes(mask: BoolMask, um: float) -> BoolMask:
    numbers, sizes = pieces(open_up(close_gaps(mask, 16 / um), STROKE_UM / 2 / um))
    large = sizes * um**2 >= STROKE_MM2 * 1e6
    large[0] = False
    strokes: BoolMask = large[numbers]
    return strokes


def _beside_glass(strokes: BoolMask, solid: BoolMask, um: float) -> BoolMask:
    """Keep strokes with glass along a good part of their sides."""
    numbers, sizes = pieces(strokes)
    reach = int(112 / um)  # beyond the stroke's own rim
    around = ndimage.maximum_filter(numbers, 2 * reach + 1) * (numbers == 0)
    counts = np.bincount(around.ravel(), minlength=len(sizes))
    glass = piece_means((~solid).astype(np.float32), around, np.maximum(counts, 1))
    alone = glass > 0.25
    alone[0] = False
    kept: BoolMask = alone[numbers]
    return kept
