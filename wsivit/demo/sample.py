"""Writing a sample slide and its annotations."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from tqdm import tqdm

from wsivit.demo.cells import paint_cells, paint_structures
from wsivit.demo.paint import add_dust, develop
from wsivit.demo.regions import Layout, lay_out
from wsivit.errors import OutputError, UsageError

MPP = 0.5
TILE = 256
SHRINK = 4
QUALITY = 85
_COLOURS = {"tumor": [200, 0, 0], "stroma": [150, 200, 150]}  # QuPath's own for these two classes


@dataclass(frozen=True)
class SamplePaths:
    """Where a sample slide and the GeoJSON of its regions were written."""

    slide: Path
    annotations: Path


def write_sample_slide(
    directory: str | Path, *, seed: int, size: int = 8192, name: str | None = None, progress: bool = False
) -> SamplePaths:
    """Write a procedural H&E-like slide and the outlines of its regions.

    The slide is a pyramidal tiled JPEG TIFF at 0.5 microns per pixel: pieces of tissue on glass, in two
    kinds, ``tumor`` (nests of crowded large nuclei, glands) and ``stroma`` (collagen, fibroblasts, lymphocytes,
    vessels, fat), with a pen mark, a fold and dust. Another seed gives another layout and slightly different
    staining; the same seed gives the same bytes with the same versions of the libraries.

    Parameters
    ----------
    directory : str or Path
        Where to write ``<name>.tiff`` and ``<name>.geojson``; made if it is not there. Existing
        files are replaced.
    seed : int
        Which slide to draw, 0 or more.
    size : int
        Side in pixels: a multiple of 256, at least 512.
    name : str, optional
        Stem of both file names, by default ``sample-<seed>``.
    progress : bool
        Whether to draw progress bars.

    Returns
    -------
    SamplePaths
        The slide, and its regions as QuPath GeoJSON in level-0 pixels.

    Raises
    ------
    UsageError
        For a seed or size that cannot be drawn.
    OutputError
        When the directory cannot be written.
    """
    if size % TILE or size < 2 * TILE:
        raise UsageError(f"a sample slide's size must be a multiple of {TILE}, at least {2 * TILE}, not {size}")
    if seed < 0:
        raise UsageError(f"the seed of a sample slide must be 0 or more, not {seed}")
    stem = Path(directory) / (name or f"sample-{seed}")
    paths = SamplePaths(stem.with_name(f"{stem.name}.tiff"), stem.with_name(f"{stem.name}.geojson"))
    layout, picture = draw_slide(seed, size, progress=progress)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths.annotations.write_text(json.dumps(_geojson(layout)))
        _write_pyramid(paths.slide, picture, progress=progress)
    except OSError as error:
        raise OutputError(f"cannot write sample slide {paths.slide}: {error.strerror or error}") from error
    return paths


def draw_slide(seed: int, size: int, *, progress: bool = False) -> tuple[Layout, NDArray[np.uint8]]:
    """Draw a slide in memory; its plan, and uint8 (size, size, 3)."""
    # A stream for each step, so that a change of one does not shuffle the others.
    streams = np.random.default_rng(seed).spawn(5)
    layout = lay_out(streams[0], size)
    canvas = np.zeros((size, size, 3), np.uint8)
    paint_structures(canvas, layout, streams[1])
    paint_cells(canvas, layout, streams[2])
    develop(canvas, layout, streams[3], progress=progress)
    add_dust(canvas, streams[4])
    return layout, canvas


def _levels(picture: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the picture, then means over 4 x 4 pixels of it, down to one tile."""
    yield picture
    while min(picture.shape[:2]) >= TILE * SHRINK:
        # By strips: the sums are wider than the pixels.
        picture = np.concatenate([_shrink(picture[y : y + TILE]) for y in range(0, len(picture), TILE)])
        yield picture


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, cols = (length // SHRINK for length in picture.shape[:2])
    sums = picture.reshape(rows, SHRINK, cols, SHRINK, 3).sum(axis=(1, 3), dtype=np.uint16)
    means: NDArray[np.uint8] = ((sums + SHRINK**2 // 2) // SHRINK**2).astype(np.uint8)
    return means


def _write_pyramid(path: Path, picture: NDArray[np.uint8], *, progress: bool) -> None:
    with tifffile.TiffWriter(path) as tiff:
        levels = tqdm(_levels(picture), desc="writing", unit="level", disable=not progress)
        for level, pixels in enumerate(levels):
            per_cm = 1e4 / (MPP * SHRINK**level)
            tiff.write(
                pixels,
                tile=(TILE, TILE),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                software="wsivit sample slide",
            )


def _geojson(layout: Layout) -> dict[str, Any]:
    """Describe the regions as QuPath exports them."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, polygon.wkt)),
            "geometry": json.loads(shapely.to_geojson(polygon)),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": kind, "color": _COLOURS[kind]},
            },
        }
        for kind, polygons in layout.regions().items()
        for polygon in shapely.set_precision(polygons, 0.01)
    ]
    return {"type": "FeatureCollection", "features": features}
