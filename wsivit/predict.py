"""Run a trained model over the tiles of a store, or straight over a slide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from wsivit.data.samples import same_scale
from wsivit.errors import OutputExistsError, StoreMismatchError, UnreadableTilesError, UsageError
from wsivit.parallel import map_ordered
from wsivit.progress import progress_bar
from wsivit.runs import Contract, software_versions
from wsivit.scoring import Scorer, finished_run, run_name, softmax
from wsivit.slide import Slide
from wsivit.store import PredictionsWriter, TileStore

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class PredictOptions:
    """How a model is run.

    Parameters
    ----------
    batch_size : int
        Tiles per step.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    allow_mismatch : bool
        Go on where scale, tile size or slide format break the run's contract; it is recorded.
    overwrite : bool
        Replace predictions of another model that have the same name.
    """

    batch_size: int = 64
    device: str = "auto"
    allow_mismatch: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")


def predict(
    run: PathLike,
    source: PathLike | Slide | TileStore,
    *,
    output: PathLike | None = None,
    name: str | None = None,
    options: PredictOptions = PredictOptions(),
    progress: bool = False,
) -> TileStore:
    """Run a trained model over the tiles of a store, or straight over a slide.

    Probabilities go to ``predictions/<name>`` of the store, NaN for tiles that cannot be read. From a slide, a store of
    coordinates is made first, at the run's scale and tile size, and the pixels are read from the slide as they are
    needed. Killed and run again, it goes on after the last whole block of tiles; done already, it does nothing.

    Parameters
    ----------
    run : path
        A run folder made by ``wsivit train``.
    source : path, Slide or TileStore
        A tile store or a slide. A slide whose file does not tell its scale: with ``--slide-mpp`` on the command line,
        as ``open_slide(path, mpp=…)`` in Python.
    output : path, optional
        Folder for the store of a slide. Default: where the command runs.
    name : str, optional
        Name of the predictions in the store. Default: the run folder's.
    options : PredictOptions
        Batch size, device.
    progress : bool
        Show a progress bar.

    Returns
    -------
    TileStore
        The store with the predictions.

    Raises
    ------
    StoreError
        The run or the store is damaged.
    StoreMismatchError
        The store's scale or tile size is not the run's; each difference is named.
    OutputExistsError
        The store has predictions of that name by another model.
    """
    contract = finished_run(run)
    name = name or run_name(run)
    store = _open(source, contract, output, progress)
    mismatch = _check(contract, store, allow=options.allow_mismatch)
    if _is_done(store, name, contract, options):
        return store
    scorer = Scorer(run, contract, options.device)
    attrs = {
        "run": run_name(run),
        "model": contract.model,
        "model_fingerprint": contract.model_fingerprint,
        "temperature": contract.temperature,
        "mismatch": mismatch,
        "device": scorer.device.type,
        "versions": software_versions(),
    }
    with store.predictions_writer(name, contract.classes, attrs) as writer:
        _score(store, scorer, writer, options.batch_size, progress)
        writer.finish()
    return TileStore(store.url)


def _open(
    source: PathLike | Slide | TileStore, contract: Contract, output: PathLike | None, progress: bool
) -> TileStore:
    """Return the store, made of coordinates only where a slide was given."""
    if isinstance(source, TileStore):
        return source
    if not isinstance(source, Slide) and (TileStore.is_store(source) or str(source).rstrip("/").endswith(".zarr")):
        return TileStore(source)
    from wsivit.tiling import TileOptions, tile

    if contract.mpp is None:
        raise UsageError("the run was trained on pictures without a scale: tile the slide first, and predict its store")
    options = TileOptions(mpp=contract.mpp, tile_size=contract.tile_size, codec="none")
    return tile(source, output or ".", options, progress=progress).store


def _check(contract: Contract, store: TileStore, *, allow: bool) -> list[str]:
    """Compare the store with what the model was made for, field by field."""
    mpp = float(np.sqrt(np.prod(store.parameters.mpp)))
    found = []
    if not same_scale(contract.mpp, mpp):
        found.append(f"scale: the run is for {contract.mpp:.4g} microns per pixel, the store has {mpp:.4g}")
    if store.grid.tile_size != contract.tile_size:
        found.append(f"tile size: the run is for {contract.tile_size} px, the store has {store.grid.tile_size}")
    if found and not allow:
        raise StoreMismatchError(
            f"{store.url} does not fit the run: {'; '.join(found)}. Tile the slide for it, or go on with "
            "--allow-mismatch, which is recorded"
        )
    return found


def _is_done(store: TileStore, name: str, contract: Contract, options: PredictOptions) -> bool:
    if name not in store.runs:
        return False
    attrs = store.predictions(name).attrs
    wanted = {"model_fingerprint": contract.model_fingerprint, "temperature": contract.temperature}
    if all(attrs.get(key) == value for key, value in wanted.items()):
        return True
    if not options.overwrite:
        raise OutputExistsError(
            f"{store.url}: has predictions {name!r} by another model; choose another --name, or --overwrite them"
        )
    return False


def _score(store: TileStore, scorer: Scorer, writer: PredictionsWriter, step: int, progress: bool) -> None:
    """Run the model over every readable tile of the blocks that are not written yet, reading ahead."""
    blocks = writer.pending()
    readable = store.readable
    todo = [readable[(readable >= block.start) & (readable < block.stop)] for block in blocks]
    batches = [tiles[i : i + step] for tiles in todo for i in range(0, len(tiles), step)]
    with (
        progress_bar(sum(map(len, todo)), "predicting", "tile", show=progress) as advance,
        ThreadPoolExecutor(1) as reader,
    ):
        ahead = map_ordered(reader, lambda batch: _read(store, batch), batches, ahead=3)
        for block, tiles in zip(blocks, todo, strict=True):
            logits = np.full((len(block), len(scorer.contract.classes)), np.nan, np.float32)
            for read, pixels in islice(ahead, -(-len(tiles) // step)):
                if len(read):
                    logits[read - block.start] = scorer(pixels)
                advance(len(read))
            writer.write(block, softmax(logits / scorer.contract.temperature), logits)


def _read(store: TileStore, tiles: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Read a batch; where a tile of it turns out unreadable, the others."""
    try:
        return tiles, store.read(tiles)
    except UnreadableTilesError:
        good = list(_one_by_one(store, tiles))
        return np.array([i for i, _ in good], np.int64), np.array([pixels for _, pixels in good], np.uint8)


def _one_by_one(store: TileStore, tiles: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for i in tiles.tolist():
        try:
            yield i, store[i]
        except UnreadableTilesError:
            continue
