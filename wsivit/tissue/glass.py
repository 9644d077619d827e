"""The level of this slide's bare glass, and the optical density of everything else relative to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.tissue.operations import BoolMask, FloatImage, running_max, running_min

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
    if np.mean(high < 64) > 0.5 and np.mean(low > 120) < 0.005:  # black, and no glass anywhere: fluorescence
        signal = high.astype(np.float32)
        background = float(np.percentile(signal, 5))
        # A few grey levels more on both sides, or the noise of black would look like signal.
        grey = np.log((signal + 4) / (background + 4))
        return Absorbance(np.stack([grey] * 3), grey, np.zeros(grey.shape, np.bool_), (background,) * 3, True)
    void: BoolMask = (low == 255) | (high <= BLACK)
    if void.any():  # a complete neighbourhood of it: single white or black pixels are glints and pigment
        void &= running_max(running_min(void, 5), 5)
    smooth = running_max(high, 5) - running_min(high, 5) <= 4
    if void.any():
        smooth &= ~running_max(void, 7)
    glass = glass_level(image, smooth)
    table = -np.log((np.arange(256, dtype=np.float32)[:, None] + 1) / (glass + 1))
    density = np.stack([np.take(table[:, c], image[..., c]) for c in range(3)])
    _even_out(density, smooth)
    density[:, void] = 0
    r, g, b = glass.tolist()
    return Absorbance(density, (density[0] + density[1] + density[2]) / np.float32(3), void, (r, g, b), False)


def glass_level(image: NDArray[np.uint8], smooth: BoolMask) -> NDArray[np.float32]:
    """Find the level of bare glass per channel, float32 (3,).

    Glass is the brightest level that many `smooth` pixels share and few come near: the smooth pixels of tissue
    spread over many levels. Where there is no such level (tissue everywhere, uneven light), the brightest of the
    smooth pixels are taken; white where nothing is smooth.
    """
    total = image[..., 0].astype(np.uint16) + image[..., 1] + image[..., 2]
    grey = ((total + 1) // 3).astype(np.uint8)
    counts = np.bincount(grey[smooth], minlength=256).astype(float)
    if counts.sum() < 25:
        return np.full(3, 255, np.float32)
    near, around = (np.convolve(counts, np.ones(2 * reach + 1), "same") for reach in (4, 16))
    shared = (near >= 0.02 * counts.sum()) & (near >= 0.6 * around) & (near >= running_max(near, 9))
    level = int(np.flatnonzero(shared)[-1]) if shared.any() else _level_at(counts, 0.99)
    chosen = smooth & (grey >= level - 4) & (grey <= level + 4)
    levels = [_level_at(np.bincount(image[..., c][chosen], minlength=256), 0.5) for c in range(3)]
    return np.array(levels, np.float32)


def _level_at(counts: NDArray[np.number], share: float) -> int:
    """Level below which `share` of the counted pixels lie."""
    below = np.cumsum(counts)
    return int(np.searchsorted(below, share * below[-1]))


def _even_out(density: FloatImage, smooth: BoolMask) -> None:
    """Take uneven light off: a quadratic fitted to the blocks of glass, growing from those at the glass level."""
    height, width = smooth.shape
    side = max(8, -(-max(height, width) // FIELD_BLOCKS))
    step = max(1, side // 16)  # 256 pixels are enough for a block's level
    rows, cols = -(-height // side), -(-width // side)
    padded = np.full((3, rows * side, cols * side), np.inf, np.float32)
    np.copyto(padded[:, :height, :width], density, where=smooth)
    blocks = padded.reshape(3, rows, side, cols, side)[:, :, ::step, :, ::step]
    blocks = np.sort(blocks.transpose(0, 1, 3, 2, 4).reshape(3, rows * cols, -1), axis=2)
    count = np.isfinite(blocks[0]).sum(axis=1)
    enough = np.flatnonzero(count >= 0.1 * blocks.shape[2])
    if len(enough) < 12:
        return
    level = blocks[:, enough, (0.3 * (count[enough] - 1)).astype(np.int64)].T.astype(np.float64)
    x, y = ((enough % cols) + 0.5) * side / width - 0.5, ((enough // cols) + 0.5) * side / height - 0.5
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    glass = np.abs(level).max(axis=1) < FIELD_STEP
    for _ in range(12):
        if glass.sum() < 12:
            return
        fit = np.linalg.lstsq(terms[glass], level[glass], rcond=None)[0]
        glass = np.abs(level - terms @ fit).max(axis=1) < FIELD_STEP
    fitted = terms[glass] @ fit
    if np.ptp(fitted, axis=0).max() < FIELD_STEP / 2:
        return
    fit = fit.astype(np.float32)
    along, down = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5 for n in (width, height))
    # The fit is clipped to what was seen: tissue lies where there are no blocks to hold it.
    for plane, (flat, x1, y1, xx, xy, yy), low, high in zip(density, fit.T, fitted.min(0), fitted.max(0), strict=True):
        field = flat + x1 * along + xx * along * along
        field = field + (y1 * down + yy * down * down)[:, None] + (xy * down)[:, None] * along
        plane -= np.clip(field, low, high)
