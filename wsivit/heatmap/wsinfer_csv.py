"""Scores of tiles as WSInfer writes them: a CSV with one row for each."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.io import replacing


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
