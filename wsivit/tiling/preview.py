"""The picture that shows, before anything is trained, which tissue and which tiles will be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor, ImageDraw

from wsivit.io import label_font, replacing
from wsivit.slide import TileGrid, round_length
from wsivit.tissue import Tissue, TissueClass, running_min

# Okabe and Ito's colours: distinct with every common colour blindness, and from pink and purple stains.
OUTLINE = ("black", "tissue")
TILES = ("#0072B2", "tiles")
CLASSES = {
    TissueClass.FAT: ("#F0E442", "fat or pale"),
    TissueClass.PEN: ("#E69F00", "pen"),
    TissueClass.FOLD: ("#D55E00", "fold or dark"),
    TissueClass.BLUR: ("#56B4E9", "blurred"),
    TissueClass.DEBRIS: ("#009E73", "dropped: specks, dust"),
}
OPACITY = 0.55
LONG_SIDE = 1600
LEGEND_HEIGHT = 64
WARNING, WARNING_LINE = "#B00020", 32


def write_preview(
    path: str | Path,
    thumbnail: NDArray[np.uint8],
    tissue: Tissue,
    grid: TileGrid,
    col: ArrayLike,
    row: ArrayLike,
    *,
    slide_size: tuple[int, int],
    mpp: tuple[float, float] | None,
    warnings: Sequence[str] = (),
) -> None:
    """Draw tissue outline, what was dropped and why, and the chosen tiles over a thumbnail, as a PNG.

    Parameters
    ----------
    path : path
        The PNG to write.
    thumbnail : uint8 ndarray, (h, w, 3)
        The complete slide at any scale.
    tissue : Tissue
        Its mask and classes may have a scale of their own.
    grid : TileGrid
    col, row : int arrays, (n,)
        The tiles that were chosen.
    slide_size : (int, int)
        Width and height of level 0.
    mpp : (float, float) or None
        Microns per level-0 pixel, for the scale bar; None leaves it out.
    warnings : sequence of str
        What is suspicious about the tiles: a red strip above the picture.

    Raises
    ------
    OutputError
        Where the file cannot be written.
    """
    scale = LONG_SIDE / max(slide_size)
    size = max(1, round(slide_size[0] * scale)), max(1, round(slide_size[1] * scale))
    # Drawn by Pillow, which is loaded anyway: matplotlib would take longer than tiling does.
    picture = Image.fromarray(thumbnail).resize(size, Image.Resampling.BOX)
    classes = _paint_classes(picture, tissue)
    # Small tiles get fainter outlines, or they would hide the tissue.
    opacity = min(1.0, grid.tile_size * grid.downsample_x * scale / 12)
    lines = _count_lines(np.trunc(grid.boxes0(col, row) * scale).astype(np.int64), (picture.height, picture.width))
    covered = np.round(255 * (1 - (1 - opacity) ** np.arange(lines.max(initial=0) + 1))).astype(np.uint8)
    picture.paste(ImageColor.getrgb(TILES[0]), mask=Image.fromarray(covered[lines]))
    mask = Image.fromarray(tissue.mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BILINEAR)
    inside = np.asarray(mask) >= 128
    picture.paste(OUTLINE[0], mask=Image.fromarray(inside & ~running_min(inside, 5)))
    if mpp is not None:
        _draw_scale_bar(picture, mpp[0] / scale)
    picture = _with_legend(picture, [TILES, OUTLINE, *classes], f"{np.size(col):,} tiles")
    with replacing(Path(path)) as temporary:
        _with_warnings(picture, warnings).save(temporary, format="PNG", compress_level=1)


def _paint_classes(picture: Image.Image, tissue: Tissue) -> list[tuple[str, str]]:
    if tissue.classes is None:
        return []
    present = np.bincount(tissue.classes.ravel(), minlength=len(TissueClass)) > 0
    colours, opacity = np.zeros((len(TissueClass), 3), np.uint8), np.zeros(len(TissueClass), np.uint8)
    for kind, (colour, _) in CLASSES.items():
        colours[kind], opacity[kind] = ImageColor.getrgb(colour)[:3], round(255 * OPACITY)
    areas, where = (
        Image.fromarray(table[tissue.classes]).resize(picture.size, Image.Resampling.NEAREST)
        for table in (colours, opacity)
    )
    picture.paste(areas, mask=where)
    return [entry for kind, entry in CLASSES.items() if present[kind]]


def _count_lines(boxes: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int16]:
    """Count the boxes, (n, 4), whose outline each pixel is on; drawing tens of thousands one by one takes long."""
    height, width = shape
    left, top, right, bottom = np.clip(boxes, 0, [width, height, width, height]).T
    # +1 where a line begins and -1 behind its end, summed up along it; one spare row and column for ends at the edge.
    along, down = np.zeros((2, height + 1, width + 2), np.int16)
    for y in (top, bottom):
        np.add.at(along, (y, left), 1)
        np.add.at(along, (y, right + 1), -1)
    for x in (left, right):
        np.add.at(down, (np.minimum(top + 1, bottom), x), 1)
        np.add.at(down, (bottom, x), -1)
    lines = np.cumsum(along, axis=1, dtype=np.int16) + np.cumsum(down, axis=0, dtype=np.int16)
    counted: NDArray[np.int16] = lines[:height, :width]
    return counted


def _draw_scale_bar(picture: Image.Image, mpp: float) -> None:
    """Draw a bar of about a fifth of the width; `mpp` is the picture's."""
    length_um, label = round_length(picture.width * mpp / 5)
    right, bottom = picture.width * 0.97, picture.height * 0.97
    left, draw = right - length_um / mpp, ImageDraw.Draw(picture)
    draw.rectangle((left - 3, bottom - 8, right + 3, bottom + 3), fill="white")
    draw.rectangle((left, bottom - 5, right, bottom), fill="black")
    middle = ((left + right) / 2, bottom - 12)
    draw.text(middle, label, "black", label_font(24), anchor="mb", stroke_width=3, stroke_fill="white")


