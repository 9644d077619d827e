"""GeoJSON as QuPath reads it: the tiles with their scores, or the regions over a threshold.

Coordinates are level-0 pixels from where QuPath shows the slide: its corner, or that of its bounds (MIRAX). The
file records the corner (``"wsivit": {"view_origin": …}``).
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import mapping

from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import ScoreMap
from wsivit.io import replacing
from wsivit.store import TileStore
from wsivit.tissue import tissue_geojson


def write_tiles(data: HeatmapData, path: Path) -> None:
    """Write every predicted tile as a QuPath tile object.

    Each has one measurement per class (``"tumor probability"``) and is classified as its most probable class; where
    tiles were predicted in several views, ``"uncertainty"`` is their standard deviation.

    The file is compressed if its name ends in ``.gz``, as are those of the other functions.
    """
    _write_collection(data, path, _tile_features(data))


def write_regions(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Write the connected regions where a class reaches the threshold as QuPath annotations, class by class."""
    _write_collection(data, path, _region_features(data, options))


def write_tissue(store: TileStore, path: Path) -> None:
    """Write the pieces of a store's tissue mask as QuPath annotations, holes kept, areas in mm².

    Edited, the file can be the ``--tissue`` of the next tiling.
    """
    mask, downsample = store.tissue_mask
    parameters = store.parameters
    document = tissue_geojson(mask, downsample, parameters.slide_mpp, view_origin=parameters.slide_bounds[:2])
    with _open_text(path) as file:
        file.write(_dumps(document) + "\n")


def merged_regions(scores: ScoreMap, class_index: int, threshold: float) -> NDArray[Any]:
    """Merge the cells at or over a threshold into polygons with rounded corners, largest first.

    Corners are rounded within half a cell: no cell and no hole is lost, and areas change by a few percent only.

    Returns
    -------
    ndarray of shapely Polygon
        Valid, holes kept, in level-0 pixels, on the slide.
    """
    row, col = np.nonzero(scores.scores[..., class_index] >= threshold)
    if not len(row):
        return np.empty(0, object)
    # In whole cells the edges of neighbours are exactly equal, as coverage_union_all wants them.
    cells = shapely.coverage_union_all(shapely.box(col, row, col + 1, row + 1))
    rounded = shapely.transform(cells, lambda xy: xy * scores.downsample0)
    radius = 0.35 * min(scores.downsample0)
    # Shrink, grow twice, shrink: rounds corners from both sides, and leaves what is wider than two radii.
    for distance in (-radius, 2 * radius, -radius):
        rounded = shapely.buffer(rounded, distance, quad_segs=4)
    on_slide = shapely.intersection(shapely.simplify(rounded, radius / 20), shapely.box(0, 0, *scores.size0))
    parts = shapely.get_parts(shapely.make_valid(on_slide))
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    largest_first: NDArray[Any] = parts[np.argsort(-shapely.area(parts), kind="stable")]
    return largest_first


def _tile_features(data: HeatmapData) -> Iterator[str]:
    tiles = data.predicted
    corners = np.round(data.boxes0()[tiles] - np.tile(data.view_origin, 2), 2).tolist()
    values = data.probabilities[tiles]
    best_of = values.argmax(axis=1).tolist()
    keys = [_dumps(data.quantity(name)) for name in data.classes]
    if data.spread is not None:
        values = np.column_stack([values, data.spread[tiles]])
        keys.append(_dumps("uncertainty"))
    kinds = [_dumps(_classification(data, k)) for k in range(len(data.classes))]
    # Formatted by hand: json.dumps of each feature takes several times as long, for 100,000 tiles.
    for (x0, y0, x1, y1), best, row in zip(corners, best_of, values.tolist(), strict=True):
        measured = ",".join([f"{key}:{value:.6g}" for key, value in zip(keys, row, strict=True)])
        yield (
            '{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
            f"[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},"
            f'"properties":{{"objectType":"tile","classification":{kinds[best]},"measurements":{{{measured}}}}}}}'
        )


def _region_features(data: HeatmapData, options: HeatmapOptions) -> Iterator[str]:
    for index in data.selected_classes(options.class_name):
        for region in merged_regions(data.scores, index, options.threshold):
            in_view = shapely.transform(region, lambda xy: np.round(xy - np.asarray(data.view_origin), 2))
            area = region.area * data.slide_mpp[0] * data.slide_mpp[1] / 1e6
            properties = {
                "objectType": "annotation",
                "name": f"{data.classes[index]} ≥ {options.threshold:g}",
                "classification": _classification(data, index),
                "measurements": {"Area mm^2": round(area, 6)},
            }
            yield _dumps({"type": "Feature", "geometry": mapping(in_view), "properties": properties})


def _classification(data: HeatmapData, index: int) -> dict[str, Any]:
    return {"name": data.classes[index], "color": list(data.class_colors[index])}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write_collection(data: HeatmapData, path: Path, features: Iterable[str]) -> None:
    """Write features as they come: memory does not grow with their number."""
    about = data.facts | {"view_origin": data.view_origin, "slide_size": data.store.parameters.slide_size}
    with _open_text(path) as file:
        file.write(f'{{"type":"FeatureCollection","wsivit":{_dumps(about)},"features":[')
        separator = "\n"
        for feature in features:
            file.write(separator + feature)
            separator = ",\n"
        file.write("\n]}\n")


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    with replacing(path) as temporary:
        if path.suffix != ".gz":
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                yield file
            return
        # Without name and time in the gzip header the same scores give the same bytes.
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
        ):
            yield file
