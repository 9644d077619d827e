"""The slide at the scale of a picture, and the score map sampled at its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsivit.heatmap.colors import RGB
from wsivit.heatmap.score_map import FloatGrid, ScoreMap
from wsivit.store import TileStore

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class SlideBackground:
    """The complete slide at a picture's scale.

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

    @classmethod
    def read(cls, store: TileStore, size: int) -> Self:
        """Scale the store's thumbnail and tissue mask so that the slide's longer side has `size` pixels."""
        from PIL import Image

        thumbnail, _ = store.thumbnail
        mask, _ = store.tissue_mask
        width0, height0 = store.parameters.slide_size
        scale = size / max(width0, height0)
        shape = max(1, round(width0 * scale)), max(1, round(height0 * scale))
        rgb = np.array(Image.fromarray(thumbnail).resize(shape, Image.Resampling.LANCZOS))
        soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(shape, Image.Resampling.BICUBIC)
        # Rounded sides make the scales along x and y differ slightly: both are kept, or outlines would drift.
        return cls(rgb, np.asarray(soft) >= 128, (width0 / shape[0], height0 / shape[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @cached_property
    def grey(self) -> FloatGrid:
        """Brightness, float32 (h, w), with the tissue's own range stretched so that its structure stays visible."""
        grey: FloatGrid = self.rgb.astype(np.float32) @ _LUMA
        dark, bright = np.percentile(grey[self.tissue], (1, 99)) if self.tissue.any() else (0, 255)
        return np.clip(90 + 150 * (grey - dark) / max(bright - dark, 1), 60, 255)

    def sample(self, scores: ScoreMap, band: FloatGrid, interpolation: str = "nearest") -> FloatGrid:
        """Look up a band of the score map at every pixel's centre; float32 (height, width), NaN outside.

        Linear interpolation runs between the centres of cells that have a score; a pixel whose own cell has none
        stays NaN, so that colours never reach into tissue without predictions.
        """
        # Positions in cells: [i, i + 1) is cell i.
        x, y = (
            np.clip((np.arange(count) + 0.5) * scale / step, 0, np.nextafter(cells, 0))
            for count, scale, step, cells in zip(
                self.size, self.scale0, scores.downsample0, reversed(band.shape), strict=True
            )
        )
        nearest = band[np.ix_(y.astype(np.int64), x.astype(np.int64))]
        if interpolation == "nearest":
            return nearest
        known = np.isfinite(band)
        total = _linear(np.where(known, band, 0).astype(np.float32), y, x)
        weight = _linear(known.astype(np.float32), y, x)
        return np.where(np.isfinite(nearest), total / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def _linear(band: FloatGrid, y: NDArray[np.float64], x: NDArray[np.float64]) -> FloatGrid:
    """Interpolate between cell centres, first along x, then along y."""
    for axis, position in ((1, x), (0, y)):
        last = band.shape[axis] - 1
        below = np.clip(np.floor(position - 0.5), 0, last).astype(np.int64)
        share = np.clip(position - 0.5 - below, 0, 1).astype(np.float32)
        share = share[None, :] if axis else share[:, None]
        above = np.minimum(below + 1, last)
        band = np.take(band, below, axis) * (1 - share) + np.take(band, above, axis) * share
    return band
