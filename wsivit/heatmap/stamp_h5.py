"""Features as STAMP keeps them: ``feats`` and ``coords`` in microns, one H5 file for each slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsivit.heatmap.feature_bag import FeatureBag, import_h5py
from wsivit.io import replacing


def write_stamp_h5(bag: FeatureBag, path: Path) -> None:
    """Write ``feats`` float16 (n, d) and ``coords`` float32 (n, 2): top-left corners in microns from the slide's own.

    Raises
    ------
    UsageError
        If the store has no features, or h5py is not installed.
    """
    h5py = import_h5py()
    features, parameters = bag.required_features, bag.store.parameters
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        # A corner is rounded to level-0 pixels once: the exact one is that of the grid.
        corners = bag.store.grid.boxes0(bag.store.col[bag.tiles], bag.store.row[bag.tiles])[:, :2]
        file["coords"] = (corners * parameters.slide_mpp).astype(np.float32)
        file["feats"] = features
        file.attrs["extractor"] = str(bag.encoder)
        file.attrs["unit"] = "um"
        file.attrs["tile_size_um"] = bag.store.grid.tile_size * parameters.mpp[0]
        file.attrs["tile_size_px"] = bag.store.grid.tile_size
        file.attrs["feat_type"] = "tile"
        # Not stamp_version: STAMP refuses files of a version newer than its own, and this is of none.
        file.attrs["encoder_fingerprint"] = bag.fingerprint
