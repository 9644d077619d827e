"""Tissue that a person gives or edits: mask images and GeoJSON outlines, in and out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsivit.errors import UsageError
from wsivit.tissue.classes import Tissue
from wsivit.tissue.geometry import mask_polygons
from wsivit.tissue.masks import tissue_from_polygons

GEOJSON_SUFFIXES = (".geojson", ".json")


def read_tissue(path: str | Path, shape: tuple[int, int], slide_size: tuple[int, int]) -> Tissue:
    """Read the tissue that a person drew: GeoJSON outlines, or a mask image of the whole slide.

    Parameters
    ----------
    path : path
        ``.geojson`` or ``.json``: every area in it is tissue, in level-0 pixels. Anything else is an image,
        black where there is no tissue, of any size in the slide's proportions.
    shape : (int, int)
        Height and width of the mask that outlines are filled into; an image keeps its own.
    slide_size : (int, int)
        Width and height of level 0.

    Raises
    ------
    UsageError
        If the file is missing, not readable as what its name says, holds no area, or is not of the whole slide.
    """
    source = Path(path)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the tissue mask {path}: {error.strerror}") from error
    if source.suffix.lower() in GEOJSON_SUFFIXES:
        tissue = _from_geojson(source, content, shape, slide_size)
    else:
        tissue = Tissue(_from_image(source, slide_size), None, {"method": "image"})
    identity = {"file": source.name, "sha256": hashlib.sha256(content).hexdigest()}
    return replace(tissue, parameters={**tissue.parameters, **identity})


def _from_geojson(source: Path, content: bytes, shape: tuple[int, int], slide_size: tuple[int, int]) -> Tissue:
    try:
        document = json.loads(content)
        features = document if isinstance(document, list) else [document]
        geometries = [shapely.from_geojson(json.dumps(feature)) for feature in features]
    except (ValueError, shapely.errors.GEOSException) as error:
        raise UsageError(f"{source} is not GeoJSON: {error}") from error
    try:
        return tissue_from_polygons(geometries, shape, (slide_size[0] / shape[1], slide_size[1] / shape[0]))
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error


def _from_image(source: Path, slide_size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        with Image.open(source) as image:
            grey = np.asarray(image.convert("L") if image.mode not in ("1", "I;16", "I", "F") else image)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"{source} is neither GeoJSON nor an image that can be read: {error}") from error
    height, width = grey.shape
    if abs(width - height * slide_size[0] / slide_size[1]) > max(2.0, 0.02 * width):
        raise UsageError(
            f"the tissue mask {source} is {width} x {height}, which is not the shape of the slide "
            f"({slide_size[0]} x {slide_size[1]}): a mask must span the whole slide"
        )
    # Half of the brightest value: 0/1, 0/255 and JPEG masks all come out as they were meant.
    mask: NDArray[np.bool_] = grey > grey.max() / 2
    return mask


def tissue_geojson(
    mask: NDArray[np.bool_], downsample: tuple[float, float], mpp: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Turn a mask into GeoJSON for QuPath: one annotation per piece, with its area where the scale is known.

    Parameters
    ----------
    mask : bool ndarray, (h, w)
    downsample : (float, float)
        Level-0 pixels per mask pixel, x and y.
    mpp : (float, float) or None
        Microns per level-0 pixel.

    Returns
    -------
    dict
        A FeatureCollection; `json.dump` it, edit it in QuPath, and give it back to :func:`read_tissue`.
    """
    features = []
    for piece in mask_polygons(mask, downsample).geoms:
        properties: dict[str, Any] = {"objectType": "annotation", "classification": {"name": "Tissue"}}
        if mpp is not None:
            properties["measurements"] = {"Area mm^2": round(piece.area * mpp[0] * mpp[1] / 1e6, 6)}
        geometry = json.loads(shapely.to_geojson(piece))
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}
