"""What the page draws scores from: a byte per cell and band for the colours, float32 per tile for the numbers.

A byte is the number of thresholds ``k / 200`` that a score reaches, and 0 where there is none. So a cell is at or over
a threshold of that kind in the page exactly where it is for `aggregate`, and areas are the same.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.heatmap import ScoreMap, read_heatmap_data, slide_scores
from wsivit.store import TileStore
from wsivit.viewer.binary import pack_arrays

STEPS = 200
_GRID = (np.arange(STEPS + 1) / STEPS).astype(np.float32)  # as numpy compares a float32 map with a threshold
_DRAWN_AT = 0.5


def pack_scores(store: TileStore, run: str) -> bytes:
    """Pack the score map of a run and the scores of its tiles.

    Raises
    ------
    UsageError, StoreError
        As `wsivit.heatmap.read_heatmap_data`.
    """
    data = read_heatmap_data(store, run)
    scores = data.scores
    arrays: dict[str, NDArray[Any]] = {
        "bands": np.stack([score_bytes(band) for band in np.moveaxis(scores.scores, -1, 0)]),
        "uncertainty": score_bytes(scores.uncertainty),
        "coverage": score_bytes(scores.coverage),
        "best": _best_class(scores),
        "status": scores.status,
        "probabilities": data.probabilities,
    }
    if data.spread is not None:
        arrays["spread"] = data.spread
    measures = slide_scores(
        data.probabilities[data.predicted], dict.fromkeys(data.classes, _DRAWN_AT), scores, data.slide_mpp
    )
    return pack_arrays(
        arrays,
        run=run,
        classes=data.classes,
        main_class=data.main_class,
        class_colors=data.class_colors,
        downsample0=scores.downsample0,
        size0=scores.size0,
        mpp=data.slide_mpp,
        steps=STEPS,
        uncertainty_kind=scores.uncertainty_kind,
        measures=[asdict(measure) for measure in measures],
    )


def score_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Count the thresholds ``k / 200`` that each value reaches; 0 for NaN, at least 1 for a number."""
    counted = np.searchsorted(_GRID, values, side="right")
    return np.where(np.isnan(values), 0, np.maximum(counted, 1)).astype(np.uint8)


def _best_class(scores: ScoreMap) -> NDArray[np.uint8]:
    """One more than the index of the highest class, 0 where nothing was predicted."""
    best = scores.best_class
    return np.where(np.isnan(best), 0, np.nan_to_num(best) + 1).astype(np.uint8)


def pack_tiles(store: TileStore) -> bytes:
    """Pack what a store knows of its tiles: place, status, tissue and quality control."""
    arrays: dict[str, NDArray[Any]] = {
        "col": store.col.astype(np.int32),
        "row": store.row.astype(np.int32),
        "x0": store.x0.astype(np.int32),
        "y0": store.y0.astype(np.int32),
        "status": store.status,
        "tissue": store.tissue_fraction,
    }
    return pack_arrays(arrays | {f"qc:{name}": values for name, values in store.qc.items()})
