"""Tiles and features as TRIDENT and CLAM keep them: ``coords`` and ``features`` in one H5 file for each slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsivit.heatmap.feature_bag import FeatureBag, import_h5py
from wsivit.io import replacing
from wsivit.slide import MICRONS_AT_1X


def write_trident_h5(bag: FeatureBag, path: Path) -> None:
    """Write ``coords`` and, where there are any, ``features``; with a run also ``probabilities``.

    ``coords`` are int64 (n, 2), level-0 ``x, y``, with the attributes of both tools; ``features`` float16 (n, d).

    Raises
    ------
    UsageError
        If h5py is not installed.
    """
    h5py = import_h5py()
    name = bag.slide_id
    # Both tools record the folder they write to. It is of no use elsewhere, and would tell about this machine.
    about = {"name": name, "savetodir": "."}
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("coords", data=bag.coords).attrs.update(about | _coordinate_attributes(bag))
        if bag.features is not None:
            features = file.create_dataset("features", data=bag.features, chunks=True)
            features.attrs.update(about | {"encoder": bag.encoder, "encoder_fingerprint": bag.fingerprint})
        if bag.data is not None:
            probabilities = file.create_dataset("probabilities", data=bag.data.probabilities[bag.tiles])
            training = bag.data.training
            share = np.nan if training.share is None else training.share
            about_run = {"run": bag.data.run, "classes": list(bag.data.classes), "trained_on_share": share}
            probabilities.attrs.update(about_run | {"mismatch": list(training.mismatch)})


def _coordinate_attributes(bag: FeatureBag) -> dict[str, Any]:
    grid, parameters = bag.store.grid, bag.store.parameters
    attributes: dict[str, Any] = {
        "patch_size": grid.tile_size,
        "patch_size_level0": round(grid.tile_size * grid.downsample_x),
        "overlap": grid.overlap,
        "level0_width": parameters.slide_size[0],
        "level0_height": parameters.slide_size[1],
        "level0_magnification": _magnification(parameters.slide_mpp[0]),
        "target_magnification": _magnification(parameters.mpp[0]),
        "mpp": parameters.mpp[0],
    }
    if parameters.plan.native:
        # CLAM reads patches from a level of the slide: only where one is at this scale is there a level to name.
        level_size = parameters.plan.width, parameters.plan.height
        attributes |= {"patch_level": parameters.plan.level, "downsample": (grid.downsample_x, grid.downsample_y)}
        attributes |= {"level_dim": level_size, "downsampled_level_dim": level_size, "save_path": "."}
    return attributes


def _magnification(mpp: float) -> int | float:
    """Objective power of a scale: a whole number, as TRIDENT has it, where it is one."""
    power = MICRONS_AT_1X / mpp
    return round(power) if abs(power - round(power)) < 1e-6 * power else power
