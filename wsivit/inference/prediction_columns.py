"""Every tile of a store through a model, block by block, reading ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UnreadableTilesError
from wsivit.inference.runner import ModelRunner, softmax
from wsivit.io import THREADS, progress_bar
from wsivit.store import FeaturesWriter, Predictions, PredictionsWriter, TileStore

Indexes = NDArray[np.int64]
Values = NDArray[Any]


def write_scores(store: TileStore, scorer: ModelRunner, writer: PredictionsWriter, *, progress: bool) -> None:
    """Score the tiles of the blocks that are not written yet."""
    temperature = scorer.spec.temperature

    def write(block: range, logits: Values) -> None:
        found = predictions_of(logits, scorer.spec.classes, temperature)
        writer.write(block, found.probabilities, logits, found.spread)

    _fill(store, scorer, writer.pending(), write, progress)


def write_features(store: TileStore, scorer: ModelRunner, writer: FeaturesWriter, *, progress: bool) -> None:
    """Write the features of the tiles of the blocks that are not written yet."""
    _fill(store, scorer, writer.pending(), writer.write, progress)


def predictions_of(logits: Values, classes: tuple[str, ...], temperature: float) -> Predictions:
    """Make probabilities of logits (n, classes); of several views (n, views, classes) their mean and their spread."""
    made = softmax(logits / np.float32(temperature))
    if made.ndim == 2:
        return Predictions(made, classes, logits=logits)
    return Predictions(made.mean(axis=1), classes, logits=logits, spread=made.std(axis=1))


def first_tiles(store: TileStore, count: int) -> NDArray[np.uint8]:
    """Read some readable tiles from all over a store."""
    readable = store.readable
    chosen = readable[np.linspace(0, len(readable) - 1, min(count, len(readable))).astype(np.int64)]
    return _read(store, chosen)[1]


def _fill(
    store: TileStore, scorer: ModelRunner, blocks: list[range], write: Callable[[range, Values], None], progress: bool
) -> None:
    """Run the model over every readable tile of some blocks; each is written when it is whole."""
    readable, step = store.readable, scorer.step
    todo = [readable[(readable >= block.start) & (readable < block.stop)] for block in blocks]
    batches = [tiles[k : k + step] for tiles in todo for k in range(0, len(tiles), step)]
    # On a GPU reading is the slower part.
    readers = 1 if scorer.device.type == "cpu" else min(THREADS, 8)
    with (
        progress_bar(sum(map(len, todo)), "predicting", "tile", show=progress) as advance,
        closing(scorer.run(batches, lambda tiles: _read(store, tiles), readers)) as scored,
    ):
        for block, tiles in zip(blocks, todo, strict=True):
            values = np.full((len(block), *scorer.shape), np.nan, scorer.dtype)
            for read, made in islice(scored, -(-len(tiles) // step)):
                _check(store, scorer, made)
                values[read - block.start] = made
                advance(len(read))
            write(block, values)


def _check(store: TileStore, scorer: ModelRunner, made: Values) -> None:
    if made.shape[1:] != scorer.shape:
        raise StoreError(
            f"{scorer.spec.name} gives {made.shape[-1]} numbers for a tile, but is said to have {scorer.shape[-1]} "
            "classes: its description is of another model"
        )
    scorer.require_finite(made, f" of {store.url}")


def _read(store: TileStore, tiles: Indexes) -> tuple[Indexes, NDArray[np.uint8]]:
    """Read a batch; where a tile of it turns out unreadable, the others."""
    try:
        return tiles, store.read(tiles)
    except UnreadableTilesError:
        good = list(_one_by_one(store, tiles))
        size = store.grid.tile_size
        pixels = np.array([pixels for _, pixels in good], np.uint8).reshape(-1, size, size, 3)
        return np.array([i for i, _ in good], np.int64), pixels


def _one_by_one(store: TileStore, tiles: Indexes) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for i in tiles.tolist():
        try:
            yield i, store[i]
        except UnreadableTilesError:
            continue
