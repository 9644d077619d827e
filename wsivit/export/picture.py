"""The heatmap as a picture: scores over the slide's thumbnail, with everything that is needed to read it.

A picture shows the whole slide at one exact scale; where it lies on the page and how many level-0 pixels each of its
pixels covers is written into the file (PNG text ``wsivit``), so that a place in it can be traced back.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsivit.aggregate import CellStatus, ScoreGrid
from wsivit.export.files import replacing
from wsivit.export.source import Heat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RGB = NDArray[np.uint8]

_INK = "#1a1a1a"
_OUTLINE = "#30303a"


@dataclass(frozen=True)
class Style:
    """How a picture is drawn.

    Attributes
    ----------
    size : int
        Longer side of the slide in the picture, in pixels.
    cmap : str
        A colormap of matplotlib.
    alpha : float
        Opacity of the colours.
    vmin, vmax : float
        Scores at the ends of the colormap.
    threshold : float
        Where the contour line runs.
    interpolation : {"linear", "nearest"}
        Between the centres of cells.
    """

    size: int = 1800
    cmap: str = "coolwarm"
    alpha: float = 0.5
    vmin: float = 0.0
    vmax: float = 1.0
    threshold: float = 0.5
    interpolation: Literal["linear", "nearest"] = "linear"


@dataclass(frozen=True)
class Canvas:
    """The slide at the picture's scale.

    Attributes
    ----------
    rgb : uint8 (height, width, 3)
    tissue : bool (height, width)
    scale0 : (float, float)
        Level-0 pixels per pixel of the picture, ``x, y``.
    """

    rgb: RGB
    tissue: NDArray[np.bool_]
    scale0: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.rgb.shape[1], self.rgb.shape[0]


def draw_class(heat: Heat, class_index: int, style: Style, path: Path) -> Path:
    """Draw the scores of one class over the slide.

    Parameters
    ----------
    heat : Heat
    class_index : int
    style : Style
    path : Path
        ``.png``, ``.jpg`` or ``.webp``.

    Returns
    -------
    Path
        `path`.
    """
    canvas = slide_canvas(heat, style.size)
    field = sample(heat.scores, heat.scores.scores[..., class_index], canvas, style.interpolation)
    rgb = colour(canvas, field, style)
    hatch(rgb, unreadable(heat.scores, canvas))
    page = _Page(rgb, canvas, heat)
    page.outline_tissue()
    page.contour(field, style.threshold)
    page.scale_bar()
    page.title(f"{heat.classes[class_index]}", f"{heat.slide_id}   ·   run {heat.run}")
    page.colour_bar(style, f"probability of {heat.classes[class_index]}")
    page.footnote(_footnote(heat, style))
    page.save(path, {"class": heat.classes[class_index]})
    return path


def slide_canvas(heat: Heat, size: int) -> Canvas:
    """Bring the store's thumbnail and tissue mask to the picture's scale."""
    from PIL import Image

    thumbnail, _ = heat.store.thumbnail
    mask, _ = heat.store.tissue_mask
    width0, height0 = heat.store.parameters.slide_size
    scale = size / max(width0, height0)
    shape = max(1, round(width0 * scale)), max(1, round(height0 * scale))
    rgb = np.asarray(Image.fromarray(thumbnail).convert("RGB").resize(shape, Image.Resampling.LANCZOS))
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(shape, Image.Resampling.BICUBIC)
    return Canvas(rgb.copy(), np.asarray(soft) >= 128, (width0 / shape[0], height0 / shape[1]))


def sample(
    scores: ScoreGrid, band: NDArray[np.float32], canvas: Canvas, interpolation: str = "nearest"
) -> NDArray[np.float32]:
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


def _linear(band: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Interpolate between cell centres, first along x, then along y."""
    for axis, position in ((1, x), (0, y)):
        last = band.shape[axis] - 1
        below = np.clip(np.floor(position - 0.5), 0, last).astype(np.int64)
        share = np.clip(position - 0.5 - below, 0, 1).astype(np.float32)
        share = share[None, :] if axis else share[:, None]
        above = np.minimum(below + 1, last)
        band = np.take(band, below, axis) * (1 - share) + np.take(band, above, axis) * share
    return band


