"""Look at a slide without labels and without a model: maps of stain and nuclei, clusters of tiles that look alike."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from wsivit._keywords import options_as_keywords
from wsivit.errors import UsageError
from wsivit.explore.explore_figure import draw_exploration
from wsivit.explore.stain_maps import MAX_MPP, FloatArray, cluster, describe, rim, spots, unmix
from wsivit.io import local_path, progress_bar, replacing
from wsivit.ranges import Mpp, Range, Seed, check_options
from wsivit.slide import Slide
from wsivit.store import TileStore
from wsivit.tiling import TileOptions, tile

_BATCH = 64
_MAX_PIXEL_UM = 0.75
"""Tiles of finer scale are averaged to about 1 micron per pixel: nuclei are as distinct, and it takes a quarter."""


@dataclass(frozen=True)
class ExploreOptions:
    """How a slide is explored.

    Parameters
    ----------
    clusters : int
        Number of groups of tiles that look alike, 2 to 10.
    mpp : float
        Scale at which a slide is read, in microns per pixel; a store has its own. Nuclei need 1.3 or finer.
    tile_size : int
        Side of the tiles of a slide, in pixels at that scale: the maps have one value for each.
    tissue : str
        How tissue is found, as in ``wsivit tile``.
    seed : int
        Of the clusters.
    """

    clusters: Annotated[int, Range(2, 10)] = 5
    mpp: Mpp = 1.0
    tile_size: Annotated[int, Range(16, 1024)] = 96
    tissue: str = "auto"
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes
    ----------
    slide_id : str
    picture, table : Path
        Where the maps and the numbers of every tile are.
    x0, y0 : int64 (n,)
        Corner of each tile, in level-0 pixels.
    hematoxylin, eosin : float32 (n,)
        Mean density of the stain, in units of optical density (base 10).
    nuclei_per_mm2 : float32 (n,)
        Estimate, per mm² of tissue; NaN where the scale is too coarse to tell nuclei apart.
    cluster : int64 (n,)
        Group of tiles of like colour and texture, from 1; no kind of tissue.
    warnings : tuple of str
        Why the numbers may mean less than their names say.
    """

    slide_id: str
    picture: Path
    table: Path
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    hematoxylin: FloatArray
    eosin: FloatArray
    nuclei_per_mm2: FloatArray
    cluster: NDArray[np.int64]
    warnings: tuple[str, ...] = ()


