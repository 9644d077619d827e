"""The pictures of a run: one class, the most probable class or the uncertainty over the slide; a contact sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsivit.heatmap.colors import INK, RGB, UNCERTAINTY_CMAP, alpha_blend, hatch, score_colors
from wsivit.heatmap.figure import PICTURE_FORMATS, HeatmapFigure, SlideBackground, check_picture_path
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import CellStatus, FloatGrid
from wsivit.io import label_font, replacing

_UNCERTAINTY_SCALES = {
    "entropy": (1.0, "entropy of the probabilities, 1 at most"),
    "spread": (0.5, "standard deviation over 8 views"),
}
"""Highest possible value, and label, by `ScoreMap.uncertainty_kind`."""
_COLUMNS, _ROWS, _TILE, _GAP, _CAPTION, _HEAD = 6, 2, 256, 12, 30, 56
"""Of the contact sheet: tiles per block, and sizes in pixels."""


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
    panel = _blend(data, background, field, colors, options.alpha)
    room = 8 + max(len(name) for name in data.classes)
    figure = HeatmapFigure([panel], background, data, "most probable class", room)
    areas = data.scores.cell_areas(data.slide_mpp)
    figure.legend([float(areas[best == k].sum()) for k in range(len(data.classes))])
    figure.save(path, {"class": None})


def draw_contact_sheet(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the twelve highest and the twelve lowest tiles of a class, each with its probability and position.

    The pixels come from the store, or through it from the slide.

    Raises
    ------
    SlideNotFoundError
        If the store has no pixels and the slide is gone.
    """
    from PIL import Image, ImageDraw

    check_picture_path(path)
    index = data.class_index(options.class_name)
    order = data.predicted[np.argsort(-data.probabilities[data.predicted, index], kind="stable")]
    # With fewer than 24 tiles no tile is on the sheet twice: the highest take the odd one.
    highest = min(_COLUMNS * _ROWS, (len(order) + 1) // 2)
    lowest = min(highest, len(order) - highest)
    block = _HEAD + _ROWS * (_TILE + _GAP + _CAPTION)
    sheet = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) + _GAP, _HEAD + 2 * block), "white")
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, size: int) -> None:
        draw.text((x, y), text, fill=INK, font=label_font(size))

    write(_GAP, 14, f"{data.classes[index]}   ·   {data.slide_id}   ·   run {data.run}", 28)
    blocks = (("strongest", order[:highest]), ("weakest", order[len(order) - lowest :][::-1]))
    for top, (title, tiles) in zip((_HEAD, _HEAD + block), blocks, strict=True):
        write(_GAP, top + 16, title, 24)
        for position, (tile, pixels) in enumerate(zip(tiles.tolist(), data.store.read(tiles), strict=True)):
            x = _GAP + position % _COLUMNS * (_TILE + _GAP)
            y = top + _HEAD + position // _COLUMNS * (_TILE + _GAP + _CAPTION)
            sheet.paste(Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS), (x, y))
            where = f"{data.store.x0[tile]}, {data.store.y0[tile]}"
            write(x, y + _TILE + 6, f"{data.probabilities[tile, index]:.3f}   at {where}", 16)
    with replacing(path) as temporary:
        sheet.save(temporary, format=PICTURE_FORMATS[path.suffix.lower()])


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
    return _Band(values, name, data.scale_label(name), options.threshold, {"class": name})


def _draw_band(
    data: HeatmapData, band: _Band, options: HeatmapOptions, path: Path, *, side_by_side: bool = False
) -> None:
    # Before anything is drawn: a wrong ending is known at once.
    check_picture_path(path)
    background = SlideBackground.read(data.store, options.size)
    field = background.sample(data.scores, band.values, options.interpolation)
    colors = score_colors(field, options.cmap, options.vmin, options.vmax)
    panel = _blend(data, background, field, colors, options.alpha)
    figure = HeatmapFigure([background.rgb, panel] if side_by_side else [panel], background, data, band.title)
    if band.contour is not None:
        figure.contour(np.where(background.tissue, field, np.nan), band.contour)
    figure.color_bar(options, band.label, band.contour)
    figure.save(path, band.facts, *([] if band.contour is None else [f"line at {band.contour:g}"]), *data.notes)


def _blend(data: HeatmapData, background: SlideBackground, field: FloatGrid, colors: RGB, alpha: float) -> RGB:
    """Lay colours over tissue that has a value, and hatch unreadable tiles."""
    scored = np.isfinite(field) & background.tissue
    rgb = alpha_blend(background.rgb, background.grey, colors, scored, alpha)
    unreadable = (data.scores.status == CellStatus.UNREADABLE).astype(np.float32)
    return hatch(rgb, background.sample(data.scores, unreadable) > 0)
