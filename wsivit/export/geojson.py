"""GeoJSON as QuPath reads it: the tiles with their scores, or the regions over a threshold.

Coordinates are level-0 pixels. QuPath shows slides with bounds (MIRAX) from the corner of these: give that corner
as `offset`, and everything lands where it belongs.
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
from shapely.geometry.base import BaseGeometry

from wsivit.aggregate import ScoreGrid, check_threshold
from wsivit.export.files import replacing
from wsivit.export.source import Heat

Offset = tuple[float, float]

# One colour per class, in order; of two classes the main one is red.
PALETTE = ((201, 45, 57), (58, 102, 184), (60, 150, 80), (226, 155, 38), (130, 82, 168),
           (32, 158, 164), (214, 96, 152), (140, 96, 60), (110, 110, 110), (168, 176, 42))  # fmt: skip


def write_tiles(heat: Heat, path: Path, offset: Offset = (0, 0)) -> int:
    """Write every predicted tile as a QuPath tile object; return how many.

    Each has one measurement per class (``"tumor probability"``) and is classified as its most probable class.

    Parameters
    ----------
    heat : Heat
    path : Path
        Compressed if its name ends in ``.gz``.
    offset : (float, float), optional
        Taken off every ``x, y``.
    """
    tiles = heat.predicted
    with _writing(path) as file:
        _write_collection(file, _tile_features(heat, tiles, offset))
    return len(tiles)


def write_regions(heat: Heat, class_index: int, threshold: float, path: Path, offset: Offset = (0, 0)) -> int:
    """Write the connected regions where a class reaches a threshold as QuPath annotations; return how many.

    Parameters
    ----------
    heat : Heat
    class_index : int
    threshold : float
        In [0, 1].
    path : Path
        Compressed if its name ends in ``.gz``.
    offset : (float, float), optional
        Taken off every ``x, y``.
    """
    regions = merged_regions(heat.scores, class_index, threshold)
    areas = shapely.area(regions) * heat.slide_mpp[0] * heat.slide_mpp[1] / 1e6
    name = heat.classes[class_index]
    features = (
        _feature(
            mapping(shapely.transform(region, lambda xy: np.round(xy - np.asarray(offset), 2))),
            {
                "objectType": "annotation",
                "name": f"{name} ≥ {threshold:g}",
                "classification": {"name": name, "color": list(class_colours(heat)[class_index])},
                "measurements": {"Area mm^2": round(float(area), 6)},
            },
        )
        for region, area in zip(regions, areas, strict=True)
    )
    with _writing(path) as file:
        _write_collection(file, features)
    return len(regions)


def merged_regions(scores: ScoreGrid, class_index: int, threshold: float) -> NDArray[Any]:
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


def class_colours(heat: Heat) -> list[tuple[int, int, int]]:
    """RGB of every class: the palette in order, with the main class of two in red."""
    order = list(range(len(heat.classes)))
    if len(order) == 2 and heat.main_class == 1:
        order.reverse()
    return [PALETTE[k % len(PALETTE)] for k in order]


def _round_corners(geometry: BaseGeometry, radius: float) -> BaseGeometry:
    """Shrink, grow twice, shrink: rounds corners from both sides, and leaves what is wider than two radii."""
    for distance in (-radius, 2 * radius, -radius):
        geometry = shapely.buffer(geometry, distance, quad_segs=4)
    return shapely.simplify(geometry, radius / 20)


def _tile_features(heat: Heat, tiles: NDArray[np.int64], offset: Offset) -> Iterator[str]:
    corners = np.round(heat.boxes0()[tiles] - [*offset, *offset], 2).tolist()
    values = heat.probabilities[tiles]
    kinds = [
        json.dumps({"name": name, "color": list(rgb)}, ensure_ascii=False)
        for name, rgb in zip(heat.classes, class_colours(heat), strict=True)
    ]
    keys = [json.dumps(f"{name} probability", ensure_ascii=False) for name in heat.classes]
    for (x0, y0, x1, y1), best, row in zip(corners, values.argmax(axis=1).tolist(), values.tolist(), strict=True):
        measured = ",".join(f"{key}:{value:.6g}" for key, value in zip(keys, row, strict=True))
        yield (
            '{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
            f"[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},"
            f'"properties":{{"objectType":"tile","classification":{kinds[best]},"measurements":{{{measured}}}}}}}'
        )


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> str:
    return json.dumps({"type": "Feature", "geometry": geometry, "properties": properties}, ensure_ascii=False)


def _write_collection(file: IO[str], features: Iterable[str]) -> None:
    file.write('{"type":"FeatureCollection","features":[')
    separator = "\n"
    for feature in features:
        file.write(separator + feature)
        separator = ",\n"
    file.write("\n]}\n")


@contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    with replacing(path) as temporary:
        if path.suffix == ".gz":
            # Without name and time in the header the same scores give the same bytes.
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
            ):
                yield file
        else:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                yield file
