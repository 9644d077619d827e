"""Which tiles of a store show tissue that a run learned from: recorded with its predictions."""

from __future__ import annotations

import csv
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsivit.data import SIDES, TRAIN
from wsivit.models import RunMetadata
from wsivit.store import TileStore

Bools = NDArray[np.bool_]


def trained_on(run: str | os.PathLike[str], metadata: RunMetadata, store: TileStore) -> list[list[int]] | None:
    """Return runs of tiles, ``[start, stop)`` in the order of the store, that overlap a tile the run learned from.

    None where the run learned from the slide, but does not say from which tiles: its split file is gone, or the run is
    of an earlier version.
    """
    fingerprint = store.parameters.slide_fingerprint
    source = next((source for source in metadata.data if source["fingerprint"] == fingerprint), None)
    if source is None or not source.get(SIDES[TRAIN]):
        return []
    try:
        split = Path(run) / metadata.split["file"]
        col, row = _trained_places(split, split.stat().st_mtime_ns)[source["id"]].T
        stride, side = np.array(source["stride0"], np.float64), np.array(source["side0"], np.float64)
    except (OSError, KeyError, ValueError, csv.Error):
        return None
    return _ranges(_overlapping(store.grid.boxes0(store.col, store.row), col, row, stride, side))


@lru_cache(maxsize=1)
def _trained_places(split: Path, changed: int) -> dict[str, NDArray[np.int64]]:
    """Read the ``col, row`` of the training tiles of each source, once for all slides of a cohort."""
    places: dict[str, list[list[str]]] = {}
    with split.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["split"] == SIDES[TRAIN]:
                places.setdefault(line["source"], []).append(line["item"].split("/"))
    return {source: np.array(of_source, np.int64).reshape(-1, 2) for source, of_source in places.items()}


def _overlapping(
    boxes0: NDArray[np.float64],
    col: NDArray[np.int64],
    row: NDArray[np.int64],
    stride: NDArray[np.float64],
    side: NDArray[np.float64],
) -> Bools:
    """Which boxes overlap a tile of another lattice, whose tiles of `side` lie `stride` apart, at any of its places."""
    if not len(col):
        return np.zeros(len(boxes0), bool)
    # Sums over the lattice from its corner: those of a box come from four of them, whatever its size.
    sums = np.zeros((int(row.max()) + 2, int(col.max()) + 2), np.int64)
    sums[row + 1, col + 1] = 1
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    # Tile k covers [k * stride, k * stride + side). Edges that only touch, within rounding, do not overlap.
    slack = 1e-6 * side
    first = np.floor((boxes0[:, :2] + slack - side) / stride).astype(np.int64) + 1
    last = np.ceil((boxes0[:, 2:] - slack) / stride).astype(np.int64)
    (left, top), (right, bottom) = (np.clip(ends, 0, np.array(sums.shape[::-1]) - 1).T for ends in (first, last))
    counts = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(counts > 0)


def _ranges(flags: Bools) -> list[list[int]]:
    """Runs of True, as ``[start, stop)``: far shorter than a list of tiles, which lie side by side."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [[int(start), int(stop)] for start, stop in edges.reshape(-1, 2)]
