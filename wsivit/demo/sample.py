"""Writing a sample slide and its annotations."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsivit.demo.paint import draw_slide
from wsivit.errors import OptionError
from wsivit.io import writing
from wsivit.ranges import SampleSize, Seed, check_option

MPP = 0.5
TILE = 256
SHRINK = 4
QUALITY = 85
_COLORS = {"tumor": [200, 0, 0], "stroma": [150, 200, 150]}  # QuPath's own for these two classes


@dataclass(frozen=True)
class SamplePaths:
    """Where a sample slide and the GeoJSON of its regions were written."""

    slide: Path
    annotations: Path


def write_sample_slide(
    directory: str | Path, *, seed: int, size: int = 8192, name: str | None = None, progress: bool = False
) -> SamplePaths:
    """Write a procedural H&E-like slide and the outlines of its regions.

    The slide is a pyramidal tiled JPEG TIFF at 0.5 microns per pixel: pieces of tissue on glass, in two kinds,
    ``tumor`` (crowded large nuclei, glands) and ``stroma`` (collagen, fibroblasts, lymphocytes, vessels, fat), with a
    pen mark, a fold and dust. Each seed has its own layout and staining; the same seed gives the same bytes with the
    same versions of the libraries.

    Parameters
    ----------
    directory : str or Path
        Where to write ``<name>.tiff`` and ``<name>.geojson``; created if missing. Existing files are replaced.
    seed : int
        Which slide to draw, 0 or more.
    size : int
        Side in pixels: a multiple of 256, at least 512.
    name : str, optional
        Stem of both file names, by default ``sample-<seed>``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    SamplePaths
        The slide, and its regions as QuPath GeoJSON in level-0 pixels.

    Raises
    ------
    UsageError
        If `seed` or `size` is out of range.
    OutputError
        If the directory cannot be written.
    """
    check_option("size", size, SampleSize)
    if size % TILE:
        raise OptionError("size", f"must be a multiple of {TILE}, not {size}")
    check_option("seed", seed, Seed)
    stem = Path(directory) / (name or f"sample-{seed}")
    paths = SamplePaths(stem.with_name(f"{stem.name}.tiff"), stem.with_name(f"{stem.name}.geojson"))
    layout, picture = draw_slide(seed, size, progress=progress)
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, polygon.wkt)),
            "geometry": json.loads(shapely.to_geojson(polygon)),
            "properties": {"objectType": "annotation", "classification": {"name": kind, "color": _COLORS[kind]}},
        }
        for kind, polygons in layout.regions().items()
        for polygon in shapely.set_precision(polygons, 0.01)
    ]
    with writing(paths.slide):
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths.annotations.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        _write_pyramid(paths.slide, picture)
    return paths


def _write_pyramid(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture, and means over 4 x 4 pixels of each level as the next, down to one tile."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(1 + int(math.log(len(picture) / TILE, SHRINK))):
            if level:
                # Pillow copies what it reduces: by strips, not the whole slide at once.
                strips = (picture[y : y + TILE] for y in range(0, len(picture), TILE))
                picture = np.concatenate([np.asarray(Image.fromarray(strip).reduce(SHRINK)) for strip in strips])
            per_cm = 1e4 / (MPP * SHRINK**level)
            tiff.write(
                picture,
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
