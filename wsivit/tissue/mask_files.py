"""Tissue that a person gives or edits: mask images and GeoJSON outlines, in and out."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.io import PICTURE_ERRORS, open_picture
from wsivit.tissue.classes import Tissue
from wsivit.tissue.geometry import mask_polygons
from wsivit.tissue.masks import tissue_from_polygons

GEOJSON_SUFFIXES = (".geojson", ".json")


def read_tissue(
    path: str | Path,
    shape: tuple[int, int],
    slide_size: tuple[int, int],
    *,
    view_origin: tuple[float, float] = (0.0, 0.0),
) -> Tissue:
    """Read the tissue that a person drew: GeoJSON outlines, or a mask image of the whole slide.

    Parameters
    ----------
    path : path
        ``.geojson`` or ``.json``, or one of them compressed as ``.gz``: every area in it is tissue, in level-0
        pixels. Anything else is an image, black where there is no tissue, of any size in the slide's proportions.
    shape : (int, int)
        Height and width of the mask that outlines are filled into; an image keeps its own.
    slide_size : (int, int)
        Width and height of level 0.
    view_origin : (float, float), optional
        Where on the slide the outlines' origin lies: QuPath counts from the corner of the slide's bounds (MIRAX).

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
    if is_outline(source):
        tissue = _from_geojson(source, content, Frame(shape, slide_size, view_origin))
    else:
        tissue = Tissue(_from_image(source, slide_size), None, {"method": "image"})
    identity = {"file": source.name, "sha256": hashlib.sha256(content).hexdigest()}
    return replace(tissue, parameters={**tissue.parameters, **identity})


def is_outline(path: str | Path) -> bool:
    """Tell outlines from a mask image by the file's name."""
    return Path(Path(path).stem if Path(path).suffix.lower() == ".gz" else path).suffix.lower() in GEOJSON_SUFFIXES


class Frame(NamedTuple):
    """The mask that outlines are filled into, on a slide whose outlines count from `origin`."""

    shape: tuple[int, int]
    slide_size: tuple[int, int]
    origin: tuple[float, float]


def _from_geojson(source: Path, content: bytes, frame: Frame) -> Tissue:
    try:
        document = json.loads(gzip.decompress(content) if source.suffix.lower() == ".gz" else content)
        features = document if isinstance(document, list) else [document]
        geometries = [shapely.from_geojson(json.dumps(feature)) for feature in features]
        moved = shapely.transform(np.array(geometries), lambda xy: xy + np.asarray(frame.origin))
    except (ValueError, OSError, EOFError, zlib.error, shapely.errors.GEOSException) as error:
        raise UsageError(f"{source} is not GeoJSON: {error}") from error
    try:
        scale = (frame.slide_size[0] / frame.shape[1], frame.slide_size[1] / frame.shape[0])
        return tissue_from_polygons(moved, frame.shape, scale)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error


def _from_image(source: Path, slide_size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        with open_picture(source) as image:
            grey = np.asarray(image.convert("L") if image.mode not in ("1", "I;16", "I", "F") else image)
    except PICTURE_ERRORS as error:
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
    mask: NDArray[np.bool_],
    downsample: tuple[float, float],
    mpp: tuple[float, float] | None = None,
    *,
    view_origin: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Any]:
    """Turn a mask into GeoJSON for QuPath: one annotation per piece, with its area where the scale is known.

    Parameters
    ----------
    mask : bool ndarray, (h, w)
    downsample : (float, float)
        Level-0 pixels per mask pixel, x and y.
    mpp : (float, float) or None
        Microns per level-0 pixel.
    view_origin : (float, float), optional
        Where on the slide the outlines' origin shall lie: QuPath counts from the corner of the slide's bounds (MIRAX).

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
        seen = shapely.transform(piece, lambda xy: np.round(xy - np.asarray(view_origin), 2))
        geometry = json.loads(shapely.to_geojson(seen))
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}
