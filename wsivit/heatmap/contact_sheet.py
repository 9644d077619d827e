"""Sheets of tiles with captions, to see what a model looks at; their pixels come from the store or the slide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsivit.heatmap.colors import INK, QUIET, RGB, WARNING
from wsivit.heatmap.figure import PICTURE_FORMATS, check_picture_path
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.io import label_font, replacing
from wsivit.slide import round_length

_COLUMNS, _TILE, _GAP, _CAPTION, _HEAD = 6, 256, 12, 30, 56
"""Tiles in a row, and sizes in pixels."""
_EACH = 12
"""Strongest and weakest tiles of a class."""


class SheetBlock(NamedTuple):
    """Tiles under one title: uint8 (height, width, 3) each, one after the other, and as many captions."""

    title: str
    tiles: Iterable[RGB]
    captions: Sequence[str]


def draw_contact_sheet(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Draw the twelve highest and the twelve lowest tiles of a class, each with its probability and position.

    Raises
    ------
    SlideNotFoundError
        If the store has no pixels and the slide is gone.
    """
    check_picture_path(path)
    index = data.class_index(options.class_name)
    order = data.predicted[np.argsort(-data.probabilities[data.predicted, index], kind="stable")]
    # With fewer than 24 tiles no tile is on the sheet twice: the highest take the odd one.
    highest = min(_EACH, (len(order) + 1) // 2)
    lowest = min(highest, len(order) - highest)
    blocks = []
    for title, tiles in (("strongest", order[:highest]), ("weakest", order[len(order) - lowest :][::-1])):
        captions = [
            f"{data.probabilities[tile, index]:.3f}   at {data.store.x0[tile]}, {data.store.y0[tile]}"
            for tile in tiles.tolist()
        ]
        blocks.append(SheetBlock(title, data.store.read(tiles), captions))
    heading = f"{data.slide_id}   ·   {data.classes[index]}   ·   run {data.run}"
    side_um = data.grid.tile_size * data.store.parameters.mpp[0]
    draw_sheet(path, heading, blocks, side_um, data.training.warnings)


def draw_sheet(
    path: Path,
    heading: str,
    blocks: Sequence[SheetBlock],
    side_um: float | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Draw blocks of tiles below one another.

    Parameters
    ----------
    path : Path
        The picture, ``.png``, ``.jpg`` or ``.webp``.
    heading : str
    blocks : sequence of SheetBlock
    side_um : float, optional
        Side of a tile in microns, for the scale bar; without one there is none.
    warnings : sequence of str
        Lines above the tiles, in red.
    """
    from PIL import Image, ImageDraw

    heights = [_HEAD + -(-len(block.captions) // _COLUMNS) * (_TILE + _GAP + _CAPTION) for block in blocks]
    head = _HEAD + 30 * len(warnings)
    width = _COLUMNS * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, head + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, size: int, ink: str = INK) -> None:
        draw.text((x, y), text, fill=ink, font=label_font(size))

    write(_GAP, 14, heading, 28)
    for line, warning in enumerate(warnings):
        write(_GAP, _HEAD + 30 * line, f"Caution: {warning}", 20, WARNING)
    top = head
    for block, height in zip(blocks, heights, strict=True):
        write(_GAP, top + 16, block.title, 24)
        for position, (tile, caption) in enumerate(zip(block.tiles, block.captions, strict=True)):
            x = _GAP + position % _COLUMNS * (_TILE + _GAP)
            y = top + _HEAD + position // _COLUMNS * (_TILE + _GAP + _CAPTION)
            sheet.paste(Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.LANCZOS), (x, y))
            write(x, y + _TILE + 6, caption, 16)
        top += height
    if side_um is not None:
        length, label = round_length(side_um / 2)
        right, y = width - _GAP, head + 28
        left = round(right - length / side_um * _TILE)
        draw.rectangle((left, y, right, y + 6), fill=INK)
        draw.text((left - 10, y + 3), label, fill=QUIET, font=label_font(20), anchor="rm")
    with replacing(path) as temporary:
        sheet.save(temporary, format=PICTURE_FORMATS[path.suffix.lower()])
