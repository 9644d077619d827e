"""The page of `explore`: the slide, its maps, and examples of each cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.io import replacing
from wsivit.store import TileStore

if TYPE_CHECKING:
    from wsivit.explore.explore import Exploration

_EXAMPLES = 6
_CLUSTER_MAP = "tab10"


def draw_exploration(found: Exploration, store: TileStore, tiles: NDArray[np.int64]) -> None:
    """Draw the page of an exploration of some tiles of a store."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parameters = store.parameters
    width_mm, height_mm = (
        size * mpp / 1000 for size, mpp in zip(parameters.slide_size, parameters.slide_mpp, strict=True)
    )
    count = int(found.cluster.max())
    side = 5.2
    shape = side * min(1.0, height_mm / width_mm), side * min(1.0, width_mm / height_mm)
    figure = Figure(figsize=(2 * shape[1] + 3.2, 2 * shape[0] + 1.4 + 0.85 * count), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[2 * shape[0] + 1.2, 0.85 * count]).ravel()
    axes = top.subplots(2, 2).ravel()
    extent = (0, width_mm, height_mm, 0)
    title = f"{found.slide_id}   ·   {len(tiles):,} tiles of {store.grid.tile_size} px at {parameters.mpp[0]:.3g} µm/px"
    caution = "".join(f"\nCaution: {warning}" for warning in found.warnings)
    top.suptitle(title + caution, fontsize=12, weight="bold", parse_math=False)
    thumbnail, _ = store.thumbnail
    maps: list[tuple[str, ArrayLike, str]] = [
        ("hematoxylin, mean optical density (colour deconvolution)", found.hematoxylin, "viridis"),
        ("nuclei per mm² of tissue (estimate: dark round spots)", found.nuclei_per_mm2, "inferno"),
    ]
    axes[0].imshow(thumbnail, extent=extent)
    axes[0].set_title("the slide", fontsize=10)
    for axis, (name, values, cmap) in zip(axes[1:3], maps, strict=True):
        axis.imshow(thumbnail.mean(axis=2), extent=extent, cmap="gray", vmin=-200, vmax=255)
        band = _on_lattice(store, tiles, values)
        known = band[np.isfinite(band)]
        if known.size:
            highest = _round_up(float(np.percentile(known, 99)))
            image = axis.imshow(band, extent=_lattice_extent(store, band), cmap=cmap, vmin=0, vmax=highest)
            figure.colorbar(image, ax=axis, shrink=0.8)
        axis.set_title(name, fontsize=10)
    axes[3].imshow(thumbnail.mean(axis=2), extent=extent, cmap="gray", vmin=-200, vmax=255)
    band = _on_lattice(store, tiles, found.cluster)
    axes[3].imshow(band - 1, extent=_lattice_extent(store, band), cmap=_CLUSTER_MAP, vmin=0, vmax=9)
    axes[3].set_title("clusters of colour and texture (no kinds of tissue)", fontsize=10)
    for axis in axes:
        axis.set(xlim=(0, width_mm), ylim=(height_mm, 0), aspect="equal")
        axis.tick_params(labelsize=7)
        axis.set_xlabel("mm", fontsize=7)
    _draw_examples(bottom, found, store, tiles, count)
    with replacing(found.picture) as temporary:
        about = {"slide_id": found.slide_id, "warnings": found.warnings, "clusters": count}
        figure.savefig(temporary, format="png", dpi=120, metadata={"wsivit": json.dumps(about)})


def _draw_examples(figure: Any, found: Exploration, store: TileStore, tiles: NDArray[np.int64], count: int) -> None:
    """Draw a row for each cluster: its colour, its share, its numbers, and tiles at even distances of it."""
    from matplotlib import colormaps

    grid = figure.subplots(count, _EXAMPLES + 1, width_ratios=[1.9, *[1] * _EXAMPLES], squeeze=False)
    for number, row in enumerate(grid):
        own = np.flatnonzero(found.cluster == number + 1)
        shown = own[np.linspace(0, len(own) - 1, min(len(own), _EXAMPLES)).astype(np.int64)]
        text = f"cluster {number + 1}: {len(own) / len(tiles):.0%} of the tiles\n"
        text += f"hematoxylin {found.hematoxylin[own].mean():.2f}, eosin {found.eosin[own].mean():.2f}"
        if np.isfinite(found.nuclei_per_mm2[own]).any():
            text += f"\n{np.nanmean(found.nuclei_per_mm2[own]):,.0f} nuclei per mm²"
        row[0].text(0.12, 0.5, text, fontsize=8, va="center", transform=row[0].transAxes)
        row[0].add_patch(_square(colormaps[_CLUSTER_MAP](number / 9)))
        for axis in row:
            axis.axis("off")
        for axis, pixels in zip(row[1:], store.read(tiles[shown]), strict=False):
            axis.imshow(pixels)


def _square(color: tuple[float, float, float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0.0, 0.25), 0.08, 0.5, color=color)


def _on_lattice(store: TileStore, tiles: NDArray[np.int64], values: ArrayLike) -> NDArray[np.float64]:
    """Lay values of tiles on their lattice, NaN elsewhere; of overlapping tiles each has its cell."""
    band = np.full((store.grid.n_rows, store.grid.n_cols), np.nan)
    band[store.row[tiles], store.col[tiles]] = values
    return band


def _lattice_extent(store: TileStore, band: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Where the lattice lies, in mm: left, right, bottom, top."""
    (stride_x, stride_y), (mpp_x, mpp_y) = store.grid.stride0, store.parameters.slide_mpp
    return 0, band.shape[1] * stride_x * mpp_x / 1000, band.shape[0] * stride_y * mpp_y / 1000, 0


def _round_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 5, 7 times a power of ten: an end of a scale that can be read."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(step * power for step in (1, 1.5, 2, 3, 5, 7, 10) if step * power >= value - 1e-12))
