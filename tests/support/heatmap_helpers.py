"""Stores with predictions of known content, without a slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.slide import ReadPlan
from wsivit.slide.grid import TileGrid
from wsivit.store import Predictions, Status, StoreParameters, StoreWriter, TileStore, TileTable
from wsivit.store.shard import encode_zstd

Field = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def left_half(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability 0.9 left of the middle of a slide 4096 pixels wide, 0.1 right of it."""
    return np.where(x < 2048, 0.9, 0.1)


def make_store(
    path: Path,
    *,
    size0: tuple[int, int] = (4096, 3072),
    tile: int = 128,
    overlap: int = 0,
    downsample: float = 2.0,
    slide_mpp: float = 0.25,
    field: Field = left_half,
    classes: Sequence[str] = ("normal", "tumor"),
    unreadable: Sequence[int] = (),
    pixels: bool = False,
    **parameters: Any,
) -> TileStore:
    """Write a store whose every tile has the probability that `field` gives for its centre (level-0 x, y).

    With `pixels` its tiles are as bright as they lie right.
    """
    plane = round(size0[0] / downsample), round(size0[1] / downsample)
    grid = TileGrid(tile, overlap, *plane, downsample, downsample)
    col, row = grid.cells()
    status = np.where(grid.padded(col, row), Status.PADDED, Status.OK).astype(np.uint8)
    status[list(unreadable)] = Status.UNREADABLE
    boxes, mpp = grid.boxes0(col, row), slide_mpp * downsample
    given = StoreParameters(
        slide_id=path.stem,
        slide_path=str(path.with_suffix(".tiff")),
        slide_fingerprint="sha256:0",
        slide_size=size0,
        slide_mpp=(slide_mpp, slide_mpp),
        scale={},
        requested_mpp=mpp,
        mpp=(mpp, mpp),
        plan=ReadPlan(mpp, mpp, mpp, 0, 1, downsample, downsample, downsample, downsample, *plane),
        grid=grid,
        tissue={},
        min_tissue=0.0,
        codec="zstd" if pixels else "none",
        **parameters,
    )
    table = TileTable(col, row, *grid.level0_xy(col, row), np.ones(len(col), np.float32), status)
    with StoreWriter.open(path, given, table) as writer:
        thumbnail = np.full((round(size0[1] / 16), round(size0[0] / 16), 3), (230, 190, 215), np.uint8)
        mask = np.ones((round(size0[1] / 32), round(size0[0] / 32)), bool)
        writer.write_thumbnail(thumbnail, (size0[0] / thumbnail.shape[1], size0[1] / thumbnail.shape[0]))
        writer.write_mask(mask, (size0[0] / mask.shape[1], size0[1] / mask.shape[0]))
        for tiles in writer.pending() if pixels else ():
            bright = (255 * boxes[tiles.start : tiles.stop, 0] / size0[0]).astype(np.uint8)
            writer.write_shard(tiles, [encode_zstd(np.full((tile, tile, 3), value, np.uint8)) for value in bright])
        writer.finish()
    store = TileStore(path)
    p = field(boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)).astype(np.float32)
    rest = np.repeat((1 - p)[:, None] / (len(classes) - 1), len(classes) - 1, axis=1)
    probabilities = np.concatenate([rest, p[:, None]], axis=1)
    probabilities[list(unreadable)] = np.nan
    store.write_predictions("run-1", Predictions(probabilities, tuple(classes)))
    return store
