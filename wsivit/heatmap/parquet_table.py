"""Tiles as a Parquet table: where each is, its labels, and the features of an encoder as a column of vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wsivit.heatmap.feature_bag import FeatureBag
from wsivit.io import replacing


def write_parquet(bag: FeatureBag, path: Path) -> None:
    """Write one row for each tile: place, tissue, labels, ``features`` (float32 vectors), probabilities of a run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    store, tiles = bag.store, bag.tiles
    columns = {
        "slide_id": pa.array([bag.slide_id] * len(tiles)).dictionary_encode(),
        "col": store.col[tiles],
        "row": store.row[tiles],
        "x0": store.x0[tiles],
        "y0": store.y0[tiles],
        "tissue": store.tissue_fraction[tiles],
    }
    for name in store.labels:
        label = store.label(name)
        codes = label.codes[tiles].astype(np.int32)
        # A name of a label may be that of a column above.
        columns[f"label_{name}"] = pa.DictionaryArray.from_arrays(
            pa.array(codes, mask=codes < 0), pa.array(list(label.classes), pa.string())
        )
    if bag.features is not None:
        flat = pa.array(bag.features.astype(np.float32).reshape(-1))
        columns["features"] = pa.FixedSizeListArray.from_arrays(flat, bag.features.shape[1])
    if bag.data is not None:
        for index, name in enumerate(bag.data.classes):
            columns[f"prob_{name}"] = bag.data.probabilities[tiles, index]
    parameters = store.parameters
    about = {
        "slide_id": bag.slide_id,
        "slide_fingerprint": parameters.slide_fingerprint,
        "slide_mpp": parameters.slide_mpp,
        "mpp": parameters.mpp,
        "tile_size": store.grid.tile_size,
        "overlap": store.grid.overlap,
        "encoder": bag.encoder,
        "encoder_fingerprint": bag.fingerprint,
    }
    if bag.data is not None:
        about |= bag.data.facts
    table = pa.table(columns).replace_schema_metadata({"wsivit": json.dumps(about)})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
