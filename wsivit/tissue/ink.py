"""Pen on the slide: smooth strokes whose colour or depth is not that of this slide's tissue.

No colour is ink by itself: green is collagen in one stain and a marker in another. How tissue is stained on this slide
is learned from what has texture (ink is smooth at ten microns per pixel); ink is what is smooth and of a colour that
the textured part does not have, or far deeper than it. From there it is followed over tissue, where it is not smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.tissue.glass import Absorbance
from wsivit.tissue.operations import (
    BoolMask,
    FloatImage,
    close_gaps,
    dilate,
    erode,
    open_up,
    pieces,
    running_max,
    smoothed,
    touched,
)

POOL_UM, CLOSE_UM = 20.0, 10.0
FAINT = 0.02  # density: fainter, there is no colour to speak of
RIM_UM = 64.0  # the rims of what is stained have texture of their own
TEXTURED, SMOOTH = 0.03, 0.02  # fine contrast over density: liver is at 0.05, ink below 0.01
FAR, ALIEN, KIN = 8.0, 5.0, 3.5
"""Distance from the tissue's colours, in deviations: to be ink if thin, to be ink if not, to be followed as ink."""
LEAST_SPREAD = 0.012
SAMPLES = 20_000
ACHROMATIC = 0.02  # spread of the three shares; silver stains are at 0.03, hematoxylin alone at 0.07
DILUTED, DARK = 0.7, 0.6  # of the tissue's fine contrast, and density: under ink, less and more
DEEP = 1.35  # times the depth of the tissue's deepest twentieth
THIN_UM, THIN_MM2 = 16.0, 0.004
STROKE_UM, STROKE_MM2 = 32.0, 0.02  # the narrowest and smallest inside of a stroke, rims not counted


@dataclass(frozen=True)
class Pooled:
    """Colour and depth, pooled over a neighbourhood: float32 planes (h, w).

    Attributes
    ----------
    depth
        Mean density.
    red, blue
        Their shares in the density: its colour, whatever its depth; a third each for grey.
    """

    depth: FloatImage
    red: FloatImage
    blue: FloatImage

    def chroma(self) -> FloatImage:
        """Standard deviation of the three shares: 0 for grey."""
        red, blue = self.red - 1 / 3, self.blue - 1 / 3
        chroma: FloatImage = np.sqrt((red * red + blue * blue + (red + blue) ** 2) / 3)
        return chroma


def pool(light: Absorbance, um: float, over_um: float) -> Pooled:
    """Pool density over a neighbourhood of `over_um`, at `um` microns per pixel."""
    red, green, blue = (smoothed(plane, over_um / um) for plane in light.density)
    depth: FloatImage = (red + green + blue) / np.float32(3)
    floor: FloatImage = np.maximum(depth, np.float32(FAINT))
    share: FloatImage = np.float32(1 / 3) / floor
    pad = floor - depth  # grey where nothing is
    return Pooled(depth, (red + pad) * share, (blue + pad) * share)


@dataclass(frozen=True)
class Detail:
    """A slide's density at two neighbourhoods, and its fine contrast.

    Attributes
    ----------
    um : float
        Microns per pixel.
    pooled, close : Pooled
        Over `POOL_UM` and over `CLOSE_UM`.
    contrast : float32 ndarray, (h, w)
        Deviation of the finest detail over the depth.
    """

    um: float
    pooled: Pooled
    close: Pooled
    contrast: FloatImage


def measure_detail(light: Absorbance, um: float) -> Detail:
    """Pool a slide's density, and its fine contrast."""
    pooled, close = pool(light, um, POOL_UM), pool(light, um, max(CLOSE_UM, um))
    fine = light.grey - close.depth
    deviation: FloatImage = np.sqrt(smoothed(fine * fine, POOL_UM / um))
    floor: FloatImage = np.maximum(pooled.depth, np.float32(FAINT))
    contrast: FloatImage = deviation / floor
    return Detail(um, pooled, close, contrast)


@dataclass(frozen=True)
class Stain:
    """How this slide's tissue is stained: colour (mean and covariance of shares), depth, fine contrast, chroma."""

    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    depth: float
    deepest: float
    contrast: float
    chroma: float

    def distance(self, pooled: Pooled) -> FloatImage:
        """Mahalanobis distance of colours from the stain's."""
        (rr, rb), (_, bb) = np.linalg.inv(self.spread).astype(np.float32)
        red, blue = pooled.red - np.float32(self.center[0]), pooled.blue - np.float32(self.center[1])
        distance: FloatImage = np.sqrt(rr * red * red + bb * blue * blue + 2 * rb * red * blue)
        return distance


