"""Blur, told by how much of the coarser detail comes with finer detail; always relative to the slide's sharp tissue.

Two octaves are compared, so that the stain's strength drops out: pale and dark tissue in focus agree within a factor
of two, and out of focus the finer octave dies first. A low-power view shows gross blur only; tiles are judged by
:func:`sharpness` at their own scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.tissue.classes import BoolMask, FloatImage
from wsivit.tissue.planes import block_means, enlarged, smoothed
from wsivit.tissue.shapes import close_gaps, erode, open_up

OCTAVES = (0.8, 1.6, 3.2)  # pixels
BLURRED = 0.42  # of what the sharp quarter of the slide's tissue has; even liver has more nearly everywhere
COARSELY = 4  # pixels: the side of the blocks in which a low-power view is judged
LINES, LEAST_STEP = 4, 32  # pairs of rows and of columns of a tile that are looked at, and pixels between them
NOISE, LEAST_CONTRAST = 0.7, 4.0  # grey levels, of a scanner and its JPEG, and below which nothing can be said
SHARP, GONE = 0.85, 0.35  # of what the sharp quarter of the tiles has; even liver is hardly below the first
LEAST_DETAIL = 0.003  # density: less than this is noise, and nothing is said


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


def sharpness(tile: NDArray[np.uint8]) -> float:
    """Measure how sharp a tile is, at its own scale.

    Detail of two pixels is weighed against detail of four and eight, along four pairs of rows and of columns (fewer of
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
    """Copy the pairs of rows and of columns that tell how sharp a tile is.

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
    found = np.empty((2, pairs, 6 * length), np.uint8)
    found[0].reshape(pairs, 2, 3 * length)[:] = flat.reshape(pairs, step, 3 * length)[:, :2]
    found[1].reshape(length, pairs, 6)[:] = flat.reshape(length, pairs, 3 * step)[:, :, :6]
    return found


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
    fine, middle, coarse = _details(_summed(lines))
    telling = coarse >= LEAST_CONTRAST**2
    weighed = np.where(telling, 0.7 * middle + 0.3 * coarse, 1.0)
    return np.where(telling, np.sqrt(np.maximum(fine - NOISE**2, 0.0) / weighed), np.nan)


def _summed(lines: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Rows, and columns turned, summed over the pair and the channels; (n, lines, length)."""
    n, _, pairs, size = lines.shape
    rows = lines[:, 0].reshape(n, pairs, 2, size // 2)
    both = np.add(rows[:, :, 0], rows[:, :, 1], dtype=np.int16)
    columns = np.ascontiguousarray(lines[:, 1].reshape(n, size // 6, pairs, 6).transpose(0, 2, 1, 3))
    # Channel by channel: numpy is slow along an axis of three.
    along = _sum([both[..., part::3] for part in range(3)]), _sum([columns[..., part] for part in range(6)])
    return np.concatenate(along, axis=1)


def _sum(parts: Sequence[NDArray[np.uint8] | NDArray[np.int16]]) -> NDArray[np.int16]:
    total = parts[0].astype(np.int16)
    for part in parts[1:]:
        total += part
    return total


def _details(lines: NDArray[np.int16]) -> Iterator[NDArray[np.float64]]:
    """Mean square of the second difference of lines of 2, 4 and 8 pixels' means, in grey levels; (n,) each."""
    for pixels in (2, 4, 8):
        even = lines.shape[-1] // 2 * 2
        lines = lines[..., :even:2] + lines[..., 1:even:2]
        slope = lines[..., 1:] - lines[..., :-1]
        # Whole numbers, which a double holds exactly: the sum is the same in whatever order it is made.
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
        What to say of tiles whose sharpness is NaN.
    trusted : bool ndarray, (n,), optional
        The tiles that may tell what is sharp; all by default.

    Returns
    -------
    float32 ndarray, (n,)
        0 for tiles about as sharp as the slide's sharp quarter, 1 for no fine detail to speak of; above 0.5 a tile is
        blurred: as by a spread (sigma) of one and a half pixels or more.
    """
    values = np.asarray(sharpness, np.float64)
    known = np.isfinite(values)
    scores = np.broadcast_to(np.asarray(unknown, np.float32), values.shape).copy()
    telling = known if trusted is None or not (known & trusted).any() else known & trusted
    if telling.any():
        relative = values[known] / max(float(np.percentile(values[telling], 75)), 1e-6)
        scores[known] = np.clip((SHARP - relative) / (SHARP - GONE), 0, 1)
    return scores
