"""The heatmap as a picture: scores over the slide's thumbnail, with everything that is needed to read it.

A picture shows the whole slide at one exact scale. Where it lies on the page and how many level-0 pixels each of its
pixels covers is written into a PNG (text ``wsivit``), so that a place in it can be traced back to the slide.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsivit.errors import UsageError
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.overlay import (
    RGB,
    Field,
    SlideBackground,
    alpha_blend,
    best_class,
    hatch,
    sample,
    score_colours,
    slide_background,
    unreadable,
)
from wsivit.heatmap.score_map import CellStatus
from wsivit.io import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_INK, _QUIET, _OUTLINE, _FRAME = "#1a1a1a", "#555555", "#30303a", "#b8b8b8"
_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def check_picture_path(path: Path) -> Path:
    """Return a path; UsageError unless its ending is that of a picture."""
    if path.suffix.lower() not in _KINDS:
        raise UsageError(f"{path}: a picture is written as {', '.join(_KINDS)}")
    return path


def draw_heatmap(heat: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw one class over the slide; of three and more with none chosen, the most probable one."""
    chosen = heat.chosen(options.class_name)
    if len(chosen) > 1:
        draw_argmax(heat, options, path)
    else:
        _draw_class(heat, chosen[0], options, path, side_by_side=False)


