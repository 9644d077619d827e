"""The picture that shows, before anything is trained, which tissue and which tiles will be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor, ImageDraw

from wsivit.io import label_font, replacing
from wsivit.slide import TileGrid, round_length
from wsivit.tiling.annotations import Annotation
from wsivit.tissue import Tissue, TissueClass, absorbance, running_min

# Colours that neither haematoxylin (blue, purple) nor eosin (pink, red) has; they also differ in lightness.
OUTLINE, TILES = ("black", "tissue"), ("#006B3C", "tiles")
ON_BLACK = {"black": "#FFD60A", "#006B3C": "#5CFF9D"}
"""The colours of lines on fluorescence, whose background is black."""
CLASSES = {
    TissueClass.FAT: ("#F0E442", "fat or pale"),
    TissueClass.PEN: ("#E69F00", "pen"),
    TissueClass.FOLD: ("#D55E00", "fold or dark"),
    TissueClass.BLUR: ("#00E0E0", "blurred"),
    TissueClass.DEBRIS: ("#00A050", "dropped: specks, dust"),
}
ANNOTATIONS = ("#0047FF", "#FF2A00", "#FFB000", "#00A3A3", "#8A00E6", "#7A4A00", "#FF00C8", "#5E8C00")
"""Colours of annotated classes, in the order of their names; they are drawn as lines with a white rim."""
OPACITY = 0.55
LONG_SIDE = 1600
RIM, LARGEST_RIM = 24, 0.25
"""Pixels around the slide, so that lines on its edge are seen; up to this part of it for tiles that reach past it."""
RIM_COLOURS = ("#C9C9C9", "#404040")
"""Of the rim, and of that of fluorescence, whose lines are light."""
LINE_HEIGHT, MARGIN, SWATCH = 36, 16, 20
WARNING = "#B00020"
_GAMMA = 0.5


class _Entry(NamedTuple):
    """A line of the legend: a filled area, or a line as a frame."""

    colour: str
    text: str
    filled: bool


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
    title: str = "",
    annotations: Sequence[Annotation] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Draw tissue, what was dropped and why, annotations, and the chosen tiles over a thumbnail, as a PNG.

    Parameters
    ----------
    path : path
        The PNG to write.
    thumbnail : uint8 ndarray, (h, w, 3)
        The complete slide at any scale. Fluorescence, dark on black, is brightened.
    tissue : Tissue
        Its mask and classes may have a scale of their own.
    grid : TileGrid
    col, row : int arrays, (n,)
        The tiles that were chosen.
    slide_size : (int, int)
        Width and height of level 0.
    mpp : (float, float) or None
        Microns per level-0 pixel, for the scale bar; None leaves it out.
    title : str
        Name of the slide, above the picture with the tiles and the share of tissue.
    annotations : sequence of Annotation
        Drawn in the colour of their class.
    warnings : sequence of str
        What is suspicious about the tiles: a red strip above the picture.

    Raises
    ------
    OutputError
        Where the file cannot be written.
    """
    scale = LONG_SIDE / max(slide_size)
    size = max(1, round(slide_size[0] * scale)), max(1, round(slide_size[1] * scale))
    dark = absorbance(thumbnail).dark_field
    # Drawn by Pillow, which is loaded anyway: matplotlib would take longer than tiling does.
    slide = Image.fromarray(_brightened(thumbnail) if dark else thumbnail).resize(size, Image.Resampling.BOX)
    entries = _paint_classes(slide, tissue)
    boxes = np.trunc(grid.boxes0(col, row) * scale).astype(np.int64)
    past = np.maximum(boxes[:, 2:].max(axis=0, initial=0) - size, 0)
    right, bottom = (RIM + min(int(over), round(LARGEST_RIM * side)) for over, side in zip(past, size, strict=True))
    picture = Image.new("RGB", (RIM + size[0] + right, RIM + size[1] + bottom), RIM_COLOURS[dark])
    picture.paste(slide, (RIM, RIM))

    outline, tiles = (ON_BLACK[colour] if dark else colour for colour in (OUTLINE[0], TILES[0]))
    # Small tiles get fainter outlines, or they would hide the tissue.
    opacity = min(1.0, grid.tile_size * grid.downsample_x * scale / 12)
    lines = _count_lines(boxes + RIM, (picture.height, picture.width))
    covered = np.round(255 * (1 - (1 - opacity) ** np.arange(lines.max(initial=0) + 1))).astype(np.uint8)
    picture.paste(ImageColor.getrgb(tiles), mask=Image.fromarray(covered[lines]))
    mask = Image.fromarray(tissue.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    # The rim around the slide is no tissue, so tissue that reaches the slide's edge is outlined there too.
    inside = np.zeros((picture.height, picture.width), np.bool_)
    inside[RIM : RIM + size[1], RIM : RIM + size[0]] = np.asarray(mask) >= 128
    picture.paste(outline, mask=Image.fromarray(inside & ~running_min(inside, 5)))
    of_annotations = _draw_annotations(picture, annotations, scale)
    if mpp is not None:
        _draw_scale_bar(picture, mpp[0] / scale, (RIM + size[0], RIM + size[1]))

    legend = [_Entry(tiles, TILES[1], False), _Entry(outline, OUTLINE[1], False), *entries, *of_annotations]
    heading = f"{title + ': ' if title else ''}{np.size(col):,} tiles of {grid.tile_size} px"
    if mpp is not None:
        heading += f" at {mpp[0] * grid.downsample_x:.4g} µm/px"
    picture = _with_text(picture, [f"{heading}, {tissue.mask.mean():.0%} of the slide is tissue"], "white", "black")
    picture = _with_legend(picture, legend)
    picture = _with_text(picture, [f"WARNING: {warning}" for warning in warnings], WARNING, "white")
    with replacing(Path(path)) as temporary:
        picture.save(temporary, format="PNG", compress_level=1)


def _brightened(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretch a dark picture to the whole range, its weak signals most."""
    low, high = np.percentile(picture.max(axis=2), [5, 99.8])
    stretched = np.clip((picture - low) / max(1.0, high - low), 0, 1) ** _GAMMA
    bright: NDArray[np.uint8] = np.rint(255 * stretched).astype(np.uint8)
    return bright


def _paint_classes(picture: Image.Image, tissue: Tissue) -> list[_Entry]:
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
    return [_Entry(*entry, filled=True) for kind, entry in CLASSES.items() if present[kind]]


def _draw_annotations(picture: Image.Image, annotations: Sequence[Annotation], scale: float) -> list[_Entry]:
    names = sorted({annotation.name for annotation in annotations})
    colours = {name: ANNOTATIONS[number % len(ANNOTATIONS)] for number, name in enumerate(names)}
    draw = ImageDraw.Draw(picture)
    for width in (6, 3):  # all white rims first, so that no region's rim hides another's line
        for annotation in annotations:
            for ring in _rings(annotation):
                points = [(RIM + x * scale, RIM + y * scale) for x, y in ring]
                draw.line(points, "white" if width == 6 else colours[annotation.name], width, joint="curve")
    return [_Entry(colours[name], name, False) for name in names]


def _rings(annotation: Annotation) -> Iterator[list[tuple[float, float]]]:
    for part in shapely.get_parts(annotation.geometry):
        for ring in (part.exterior, *part.interiors):
            yield shapely.get_coordinates(ring).tolist()


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


def _draw_scale_bar(picture: Image.Image, mpp: float, corner: tuple[int, int]) -> None:
    """Draw a bar of about a fifth of the width into the corner of the slide; `mpp` is the picture's."""
    length_um, label = round_length(corner[0] * mpp / 5)
    right, bottom = corner[0] - RIM, corner[1] - RIM
    left, draw = right - length_um / mpp, ImageDraw.Draw(picture)
    draw.rectangle((left - 3, bottom - 8, right + 3, bottom + 3), fill="white")
    draw.rectangle((left, bottom - 5, right, bottom), fill="black")
    middle = ((left + right) / 2, bottom - 12)
    draw.text(middle, label, "black", label_font(24), anchor="mb", stroke_width=3, stroke_fill="white")


def _with_legend(picture: Image.Image, entries: Iterable[_Entry]) -> Image.Image:
    """Add a strip below the picture that names its colours: lines as frames, areas filled; as many rows as it takes."""
    font = label_font(24)
    placed, x, y = list[tuple[float, int, _Entry]](), float(MARGIN), MARGIN
    for entry in entries:
        width = SWATCH + 8 + font.getlength(entry.text)
        if x > MARGIN and x + width > picture.width - MARGIN:
            x, y = MARGIN, y + LINE_HEIGHT
        placed.append((x, y, entry))
        x += width + 24
    extended = Image.new("RGB", (picture.width, picture.height + y + LINE_HEIGHT), "white")
    extended.paste(picture)
    draw = ImageDraw.Draw(extended)
    for left, top, entry in placed:
        box = (left, picture.height + top, left + SWATCH, picture.height + top + SWATCH)
        draw.rectangle(box, fill=entry.colour if entry.filled else None, outline=entry.colour, width=3)
        draw.text((left + SWATCH + 8, box[1] + SWATCH / 2), entry.text, "black", font, anchor="lm")
    return extended


def _with_text(picture: Image.Image, texts: Sequence[str], background: str, colour: str) -> Image.Image:
    """Add a strip above the picture with texts, broken into lines that fit."""
    font = label_font(24)
    per_line = max(20, int((picture.width - 2 * MARGIN) / font.getlength("n")))
    lines = [line for text in texts for line in wrap(text, per_line)]
    if not lines:
        return picture
    height = LINE_HEIGHT * len(lines) + MARGIN
    extended = Image.new("RGB", (picture.width, picture.height + height), background)
    extended.paste(picture, (0, height))
    draw = ImageDraw.Draw(extended)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN / 2 + LINE_HEIGHT * (number + 0.5)), line, colour, font, anchor="lm")
    return extended
