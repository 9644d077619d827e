"""Truth about where tissue is, drawn by eye, and how well a mask agrees with it.

``slides.json`` holds, per slide, areas that were drawn by eye on the slide's overview (8 microns per pixel, enlarged
two to eight times, with a printed ruler), before and without looking at any mask: ``tissue``, ``glass`` (large gaps
and holes in it) and ``ignore`` (loose fat, crumbs, clefts too narrow to draw, keratin flakes). The areas are painted
in order over glass. An outline was not drawn closer than `BAND_UM`, so a band of that width on either side of every
border between tissue and glass is not judged either. Drawn by an engineer, not by a pathologist.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

GLASS, TISSUE, IGNORE = 0, 1, 2
RASTER_UM = 8.0
BAND_UM = 32.0
TILE_UM = 128.0  # 256 pixels at 0.5 microns per pixel

Truth = NDArray[np.uint8]


@dataclass(frozen=True)
class DrawnSlide:
    """One slide's truth: its file, level-0 size, scale (assumed where the file has none) and painted areas."""

    file: str
    size: tuple[int, int]
    mpp: float
    mpp_assumed: bool
    layers: list[list]  # type: ignore[type-arg]

    @property
    def raster_um(self) -> float:
        return max(RASTER_UM, self.mpp)

    def raster(self) -> Truth:
        """Paint the truth at `raster_um`; uint8 (h, w)."""
        scale = self.mpp / self.raster_um
        canvas = Image.new("L", (round(self.size[0] * scale), round(self.size[1] * scale)), GLASS)
        draw = ImageDraw.Draw(canvas)
        for kind, *points in self.layers:
            code = {"glass": GLASS, "tissue": TISSUE, "ignore": IGNORE}[kind]
            draw.polygon([(x * scale, y * scale) for x, y in points], fill=code)
        return ignore_band(np.array(canvas), self.raster_um)


def drawn_slides() -> dict[str, DrawnSlide]:
    text = Path(__file__).with_name("slides.json").read_text()
    return {name: DrawnSlide(**entry) for name, entry in json.loads(text).items()}


def ignore_band(truth: Truth, um: float) -> Truth:
    """Set aside what lies within `BAND_UM` of both tissue and glass."""
    radius = max(1.0, BAND_UM / um)
    to_tissue, to_glass = (ndimage.distance_transform_edt(truth != kind) for kind in (TISSUE, GLASS))
    return np.where((to_tissue <= radius) & (to_glass <= radius), IGNORE, truth).astype(np.uint8)


@dataclass(frozen=True)
class Score:
    """Agreement on judged pixels and on judged tiles, each 0 to 1."""

    iou: float
    precision: float
    recall: float
    tissue_tiles_kept: float
    glass_tiles_kept: float


def score(mask: NDArray[np.bool_], truth: Truth, um: float) -> Score:
    """Compare a mask of the whole slide, at any resolution, with a truth raster of `um` microns per pixel."""
    found = sample(mask, truth.shape)
    tissue, glass = truth == TISSUE, truth == GLASS
    hit, false, missed = (found & tissue).sum(), (found & glass).sum(), (~found & tissue).sum()
    side = max(1, round(TILE_UM / um))
    truth_tiles = [tile_means(layer, side) for layer in (tissue, glass)]
    kept = tile_means(found, side) >= 0.5
    tissue_tiles, glass_tiles = truth_tiles[0] >= 0.5, truth_tiles[1] >= 0.9
    return Score(
        iou=ratio(hit, hit + false + missed),
        precision=ratio(hit, hit + false),
        recall=ratio(hit, hit + missed),
        tissue_tiles_kept=ratio((kept & tissue_tiles).sum(), tissue_tiles.sum()),
        glass_tiles_kept=ratio((kept & glass_tiles).sum(), glass_tiles.sum(), empty=0.0),
    )


def ratio(part: int, whole: int, empty: float = 1.0) -> float:
    return float(part / whole) if whole else empty


def sample(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Look a mask up at the pixel centres of another resolution."""
    rows, cols = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def tile_means(layer: NDArray[np.bool_], side: int) -> NDArray[np.float64]:
    height, width = (length // side for length in layer.shape)
    return layer[: height * side, : width * side].reshape(height, side, width, side).mean(axis=(1, 3))
