"""Tables: tile scores as WSInfer writes them, slide scores, and coordinates with features as TRIDENT and CLAM read."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.slide_score import SlideScore
from wsivit.io import replacing
from wsivit.store import TileStore

MICRONS_AT_1X = 10.0


def write_csv(heat: HeatmapData, path: Path) -> None:
    """Write one row per predicted tile: ``minx, miny, width, height`` in level-0 pixels and ``prob_<class>``.

    Coordinates are from the corner of the whole image, also where the slide has bounds.
    """
    tiles = heat.predicted
    boxes = heat.grid.boxes0(heat.store.col, heat.store.row)[tiles]
    frames = np.rint(np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])).astype(np.int64)
    with _table(path, ["minx", "miny", "width", "height", *(f"prob_{name}" for name in heat.classes)]) as table:
        for frame, row in zip(frames.tolist(), heat.probabilities[tiles].tolist(), strict=True):
            table.writerow([*frame, *(f"{value:.7g}" for value in row)])


_HOW = ("window", "smoothing_um")


def write_slide_scores(rows: Iterable[tuple[Mapping[str, Any], Sequence[SlideScore]]], path: Path) -> None:
    """Write one row per slide and class.

    Parameters
    ----------
    rows : iterable of (facts, scores)
        What each slide's scores are of (`HeatmapData.facts`), and the scores.
    path : Path
    """
    with _table(path, ["slide_id", "run", *(field.name for field in fields(SlideScore)), *_HOW]) as table:
        for facts, scores in rows:
            for score in scores:
                values = [*asdict(score).values(), *(facts[name] for name in _HOW)]
                told = (f"{value:.7g}" if isinstance(value, float) else value for value in values)
                table.writerow([facts["slide_id"], facts["run"], *told])


@contextmanager
def _table(path: Path, header: list[str]) -> Iterator[Any]:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        yield table


def write_h5(store: TileStore, path: Path, heat: HeatmapData | None = None, encoder: str | None = None) -> None:
    """Write ``coords`` (and ``features``, where the store has some) in the layout of TRIDENT and CLAM.

    ``coords`` are int64 (n, 2), level-0 ``x, y`` of every readable tile, with the attributes that TRIDENT looks for;
    ``probabilities`` is the run, if there is one. Magnifications are 10 over microns per pixel, as these tools count.

    Raises
    ------
    UsageError
        If h5py is not installed, or the encoder is not there or not chosen of several.
    StoreError
        If the features do not fit the tiles.
    """
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UsageError('writing H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None

    tiles = store.readable
    chosen = _choose_encoder(store, encoder)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        coords = file.create_dataset("coords", data=np.stack([store.x0[tiles], store.y0[tiles]], axis=1))
        coords.attrs.update(_trident_attributes(store))
        if heat is not None:
            probabilities = file.create_dataset("probabilities", data=heat.probabilities[tiles])
            probabilities.attrs.update({"run": heat.run, "classes": list(heat.classes)})
        if chosen is not None:
            features = file.create_dataset("features", data=_features(store, chosen)[tiles], chunks=True)
            features.attrs.update({"name": store.parameters.slide_id, "encoder": chosen})


def _trident_attributes(store: TileStore) -> dict[str, Any]:
    grid, parameters = store.grid, store.parameters
    return {
        "name": parameters.slide_id,
        "patch_size": grid.tile_size,
        "patch_size_level0": round(grid.tile_size * grid.downsample_x),
        "overlap": grid.overlap,
        "level0_width": parameters.slide_size[0],
        "level0_height": parameters.slide_size[1],
        "level0_magnification": MICRONS_AT_1X / parameters.slide_mpp[0],
        "target_magnification": MICRONS_AT_1X / parameters.mpp[0],
        "mpp": parameters.mpp[0],
    }


def _choose_encoder(store: TileStore, encoder: str | None) -> str | None:
    """Return whose features are meant: the named one, the only one, or none where there is none."""
    there = store.encoders
    if encoder is None and len(there) > 1:
        raise UsageError(f"{store.url}: features of several encoders; choose one of {', '.join(there)} (--encoder)")
    return encoder or (there[0] if there else None)


def _features(store: TileStore, encoder: str) -> NDArray[Any]:
    values = store.features(encoder).values
    if values.ndim != 2 or len(values) != len(store):
        raise StoreError(f"{store.url}/features/{encoder} is {values.shape} for {len(store)} tiles")
    return values
