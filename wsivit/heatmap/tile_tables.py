"""Tables of tiles as other tools write them: WSInfer's CSV of scores, the H5 of TRIDENT and CLAM."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wsivit.errors import StoreError, UsageError
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.io import replacing
from wsivit.slide import MICRONS_AT_1X
from wsivit.store import TileStore


def write_csv(data: HeatmapData, path: Path) -> None:
    """Write one row per predicted tile: ``minx, miny, width, height`` in level-0 pixels and ``prob_<class>``.

    Coordinates are from the corner of the whole image, also where the slide has bounds.
    """
    tiles = data.predicted
    boxes = data.grid.boxes0(data.store.col, data.store.row)[tiles]
    frames = np.rint(np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])).astype(np.int64)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["minx", "miny", "width", "height", *(f"prob_{name}" for name in data.classes)])
        for frame, row in zip(frames.tolist(), data.probabilities[tiles].tolist(), strict=True):
            table.writerow([*frame, *(f"{value:.7g}" for value in row)])


def write_h5(store: TileStore, path: Path, encoder: str | None = None, data: HeatmapData | None = None) -> None:
    """Write ``coords``, and ``features`` where the store has any.

    ``coords`` are int64 (n, 2), level-0 ``x, y`` of every readable tile, with the attributes that TRIDENT reads;
    ``probabilities`` are those of `data`, if given.

    Raises
    ------
    UsageError
        If h5py is not installed, the store has no such encoder, or it has several and none was chosen.
    StoreError
        If the features do not fit the tiles.
    """
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UsageError('writing H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None

    grid, parameters, tiles = store.grid, store.parameters, store.readable
    if encoder is None and len(store.encoders) > 1:
        names = ", ".join(store.encoders)
        raise UsageError(f"{store.url}: features of several encoders; choose one of {names} (--encoder)")
    encoder = encoder or next(iter(store.encoders), None)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        coords = file.create_dataset("coords", data=np.stack([store.x0[tiles], store.y0[tiles]], axis=1))
        coords.attrs.update(
            {
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
        )
        if data is not None:
            probabilities = file.create_dataset("probabilities", data=data.probabilities[tiles])
            probabilities.attrs.update({"run": data.run, "classes": list(data.classes)})
        if encoder is not None:
            values = store.features(encoder).values
            if values.ndim != 2 or len(values) != len(store):
                raise StoreError(f"{store.url}/features/{encoder} is {values.shape} for {len(store)} tiles")
            features = file.create_dataset("features", data=values[tiles], chunks=True)
            features.attrs.update({"name": parameters.slide_id, "encoder": encoder})
