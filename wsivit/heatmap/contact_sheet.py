"""The highest and the lowest tiles of a class on one sheet: what the model takes for it, and what not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsivit.heatmap.colors import INK
from wsivit.heatmap.figure import PICTURE_FORMATS, check_picture_path
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.io import label_font, replacing

_COLUMNS, _ROWS, _TILE, _GAP, _CAPTION, _HEAD = 6, 2, 256, 12, 30, 56


def draw_contact_sheet(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the twelve highest and the twelve lowest tiles of a class, each with its probability and place.

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
        for place, (tile, pixels) in enumerate(zip(tiles.tolist(), data.store.read(tiles), strict=True)):
            x = _GAP + place % _COLUMNS * (_TILE + _GAP)
            y = top + _HEAD + place // _COLUMNS * (_TILE + _GAP + _CAPTION)
            sheet.paste(Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS), (x, y))
            where = f"{data.store.x0[tile]}, {data.store.y0[tile]}"
            write(x, y + _TILE + 6, f"{data.probabilities[tile, index]:.3f}   at {where}", 16)
    with replacing(path) as temporary:
        sheet.save(temporary, format=PICTURE_FORMATS[path.suffix.lower()])
