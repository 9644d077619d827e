"""Predictions as something to look at: pictures over the slide, and data for QuPath and image tools."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from wsivit.aggregate import SlideScore, Window, check_threshold, slide_scores
from wsivit.errors import UsageError
from wsivit.export.source import Heat, read_heat
from wsivit.store import TileStore

Form: TypeAlias = Literal["png", "geojson", "ome-tiff"]
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class HeatmapOptions:
    """What is drawn and exported, and how.

    Parameters
    ----------
    class_name : str, optional
        The class to show. Left out: of two classes the one that is not called "normal" or the like; else the last.
    threshold : float
        Probability from which tissue belongs to a region: the line in the picture, the regions for QuPath.
    cmap : str
        A colormap of matplotlib. The default is even to the eye and neutral at 0.5.
    alpha : float
        Opacity of the colours, 0 to 1.
    vmin : float
        Probability at the lower end of the colours.
    vmax : float
        Probability at their upper end.
    size : int
        Longer side of the slide in the picture, in pixels.
    interpolation : {"linear", "nearest"}
        Colours run smoothly between the centres of tiles, or each tile is one colour.
    window : {"hann", "uniform", "max"}
        How overlapping tiles are blended.
    smoothing : float
        Standard deviation of a Gaussian over the score grid, in microns. 0 for none; noted in the picture.
    formats : tuple of {"png", "geojson", "ome-tiff"}
        What is written.
    """

    class_name: str | None = None
    threshold: float = 0.5
    cmap: str = "coolwarm"
    alpha: float = 0.5
    vmin: float = 0.0
    vmax: float = 1.0
    size: int = 1800
    interpolation: Literal["linear", "nearest"] = "linear"
    window: Window = "hann"
    smoothing: float = 0.0
    formats: tuple[Form, ...] = ("png", "geojson", "ome-tiff")

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha must be between 0 and 1, not {self.alpha}")
        if not 0 <= self.vmin < self.vmax <= 1:
            raise UsageError(f"vmin must be below vmax, both between 0 and 1, not {self.vmin} and {self.vmax}")
        if not 200 <= self.size <= 20_000:
            raise UsageError(f"the size of a picture must be from 200 to 20000 pixels, not {self.size}")
        if self.interpolation not in ("linear", "nearest"):
            raise UsageError(f"interpolation must be linear or nearest, not {self.interpolation!r}")
        if unknown := set(self.formats) - set(get_args(Form)):
            raise UsageError(f"no format {', '.join(sorted(unknown))}; there are {', '.join(get_args(Form))}")


@dataclass(frozen=True)
class HeatmapOutputs:
    """What was written.

    Attributes
    ----------
    class_name : str
        The class that was drawn.
    png, tiles, regions, ome_tiff : Path or None
        The picture; the tiles and the regions over the threshold for QuPath; the score grid. None if not asked for.
    scores : tuple of SlideScore
        The slide summed up, one per class.
    """

    class_name: str
    png: Path | None
    tiles: Path | None
    regions: Path | None
    ome_tiff: Path | None
    scores: tuple[SlideScore, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that were written."""
        return tuple(path for path in (self.png, self.tiles, self.regions, self.ome_tiff) if path)


def heatmap(
    store: TileStore | str | os.PathLike[str],
    *,
    run: str | None = None,
    png: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    options: HeatmapOptions = HeatmapOptions(),
) -> HeatmapOutputs:
    """Draw a run's predictions over the slide, and export them for QuPath and image tools.

    The slide itself is not needed: its thumbnail is in the store. Colours are absolute: the same probability has the
    same colour in every picture. Outputs of an earlier call are replaced.

    Parameters
    ----------
    store : path or TileStore
        A tile store with predictions.
    run : str, optional
        Which predictions; may be left out where there is one run only.
    png : path, optional
        Where the picture goes; ``.png``, ``.jpg`` or ``.webp``.
    output : path, optional
        Folder for everything else, named ``<slide_id>-<run>-…``. Default: beside the store.
    options : HeatmapOptions
        Class, colours, threshold, formats.

    Returns
    -------
    HeatmapOutputs

    Raises
    ------
    UsageError
        Without predictions, for an unknown run or class, or for an option out of its range.
    StoreError
        If the store or its predictions are damaged, or hold not a single number.
    OutputError
        If something cannot be written.
    """
    picture = None if png is None else _checked_picture(Path(png))
    _check_cmap(options)
    heat = read_heat(store, run, options.window, options.smoothing)
    index = heat.class_index(options.class_name)
    folder = Path(output) if output is not None else _beside(heat.store)
    paths = _paths(heat, index, folder, picture, options.formats)
    _write(heat, index, paths, options)
    scores = slide_scores(
        heat.probabilities[heat.predicted], heat.classes, heat.scores, heat.slide_mpp, threshold=options.threshold
    )
    return HeatmapOutputs(
        heat.classes[index],
        paths.get("png"),
        paths.get("tiles"),
        paths.get("regions"),
        paths.get("ome-tiff"),
        tuple(scores),
    )


def file_stem(*words: str) -> str:
    """Join words to a file name without what file systems or shells stumble over."""
    return "-".join(re.sub(r"[^\w.+-]+", "_", word).strip("_.") or "_" for word in words)


def _paths(heat: Heat, index: int, folder: Path, picture: Path | None, formats: Sequence[Form]) -> dict[str, Path]:
    stem, one_class = file_stem(heat.slide_id, heat.run), file_stem(heat.slide_id, heat.run, heat.classes[index])
    paths = {}
    if "png" in formats or picture is not None:
        paths["png"] = picture or folder / f"{one_class}.png"
    if "geojson" in formats:
        paths["tiles"] = folder / f"{stem}-tiles.geojson"
        paths["regions"] = folder / f"{one_class}-regions.geojson"
    if "ome-tiff" in formats:
        paths["ome-tiff"] = folder / f"{stem}.ome.tif"
    return paths


def _write(heat: Heat, index: int, paths: dict[str, Path], options: HeatmapOptions) -> None:
    from wsivit.export import geojson, ome_tiff
    from wsivit.export.picture import Style, draw_class

    if "png" in paths:
        style = Style(
            options.size,
            options.cmap,
            options.alpha,
            options.vmin,
            options.vmax,
            options.threshold,
            options.interpolation,
        )
        draw_class(heat, index, style, paths["png"])
    if "tiles" in paths:
        geojson.write_tiles(heat, paths["tiles"])
        geojson.write_regions(heat, index, options.threshold, paths["regions"])
    if "ome-tiff" in paths:
        ome_tiff.write_scores(heat, paths["ome-tiff"])


def _beside(store: TileStore) -> Path:
    return Path() if "://" in store.url else store.path.parent


def _checked_picture(path: Path) -> Path:
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"{path}: a picture is written as {', '.join(PICTURES)}")
    return path


def _check_cmap(options: HeatmapOptions) -> None:
    from matplotlib import colormaps

    if options.cmap not in colormaps:
        raise UsageError(f"matplotlib has no colormap {options.cmap!r}; coolwarm, viridis and magma are some it has")
