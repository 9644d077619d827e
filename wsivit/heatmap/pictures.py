"""The pictures of a run: one class, the most probable class or the uncertainty over the slide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsivit.heatmap.colors import CMAP, RGB, UNCERTAINTY_CMAP, alpha_blend, hatch, line_over, score_colors
from wsivit.heatmap.figure import HeatmapFigure, SlideBackground, check_picture_path
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import CellStatus, FloatGrid

_UNCERTAINTY_SCALES = {
    "entropy": (1.0, "entropy of the probabilities, 1 at most"),
    "spread": (0.5, "standard deviation over 8 views"),
}
"""Highest possible value, and label, by `ScoreMap.uncertainty_kind`."""


def draw_heatmap(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw one class over the slide; of three and more with none chosen, the most probable one."""
    selected = data.selected_classes(options.class_name)
    if len(selected) > 1:
        draw_argmax(data, options, path)
    else:
        _draw_band(data, _class_band(data, selected[0], options), options, path)


def draw_side_by_side(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the plain slide and, to its right, one class over it."""
    band = _class_band(data, data.class_index(options.class_name), options)
    _draw_band(data, band, options, path, side_by_side=True)


def draw_uncertainty(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw how sure the model is: the spread of the views of each tile where there are several, else the entropy."""
    kind = data.scores.uncertainty_kind
    highest, label = _UNCERTAINTY_SCALES[kind]
    # The defaults are those of a probability; what the caller chose stays.
    default = HeatmapOptions()
    if options.cmap == default.cmap:
        options = replace(options, cmap=UNCERTAINTY_CMAP)
    if (options.vmin, options.vmax) == (default.vmin, default.vmax):
        options = replace(options, vmax=highest)
    facts = {"class": None, "uncertainty": kind}
    _draw_band(data, _Band(data.scores.uncertainty, f"uncertainty: {kind}", label, None, facts), options, path)


def draw_argmax(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the most probable class everywhere, with a legend that gives each one's share of the area."""
    check_picture_path(path)
    background = SlideBackground.read(data.store, options.size)
    best = data.scores.best_class
    # Nearest: between class 0 and class 2 lies no class 1.
    field = background.sample(data.scores, best)
    colors = np.array(data.class_colors, np.uint8)[np.nan_to_num(field).astype(np.int64)]
    panel = _blend(data, background, field, colors, options)
    cells = data.scores.cell_areas(data.slide_mpp)[np.isfinite(best)]
    areas = np.bincount(best[np.isfinite(best)].astype(np.int64), cells, len(data.classes)).tolist()
    room = 8 + max(len(name) for name, area in zip(data.classes, areas, strict=True) if area)
    figure = HeatmapFigure(
        [panel], background, data, "most probable class", max(room, 14), _keys(data, background, field, options)
    )
    figure.legend(areas)
    figure.save(path, {"class": None})


class _Band(NamedTuple):
    """What is drawn: values of the cells, title, unit, level of the contour line, what the file records of it."""

    values: FloatGrid
    title: str
    label: str
    contour: float | None
    facts: dict[str, Any]


def _class_band(data: HeatmapData, index: int, options: HeatmapOptions) -> _Band:
    name = data.classes[index]
    values = data.scores.scores[..., index]
    label = data.scale_label(name)
    return _Band(values, label, label, options.threshold, {"class": name})


def _draw_band(
    data: HeatmapData, band: _Band, options: HeatmapOptions, path: Path, *, side_by_side: bool = False
) -> None:
    # Before anything is drawn: a wrong ending is known at once.
    check_picture_path(path)
    background = SlideBackground.read(data.store, options.size)
    field = background.sample(data.scores, band.values, options.interpolation)
    colors = score_colors(field, options.cmap, options.vmin, options.vmax)
    panel = _blend(data, background, field, colors, options)
    panels = [background.rgb, panel] if side_by_side else [panel]
    figure = HeatmapFigure(panels, background, data, band.title, 14, _keys(data, background, field, options))
    if band.contour is not None:
        figure.contour(np.where(background.tissue, field, np.nan), band.contour)
    figure.color_bar(options, band.label, band.contour)
    figure.save(path, band.facts, *([] if band.contour is None else [f"line at {band.contour:g}"]), *data.notes)


def draw_thumbnail(data: HeatmapData, size: int, class_name: str | None = None) -> RGB:
    """Lay one class over the slide, whose longer side gets `size` pixels: uint8 (h, w, 3), without words."""
    background = SlideBackground.read(data.store, size)
    field = background.sample(data.scores, data.scores.scores[..., data.class_index(class_name)])
    colors = score_colors(field, CMAP, 0.0, 1.0)
    return alpha_blend(background.rgb, background.grey, colors, np.isfinite(field), 0.5)


def _blend(
    data: HeatmapData, background: SlideBackground, field: FloatGrid, colors: RGB, options: HeatmapOptions
) -> RGB:
    """Lay colours over tissue that has a value, hatch unreadable tiles, and on request those that were learned from."""
    scored = np.isfinite(field) & background.tissue
    rgb = alpha_blend(background.rgb, background.grey, colors, scored, options.alpha)
    unreadable = (data.scores.status == CellStatus.UNREADABLE).astype(np.float32)
    rgb = hatch(rgb, background.sample(data.scores, unreadable) > 0)
    if options.hatch_trained:
        rgb = line_over(rgb, scored & (background.sample(data.scores, data.trained_cells.astype(np.float32)) > 0))
    return rgb


def _keys(
    data: HeatmapData, background: SlideBackground, field: FloatGrid, options: HeatmapOptions
) -> dict[str, tuple[str, str]]:
    """Colour and hatching of what has no score, or is lined: only of what the picture shows."""
    keys = {}
    unreadable = (data.scores.status == CellStatus.UNREADABLE).astype(np.float32)
    unscored = background.tissue & ~np.isfinite(field) & ~(background.sample(data.scores, unreadable) > 0)
    if unscored.any():
        color = np.median(background.rgb[unscored], axis=0).astype(int)
        keys["not scored"] = "#{:02x}{:02x}{:02x}".format(*color), ""
    if unreadable.any():
        keys["unreadable"] = "#e8e8e8", "/" * 5
    if options.hatch_trained and data.training.tiles.any():
        keys["trained on"] = "white", "\\" * 3
    return keys
