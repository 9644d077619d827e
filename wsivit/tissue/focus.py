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
    if min(tile.shape[:2]) < LEAST_STEP:
        return float("nan")
    fine, middle, coarse = _details(_lines(tile))
    if coarse < LEAST_CONTRAST**2:
        return float("nan")
    return float(np.sqrt(max(fine - NOISE**2, 0.0) / (0.7 * middle + 0.3 * coarse)))


def _lines(tile: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Some pairs of rows, and of columns turned, summed over the pair and the channels; (n, length)."""
    step = max(LEAST_STEP, min(tile.shape[:2]) // LINES)
    length = min(tile.shape[:2]) // step * step
    flat = tile[:length, :length].reshape(length, 3 * length)
    # Channel by channel: numpy is slow along an axis of three.
    columns = [flat[:, part :: 3 * step] for part in range(6)]
    rows = np.add(flat[::step], flat[1::step], dtype=np.int16)
    lines: NDArray[np.int16] = np.concatenate([rows[:, ::3] + rows[:, 1::3] + rows[:, 2::3], _sum(columns).T])
    return lines


def _sum(parts: list[NDArray[np.uint8]]) -> NDArray[np.int16]:
    total = parts[0].astype(np.int16)
    for part in parts[1:]:
        total += part
    return total


def _details(lines: NDArray[np.int16]) -> list[float]:
    """Mean square of the second difference of lines of 2, 4 and 8 pixels' means, in grey levels."""
    found = []
    for pixels in (2, 4, 8):
        even = lines.shape[1] // 2 * 2
        lines = lines[:, :even:2] + lines[:, 1::2][:, : even // 2]
        slope = lines[:, 1:] - lines[:, :-1]
        bend = (slope[:, 1:] - slope[:, :-1]).astype(np.float32).ravel()
        found.append(float(bend @ bend) / bend.size / (6 * pixels) ** 2)
    return found


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
