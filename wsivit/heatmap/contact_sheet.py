"""The strongest and the weakest tiles of a class on one sheet: what the model took for it, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsivit.heatmap.figure import check_picture_path
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.io import replacing

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_COLUMNS, _ROWS, _CELL, _GAP, _HEAD = 6, 2, 256, 12, 56


def draw_contact_sheet(heat: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the twelve highest and the twelve lowest tiles of a class, each with its probability and place.

    The pixels come from the store, or through it from the slide.

    Raises
    ------
    SlideNotFoundError
        If the store has no pixels and the slide is gone.
    """
    check_picture_path(path)
    index = heat.class_index(options.class_name)
    order = heat.predicted[np.argsort(-heat.probabilities[heat.predicted, index], kind="stable")]
    count = min(_COLUMNS * _ROWS, (len(order) + 1) // 2)
    sheet = _Sheet(f"{heat.classes[index]}   ·   {heat.slide_id}   ·   run {heat.run}")
    sheet.block("strongest", heat, index, order[:count])
    sheet.block("weakest", heat, index, order[len(order) - min(count, len(order) - count) :][::-1])
    sheet.save(path)


class _Sheet:
    def __init__(self, title: str) -> None:
        from PIL import Image, ImageDraw

        self._width = _COLUMNS * (_CELL + _GAP) + _GAP
        self._block = _HEAD + _ROWS * (_CELL + _GAP + 30)
        self._image = Image.new("RGB", (self._width, _HEAD + 2 * self._block), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._y = _HEAD
        self._text(_GAP, 14, title, 28)

    def _text(self, x: int, y: int, text: str, size: int) -> None:
        self._draw.text((x, y), text, fill=(26, 26, 26), font=_font(size))

    def block(self, title: str, heat: HeatmapData, index: int, tiles: NDArray[np.int64]) -> None:
        """Add the tiles under a headline, in reading order."""
        from PIL import Image

        self._text(_GAP, self._y + 16, title, 24)
        for place, (tile, pixels) in enumerate(zip(tiles.tolist(), heat.store.read(tiles), strict=True)):
            x = _GAP + place % _COLUMNS * (_CELL + _GAP)
            y = self._y + _HEAD + place // _COLUMNS * (_CELL + _GAP + 30)
            self._image.paste(Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS), (x, y))
            where = f"{heat.store.x0[tile]}, {heat.store.y0[tile]}"
            self._text(x, y + _CELL + 6, f"{heat.probabilities[tile, index]:.3f}   at {where}", 16)
        self._y += self._block

    def save(self, path: Path) -> None:
        """Write the sheet, whole or not at all."""
        from PIL import Image

        kind = Image.registered_extensions()[path.suffix.lower()]
        with replacing(path) as temporary:
            self._image.save(temporary, format=kind)


def _font(size: int) -> FreeTypeFont:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
