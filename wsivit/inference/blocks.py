"""Every tile of a store through one model or several, block by block, each tile read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.data import read_skipping_unreadable
from wsivit.errors import StoreError
from wsivit.inference.runner import ModelRunner, run_models
from wsivit.io import THREADS, progress_bar
from wsivit.store import TileStore

Indices: TypeAlias = NDArray[np.int64]
ReadTiles: TypeAlias = Callable[[Indices], tuple[Indices, NDArray[np.uint8]]]
"""Reads tiles but those that turn out unreadable, and returns which were read."""


class BlockJob(NamedTuple):
    """A model, the blocks of tiles that it has not seen, and what takes its results, NaN where a tile is unreadable.

    `read` is given where the model sees other pixels than the store's tiles.
    """

    runner: ModelRunner
    blocks: list[range]
    write: Callable[[range, NDArray[Any]], None]
    read: ReadTiles | None = None


def run_blocks(store: TileStore, jobs: Sequence[BlockJob], *, progress: bool, doing: str = "predicting") -> None:
    """Run models over the readable tiles of their blocks; each block is written once it is complete.

    Models that lack the same blocks of the same pixels share the reading; others read by themselves.

    Raises
    ------
    StoreError
        A model gives results of another shape than it describes, or that are not numbers.
    """
    alike: dict[tuple[tuple[range, ...], ReadTiles | None], list[BlockJob]] = {}
    for job in jobs:
        alike.setdefault((tuple(job.blocks), job.read), []).append(job)
    own_tiles = partial(read_skipping_unreadable, store.read, size=store.grid.tile_size)
    for (blocks, read), group in alike.items():
        _run_group(store, blocks, read or own_tiles, group, progress, doing)


def _run_group(
    store: TileStore, blocks: Sequence[range], read: ReadTiles, jobs: list[BlockJob], progress: bool, doing: str
) -> None:
    runners, readable = [job.runner for job in jobs], store.readable
    step = min(runner.step for runner in runners)
    todo = [readable[(readable >= block.start) & (readable < block.stop)] for block in blocks]
    batches = [tiles[k : k + step] for tiles in todo for k in range(0, len(tiles), step)]
    # On a GPU reading is the slower part.
    readers = 1 if runners[0].device.type == "cpu" else min(THREADS, 8)
    with (
        progress_bar(sum(map(len, todo)), doing, "tile", show=progress) as advance,
        closing(run_models(runners, batches, read, readers)) as results,
    ):
        for block, tiles in zip(blocks, todo, strict=True):
            values = [np.full((len(block), *runner.shape), np.nan, runner.dtype) for runner in runners]
            for indices, given in islice(results, -(-len(tiles) // step)):
                for runner, target, result in zip(runners, values, given, strict=True):
                    if result.shape[1:] != runner.shape:
                        raise StoreError(
                            f"{runner.spec.name} gives {result.shape[-1]} numbers for a tile, but its description "
                            f"names {runner.shape[-1]} classes: the description is of another model"
                        )
                    runner.require_finite(result, f" of {store.url}")
                    target[indices - block.start] = result
                advance(len(indices))
            for job, result in zip(jobs, values, strict=True):
                job.write(block, result)
