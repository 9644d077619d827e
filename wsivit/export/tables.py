"""Tables: tile scores as WSInfer writes them, slide scores, and coordinates with features as TRIDENT and CLAM read."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.aggregate import SlideScore
from wsivit.errors import StoreError, UsageError
from wsivit.export.files import replacing
from wsivit.export.source import Heat

MICRONS_AT_1X = 10.0


def write_csv(heat: Heat, path: Path) -> None:
    """Write one row per predicted tile: ``minx, miny, width, height`` in level-0 pixels and ``prob_<class>``.

    Coordinates are from the corner of the whole image, also where the slide has bounds.
    """
    tiles = heat.predicted
    boxes = heat.grid.boxes0(heat.store.col, heat.store.row)[tiles]
    frames = np.rint(np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])).astype(np.int64)
    with _table(path, ["minx", "miny", "width", "height", *(f"prob_{name}" for name in heat.classes)]) as table:
        for frame, row in zip(frames.tolist(), heat.probabilities[tiles].tolist(), strict=True):
            table.writerow([*frame, *(f"{value:.7g}" for value in row)])


def write_slide_scores(rows: Iterable[tuple[str, str, Sequence[SlideScore]]], path: Path) -> None:
    """Write one row per slide and class.

    Parameters
    ----------
    rows : iterable of (slide id, run, scores)
    path : Path
    """
    with _table(path, ["slide_id", "run", *(field.name for field in fields(SlideScore))]) as table:
        for slide_id, run, scores in rows:
            for score in scores:
                values = asdict(score).values()
                table.writerow([slide_id, run, *(f"{v:.7g}" if isinstance(v, float) else v for v in values)])


@contextmanager
def _table(path: Path, header: list[str]) -> Iterator[Any]:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        yield table


def write_h5(heat: Heat, path: Path) -> None:
    """Write ``coords`` (and ``features``, where the store has some) in the layout of TRIDENT and CLAM.

    ``coords`` are int64 (n, 2), level-0 ``x, y`` of every readable tile, with the attributes that TRIDENT looks for;
    ``probabilities`` is the run. Magnifications are 10 over microns per pixel, as these tools count.

    Raises
    ------
    UsageError
        If h5py is not installed.
    """
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UsageError('writing H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None

    store = heat.store
    tiles = store.readable
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        coords = file.create_dataset("coords", data=np.stack([store.x0[tiles], store.y0[tiles]], axis=1))
        coords.attrs.update(_trident_attributes(heat))
        probabilities = file.create_dataset("probabilities", data=heat.probabilities[tiles])
        probabilities.attrs.update({"run": heat.run, "classes": list(heat.classes)})
        found = _features(heat)
        if found:
            features = file.create_dataset("features", data=found[1][tiles], chunks=True)
            features.attrs.update({"name": heat.slide_id, "encoder": found[0]})


def _trident_attributes(heat: Heat) -> dict[str, Any]:
    grid, parameters = heat.grid, heat.store.parameters
    return {
        "name": heat.slide_id,
        "patch_size": grid.tile_size,
        "patch_size_level0": round(grid.tile_size * grid.downsample_x),
        "overlap": grid.overlap,
        "level0_width": parameters.slide_size[0],
        "level0_height": parameters.slide_size[1],
        "level0_magnification": MICRONS_AT_1X / parameters.slide_mpp[0],
        "target_magnification": MICRONS_AT_1X / parameters.mpp[0],
        "mpp": parameters.mpp[0],
    }


def _features(heat: Heat) -> tuple[str, NDArray[Any]] | None:
    """Return the store's only encoder and its features (n, d); StoreError if there are several or they do not fit."""
    import zarr

    root: Any = zarr.open_group(heat.store.url, mode="r")
    names = sorted(root["features"].array_keys()) if "features" in root else []
    if len(names) > 1:
        raise StoreError(f"{heat.store.url} holds features of {', '.join(names)}: keep one of them for an export")
    if not names:
        return None
    values = np.asarray(root[f"features/{names[0]}"][...])
    if values.ndim != 2 or len(values) != len(heat.store):
        raise StoreError(f"{heat.store.url}/features/{names[0]} is {values.shape} for {len(heat.store)} tiles")
    return names[0], values