@options_as_keywords
def explore(
    source: str | os.PathLike[str] | Slide | TileStore,
    output: str | os.PathLike[str] = ".",
    *,
    options: ExploreOptions = ExploreOptions(),
    slide_mpp: float | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Exploration:
    """Map the stain, the nuclei and the texture of an H&E slide: no labels, no trained model, some seconds.

    ``<slide>-explore.png`` shows the slide, its density of hematoxylin (by colour deconvolution), an estimate of nuclei
    per mm² (dark round spots), and clusters of tiles that look alike, with examples of each. ``<slide>-explore.csv``
    has the numbers of every tile. Clusters are of colour and texture: which tissue they are, a person must say.

    Parameters
    ----------
    source : path, Slide or TileStore
        A slide, or a tile store, whose tiles are taken as they are.
    output : path
        Folder for both files.
    options : ExploreOptions
        Number of clusters, scale and size of the tiles.
    slide_mpp : float, optional
        Microns per pixel of the slide, where its file does not say.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    Exploration

    Raises
    ------
    UsageError
        The slide is dark where it is empty (fluorescence), has no tissue, or its scale or an option is out of range.
    """
    if isinstance(source, TileStore) or (not isinstance(source, Slide) and TileStore.is_store(source)):
        store = source if isinstance(source, TileStore) else TileStore(source)
        return _explore_store(store, Path(local_path(os.fspath(output))), options, progress)
    # Padding would count as pale tissue.
    tiles = TileOptions(mpp=options.mpp, tile_size=options.tile_size, tissue=options.tissue, edge="drop", codec="none")
    # A store of coordinates of its own, which is not kept: one in the output would look like that of `wsivit tile`.
    with TemporaryDirectory(prefix="wsivit-explore-") as folder:
        store = tile(source, folder, tiles, slide_mpp=slide_mpp).store
        return _explore_store(store, Path(local_path(os.fspath(output))), options, progress)


def _explore_store(store: TileStore, output: Path, options: ExploreOptions, progress: bool) -> Exploration:
    readable = store.readable
    if not len(readable):
        raise UsageError(f"{store.parameters.slide_id}: no tile of it can be read; wsivit verify checks stores")
    glass = _glass_color(store)
    if glass.min() < 128:
        raise UsageError(
            f"{store.parameters.slide_id}: the empty part of the slide is dark (RGB {glass.round().astype(int)}): "
            "stains are measured by the light they take from bright glass, so this is for bright-field slides"
        )
    mpp = float(np.sqrt(np.prod(store.parameters.mpp)))
    shrink = max(1, round(1 / mpp)) if mpp < _MAX_PIXEL_UM else 1
    descriptors, counts = _measure(store, readable, glass, mpp * shrink, shrink, progress)
    hematoxylin, eosin = descriptors[:, 0], descriptors[:, 1]
    warnings = []
    nuclei = np.full(len(readable), np.nan, np.float32)
    if mpp * shrink <= MAX_MPP:
        # Padding and glass hold no nuclei: per area of tissue, without the rim of the tiles, where none are looked for.
        side_um = store.grid.tile_size * mpp - 2 * rim(mpp * shrink) * mpp * shrink
        area = (side_um / 1000) ** 2 * np.clip(store.tissue_fraction[readable], 0.1, 1)
        nuclei = (counts / area).astype(np.float32)
    else:
        warnings.append(f"at {mpp:.3g} microns per pixel nuclei cannot be told apart: none are counted")
    found = Exploration(
        store.parameters.slide_id,
        output / f"{store.parameters.slide_id}-explore.png",
        output / f"{store.parameters.slide_id}-explore.csv",
        store.x0[readable],
        store.y0[readable],
        hematoxylin,
        eosin,
        nuclei,
        cluster(descriptors, options.clusters, options.seed) + 1,
        tuple(warnings),
    )
    output.mkdir(parents=True, exist_ok=True)
    _write_table(found, store, readable)
    draw_exploration(found, store, readable)
    return found


def _glass_color(store: TileStore) -> NDArray[np.float64]:
    """Median colour of the thumbnail off the tissue and its rim; of its brightest part where tissue is everywhere."""
    from PIL import Image
    from scipy.ndimage import binary_dilation

    thumbnail, _ = store.thumbnail
    mask = np.asarray(Image.fromarray(store.tissue_mask[0]).resize(thumbnail.shape[1::-1]))
    empty = thumbnail[~binary_dilation(mask, iterations=max(1, max(mask.shape) // 200))]
    if len(empty) < 0.005 * mask.size:
        pixels = thumbnail.reshape(-1, 3)
        brightness = pixels.sum(axis=1)
        empty = pixels[brightness >= np.percentile(brightness, 99)]
    return np.asarray(np.median(empty, axis=0), np.float64)


def _measure(
    store: TileStore, tiles: NDArray[np.int64], glass: NDArray[np.float64], mpp: float, shrink: int, progress: bool
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the descriptors of each tile, float32 (n, d), and how many spots it has, int64 (n,)."""
    descriptors, counts = [], []
    with progress_bar(len(tiles), "exploring", "tile", show=progress) as advance:
        for start in range(0, len(tiles), _BATCH):
            pixels = store.read(tiles[start : start + _BATCH])
            if shrink > 1:
                side = pixels.shape[1] // shrink * shrink
                blocks = pixels[:, :side, :side].reshape(len(pixels), side // shrink, shrink, side // shrink, shrink, 3)
                pixels = blocks.mean(axis=(2, 4)).astype(np.uint8)
            stains = unmix(pixels, glass)
            descriptors.append(describe(stains, mpp))
            counts.append(np.bincount(spots(stains[..., 0], mpp)[:, 0], minlength=len(pixels)))
            advance(len(pixels))
    return np.concatenate(descriptors), np.concatenate(counts)


def _write_table(found: Exploration, store: TileStore, tiles: NDArray[np.int64]) -> None:
    columns: dict[str, NDArray[Any]] = {
        "col": store.col[tiles],
        "row": store.row[tiles],
        "x0": found.x0,
        "y0": found.y0,
        "hematoxylin_od": found.hematoxylin,
        "eosin_od": found.eosin,
        "nuclei_per_mm2": found.nuclei_per_mm2,
        "cluster": found.cluster,
    }
    with replacing(found.table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in zip(*(values.tolist() for values in columns.values()), strict=True):
            table.writerow([f"{value:.5g}" if isinstance(value, float) else value for value in row])
