"""GeoJSON as QuPath reads it: the tiles with their scores, or the regions over a threshold.

Coordinates are level-0 pixels from where QuPath shows the slide: its corner, or that of its bounds (MIRAX). Which
corner it was stands in the file, beside the features (``"wsivit": {"view_origin": …}``).
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.score_map import ScoreMap
from wsivit.heatmap.slide_score import check_threshold
from wsivit.io import replacing
from wsivit.store import TileStore
from wsivit.tissue import tissue_geojson


def write_tiles(heat: HeatmapData, path: Path) -> int:
    """Write every predicted tile as a QuPath tile object; return how many.

    Each has one measurement per class (``"tumor probability"``) and is classified as its most probable class; where
    tiles were looked at in several views, ``"uncertainty"`` is how far these are apart.

    Parameters
    ----------
    heat : HeatmapData
    path : Path
        Compressed if its name ends in ``.gz``.
    """
    tiles = heat.predicted
    _write_collection(heat, path, _tile_features(heat, tiles))
    return len(tiles)


def write_regions(heat: HeatmapData, class_indexes: Sequence[int], threshold: float, path: Path) -> int:
    """Write the connected regions where a class reaches a threshold as QuPath annotations; return how many.

    Parameters
    ----------
    heat : HeatmapData
    class_indexes : sequence of int
        The classes, each with regions of its own.
    threshold : float
        In [0, 1].
    path : Path
        Compressed if its name ends in ``.gz``.
    """
    found = [(k, region) for k in class_indexes for region in merged_regions(heat.scores, k, threshold)]
    _write_collection(heat, path, (_region_feature(heat, k, threshold, region) for k, region in found))
    return len(found)


def write_tissue(store: TileStore, path: Path) -> int:
    """Write the pieces of a store's tissue mask as QuPath annotations, holes kept, areas in mm²; return how many.

    Edited, the file goes back in as ``--tissue`` of the next tiling.

    Parameters
    ----------
    store : TileStore
    path : Path
        Compressed if its name ends in ``.gz``.
    """
    mask, downsample = store.tissue_mask
    parameters = store.parameters
    found = tissue_geojson(mask, downsample, parameters.slide_mpp, view_origin=parameters.slide_bounds[:2])
    with _writing(path) as file:
        file.write(_dumps(found) + "\n")
    return len(found["features"])


def merged_regions(scores: ScoreMap, class_index: int, threshold: float) -> NDArray[Any]:
    """Merge the cells at or over a threshold into polygons with rounded corners, largest first.

    Corners are rounded within half a cell, so that no cell and no hole is lost; areas change by a few percent only.

    Returns
    -------
    ndarray of shapely Polygon
        Valid, holes kept, in level-0 pixels, on the slide.
    """
    check_threshold(threshold)
    row, col = np.nonzero(scores.scores[..., class_index] >= threshold)
    if not len(row):
        return np.empty(0, object)
    step = min(scores.downsample0)
    cells = shapely.box(col, row, col + 1, row + 1)
    merged = shapely.transform(shapely.coverage_union_all(cells), lambda xy: xy * scores.downsample0 + scores.origin0)
    rounded = _round_corners(merged, 0.35 * step)
    on_slide = shapely.intersection(rounded, shapely.box(*scores.origin0, *scores.size0))
    parts = shapely.get_parts(shapely.make_valid(on_slide))
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    largest_first: NDArray[Any] = parts[np.argsort(-shapely.area(parts), kind="stable")]
    return largest_first


def _round_corners(geometry: BaseGeometry, radius: float) -> BaseGeometry:
    """Shrink, grow twice, shrink: rounds corners from both sides, and leaves what is wider than two radii."""
    for distance in (-radius, 2 * radius, -radius):
        geometry = shapely.buffer(geometry, distance, quad_segs=4)
    return shapely.simplify(geometry, radius / 20)


def _tile_features(heat: HeatmapData, tiles: NDArray[np.int64]) -> Iterator[str]:
    corners = np.round(heat.boxes0()[tiles] - np.tile(heat.view_origin, 2), 2).tolist()
    values = heat.probabilities[tiles]
    keys = [_dumps(f"{name} probability") for name in heat.classes]
    if heat.spread is not None:
        values = np.column_stack([values, heat.spread[tiles]])
        keys.append(_dumps("uncertainty"))
    best_of = heat.probabilities[tiles].argmax(axis=1).tolist()
    kinds = [_dumps(_classification(heat, k)) for k in range(len(heat.classes))]
    for (x0, y0, x1, y1), best, row in zip(corners, best_of, values.tolist(), strict=True):
        measured = ",".join([f"{key}:{value:.6g}" for key, value in zip(keys, row, strict=True)])
        yield (
            '{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
            f"[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},"
            f'"properties":{{"objectType":"tile","classification":{kinds[best]},"measurements":{{{measured}}}}}}}'
        )


def _region_feature(heat: HeatmapData, index: int, threshold: float, region: BaseGeometry) -> str:
    seen = shapely.transform(region, lambda xy: np.round(xy - np.asarray(heat.view_origin), 2))
    area = region.area * heat.slide_mpp[0] * heat.slide_mpp[1] / 1e6
    properties = {
        "objectType": "annotation",
        "name": f"{heat.classes[index]} ≥ {threshold:g}",
        "classification": _classification(heat, index),
        "measurements": {"Area mm^2": round(area, 6)},
    }
    return _dumps({"type": "Feature", "geometry": mapping(seen), "properties": properties})


def _classification(heat: HeatmapData, index: int) -> dict[str, Any]:
    return {"name": heat.classes[index], "color": list(heat.colours[index])}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write_collection(heat: HeatmapData, path: Path, features: Iterable[str]) -> None:
    """Write features as they come: memory does not grow with their number."""
    about = heat.facts | {"view_origin": heat.view_origin, "slide_size": heat.store.parameters.slide_size}
    with _writing(path) as file:
        file.write(f'{{"type":"FeatureCollection","wsivit":{_dumps(about)},"features":[')
        separator = "\n"
        for feature in features:
            file.write(separator + feature)
            separator = ",\n"
        file.write("\n]}\n")


@contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    with replacing(path) as temporary:
        if path.suffix != ".gz":
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                yield file
            return
        # Without name and time in the header the same scores give the same bytes.
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
        ):
            yield file
