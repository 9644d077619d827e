"""What bare glass looks like on this slide, and optical density relative to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatImage = NDArray[np.float32]


def glass_level(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Estimate the colour of bare glass: the mode of the slide's bright, smooth pixels.

    Parameters
    ----------
    image : uint8 ndarray, (h, w, 3)

    Returns
    -------
    float32 ndarray, (3,)
        Level per channel. White where nothing on the slide is smooth and bright.
    """
    luminance = image.mean(axis=2, dtype=np.float32)
    rough = ndimage.uniform_filter(ndimage.morphological_gradient(luminance, size=3), 5)
    bright = luminance > 100
    if not bright.any():
        return np.full(3, 255, np.float32)
    smooth = bright & (rough <= max(3.0, float(np.percentile(rough[bright], 10))))
    counts = np.bincount(luminance[smooth].astype(np.int64), minlength=256)
    mode = int(np.argmax(counts))
    level: NDArray[np.float32] = np.median(image[smooth & (np.abs(luminance - mode) <= 3)], axis=0)
    return level.astype(np.float32)


def optical_density(image: NDArray[np.uint8], glass: NDArray[np.float32]) -> FloatImage:
    """Optical density (natural log) per channel over the glass; negative where brighter than it."""
    table = -np.log((np.arange(256, dtype=np.float32)[:, None] + 1) / (glass + 1))
    return np.stack([table[image[..., c], c] for c in range(3)], axis=2)