def draw_side_by_side(heat: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the plain slide, and one class over it beside that."""
    _draw_class(heat, heat.class_index(options.class_name), options, path, side_by_side=True)


def _draw_class(heat: HeatmapData, index: int, options: HeatmapOptions, path: Path, *, side_by_side: bool) -> None:
    name = heat.classes[index]
    band = _Band(heat.scores.scores[..., index], name, f"probability of {name}", options.threshold, {"class": name})
    _draw_band(heat, band, options, path, side_by_side=side_by_side)


def draw_uncertainty(heat: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw how sure the model is: the spread of the views of each tile where there are several, else the entropy."""
    of, top, label = _UNCERTAINTIES[heat.scores.uncertainty_is]
    default = HeatmapOptions()
    if options.cmap == default.cmap:
        options = replace(options, cmap="viridis")
    if (options.vmin, options.vmax) == (default.vmin, default.vmax):
        options = replace(options, vmax=top)
    band = _Band(heat.scores.uncertainty, f"uncertainty: {of}", label, None, {"class": None, "uncertainty": of})
    _draw_band(heat, band, options, path, side_by_side=False)


_UNCERTAINTIES = {
    "entropy": ("entropy", 1.0, "entropy of the probabilities, 1 at most"),
    "spread": ("spread", 0.5, "standard deviation over 8 views"),
}


class _Band(NamedTuple):
    """What is drawn: values of the cells, their title and unit, where a line goes, what the file says of it."""

    values: Field
    title: str
    label: str
    line: float | None
    facts: dict[str, Any]


def _draw_band(heat: HeatmapData, band: _Band, options: HeatmapOptions, path: Path, *, side_by_side: bool) -> None:
    check_picture_path(path)
    canvas = slide_background(heat, options.size)
    field = sample(heat.scores, band.values, canvas, options.interpolation)
    shown = np.isfinite(field) & canvas.tissue
    rgb = alpha_blend(canvas, score_colours(field, options), shown, options.alpha)
    rgb = hatch(rgb, unreadable(heat.scores, canvas))
    page = HeatmapFigure([canvas.rgb, rgb] if side_by_side else [rgb], canvas, heat)
    page.outline_tissue()
    if band.line is not None:
        page.contour(np.where(shown, field, np.nan), band.line)
    page.scale_bar()
    page.title(band.title)
    page.colour_bar(options, band.label, band.line)
    page.footnote(*([] if band.line is None else [f"line at {band.line:g}"]))
    page.save(path, band.facts)


def draw_argmax(heat: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the most probable class everywhere, with a legend that gives each one's share of the area."""
    check_picture_path(path)
    canvas = slide_background(heat, options.size)
    best = best_class(heat.scores)
    field = sample(heat.scores, best, canvas)
    palette = np.array(heat.colours, np.uint8)
    shown = np.isfinite(field) & canvas.tissue
    rgb = alpha_blend(canvas, palette[np.nan_to_num(field).astype(np.int64)], shown, options.alpha)
    room = 8 + max(len(name) for name in heat.classes)
    page = HeatmapFigure([hatch(rgb, unreadable(heat.scores, canvas))], canvas, heat, room)
    page.outline_tissue()
    page.scale_bar()
    page.title("most probable class")
    areas = heat.scores.cell_areas(heat.slide_mpp)
    page.legend([float(areas[best == k].sum()) for k in range(len(heat.classes))])
    page.footnote()
    page.save(path, {"class": None})


def nice_length(microns: float) -> tuple[float, str]:
    """Return the largest 1, 2 or 5 times a power of ten within a length, and its label in µm or mm."""
    power = 10.0 ** math.floor(math.log10(microns))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= microns)
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"


class HeatmapFigure:
    """A page with the slide, once or twice, at a fixed place; what is drawn goes onto the last one.

    Parameters
    ----------
    panels : sequence of uint8 (height, width, 3)
        The pictures, left to right, of the canvas's size; shown pixel by pixel.
    canvas : Canvas
    heat : HeatmapData
    room : float
        Width of what stands beside the slide, in hundredths of the slide's longer side.
    """

    def __init__(self, panels: Sequence[RGB], canvas: SlideBackground, heat: HeatmapData, room: float = 12) -> None:
        from matplotlib.figure import Figure

        self._canvas, self._heat = canvas, heat
        self._unit = max(canvas.size) / 100
        self._thin = -(-max(canvas.size) // 1000)  # a line looks the same, traced on every second pixel
        width, height = canvas.size
        top, beside, bottom, least = (round(n * self._unit) for n in (7, room, 5, 70))
        gap = round(2 * self._unit)
        self.lefts = [gap + k * (width + gap) for k in range(len(panels))]
        self.top = top
        self._size = max(least, self.lefts[-1] + width + beside), top + height + bottom
        self._panels = panels
        self._figure: Figure = Figure(figsize=(self._size[0] / 100, self._size[1] / 100), dpi=100, facecolor="none")
        for left in self.lefts:
            self._axes = self._panel(left)

    def _panel(self, left: int) -> Axes:
        width, height = self._canvas.size
        axes = self._place(left, self.top, width, height)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], facecolor="none")
        for spine in axes.spines.values():
            spine.set(color=_FRAME, linewidth=self._points(0.08))
        return axes

    def _points(self, units: float) -> float:
        """Hundredths of the slide's longer side in points, as fonts and lines are measured."""
        return units * self._unit * 72 / 100

    def _place(self, x: float, y: float, width: float, height: float) -> Axes:
        page_width, page_height = self._size
        return self._figure.add_axes(
            (x / page_width, 1 - (y + height) / page_height, width / page_width, height / page_height)
        )

    def _write(self, y: float, text: str, size: float, ink: str, weight: str = "normal") -> None:
        """Write a line at the left, `y` pixels from the top."""
        place = self.lefts[0] / self._size[0], 1 - y / self._size[1]
        self._figure.text(*place, text, fontsize=self._points(size), color=ink, weight=weight, parse_math=False)

    def title(self, title: str) -> None:
        """Write the headline, and which slide and run this is."""
        self._write(2.9 * self._unit, title, 2.6, _INK, "bold")
        self._write(5.7 * self._unit, f"{self._heat.slide_id}   ·   run {self._heat.run}", 1.5, _QUIET)

    def footnote(self, *more: str) -> None:
        """Write the small print."""
        grid, parameters, scores = self._heat.grid, self._heat.store.parameters, self._heat.scores
        tiles = f"tiles of {grid.tile_size} px at {parameters.mpp[0]:.4g} µm/px"
        words = [tiles + (f", overlap {grid.overlap} px, {scores.window} window" if grid.overlap else "")]
        words.append(f"{len(self._heat.predicted):,} of {len(self._heat.store):,} tiles predicted")
        if unread := int(np.count_nonzero(self._heat.store.status == CellStatus.UNREADABLE)):
            words.append(f"{unread:,} unreadable (hatched)")
        if missing := int(np.count_nonzero(self._heat.store.status == CellStatus.MISSING)):
            words.append(f"{missing:,} never scanned")
        if scores.smoothing0:
            words.append(f"smoothed by {scores.smoothing0 * parameters.slide_mpp[0]:.3g} µm")
        self._write(self._size[1] - 1.7 * self._unit, "   ·   ".join([*words, *more]), 1.3, _QUIET)

    def outline_tissue(self) -> None:
        """Trace the tissue mask."""
        self._contour(self._canvas.tissue.astype(np.float32), 0.5, _OUTLINE, 0.1)

    def contour(self, field: Field, threshold: float) -> None:
        """Trace where a field crosses a threshold."""
        self._contour(field, threshold, "white", 0.28)
        self._contour(field, threshold, _INK, 0.13)

    def _contour(self, field: Field, level: float, ink: str, width: float) -> None:
        thinned = field[:: self._thin, :: self._thin]
        known = thinned[np.isfinite(thinned)]
        if min(thinned.shape) > 1 and known.size and known.min() < level <= known.max():
            y, x = (np.arange(side) * self._thin + 0.5 for side in thinned.shape)
            self._axes.contour(x, y, thinned, [level], colors=ink, linewidths=self._points(width))

    def colour_bar(self, options: HeatmapOptions, label: str, line: float | None) -> None:
        """Draw the absolute scale beside the slide, as its colours look on tissue."""
        axes = self._beside(2.2 * self._unit, min(self._canvas.size[1], 50 * self._unit))
        ramp = score_colours(np.linspace(options.vmax, options.vmin, 256, dtype=np.float32), options) / 255
        ramp = options.alpha * ramp[:, None] + (1 - options.alpha) * 0.75
        axes.imshow(ramp, aspect="auto", extent=(0, 1, options.vmin, options.vmax))
        if line is not None:
            axes.axhline(line, color=_INK, linewidth=self._points(0.13))
        axes.set(xticks=[], ylim=(options.vmin, options.vmax))
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.tick_params(labelsize=self._points(1.5), width=self._points(0.08), length=self._points(0.5), colors=_INK)
        axes.set_ylabel(label, fontsize=self._points(1.6), color=_INK, labelpad=self._points(0.8), parse_math=False)

    def legend(self, areas: Sequence[float]) -> None:
        """Name the classes beside the slide, with their areas in mm²."""
        u, total = self._unit, sum(areas)
        axes = self._beside(self._size[0] - self.lefts[-1] - self._canvas.size[0] - 2 * u, self._canvas.size[1])
        axes.set(xlim=(0, axes.bbox.width), ylim=(self._canvas.size[1], 0))
        axes.axis("off")
        for k, (name, colour, area) in enumerate(zip(self._heat.classes, self._heat.colours, areas, strict=True)):
            y = 1.6 * u + k * 5 * u
            axes.scatter([0.8 * u], [y], s=self._points(1.5) ** 2, marker="s", color=[np.array(colour) / 255])
            axes.text(2 * u, y, name, fontsize=self._points(1.6), color=_INK, va="center", parse_math=False)
            words = f"{area:.3g} mm²\n{100 * area / total:.0f} %"
            axes.text(2 * u, y + u, words, fontsize=self._points(1.2), color=_QUIET, va="top")

    def _beside(self, width: float, height: float) -> Axes:
        x = self.lefts[-1] + self._canvas.size[0] + 2 * self._unit
        return self._place(x, self.top + (self._canvas.size[1] - height) / 2, width, height)

    def scale_bar(self) -> None:
        """Draw a bar of a round length in the lower left corner."""
        from matplotlib.patches import FancyBboxPatch, Rectangle

        width, height = self._canvas.size
        um_per_px = self._canvas.scale0[0] * self._heat.slide_mpp[0]
        u = self._unit
        length, label = nice_length(max(width / 5, min(width - 5 * u, 9 * u)) * um_per_px)
        long = length / um_per_px
        x, y = 2.5 * u, height - 2.5 * u
        style = f"round,pad=0,rounding_size={0.5 * u}"
        plate = FancyBboxPatch(
            (x - u, y - 3.4 * u), long + 2 * u, 4.4 * u, boxstyle=style, fc="w", ec="none", alpha=0.82
        )
        bar = Rectangle((x, y - 0.5 * u), long, 0.5 * u, facecolor=_INK)
        for patch, order in ((plate, 5), (bar, 6)):
            patch.set_zorder(order)
            self._axes.add_patch(patch)
        self._axes.text(
            x + long / 2, y - u, label, ha="center", va="bottom", fontsize=self._points(1.6), color=_INK, zorder=6
        )

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the page, whole or not at all, with its frame in the file."""
        from PIL import PngImagePlugin

        frame = {"slide_id": self._heat.slide_id, "run": self._heat.run, "left": self.lefts[-1], "top": self.top}
        frame |= {"width": self._canvas.size[0], "height": self._canvas.size[1]}
        note = PngImagePlugin.PngInfo()
        note.add_itxt("wsivit", json.dumps(frame | {"level0_per_pixel": self._canvas.scale0} | facts))
        kind = _KINDS[path.suffix.lower()]
        options: dict[str, Any] = {"pnginfo": note} if kind == "PNG" else {"quality": 92}
        with replacing(path) as temporary:
            self._rendered().save(temporary, format=kind, **options)

    def _rendered(self) -> Image:
        """Lay the drawn lines and words over the panels, whose pixels stay as they are."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        drawn: Any = FigureCanvasAgg(self._figure)
        drawn.draw()
        page = Image.new("RGBA", self._size, "white")
        for left, panel in zip(self.lefts, self._panels, strict=True):
            page.paste(Image.fromarray(panel), (left, self.top))
        page.alpha_composite(Image.fromarray(np.asarray(drawn.buffer_rgba())))
        return page.convert("RGB")
