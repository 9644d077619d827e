"""What the page draws scores from: a byte per cell and band for the colours, float32 per tile for the numbers.

A byte is the number of thresholds ``k / 200`` that a score reaches, and 0 where there is none. So a cell is at or over
a threshold of that kind in the page exactly where it is for `aggregate`, and areas are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.heatmap import ScoreMap, read_heatmap_data
from wsivit.store import TileStore
from wsivit.viewer.binary import pack_arrays

STEPS = 200
PROBABILITIES = 0.0, 1.0
"""Ends of their scale."""


def shown_runs(store: TileStore) -> list[str]:
    """Return the names of all that has scores."""
    return sorted(store.runs)


def pack_scores(store: TileStore, run: str) -> bytes:
    """Pack the score map of a run and the scores of its tiles.

    Raises
    ------
    UsageError, StoreError
        As `wsivit.heatmap.read_heatmap_data`.
    """
    data = read_heatmap_data(store, run)
    scores, ends = data.scores, PROBABILITIES
    arrays: dict[str, NDArray[Any]] = {
        "bands": np.stack([score_bytes(band, *ends) for band in np.moveaxis(scores.scores, -1, 0)]),
        "coverage": score_bytes(scores.coverage),
        "status": scores.status,
        "values": data.probabilities,
        "uncertainty": score_bytes(scores.uncertainty),
        "best": _best_class(scores),
    }
    if data.spread is not None:
        arrays["spread"] = data.spread
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
        ends=ends,
        unit="",
        uncertainty_kind=scores.uncertainty_kind,
    )


def score_bytes(values: NDArray[np.float32], lower: float = 0.0, upper: float = 1.0) -> NDArray[np.uint8]:
    """Count the thresholds that each value reaches, of those evenly spread from `lower` to `upper`.

    0 for NaN, at least 1 for a number.
    """
    # In float32, as numpy compares a score map with a threshold.
    thresholds = (lower + (upper - lower) * (np.arange(STEPS + 1) / STEPS)).astype(np.float32)
    counted = np.searchsorted(thresholds, values, side="right")
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
