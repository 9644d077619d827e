"""Downscaling with the right phase: a float box of a picture onto whole pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.slide.base import Pixels

# Whichever is nearer to the area average there: under 1.5 grey levels off it and 0.005 pixels from its place, both.
_SUPPORT = 1.0
_SOFT, _SHARP, _SHARP_FROM = Image.Resampling.BILINEAR, Image.Resampling.HAMMING, 1.5


class Box(NamedTuple):
    """Edges in pixels of a picture, from its top-left corner; pixel i covers ``[i, i + 1)``."""

    left: float
    top: float
    right: float
    bottom: float


def margin(residual: float, area: bool) -> int:
    """Pixels beside a box that are looked at, for so many source pixels per target pixel: none to average an area."""
    return 0 if residual == 1.0 or area else math.ceil(_SUPPORT * max(residual, 1.0)) + 1


def resample(picture: Pixels, box: Box, size: tuple[int, int], *, area: bool = False) -> Pixels:
    """Bring a box of a picture to ``size`` (width, height); antialiased, phase exact.

    Parameters
    ----------
    picture : ndarray of uint8, (h, w, 3)
    box : Box
        Pixels of `picture` outside it, where there are any, feed the filter; past its edge the last are repeated.
    size : tuple of int
    area : bool
        Average by exact area instead of the faster, slightly sharper filter.
    """
    right, bottom = (math.ceil(over - 1e-6) for over in (box.right - picture.shape[1], box.bottom - picture.shape[0]))
    if right > 0 or bottom > 0:
        picture = np.pad(picture, ((0, max(0, bottom)), (0, max(0, right)), (0, 0)), mode="edge")
    box = Box(box.left, box.top, min(box.right, picture.shape[1]), min(box.bottom, picture.shape[0]))
    if area and _is_whole(box, size):
        factors = (round((box.right - box.left) / size[0]), round((box.bottom - box.top) / size[1]))
        left, top, right, bottom = (round(edge) for edge in box)
        return np.array(Image.fromarray(picture).reduce(factors, box=(left, top, right, bottom)))
    if area:
        rows = _area_mean(picture, box.top, box.bottom, size[1])
        pixels = _area_mean(rows.swapaxes(0, 1), box.left, box.right, size[0]).swapaxes(0, 1)
        return np.ascontiguousarray(np.rint(pixels).astype(np.uint8))
    factor = max((box.right - box.left) / size[0], (box.bottom - box.top) / size[1])
    kernel = _SHARP if factor >= _SHARP_FROM else _SOFT
    return np.array(Image.fromarray(picture).resize(size, kernel, box=box))


def _is_whole(box: Box, size: tuple[int, int]) -> bool:
    """Whether every target pixel is made of whole source pixels."""
    sides = (*box, (box.right - box.left) / size[0], (box.bottom - box.top) / size[1])
    return all(abs(side - round(side)) < 1e-6 for side in sides)


def _area_mean(lines: NDArray[np.generic], start: float, stop: float, n: int) -> NDArray[np.float32]:
    """Mean over n equal, fractional intervals of ``[start, stop)`` along the first axis."""
    edges = np.linspace(start, stop, n + 1)
    whole = np.minimum(edges.astype(np.int64), len(lines) - 1)
    part = (edges - whole).astype(np.float32)[:, None, None]
    total = np.zeros((len(lines) + 1, *lines.shape[1:]), np.float32)
    np.cumsum(lines, axis=0, out=total[1:], dtype=np.float32)
    upto = total[whole] + part * lines[whole].astype(np.float32)
    mean: NDArray[np.float32] = np.diff(upto, axis=0) * np.float32((n) / (stop - start))
    return mean
