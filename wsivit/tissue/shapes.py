"""Shapes of masks: widening, narrowing and weighing them, with lengths in microns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsivit.tissue.classes import BoolMask, FloatImage


def dilate(mask: BoolMask, radius: float) -> BoolMask:
    """Widen by a disk of `radius` pixels."""
    # Runs of growing width, each laid on the rows of the disk that have it: bytes or-ed, ten times faster than scipy.
    run, wide, width = mask.copy(), np.zeros_like(mask), 0
    for half, row in _disk_rows(radius):
        while width < half:
            width += 1
            run[:, width:] |= mask[:, :-width]
            run[:, :-width] |= mask[:, width:]
        rest = max(0, len(run) - row)
        wide[row:] |= run[:rest]
        wide[:rest] |= run[row:]
    return wide


def _disk_rows(radius: float) -> list[tuple[int, int]]:
    """Rows of a disk: ``(half width, distance of the row)``, narrowest first."""
    reach = int(radius)
    return sorted((int((radius * radius - row * row) ** 0.5), row) for row in range(reach + 1))


def erode(mask: BoolMask, radius: float) -> BoolMask:
    """Narrow by a disk of `radius` pixels; the picture's own border narrows nothing."""
    return ~dilate(~mask, radius)


def close_gaps(mask: BoolMask, radius: float) -> BoolMask:
    """Close gaps narrower than twice `radius`."""
    return erode(dilate(mask, radius), radius)


def open_up(mask: BoolMask, radius: float) -> BoolMask:
    """Cut off what is narrower than twice `radius`."""
    opened: BoolMask = dilate(erode(mask, radius), radius) & mask
    return opened


def pieces(mask: BoolMask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the connected pieces from 1; the numbers (h, w) and the pixels of each, number 0 being what is off."""
    numbers, _ = ndimage.label(mask)
    return numbers, np.bincount(numbers.ravel())


def fill_holes(mask: BoolMask, max_pixels: float) -> BoolMask:
    """Fill the holes that have at most `max_pixels` and do not reach the border of the picture."""
    numbers, sizes = pieces(~mask)
    small = sizes <= max_pixels
    small[0] = False
    for border in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        small[border] = False
    filled: BoolMask = mask | small[numbers]
    return filled


def piece_means(values: FloatImage, numbers: NDArray[np.int32], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of `values` over each piece."""
    sums = np.bincount(numbers.ravel(), weights=values.ravel(), minlength=len(sizes))
    return np.divide(sums, sizes, out=np.zeros(len(sizes)), where=sizes > 0)


def smoothed(values: NDArray[np.generic], sigma: float) -> FloatImage:
    """Pool over a Gaussian of `sigma` pixels."""
    pooled: FloatImage = ndimage.gaussian_filter(values.astype(np.float32, copy=False), sigma, truncate=3.0)
    return pooled
