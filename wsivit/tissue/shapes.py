"""Shapes of masks: widening, narrowing and weighing them, with lengths in microns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    """Number the connected pieces from 1 in reading order; the numbers (h, w) and the pixels of each.

    Pixels are connected by their sides; number 0 is what is off.
    """
    height, width = mask.shape
    start, end = _runs(mask)
    upper, lower = _touching(start, end, width + 1)
    first = _first_of_piece(len(start), upper, lower)
    number = np.cumsum(first == np.arange(len(first)), dtype=np.int32)[first] if len(first) else first
    bounds = np.concatenate([[0], np.stack([start, end], axis=1).ravel(), [height * (width + 1)]])
    values = np.zeros(len(bounds) - 1, np.int32)
    values[1::2] = number
    numbers = np.repeat(values, np.diff(bounds)).reshape(height, width + 1)[:, :width]
    sizes = np.bincount(number, weights=end - start, minlength=1).astype(np.int64)
    sizes[0] = mask.size - sizes.sum()
    return numbers, sizes


def _runs(mask: BoolMask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs along the rows start and end, in a picture that has one more, empty column."""
    flat = np.pad(mask, ((0, 0), (0, 1))).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        edges = np.concatenate([[0], edges])
    return edges[::2], edges[1::2]


def _touching(
    start: NDArray[np.int64], end: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs of neighbouring rows that share a column."""
    first = np.searchsorted(end, start - stride, side="right")
    count = np.searchsorted(start, end - stride, side="left") - first
    lower = np.repeat(np.arange(len(start)), count)
    upper = np.arange(len(lower)) - np.repeat(np.cumsum(count) - count, count) + first[lower]
    return upper, lower


def _first_of_piece(count: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each run's first companion, from the pairs `a`, `b` that touch."""
    first = np.arange(count)
    while (apart := first[a] != first[b]).any():
        a, b = a[apart], b[apart]
        one, other = first[a], first[b]
        np.minimum.at(first, np.maximum(one, other), np.minimum(one, other))
        while (further := first[first] != first).any():
            first[further] = first[first[further]]
    return first


def touched(mask: BoolMask, seeds: BoolMask) -> BoolMask:
    """Keep the pieces of `mask` that hold a seed."""
    numbers, sizes = pieces(mask)
    held = np.zeros(len(sizes), np.bool_)
    held[numbers[seeds]] = True
    held[0] = False
    kept: BoolMask = held[numbers]
    return kept


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
