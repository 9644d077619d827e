"""The page of a heatmap: the slide at one exact scale as background, with all that is needed to read it.

A PNG records where the slide lies on the page and how many level-0 pixels each pixel covers (text ``wsivit``), so that
a place in the picture can be traced back to the slide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.heatmap.colors import CONTOUR_HALO, FRAME, INK, QUIET, RGB, TISSUE_OUTLINE, WARNING, score_colors
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import CellStatus, FloatGrid, ScoreMap
from wsivit.io import replacing
from wsivit.slide import round_length
from wsivit.store import TileStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def check_picture_path(path: Path) -> None:
    """Raise UsageError unless the path ends like a picture that can be written."""
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"{path}: a picture is written as {', '.join(PICTURE_FORMATS)}")


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


class HeatmapFigure:
    """A page with the slide, once or twice, at a fixed place; what is drawn goes onto the last panel.

    Parameters
    ----------
    panels : sequence of uint8 (height, width, 3)
        The pictures, left to right, of the background's size; copied pixel by pixel.
    background : SlideBackground
    data : HeatmapData
    title : str
        What is drawn.
    room : float
        Width of what stands to the right of the slide, in hundredths of the slide's longer side.
    keys : dict of str to (str, str)
        Colour and hatching by what they mean, for what the colours of scores do not explain.
    """

    def __init__(
        self,
        panels: Sequence[RGB],
        background: SlideBackground,
        data: HeatmapData,
        title: str,
        room: float = 12,
        keys: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ) -> None:
        from matplotlib.figure import Figure

        self._panels, self._background, self._data, self._keys = panels, background, data, keys
        # Everything on the page is measured in hundredths of the slide's longer side: pictures of any size look alike.
        self._unit = u = max(background.size) / 100
        width, height = background.size
        warnings = data.training.warnings
        self._top, gap = round((7 + 2.4 * len(warnings)) * u), round(2 * u)
        self._lefts = [gap + k * (width + gap) for k in range(len(panels))]
        self._size = max(round(70 * u), self._lefts[-1] + width + round(room * u)), self._top + height + round(7.5 * u)
        self._figure: Figure = Figure(figsize=(self._size[0] / 100, self._size[1] / 100), dpi=100, facecolor="none")
        for left in self._lefts:
            self._axes = self._add_axes(left, self._top, width, height)
            self._axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], facecolor="none")
            for spine in self._axes.spines.values():
                spine.set(color=FRAME, linewidth=self._points(0.08))
        self._contour(background.tissue.astype(np.float32), 0.5, TISSUE_OUTLINE, 0.1)
        self._scale_bar()
        self._write(2.9 * u, data.slide_id, 2.6, INK, "bold")
        self._write(5.5 * u, f"{title}   ·   run {data.run}", 1.7, INK)
        for line, warning in enumerate(warnings):
            self._write((7.9 + 2.4 * line) * u, f"Caution: {warning}", 1.6, WARNING, "bold")

    def contour(self, field: FloatGrid, threshold: float) -> None:
        """Trace where a field crosses a threshold."""
        self._contour(field, threshold, CONTOUR_HALO, 0.28)
        self._contour(field, threshold, INK, 0.13)

    def color_bar(self, options: HeatmapOptions, label: str, line: float | None) -> None:
        """Draw the absolute scale next to the slide, as its colours look on tissue, and the keys below it."""
        u, height = self._unit, self._background.size[1]
        keys = 2.6 * u * len(self._keys)
        length = min(max(height - keys - 2 * u, 10 * u), 50 * u)
        top = max(0.0, (height - length - keys) / 2)
        axes = self._right_of_slide(top, 2.2 * u, length)
        levels = np.linspace(options.vmax, options.vmin, 256, dtype=np.float32)
        ramp = score_colors(levels, options.cmap, options.vmin, options.vmax) / 255
        ramp = options.alpha * ramp[:, None] + (1 - options.alpha) * 0.75  # tissue is light grey
        axes.imshow(ramp, aspect="auto", extent=(0, 1, options.vmin, options.vmax))
        if line is not None:
            axes.axhline(line, color=INK, linewidth=self._points(0.13))
        axes.set(xticks=[], ylim=(options.vmin, options.vmax))
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.tick_params(labelsize=self._points(1.5), width=self._points(0.08), length=self._points(0.5), colors=INK)
        axes.set_ylabel(label, fontsize=self._points(1.6), color=INK, labelpad=self._points(0.8), parse_math=False)
        self._draw_keys(top + length + 1.5 * u)

    def legend(self, areas: Sequence[float]) -> None:
        """Name the classes that occur next to the slide, largest first, with their areas in mm²; the keys below."""
        u, total, height = self._unit, sum(areas), self._background.size[1]
        order = sorted((k for k, area in enumerate(areas) if area), key=lambda k: -areas[k])
        room = max(3, int((height - 2.6 * u * len(self._keys)) // (5 * u)))
        shown = order if len(order) <= room else order[: room - 1]
        axes = self._key_axes(0, height)
        y = 1.6 * u
        for k in shown:
            self._key(axes, y, self._data.classes[k], "#{:02x}{:02x}{:02x}".format(*self._data.class_colors[k]))
            share = f"{areas[k]:.3g} mm²\n{_percent(areas[k] / total)}"
            axes.text(2 * u, y + u, share, fontsize=self._points(1.2), color=QUIET, va="top")
            y += 5 * u
        if rest := order[len(shown) :]:
            share = f"and {len(rest)} more\n{_percent(sum(areas[k] for k in rest) / total)}"
            axes.text(2 * u, y, share, fontsize=self._points(1.4), color=QUIET, va="top")
            y += 4 * u
        self._draw_keys(y)

    def _draw_keys(self, top: float) -> None:
        axes = self._key_axes(top, 2.6 * self._unit * max(1, len(self._keys)))
        for line, (name, (color, hatching)) in enumerate(self._keys.items()):
            self._key(axes, (1.3 + 2.6 * line) * self._unit, name, color, hatching)

    def _key_axes(self, top: float, height: float) -> Axes:
        """Axes to the right of the slide, `top` pixels below its upper edge, measured in pixels."""
        width = self._size[0] - self._lefts[-1] - self._background.size[0] - 2 * self._unit
        axes = self._right_of_slide(top, width, height)
        axes.set(xlim=(0, axes.bbox.width), ylim=(height, 0))
        axes.axis("off")
        return axes

    def _key(self, axes: Axes, y: float, name: str, color: str, hatching: str = "") -> None:
        from matplotlib.patches import Rectangle

        u = self._unit
        box = Rectangle((0, y - 0.8 * u), 1.6 * u, 1.6 * u, facecolor=color, edgecolor=QUIET, hatch=hatching)
        box.set(linewidth=self._points(0.08), clip_on=False)
        axes.add_patch(box)
        axes.text(2.2 * u, y, name, fontsize=self._points(1.5), color=INK, va="center", parse_math=False)

    def save(self, path: Path, facts: dict[str, Any], *notes: str) -> None:
        """Write the page atomically: small print with `notes` at its end, and the frame with `facts` in the file."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image, PngImagePlugin

        grid, parameters, scores = self._data.grid, self._data.store.parameters, self._data.scores
        tiles = f"tiles of {grid.tile_size} px at {parameters.mpp[0]:.4g} µm/px"
        words = [tiles + (f", overlap {grid.overlap} px, {scores.window} window" if grid.overlap else "")]
        words.append(f"{len(self._data.predicted):,} of {len(self._data.store):,} tiles predicted")
        if unreadable := int(np.count_nonzero(self._data.store.status == CellStatus.UNREADABLE)):
            words.append(f"{unreadable:,} unreadable (hatched)")
        if missing := int(np.count_nonzero(self._data.store.status == CellStatus.MISSING)):
            words.append(f"{missing:,} never scanned")
        if scores.smoothing0:
            words.append(f"smoothed by {scores.smoothing0 * parameters.slide_mpp[0]:.3g} µm")
        self._write(self._size[1] - 1.7 * self._unit, "   ·   ".join([*words, *notes]), 1.3, QUIET)
        drawn: Any = FigureCanvasAgg(self._figure)
        drawn.draw()
        # Lines and words are laid over the panels instead of drawn with them: matplotlib would resample the pixels.
        page = Image.new("RGBA", self._size, "white")
        for left, panel in zip(self._lefts, self._panels, strict=True):
            page.paste(Image.fromarray(panel), (left, self._top))
        page.alpha_composite(Image.fromarray(np.asarray(drawn.buffer_rgba())))
        frame: dict[str, Any] = {"left": self._lefts[-1], "top": self._top}
        frame |= {"width": self._background.size[0], "height": self._background.size[1]}
        text = PngImagePlugin.PngInfo()
        about = self._data.facts | frame | {"level0_per_pixel": self._background.scale0} | facts
        text.add_itxt("wsivit", json.dumps(about))
        kind = PICTURE_FORMATS[path.suffix.lower()]
        options: dict[str, Any] = {"pnginfo": text} if kind == "PNG" else {"quality": 92}
        with replacing(path) as temporary:
            page.convert("RGB").save(temporary, format=kind, **options)

    def _points(self, units: float) -> float:
        """Hundredths of the slide's longer side in points, as fonts and lines are measured."""
        return units * self._unit * 72 / 100

    def _add_axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add axes at a position in pixels from the top left."""
        page_width, page_height = self._size
        return self._figure.add_axes(
            (x / page_width, 1 - (y + height) / page_height, width / page_width, height / page_height)
        )

    def _right_of_slide(self, top: float, width: float, height: float) -> Axes:
        x = self._lefts[-1] + self._background.size[0] + 2 * self._unit
        return self._add_axes(x, self._top + top, width, height)

    def _write(self, y: float, text: str, size: float, ink: str, weight: str = "normal") -> None:
        """Write a line at the left, `y` pixels from the top."""
        position = self._lefts[0] / self._size[0], 1 - y / self._size[1]
        # Slide and class names are no TeX: parse_math would read a $ as the start of a formula.
        self._figure.text(*position, text, fontsize=self._points(size), color=ink, weight=weight, parse_math=False)

    def _contour(self, field: FloatGrid, level: float, ink: str, width: float) -> None:
        step = -(-max(self._background.size) // 1000)  # a line looks the same, traced on every second pixel
        thinned = field[::step, ::step]
        known = thinned[np.isfinite(thinned)]
        # matplotlib warns of a level that no value reaches.
        if min(thinned.shape) > 1 and known.size and known.min() < level <= known.max():
            y, x = (np.arange(side) * step + 0.5 for side in thinned.shape)
            self._axes.contour(x, y, thinned, [level], colors=ink, linewidths=self._points(width))

    def _scale_bar(self) -> None:
        """Draw a bar of a round length below the slide, where it hides nothing."""
        # Not matplotlib's AnchoredSizeBar: its padding is measured in font sizes, the page in the slide's longer side.
        from matplotlib.patches import Rectangle

        width, height = self._background.size
        um_per_px = self._background.scale0[0] * self._data.slide_mpp[0]
        u = self._unit
        length, label = round_length(max(width / 5, min(width, 9 * u)) * um_per_px)
        axes = self._add_axes(self._lefts[-1], self._top + height, max(width, 20 * u), 3 * u)
        axes.set(xlim=(0, max(width, 20 * u)), ylim=(3 * u, 0))
        axes.axis("off")
        axes.add_patch(Rectangle((0, 1.3 * u), length / um_per_px, 0.5 * u, facecolor=INK))
        axes.text(length / um_per_px + u, 1.55 * u, label, va="center", fontsize=self._points(1.6), color=INK)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1g} %"
