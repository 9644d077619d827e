"""The slide at the scale of a picture, and scores as colours on it. Pixels only, no page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import CellStatus, ScoreMap

RGB = NDArray[np.uint8]
Field = NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class SlideBackground:
    """The whole slide at the picture's scale.

    Attributes
    ----------
    rgb : uint8 (height, width, 3)
    tissue : bool (height, width)
    scale0 : (float, float)
        Level-0 pixels per pixel of the picture, ``x, y``; exact.
    """

    rgb: RGB
    tissue: NDArray[np.bool_]
    scale0: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @cached_property
    def grey(self) -> Field:
        """Brightness with the tissue's own range spread out, so that its structure shows through; float32 (h, w)."""
        grey: Field = self.rgb.astype(np.float32) @ _LUMA
        dark, bright = np.percentile(grey[self.tissue], (1, 99)) if self.tissue.any() else (0, 255)
        spread = 90 + 150 * (grey - dark) / max(bright - dark, 1)
        return np.clip(spread, 60, 255)


def slide_background(heat: HeatmapData, size: int) -> SlideBackground:
    """Bring the store's thumbnail and tissue mask to the picture's scale."""
    from PIL import Image

    thumbnail, _ = heat.store.thumbnail
    mask, _ = heat.store.tissue_mask
    width0, height0 = heat.store.parameters.slide_size
    scale = size / max(width0, height0)
    shape = max(1, round(width0 * scale)), max(1, round(height0 * scale))
    rgb = np.array(Image.fromarray(thumbnail).resize(shape, Image.Resampling.LANCZOS))
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(shape, Image.Resampling.BICUBIC)
    return SlideBackground(rgb, np.asarray(soft) >= 128, (width0 / shape[0], height0 / shape[1]))


def sample(scores: ScoreMap, band: Field, canvas: SlideBackground, interpolation: str = "nearest") -> Field:
    """Look up a band of the score grid at every pixel's centre; float32 (height, width), NaN outside.

    Linear interpolation runs between the centres of cells, over those that have a score; a pixel whose own cell has
    none stays NaN.
    """
    width, height = canvas.size
    x = _cell_positions(width, canvas.scale0[0], scores.origin0[0], scores.downsample0[0], band.shape[1])
    y = _cell_positions(height, canvas.scale0[1], scores.origin0[1], scores.downsample0[1], band.shape[0])
    nearest = band[np.ix_(y.astype(np.int64), x.astype(np.int64))]
    if interpolation == "nearest":
        return nearest
    known = np.isfinite(band)
    total = _linear(np.where(known, band, 0).astype(np.float32), y, x)
    weight = _linear(known.astype(np.float32), y, x)
    return np.where(np.isfinite(nearest), total / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def _cell_positions(count: int, scale0: float, origin0: float, downsample0: float, cells: int) -> NDArray[np.float64]:
    """Positions of pixel centres in cells: ``[i, i + 1)`` is cell ``i``."""
    position = ((np.arange(count) + 0.5) * scale0 - origin0) / downsample0
    return np.clip(position, 0, np.nextafter(cells, 0))


def _linear(band: Field, y: NDArray[np.float64], x: NDArray[np.float64]) -> Field:
    """Interpolate between cell centres, first along x, then along y."""
    for axis, position in ((1, x), (0, y)):
        last = band.shape[axis] - 1
        below = np.clip(np.floor(position - 0.5), 0, last).astype(np.int64)
        share = np.clip(position - 0.5 - below, 0, 1).astype(np.float32)
        share = share[None, :] if axis else share[:, None]
        above = np.minimum(below + 1, last)
        band = np.take(band, below, axis) * (1 - share) + np.take(band, above, axis) * share
    return band


def best_class(scores: ScoreMap) -> Field:
    """Index of the highest class of each cell, float32 (h, w); NaN where nothing was predicted."""
    known = scores.coverage > 0
    best = np.where(known[..., None], scores.scores, 0).argmax(axis=-1)
    return np.where(known, best, np.nan).astype(np.float32)


def score_colours(field: Field, options: HeatmapOptions) -> RGB:
    """Colours of scores on the absolute scale; uint8 (…, 3), undefined where NaN.

    Raises
    ------
    UsageError
        For a colormap that matplotlib does not have.
    """
    from matplotlib import colormaps

    if options.cmap not in colormaps:
        raise UsageError(f"matplotlib has no colormap {options.cmap!r}; coolwarm, viridis and magma are some it has")
    level = np.clip((field - options.vmin) / (options.vmax - options.vmin), 0, 1)
    return np.asarray(colormaps[options.cmap](np.nan_to_num(level), bytes=True)[..., :3])


def alpha_blend(canvas: SlideBackground, colours: RGB, where: NDArray[np.bool_], alpha: float) -> RGB:
    """Lay colours over the tissue `where` they are known; the rest of the slide stays as it is.

    Under them the tissue is shown by its brightness alone, so that a hue always means a score.
    """
    mixed = colours.astype(np.float32)
    mixed *= alpha
    mixed += (1 - alpha) * canvas.grey[..., None]
    np.rint(mixed, out=mixed)
    return np.where(where[..., None], mixed.astype(np.uint8), canvas.rgb)


def unreadable(scores: ScoreMap, canvas: SlideBackground) -> NDArray[np.bool_]:
    """Which pixels lie on a tile that could not be read; bool (height, width)."""
    band = (scores.status == CellStatus.UNREADABLE).astype(np.float32)
    return sample(scores, band, canvas) > 0


def hatch(rgb: RGB, where: NDArray[np.bool_]) -> RGB:
    """Return the picture with diagonal lines on a pale ground."""
    y, x = np.nonzero(where)
    hatched = rgb.copy()
    hatched[y, x] = rgb[y, x] // 2 + 112
    period = max(8, rgb.shape[1] // 150)
    line = (x + y) % period < max(2, period // 5)
    hatched[y[line], x[line]] = (60, 60, 60)
    return hatched
