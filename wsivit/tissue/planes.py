"""Filters on planes of numbers: pooling, running extremes, thresholds.

Written on numpy alone: importing scipy's filters costs more than tiling a slide's overview takes, and running them
several times what these do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.tissue.classes import FloatImage

BAND = 64  # rows at a time, so that what is worked on stays in the processor's cache


def smoothed(values: NDArray[Any], sigma: float) -> FloatImage:
    """Pool over a bell curve of deviation `sigma` pixels, to the nearest half square pixel of variance."""
    spacings = _spacings(sigma * sigma)
    reach, share = sum(spacings) // 2, np.float32(0.5 ** len(spacings))
    padded = np.pad(values.astype(np.float32, copy=False), reach, mode="edge")
    pooled = np.empty(values.shape, np.float32)
    for top in range(0, len(values), BAND):
        band = padded[top : top + BAND + 2 * reach]
        for spacing in spacings:
            band = band[:-spacing] + band[spacing:]
        band = band * share
        for spacing in spacings:
            band = band[:, :-spacing] + band[:, spacing:]
        np.multiply(band, share, out=pooled[top : top + BAND])
    return pooled


def _spacings(variance: float) -> list[int]:
    """Spacings of the pairs whose sums, one after another, make a bell curve; their total is even.

    The sum of a pixel and the one `n` further has variance n²/4; boxes of 2, 4, 8 … pixels are made of such pairs.
    """
    spacings: list[int] = []
    left = round(2 * variance) / 2
    boxes = [[1, 1, *(2**k for k in range(1, n))] for n in range(1, 12)]
    for box in reversed(boxes):
        own = sum(spacing * spacing for spacing in box) / 4
        if len(box) > 3 and left < 2 * own:
            continue  # one wide box alone is no bell
        count = int(left / own)
        spacings += count * box
        left -= count * own
    return spacings


def block_means(values: NDArray[Any], side: int) -> FloatImage:
    """Mean of each `side` x `side` pixels; the last row and column are repeated to fill the last blocks."""
    height, width = values.shape
    filled = np.pad(values.astype(np.float32, copy=False), ((0, -height % side), (0, -width % side)), mode="edge")
    rows: FloatImage = np.add.reduce([filled[offset::side] for offset in range(side)])
    total: FloatImage = np.add.reduce([rows[:, offset::side] for offset in range(side)])
    return total / np.float32(side**2)


def enlarged(values: NDArray[Any], side: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Repeat each pixel of what :func:`block_means` gave, to the `shape` it was made from."""
    rows, cols = (np.arange(length) // side for length in shape)
    return values[rows[:, None], cols]


def running_max(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Largest of the `size` x `size` pixels (odd) around each; what lies outside does not count."""
    for axis in range(values.ndim):
        values = _running_max(values, size, axis)
    return values


def running_min(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Smallest of the `size` x `size` pixels around each; see :func:`running_max`. Unsigned or bool only."""
    return ~running_max(~values, size)


def _running_max(values: NDArray[Any], size: int, axis: int) -> NDArray[Any]:
    pad = [(0, 0)] * values.ndim
    pad[axis] = (size // 2, size // 2)
    wide = np.moveaxis(np.pad(values, pad, mode="edge"), axis, 0)
    span = 1  # doubled until the next doubling would be too wide; the last two windows then overlap
    while 2 * span <= size:
        wide = np.maximum(wide[:-span], wide[span:])
        span *= 2
    if span < size:
        wide = np.maximum(wide[: span - size], wide[size - span :])
    return np.moveaxis(wide, 0, axis)


def otsu(values: NDArray[Any], bins: int = 256) -> float:
    """Threshold that parts `values` into the two most different halves (Otsu 1979); they must not all be equal."""
    counts, edges = np.histogram(values, bins)
    centers = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    lower = np.cumsum(counts * centers) / np.maximum(below, 1)
    upper = (np.cumsum((counts * centers)[::-1]) / np.maximum(above[::-1], 1))[::-1]
    between = below[:-1] * above[1:] * (lower[:-1] - upper[1:]) ** 2.0
    return float(centers[np.argmax(between)])