def unreadable(scores: ScoreGrid, canvas: Canvas) -> NDArray[np.bool_]:
    """Which pixels lie on a tile that could not be read; bool (height, width)."""
    band = (scores.status == CellStatus.UNREADABLE).astype(np.float32)
    return sample(scores, band, canvas) > 0


def colour(canvas: Canvas, field: NDArray[np.float32], style: Style) -> RGB:
    """Lay the colours of a field over the tissue; the rest of the slide stays as it is; uint8 (h, w, 3).

    Under the colours the tissue is shown by its brightness alone, so that a hue always means a score.
    """
    from matplotlib import colormaps

    shown = np.isfinite(field) & canvas.tissue
    level = np.clip((field[shown] - style.vmin) / (style.vmax - style.vmin), 0, 1)
    hue = colormaps[style.cmap](level)[:, :3].astype(np.float32) * 255
    rgb = canvas.rgb.copy()
    grey = rgb[shown].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    rgb[shown] = np.clip(style.alpha * hue + (1 - style.alpha) * grey[:, None], 0, 255).round()
    return rgb


def hatch(rgb: RGB, where: NDArray[np.bool_]) -> None:
    """Draw diagonal lines, in place."""
    if not where.any():
        return
    y, x = np.nonzero(where)
    rgb[y, x] = rgb[y, x] // 2 + 112
    period = max(8, rgb.shape[1] // 150)
    line = (x + y) % period < max(2, period // 5)
    rgb[y[line], x[line]] = (60, 60, 60)


def nice_length(microns: float) -> tuple[float, str]:
    """Return the largest 1, 2 or 5 times a power of ten below a length, and its label in µm or mm."""
    power = 10.0 ** math.floor(math.log10(microns))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= microns)
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"


def _footnote(heat: Heat, style: Style) -> str:
    grid, parameters = heat.grid, heat.store.parameters
    tile = f"tiles of {grid.tile_size} px at {parameters.mpp[0]:.4g} µm/px"
    words = [tile + (f", overlap {grid.overlap} px, {heat.scores.window} window" if grid.overlap else "")]
    words.append(f"{len(heat.predicted):,} of {len(heat.store):,} tiles predicted")
    unread = int(np.count_nonzero(heat.store.status == 2))
    if unread:
        words.append(f"{unread:,} unreadable (hatched)")
    if heat.scores.smoothing0:
        words.append(f"smoothed by {heat.scores.smoothing0 * parameters.slide_mpp[0]:.3g} µm")
    words.append(f"line at {style.threshold:g}")
    return "   ·   ".join(words)


class _Page:
    """A figure in pixels, with the slide at a fixed place on it."""

    def __init__(self, rgb: RGB, canvas: Canvas, heat: Heat) -> None:
        from matplotlib.figure import Figure

        self.canvas, self.heat = canvas, heat
        self.unit = max(canvas.size) / 100
        width, height = canvas.size
        self.left, self.top = round(2 * self.unit), round(7 * self.unit)
        right, bottom = round(12 * self.unit), round(5 * self.unit)
        self.figure: Figure = Figure(
            figsize=((self.left + width + right) / 100, (self.top + height + bottom) / 100), dpi=100, facecolor="white"
        )
        self.figure.figimage(rgb, xo=self.left, yo=bottom, origin="upper", zorder=-1)
        self.size = self.left + width + right, self.top + height + bottom
        self.axes = self._place(self.left, self.top, width, height)
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.patch.set_alpha(0)
        self.axes.set(xticks=[], yticks=[])
        for spine in self.axes.spines.values():
            spine.set(color="#b8b8b8", linewidth=self.points(0.08))

    def points(self, units: float) -> float:
        """Hundredths of the slide's longer side in points, as fonts and lines are measured."""
        return units * self.unit * 72 / 100

    def _place(self, x: float, y: float, width: float, height: float) -> Axes:
        page_width, page_height = self.size
        box = x / page_width, 1 - (y + height) / page_height, width / page_width, height / page_height
        return self.figure.add_axes(box)

    def outline_tissue(self) -> None:
        """Trace the tissue mask."""
        self._contour(self.canvas.tissue.astype(np.float32), 0.5, _OUTLINE, 0.1)

    def contour(self, field: NDArray[np.float32], threshold: float) -> None:
        """Trace where the field crosses a threshold inside the tissue."""
        inside = np.where(self.canvas.tissue, field, np.nan)
        self._contour(inside, threshold, "white", 0.28)
        self._contour(inside, threshold, _INK, 0.13)

    def _contour(self, band: NDArray[np.float32], level: float, ink: str, width: float) -> None:
        known = band[np.isfinite(band)]
        if known.size and known.min() < level <= known.max():
            x, y = np.arange(band.shape[1]) + 0.5, np.arange(band.shape[0]) + 0.5
            self.axes.contour(x, y, band, [level], colors=ink, linewidths=self.points(width))

    def title(self, title: str, subtitle: str) -> None:
        """Write the headline."""
        x = self.left / self.size[0]
        write = self.figure.text
        write(x, 1 - 2.9 * self.unit / self.size[1], title, fontsize=self.points(2.6), weight="bold", color=_INK)
        write(x, 1 - 5.7 * self.unit / self.size[1], subtitle, fontsize=self.points(1.5), color="#555555")

    def footnote(self, text: str) -> None:
        """Write the small print."""
        x, y = self.left / self.size[0], 1.7 * self.unit / self.size[1]
        self.figure.text(x, y, text, fontsize=self.points(1.3), color="#555555")

    def colour_bar(self, style: Style, label: str) -> None:
        """Draw the absolute scale beside the slide, in the colours that lie on it."""
        from matplotlib import colormaps

        width, height = self.canvas.size
        tall = min(height, 50 * self.unit)
        axes = self._place(self.left + width + 2 * self.unit, self.top + (height - tall) / 2, 2.2 * self.unit, tall)
        ramp = colormaps[style.cmap](np.linspace(1, 0, 256))[:, None, :3]
        ramp = style.alpha * ramp + (1 - style.alpha) * 0.75
        axes.imshow(ramp, aspect="auto", extent=(0, 1, style.vmin, style.vmax))
        axes.axhline(style.threshold, color=_INK, linewidth=self.points(0.13))
        axes.set(xticks=[])
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.tick_params(labelsize=self.points(1.5), width=self.points(0.08), length=self.points(0.5), colors=_INK)
        axes.set_ylabel(label, fontsize=self.points(1.6), color=_INK, labelpad=self.points(0.8))

    def scale_bar(self) -> None:
        """Draw a bar of a round length in the lower left corner."""
        from matplotlib.patches import FancyBboxPatch, Rectangle

        width, height = self.canvas.size
        um_per_px = self.canvas.scale0[0] * self.heat.slide_mpp[0]
        length, label = nice_length(width * um_per_px / 5)
        long, u = length / um_per_px, self.unit
        x, y = 2.5 * u, height - 2.5 * u
        plate = FancyBboxPatch(
            (x - u, y - 3.4 * u), long + 2 * u, 4.4 * u, boxstyle=f"round,pad=0,rounding_size={0.5 * u}",
            facecolor="white", edgecolor="none", alpha=0.82, zorder=5,
        )  # fmt: skip
        self.axes.add_patch(plate)
        self.axes.add_patch(Rectangle((x, y - 0.5 * u), long, 0.5 * u, facecolor=_INK, zorder=6))
        self.axes.text(
            x + long / 2, y - 1.0 * u, label, ha="center", va="bottom", fontsize=self.points(1.6), color=_INK, zorder=6
        )

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the picture, whole or not at all, with its frame in the file."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image, PngImagePlugin

        agg: Any = FigureCanvasAgg(self.figure)
        agg.draw()
        image = Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3])
        frame = {"slide_id": self.heat.slide_id, "run": self.heat.run, "left": self.left, "top": self.top}
        frame |= {"width": self.canvas.size[0], "height": self.canvas.size[1], "level0_per_pixel": self.canvas.scale0}
        note = PngImagePlugin.PngInfo()
        note.add_itxt("wsivit", json.dumps(frame | facts))
        options: dict[str, Any] = {"pnginfo": note} if path.suffix.lower() == ".png" else {"quality": 92}
        with replacing(path) as temporary:
            image.save(temporary, format=Image.registered_extensions()[path.suffix.lower()], **options)
