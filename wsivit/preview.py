"""The picture that shows, before anything is trained, which tissue and which tiles will be used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import OutputError
from wsivit.grid import TileGrid
from wsivit.tissue import Tissue, TissueClass, mask_polygons

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with every common colour blindness, and set off from pink and purple stains.
OUTLINE = ("black", "tissue")
TILES = ("#0072B2", "tiles")
CLASSES = {
    TissueClass.FAT: ("#F0E442", "fat or pale"),
    TissueClass.PEN: ("#E69F00", "pen"),
    TissueClass.FOLD: ("#D55E00", "fold or dark"),
    TissueClass.BLUR: ("#56B4E9", "blurred"),
    TissueClass.DEBRIS: ("#009E73", "dropped: specks, dust"),
}
LONG_SIDE_INCHES = 12.0
DPI = 150


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
) -> Path:
    """Draw tissue outline, what was dropped and why, and the chosen tiles over a thumbnail, as a PNG.

    Parameters
    ----------
    path : path
        The PNG to write.
    thumbnail : uint8 ndarray, (h, w, 3)
        The whole slide at any scale.
    tissue : Tissue
        Its mask and classes may have a scale of their own.
    grid : TileGrid
    col, row : int arrays, (n,)
        The tiles that were chosen.
    slide_size : (int, int)
        Width and height of level 0.
    mpp : (float, float) or None
        Microns per level-0 pixel, for the scale bar; None leaves it out.

    Raises
    ------
    OutputError
        Where the file cannot be written.
    """
    figure, axes = _canvas(slide_size)
    axes.imshow(thumbnail, extent=(0, slide_size[0], slide_size[1], 0), interpolation="antialiased")
    shown = _draw_classes(axes, tissue, slide_size)
    axes.add_collection(_tiles(grid, col, row, slide_size))
    _draw_outline(axes, tissue, slide_size)
    if mpp is not None:
        _draw_scale_bar(axes, slide_size, mpp[0])
    _draw_legend(axes, [TILES, OUTLINE, *shown], f"{np.size(col):,} tiles")
    try:
        figure.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    except OSError as error:
        raise OutputError(f"cannot write the preview {path}: {error}") from error
    return Path(path)


def _canvas(slide_size: tuple[int, int]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    inches = np.array(slide_size) * LONG_SIDE_INCHES / max(slide_size)
    figure = Figure(figsize=tuple(np.maximum(inches, 1.0)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, slide_size[0])
    axes.set_ylim(slide_size[1], 0)
    return figure, axes


def _draw_classes(axes: Axes, tissue: Tissue, slide_size: tuple[int, int]) -> list[tuple[str, str]]:
    from matplotlib.colors import to_rgba

    if tissue.classes is None:
        return []
    present = [kind for kind in CLASSES if (tissue.classes == kind).any()]
    table = np.zeros((len(TissueClass), 4))
    for kind in present:
        table[kind] = to_rgba(CLASSES[kind][0], 0.55)
    axes.imshow(table[tissue.classes], extent=(0, slide_size[0], slide_size[1], 0), interpolation="nearest")
    return [CLASSES[kind] for kind in present]


def _tiles(grid: TileGrid, col: ArrayLike, row: ArrayLike, slide_size: tuple[int, int]) -> PolyCollection:
    from matplotlib.collections import PolyCollection

    left, top, right, bottom = grid.boxes0(col, row).T
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1)
    squares = list(corners.reshape(-1, 4, 2))
    points = grid.tile_size * grid.downsample_x * LONG_SIDE_INCHES * 72 / max(slide_size)
    width = min(0.7, points / 12)  # or small tiles would be all line
    return PolyCollection(squares, facecolors="none", edgecolors=TILES[0], linewidths=width)


def _draw_outline(axes: Axes, tissue: Tissue, slide_size: tuple[int, int]) -> None:
    from matplotlib.collections import LineCollection

    height, width = tissue.mask.shape
    outline = mask_polygons(tissue.mask, (slide_size[0] / width, slide_size[1] / height))
    rings = [np.asarray(ring.coords) for part in outline.geoms for ring in (part.exterior, *part.interiors)]
    axes.add_collection(LineCollection(rings, colors=OUTLINE[0], linewidths=0.9))


def _draw_scale_bar(axes: Axes, slide_size: tuple[int, int], mpp: float) -> None:
    from matplotlib.patheffects import withStroke

    length_um = _round_length(slide_size[0] * mpp / 5)
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    right, y = slide_size[0] * 0.97, slide_size[1] * 0.97
    left = right - length_um / mpp
    halo = [withStroke(linewidth=5, foreground="white")]
    axes.plot([left, right], [y, y], color="black", linewidth=3, solid_capstyle="butt", path_effects=halo)
    axes.annotate(
        label,
        ((left + right) / 2, y),
        (0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        path_effects=halo,
    )


def _round_length(about: float) -> float:
    """Round down to 1, 2 or 5 times a power of ten."""
    unit = 10.0 ** math.floor(math.log10(about))
    return max(step * unit for step in (1, 2, 5) if step * unit <= about)


def _draw_legend(axes: Axes, entries: list[tuple[str, str]], title: str) -> None:
    from matplotlib.patches import Patch

    lines = {TILES, OUTLINE}
    handles = [
        Patch(facecolor="none" if entry in lines else entry[0], edgecolor=entry[0], label=entry[1]) for entry in entries
    ]
    axes.legend(handles=handles, title=title, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False)
