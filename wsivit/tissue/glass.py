"""What bare glass looks like on this slide, and how much light everything else takes, relative to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsivit.tissue.classes import BoolMask, FloatImage

BLACK = 16  # A scanner's black border is not quite 0 after JPEG.
FIELD_BLOCKS = 24  # along the longer side, where uneven light is measured
FIELD_STEP = 0.02  # how far, in density, a block of glass may be from what its neighbours foretell


@dataclass(frozen=True)
class Absorbance:
    """A slide as optical density (natural log) over its own glass.

    Attributes
    ----------
    density : float32 ndarray, (3, h, w)
        Per channel; 0 on glass, negative where brighter than it, 0 in the void.
    grey : float32 ndarray, (h, w)
        Mean over the channels.
    void : bool ndarray, (h, w)
        What was not scanned: blank fill, black borders.
    glass : tuple of float
        The level of bare glass per channel; the background of a dark field.
    dark_field : bool
        Whether the tissue shines on black (fluorescence) rather than darkens glass.
    """

    density: FloatImage
    grey: FloatImage
    void: BoolMask
    glass: tuple[float, float, float]
    dark_field: bool


def absorbance(image: NDArray[np.uint8]) -> Absorbance:
    """Measure a low-power view, uint8 (h, w, 3), against its own glass, and even out its light."""
    low = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2])
    high = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
    if np.median(high) < 64 and np.mean(low > 120) < 0.005:  # black, and no glass anywhere
        return _dark_field(high)
    void = _void(low, high)
    smooth = _spread(high) <= 4
    smooth &= ~ndimage.maximum_filter(void, 7)
    glass = glass_level(image, smooth)
    table = -np.log((np.arange(256, dtype=np.float32)[:, None] + 1) / (glass + 1))
    density = np.stack([table[image[..., c], c] for c in range(3)])
    density -= _uneven_light(density, smooth)
    density[:, void] = 0
    r, g, b = glass.tolist()
    return Absorbance(density, (density[0] + density[1] + density[2]) / 3, void, (r, g, b), False)


def _dark_field(levels: NDArray[np.uint8]) -> Absorbance:
    signal = levels.astype(np.float32)
    background = float(np.percentile(signal, 5))
    # A few grey levels more on both sides, or the noise of black would look like signal.
    density = np.log((signal + 4) / (background + 4))
    glass = (background, background, background)
    return Absorbance(np.stack([density] * 3), density, np.zeros(signal.shape, np.bool_), glass, True)


def _void(low: NDArray[np.uint8], high: NDArray[np.uint8]) -> BoolMask:
    extreme = (low == 255) | (high <= BLACK)
    # A whole neighbourhood of it: single white or black pixels are glints and pigment.
    void: BoolMask = ndimage.maximum_filter(ndimage.minimum_filter(extreme, 5), 5) & extreme
    return void


def _spread(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    spread: NDArray[np.uint8] = ndimage.maximum_filter(levels, 5) - ndimage.minimum_filter(levels, 5)
    return spread


def glass_level(image: NDArray[np.uint8], smooth: BoolMask) -> NDArray[np.float32]:
    """Find the level of bare glass per channel, float32 (3,).

    Glass is the brightest level that many `smooth` pixels share and few come near: the smooth pixels of tissue
    spread over many levels. Where there is no such level (tissue everywhere, uneven light), the brightest of the
    smooth pixels are taken; white where nothing is smooth.
    """
    grey = image[smooth].mean(axis=1)
    if grey.size < 25:
        return np.full(3, 255, np.float32)
    counts = np.bincount(np.rint(grey).astype(np.int64), minlength=256).astype(float)
    near, around = (np.convolve(counts, np.ones(2 * reach + 1), "same") for reach in (4, 16))
    shared = (near >= 0.02 * grey.size) & (near >= 0.6 * around) & (near >= ndimage.maximum_filter1d(near, 9))
    level = np.flatnonzero(shared)[-1] if shared.any() else np.percentile(grey, 99)
    chosen = image[smooth][np.abs(grey - level) <= 4]
    glass: NDArray[np.float32] = np.median(chosen, axis=0).astype(np.float32)
    return glass


def _uneven_light(density: FloatImage, smooth: BoolMask) -> FloatImage:
    """Fit a quadratic to what the glass blocks say of the light, growing from those at the glass level."""
    height, width = smooth.shape
    side = max(8, -(-max(height, width) // FIELD_BLOCKS))
    x, y, levels = [], [], []
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = np.s_[top : top + side, left : left + side]
            if smooth[window].mean() >= 0.1:
                x.append((left + side / 2) / width - 0.5)
                y.append((top + side / 2) / height - 0.5)
                levels.append(np.percentile(density[:, *window][:, smooth[window]], 30, axis=1))
    flat = np.zeros((3, 1, 1), np.float32)
    if len(levels) < 12:
        return flat
    terms, level = _quadratic(np.array(x), np.array(y)), np.array(levels)
    glass = np.abs(level).max(axis=1) < FIELD_STEP
    for _ in range(12):
        if glass.sum() < 12:
            return flat
        fit = np.linalg.lstsq(terms[glass], level[glass], rcond=None)[0]
        glass = np.abs(level - terms @ fit).max(axis=1) < FIELD_STEP
    if np.ptp(terms[glass] @ fit, axis=0).max() < FIELD_STEP / 2:
        return flat
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32)
    field = _quadratic((cols + 0.5) / width - 0.5, (rows + 0.5) / height - 0.5) @ fit.astype(np.float32)
    low, high = (terms[glass] @ fit).min(axis=0), (terms[glass] @ fit).max(axis=0)
    return np.moveaxis(np.clip(field, low, high).astype(np.float32), 2, 0)


def _quadratic(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
