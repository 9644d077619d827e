"""Blur, told by how much of the coarser detail comes with finer detail; always relative to the slide's sharp tissue.

Two octaves are compared, so that the stain's strength drops out: pale and dark tissue in focus agree within a factor
of two, and out of focus the finer octave dies first. A low-power view shows gross blur only; tiles are judged by
:func:`sharpness` at their own scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.tissue.classes import BoolMask, FloatImage
from wsivit.tissue.planes import block_means, enlarged, smoothed
from wsivit.tissue.shapes import close_gaps, erode, open_up

OCTAVES = (0.8, 1.6, 3.2)  # pixels
BLURRED = 0.5  # of what the sharp quarter of the slide's tissue has
COARSELY = 4  # pixels: the side of the blocks in which a low-power view is judged
LEAST_DETAIL = 0.003  # density: less than this is noise, and nothing is said


def _octaves(grey: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Square of the detail in the finer and the coarser octave."""
    fine, middle, coarse = (smoothed(grey, sigma) for sigma in OCTAVES)
    return (fine - middle) ** 2, (middle - coarse) ** 2


def blurred(grey: FloatImage, mask: BoolMask, um: float) -> BoolMask:
    """Find the blurred part of a low-power view's tissue, from its mean density (h, w)."""
    fine = smoothed(grey, OCTAVES[0])
    middle = smoothed(fine, np.sqrt(OCTAVES[1] ** 2 - OCTAVES[0] ** 2))
    half = block_means(middle, 2)  # nothing of the coarser octave is lost
    coarse = smoothed(half, np.sqrt(OCTAVES[2] ** 2 - OCTAVES[1] ** 2) / 2)
    over = max(40 / um, 5.0) / COARSELY  # pixels: a ratio of a handful of them is all noise
    finer = smoothed(block_means((fine - middle) ** 2, COARSELY), over)
    coarser = smoothed(block_means((half - coarse) ** 2, COARSELY // 2), over)
    um *= COARSELY
    ratio = np.sqrt(finer / np.maximum(coarser, 1e-8))
    inside = erode(block_means(mask, COARSELY) > 0.5, 40 / um) & (coarser > LEAST_DETAIL**2)
    if inside.sum() < 25:
        return np.zeros_like(mask)
    soft = inside & (ratio < BLURRED * np.percentile(ratio[inside], 75))
    found: BoolMask = mask & enlarged(open_up(close_gaps(soft, 48 / um), 48 / um), COARSELY, mask.shape)
    return found


def sharpness(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure how sharp tiles are, at their own scale.

    Parameters
    ----------
    tiles : uint8 ndarray, (n, h, w, 3)

    Returns
    -------
    float32 ndarray, (n,)
        Finer over coarser detail, about 1 where sharp; NaN where a tile has too little detail to say.
    """
    ratios = np.full(len(tiles), np.nan, np.float32)
    for i, tile in enumerate(tiles):
        grey = -np.log((tile.mean(axis=2, dtype=np.float32) + 1) / 256)
        finer, coarser = (float(octave.mean()) for octave in _octaves(grey))
        if coarser > LEAST_DETAIL**2:
            ratios[i] = np.sqrt(finer / coarser)
    return ratios


def blur_scores(sharpness: ArrayLike) -> NDArray[np.float32]:
    """Score the blur of a slide's tiles against its sharp ones, from :func:`sharpness` of all of them.

    Returns
    -------
    float32 ndarray, (n,)
        0 for tiles as sharp as the slide's sharp quarter, 1 for no fine detail to speak of; above 0.5 a tile is
        blurred. 0 where nothing can be said.
    """
    values = np.asarray(sharpness, np.float32)
    known = np.isfinite(values)
    scores = np.zeros(values.shape, np.float32)
    if known.any():
        scores[known] = np.clip((1 - values[known] / np.percentile(values[known], 75)) / 0.7, 0, 1)
    return scores