def _with_legend(picture: Image.Image, entries: list[tuple[str, str]], title: str) -> Image.Image:
    """Add a strip below the picture that names its colours: lines as frames, areas filled."""
    font, draw = label_font(24), ImageDraw.Draw(picture)
    widths = [draw.textlength(text, font) for _, text in entries]
    needed = round(draw.textlength(title, font) + sum(widths) + 64 * len(entries) + 32)
    extended = Image.new("RGB", (max(picture.width, needed), picture.height + LEGEND_HEIGHT), "white")
    extended.paste(picture, ((extended.width - picture.width) // 2, 0))
    draw, middle = ImageDraw.Draw(extended), picture.height + LEGEND_HEIGHT / 2
    draw.text((16, middle), title, "black", font, anchor="lm")
    x = 16 + draw.textlength(title, font) + 32
    for entry, width in zip(entries, widths, strict=True):
        fill = None if entry in (TILES, OUTLINE) else entry[0]
        draw.rectangle((x, middle - 10, x + 20, middle + 10), fill=fill, outline=entry[0], width=3)
        draw.text((x + 28, middle), entry[1], "black", font, anchor="lm")
        x += 64 + width
    return extended


def _with_warnings(picture: Image.Image, warnings: Sequence[str]) -> Image.Image:
    """Add a red strip above the picture with what is suspicious about the tiles."""
    font = label_font(24)
    per_line = max(20, int((picture.width - 32) / font.getlength("n")))
    lines = [line for warning in warnings for line in wrap(f"WARNING: {warning}", per_line)]
    if not lines:
        return picture
    height = WARNING_LINE * len(lines) + 16
    extended = Image.new("RGB", (picture.width, picture.height + height), WARNING)
    extended.paste(picture, (0, height))
    draw = ImageDraw.Draw(extended)
    for number, line in enumerate(lines):
        draw.text((16, 8 + WARNING_LINE * (number + 0.5)), line, "white", font, anchor="lm")
    return extended