def learn_stain(detail: Detail, solid: BoolMask) -> Stain | None:
    """Learn the stain from the textured inside of what is stained; None where nothing is."""
    pooled, contrast = detail.pooled, detail.contrast
    core = erode(solid, RIM_UM / detail.um)
    textured = core & (contrast > TEXTURED)
    if textured.sum() * detail.um**2 < 0.1e6 or textured.sum() < 0.02 * core.sum():
        return None
    sample = np.flatnonzero(textured)[:: max(1, int(textured.sum()) // SAMPLES)]
    shares = np.stack([pooled.red.ravel()[sample], pooled.blue.ravel()[sample]], axis=1).astype(np.float64)
    depth, contrast = pooled.depth.ravel()[sample], contrast.ravel()[sample]
    # From the commonest colour outwards: ink over tissue is textured too, and must not widen the stain to itself.
    edges = np.linspace(-0.5, 1.5, 201)
    counts, _, _ = np.histogram2d(shares[:, 0], shares[:, 1], bins=(edges, edges), weights=contrast)
    if not counts.any():
        return None  # colours that no stain has, as of a slide whose JPEG tiles carry the wrong colour label
    peak = np.unravel_index(np.argmax(smoothed(counts, 2.0)), counts.shape)
    center, spread = edges[np.array(peak)] + (edges[1] - edges[0]) / 2, 0.03**2 * np.eye(2)
    for _ in range(5):
        off = shares - center
        keep = np.einsum("ni,ij,nj->n", off, np.linalg.inv(spread), off) < 9.0
        center = shares[keep].mean(axis=0)
        spread = np.cov(shares[keep].T) + LEAST_SPREAD**2 * np.eye(2)
    red, blue = center
    chroma = float(np.std([red, blue, 1 - red - blue]))
    # Ink over tissue of its own colour is smoother than tissue, for its depth.
    usual = float(np.median(contrast[keep]))
    bare = keep & (contrast > 0.75 * usual)
    deepest = float(np.percentile(depth[bare], 95))
    middle = float(np.median(depth[keep]))
    if chroma < ACHROMATIC and middle < 0.15 and textured.sum() * detail.um**2 < 1e6:
        return None  # scratches and film, not a stain scanned in grey
    return Stain(center, spread, middle, deepest, usual, chroma)


def find_ink(detail: Detail, solid: BoolMask, stain: Stain | None) -> BoolMask:
    """Find the ink among what is stained.

    Parameters
    ----------
    detail : Detail
    solid : bool ndarray, (h, w)
        What is stained, gaps closed.
    stain : Stain or None
        The tissue's; None where nothing has texture, so that ink is known by smoothness and depth alone.
    """
    um, pooled, close = detail.um, detail.pooled, detail.close
    smooth = solid & (detail.contrast < SMOOTH)
    if stain is None:
        return dilate(_strokes(smooth & ((pooled.depth > 0.6) | _not_a_stain(pooled)), um), (RIM_UM + 24) / um)
    other = stain.distance(pooled) > ALIEN
    alien = smooth & other & (pooled.depth > 0.5 * stain.depth)
    deep = smooth & (pooled.depth > DEEP * stain.deepest)
    # A deep or reddish patch inside tissue is blood, colloid or keratin; a stroke lies on glass as well.
    # Blue and green markers take most light from red, brown and pink stains do not.
    blue_or_green = pooled.red > 1.15 * np.maximum(1 - pooled.red - pooled.blue, pooled.blue)
    streaked = solid & blue_or_green & other & (pooled.depth > stain.deepest)
    streaked &= detail.contrast < 0.5 * stain.contrast
    # Ink over tissue adds depth but no texture; where tissue itself is deeper, so is its texture.
    laid_over = solid & (pooled.depth > max(DEEP * stain.deepest, DARK)) & (detail.contrast < DILUTED * stain.contrast)
    seeds = _strokes((alien & _not_a_stain(pooled)) | laid_over, um)
    strokes = _strokes(alien | deep | streaked, um)
    if not _takes_little_green(*stain.center):  # nor a stain that is blue or green itself, as Alcian blue
        # Strokes too thin to have a smooth inside, by a colour far from the tissue's that has none of its kind.
        thin = solid & (stain.distance(close) > FAR) & _not_a_stain(close) & (close.depth > 0.6 * stain.deepest)
        strokes |= _strokes(thin, um, THIN_UM, THIN_MM2)
    seeds |= _beside_glass(strokes, solid, um)
    if not seeds.any():
        return seeds
    kin = (stain.distance(close) > KIN) | (close.depth > DEEP * stain.deepest)
    kin |= smooth & (pooled.depth > 1.2 * stain.depth)
    followed = touched(seeds | (solid & kin & (close.depth > 0.5 * stain.depth)), seeds)
    return dilate(close_gaps(followed, 32 / um), 24 / um)


def _not_a_stain(pooled: Pooled) -> BoolMask:
    """Colours that take less green than red or blue: hematoxylin, eosin, PAS and blood do not."""
    other: BoolMask = _takes_little_green(pooled.red, pooled.blue)
    return other


def _takes_little_green(red: Any, blue: Any) -> Any:
    return 1 - red - blue < 1.03 * np.maximum(red, blue)


def _strokes(mask: BoolMask, um: float, width_um: float = STROKE_UM, least_mm2: float = STROKE_MM2) -> BoolMask:
    numbers, sizes = pieces(open_up(close_gaps(mask, 16 / um), width_um / 2 / um))
    large = sizes * um**2 >= least_mm2 * 1e6
    large[0] = False
    strokes: BoolMask = large[numbers]
    return strokes


def _beside_glass(strokes: BoolMask, solid: BoolMask, um: float) -> BoolMask:
    """Keep strokes with glass along a good part of their sides."""
    if not strokes.any():
        return strokes
    numbers, sizes = pieces(strokes)
    reach = int(112 / um)  # beyond the stroke's own rim
    around = running_max(numbers, 2 * reach + 1) * (numbers == 0)
    counts = np.bincount(around.ravel(), minlength=len(sizes))
    bare = np.bincount(around.ravel(), weights=(~solid).ravel(), minlength=len(sizes))
    alone = bare / np.maximum(counts, 1) > 0.25
    alone[0] = False
    kept: BoolMask = alone[numbers]
    return kept
