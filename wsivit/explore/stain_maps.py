"""Stain, nuclei and texture of tiles of an H&E slide. Pure functions on arrays.

Nothing here is learned from labels: the numbers say how strong a stain is, how many dark round spots there are, and
which tiles look alike. They do not say what tissue is.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of hematoxylin, eosin and what is neither, in red, green and blue (Ruifrok & Johnston, 2001)."""
NUCLEUS_RADIUS_UM = 3.5
MAX_MPP = 1.3
"""Coarsest scale, in microns per pixel, at which nuclei can be told apart."""
_TEXTURE_UM = (1.0, 2.0, 4.0, 8.0)
MIN_CONTRAST = 0.1
"""Least contrast of a nucleus, in optical density: one for all slides, so that their numbers compare."""


def unmix(tiles: NDArray[np.uint8], glass: NDArray[np.float64]) -> FloatArray:
    """Separate the stains of tiles.

    Parameters
    ----------
    tiles : uint8 (n, h, w, 3)
    glass : float64 (3,)
        Colour of the slide where it is empty.

    Returns
    -------
    float32 (n, h, w, 3)
        Density of hematoxylin, eosin and the rest, in units of optical density (base 10); below 0 is noise.
    """
    stains = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    unmixing = np.linalg.inv(stains).astype(np.float32)
    # A table for each channel: logarithms of 256 values instead of those of every pixel.
    values = np.arange(256)[:, None]
    densities = np.maximum(0, -np.log10((values + 1) / (glass + 1))).astype(np.float32)
    density = np.stack([densities[tiles[..., channel], channel] for channel in range(3)], axis=-1)
    return density @ unmixing


def spots(hematoxylin: FloatArray, mpp: float) -> NDArray[np.int64]:
    """Find dark round spots of about a nucleus' size.

    Parameters
    ----------
    hematoxylin : float32 (n, h, w)
        Density of the stain.
    mpp : float
        Microns per pixel.

    Returns
    -------
    int64 (k, 3)
        Tile, row and column of each.
    """
    from scipy.ndimage import gaussian_laplace, maximum_filter

    # The Laplacian of a Gaussian answers most to discs whose radius is sqrt(2) times its width.
    sigma = NUCLEUS_RADIUS_UM / np.sqrt(2) / mpp
    response = -(sigma**2) * gaussian_laplace(hematoxylin, sigma, mode="reflect", axes=(1, 2))
    apart = 2 * round(0.8 * NUCLEUS_RADIUS_UM / mpp) + 1
    highest = maximum_filter(response, (1, apart, apart), mode="nearest")
    found = (response == highest) & (response > MIN_CONTRAST)
    # Half a nucleus at an edge is a spot of both tiles, or of none.
    edge = rim(mpp)
    inside = np.zeros_like(found)
    inside[:, edge : found.shape[1] - edge, edge : found.shape[2] - edge] = True
    return np.argwhere(found & inside).astype(np.int64)


def rim(mpp: float) -> int:
    """Pixels along the edges of a tile in which no spots are looked for: a radius of a nucleus."""
    return round(NUCLEUS_RADIUS_UM / mpp)


def describe(stains: FloatArray, mpp: float) -> FloatArray:
    """Describe the colour and texture of each tile in numbers, float32 (n, 6 + 2 x scales).

    Mean and standard deviation of each stain; and of hematoxylin and eosin the contrast at scales of 1 to 8 microns.

    Parameters
    ----------
    stains : float32 (n, h, w, 3)
        As `unmix` gives them.
    mpp : float
        Microns per pixel.
    """
    from scipy.ndimage import gaussian_filter

    columns = [*stains.mean(axis=(1, 2)).T, *stains.std(axis=(1, 2)).T]
    for channel in (0, 1):
        finer = stains[..., channel]
        for scale in _TEXTURE_UM:
            coarser = gaussian_filter(stains[..., channel], (0, scale / mpp, scale / mpp))
            columns.append((finer - coarser).std(axis=(1, 2)))
            finer = coarser
    return np.stack(columns, axis=1).astype(np.float32)


def cluster(descriptors: FloatArray, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Group tiles that look alike, int64 (n,), from 0; the first group has least hematoxylin.

    Each descriptor weighs the same. At most one group for every tile.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    count = min(count, len(np.unique(descriptors, axis=0)))
    scaled = StandardScaler().fit_transform(np.sign(descriptors) * np.sqrt(np.abs(descriptors)))
    group = KMeans(count, n_init=4, random_state=seed).fit_predict(scaled)
    order = np.argsort([descriptors[group == k, 0].mean() for k in range(count)])
    return np.asarray(np.argsort(order)[group], np.int64)
