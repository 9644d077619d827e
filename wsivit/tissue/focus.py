"""Blur: how much of the coarser detail comes with finer detail, always relative to the slide's sharp tissue.

Two octaves are compared, so that the stain's strength drops out: pale and dark tissue in focus agree within a factor
of two, and out of focus the finer octave dies first. A low-power view shows gross blur only; tiles are judged by
:func:`sharpness` at their own scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.tissue.operations import BoolMask, FloatImage, block_means, close_gaps, erode, open_up, smoothed

OCTAVES = (0.8, 1.6, 3.2)  # pixels
BLURRED = 0.42  # of what the sharp quarter of the slide's tissue has; even liver has more nearly everywhere
BLOCK = 4  # pixels: the side of the blocks in which a low-power view is judged
LINES, LEAST_STEP = 4, 32  # pairs of rows and of columns of a tile that are measured, and pixels between them
NOISE, LEAST_CONTRAST = 0.7, 4.0  # grey levels, of a scanner and its JPEG, and below which nothing can be said
SHARP, GONE = 0.85, 0.35  # of what the sharp quarter of the tiles has; even liver is hardly below the first
LEAST_DETAIL = 0.003  # density: less than this is noise, and nothing is said


def blurred(grey: FloatImage, mask: BoolMask, um: float) -> BoolMask:
    """Find the blurred part of a low-power view's tissue, from its mean density (h, w)."""
    fine = smoothed(grey, OCTAVES[0])
    middle = smoothed(fine, np.sqrt(OCTAVES[1] ** 2 - OCTAVES[0] ** 2))
    half = block_means(middle, 2)  # nothing of the coarser octave is lost
    coarse = smoothed(half, np.sqrt(OCTAVES[2] ** 2 - OCTAVES[1] ** 2) / 2)
    over = max(40 / um, 5.0) / BLOCK  # pixels: a ratio of a handful of them is all noise
    finer = smoothed(block_means((fine - middle) ** 2, BLOCK), over)
    coarser = smoothed(block_means((half - coarse) ** 2, BLOCK // 2), over)
    um *= BLOCK
    ratio = np.sqrt(finer / np.maximum(coarser, 1e-8))
    inside = erode(block_means(mask, BLOCK) > 0.5, 40 / um) & (coarser > LEAST_DETAIL**2)
    if inside.sum() < 25:
        return np.zeros_like(mask)
    soft = inside & (ratio < BLURRED * np.percentile(ratio[inside], 75))
    soft = open_up(close_gaps(soft, 48 / um), 48 / um)
    rows, cols = (np.arange(length) // BLOCK for length in mask.shape)  # back from blocks to pixels
    return mask & soft[rows[:, None], cols]


def sharpness(tile: NDArray[np.uint8]) -> float:
    """Measure how sharp a tile is, at its own scale.

    Detail of two pixels is compared with detail of four and eight, along four pairs of rows and of columns (fewer of
    a tile under 128 pixels). In focus they are about alike whatever the stain; out of focus the finest goes first.

    Parameters
    ----------
    tile : uint8 ndarray, (h, w, 3)

    Returns
    -------
    float
        0.6 to 1 where tissue is sharp, under half of that where it is blurred by two pixels and more; NaN where the
        tile has too little detail to say, or is smaller than 32 pixels.
    """
    return float(sharpness_along(line_pairs(tile)[None])[0])


def line_pairs(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy the pairs of rows and of columns from which a tile's sharpness is measured.

    Parameters
    ----------
    tile : uint8 ndarray, (h, w, 3)

    Returns
    -------
    uint8 ndarray, (2, pairs, 6 * length)
        The rows, as (pairs, 2, length, 3), and the columns, as (length, pairs, 2, 3): as they lie in the tile.
    """
    side = min(tile.shape[:2])
    step = max(LEAST_STEP, side // LINES)
    pairs, length = side // step, side // step * step
    flat = tile[:length, :length].reshape(length, 3 * length)
    lines = np.empty((2, pairs, 6 * length), np.uint8)
    lines[0].reshape(pairs, 2, 3 * length)[:] = flat.reshape(pairs, step, 3 * length)[:, :2]
    lines[1].reshape(length, pairs, 6)[:] = flat.reshape(length, pairs, 3 * step)[:, :, :6]
    return lines


def sharpness_along(lines: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure the :func:`sharpness` of tiles of one size from their `line_pairs`: cheaper by the dozen.

    Parameters
    ----------
    lines : uint8 ndarray, (n, 2, pairs, 6 * length)

    Returns
    -------
    float64 ndarray, (n,)
        Of each tile the same, whichever others are with it.
    """
    if not lines.size:
        return np.full(len(lines), np.nan)
    n, _, pairs, size = lines.shape
    rows = lines[:, 0].reshape(n, pairs, 2, size // 2)
    both = np.add(rows[:, :, 0], rows[:, :, 1], dtype=np.int16)
    columns = np.ascontiguousarray(lines[:, 1].reshape(n, size // 6, pairs, 6).transpose(0, 2, 1, 3))
    # Summed over the pair and the channels one by one: numpy is slow along an axis of three.
    along_rows, along_columns = both[..., 0::3] + both[..., 1::3], columns[..., 0].astype(np.int16)
    along_rows += both[..., 2::3]
    for part in range(1, 6):
        along_columns += columns[..., part]
    fine, middle, coarse = _details(np.concatenate([along_rows, along_columns], axis=1))
    known = coarse >= LEAST_CONTRAST**2
    expected = np.where(known, 0.7 * middle + 0.3 * coarse, 1.0)
    return np.where(known, np.sqrt(np.maximum(fine - NOISE**2, 0.0) / expected), np.nan)


def _details(lines: NDArray[np.int16]) -> Iterator[NDArray[np.float64]]:
    """Mean square of the second difference of lines of 2, 4 and 8 pixels' means, in grey levels; (n,) each."""
    for pixels in (2, 4, 8):
        even = lines.shape[-1] // 2 * 2
        lines = lines[..., :even:2] + lines[..., 1:even:2]
        slope = lines[..., 1:] - lines[..., :-1]
        # Integers, which a double holds exactly: the sum is the same in whatever order it is made.
        bend = (slope[..., 1:] - slope[..., :-1]).astype(np.float64).reshape(len(lines), 1, -1)
        yield (bend @ bend.transpose(0, 2, 1)).ravel() / (bend.shape[-1] * (6 * pixels) ** 2)


def blur_scores(
    sharpness: ArrayLike, unknown: ArrayLike = 0.0, trusted: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Score the blur of a slide's tiles against its sharp ones, from the :func:`sharpness` of each.

    Parameters
    ----------
    sharpness : float array, (n,)
    unknown : float or float array, (n,)
        The score of tiles whose sharpness is NaN.
    trusted : bool ndarray, (n,), optional
        The tiles that may define what is sharp; all by default.

    Returns
    -------
    float32 ndarray, (n,)
        0 for tiles about as sharp as the slide's sharp quarter, 1 for no fine detail to speak of; above 0.5 a tile is
        blurred: as by a spread (sigma) of one and a half pixels or more.
    """
    values = np.asarray(sharpness, np.float64)
    known = np.isfinite(values)
    scores = np.broadcast_to(np.asarray(unknown, np.float32), values.shape).copy()
    reference = known if trusted is None or not (known & trusted).any() else known & trusted
    if reference.any():
        relative = values[known] / max(float(np.percentile(values[reference], 75)), 1e-6)
        scores[known] = np.clip((SHARP - relative) / (SHARP - GONE), 0, 1)
    return scores
