"""One table of the tiles of many stores, so that training opens a few of them at a time.

A parquet file with a row per readable tile: ``store, tile, label, patient, split``. What else training needs of a store
(its scale, grid, fingerprint) is written once, in the metadata of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.data.labelled_tiles import LabelledTiles, Samples, require_one_scale
from wsivit.data.splits import SIDE_NAMES, SIDES
from wsivit.data.tile_sources import StoreSource
from wsivit.errors import InputNotFoundError, StoreMismatchError, UsageError
from wsivit.io import (
    Output,
    RemoteFile,
    RemoteFiles,
    display_path,
    is_url,
    local_output,
    map_ordered,
    progress_bar,
    replacing,
)
from wsivit.ranges import FractionBelowOne, Seed, check_option
from wsivit.slide import TileGrid
from wsivit.slide_list import SlideRow, Sources, find_slides, locations
from wsivit.store import TileStore

FORMAT = 1
OPEN_STORES = 32
"""Stores that are open at a time in each process."""
_NOTES = b"wsivit"
_ROWS = 1 << 18


@dataclass(frozen=True)
class Indexed:
    """What was indexed.

    Attributes
    ----------
    path : Path or str
        The table, or its URL.
    stores, tiles : int
    labels : dict of str to int
        Tiles of each value of the label.
    splits : dict of str to int
        Tiles of each side.
    """

    path: Output
    stores: int
    tiles: int
    labels: dict[str, int]
    splits: dict[str, int]


@dataclass(frozen=True)
class _Entry:
    """What the metadata of the table say of one store."""

    store: str
    id: str
    patient: str
    site: str
    scanner: str
    fingerprint: str
    mpp: float
    downscale: str
    grid: dict[str, Any]
    shard_tiles: int
    tiles: int
    requested_mpp: float | None = None


def index(
    stores: Sources,
    output: str | os.PathLike[str] = "index.parquet",
    *,
    label: str | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> Indexed:
    """Write one table of the tiles of many stores, for training over a whole cohort.

    ``wsivit train index.parquet`` then opens a few stores at a time, and reads each shard once in an epoch.

    Parameters
    ----------
    stores : path, URL or TileStore, or several
        Tile stores, folders or globs of them, the output of a cohort, or a cohort table (``.csv``: store, patient,
        site, split, labels).
    output : path or URL
        The table to write, ``.parquet``.
    label : str, optional
        Column of the cohort table, one value per slide, or label column of the stores. Tiles without a value are left
        out. Default: no labels, all tiles.
    holdout : float
        About this part of the patients, of those of whom the table does not say a split, is held out to measure on.
        0: no split.
    seed : int
        Which patients that are.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Indexed

    Raises
    ------
    UsageError
        There is no store, a slide has none, one has no such label, or a split has an unknown name.
    StoreError
        A store is damaged.
    StoreMismatchError
        The stores differ in scale or tile size.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    check_option("holdout", holdout, FractionBelowOne)
    check_option("seed", seed, Seed)
    slides = find_slides(locations(stores), kind="stores")
    notes: list[_Entry] = []
    count = {"label": dict[str, int](), "split": dict[str, int]()}
    with local_output(output) as path, ThreadPoolExecutor(8) as pool:
        how = _How(label, holdout, seed, None if is_url(output) else path.parent.absolute())
        read = map_ordered(pool, how.read, slides, ahead=16)
        with replacing(path) as temporary, progress_bar(len(slides), "indexing", "store", show=progress) as advance:
            words_type = pa.dictionary(pa.int32(), pa.string())
            columns = dict.fromkeys(("store", "tile", "label", "patient", "split"), words_type)
            schema = pa.schema(list((columns | {"tile": pa.int32()}).items()))
            writer = parquet.ParquetWriter(temporary, schema, compression="zstd")
            with writer:
                for entry, rows in read:
                    if notes:
                        require_one_scale([IndexedSource(notes[0], ""), IndexedSource(entry, "")], selectable=False)
                    notes.append(entry)
                    words = [_dictionary(values, entry.tiles) for values in rows.values()]
                    writer.write_table(pa.table(words, schema=schema))
                    for name, column in count.items():
                        _count(column, rows[name], entry.tiles)
                    advance(1)
                written = {"format": FORMAT, "label": label, "stores": [asdict(entry) for entry in notes]}
                writer.add_key_value_metadata({_NOTES: json.dumps(written).encode()})
    tiles = sum(entry.tiles for entry in notes)
    return Indexed(display_path(output), len(notes), tiles, count["label"], count["split"])


@dataclass(frozen=True)
class _How:
    label: str | None
    holdout: float
    seed: int
    folder: Path | None

    def read(self, slide: SlideRow) -> tuple[_Entry, dict[str, Any]]:
        """Read what the table needs of one store: its columns, not its pixels."""
        if not slide.store:
            raise UsageError(f"{slide.path} is a slide: tile it first (wsivit tile), and index its store")
        source = StoreSource(slide.store, slide.patient, slide.site, slide.scanner)
        store, parameters = source.store, source.store.parameters

        tiles = store.readable
        labels: Any = slide.values.get(self.label or "")  # one for all tiles
        if self.label in slide.values and not labels:
            tiles = tiles[:0]
        elif self.label is not None and self.label not in slide.values:  # or one for each
            column = store.label(self.label)
            codes = column.codes[tiles]
            tiles, labels = tiles[codes >= 0], np.asarray(column.classes, object)[codes[codes >= 0]]

        side = None
        if slide.split:
            if slide.split.lower() not in SIDE_NAMES:
                raise UsageError(f"{slide.store}: split {slide.split!r} is none of {', '.join(SIDE_NAMES)}")
            side = SIDES[SIDE_NAMES[slide.split.lower()]]
        elif self.holdout:
            # Drawn per patient: more slides do not move those that were drawn before.
            drawn = hashlib.sha256(f"{self.seed}/{source.patient}".encode()).digest()[:8]
            side = "test" if int.from_bytes(drawn, "big") < self.holdout * 2**64 else "train"

        # Relative to the table where both are on this machine, so that they can be moved together.
        relative = self.folder is not None and not is_url(store.url)
        entry = _Entry(
            store=os.path.relpath(store.url, self.folder) if relative else store.url,
            id=parameters.slide_id,
            patient=source.patient,
            site=source.site,
            scanner=source.scanner,
            fingerprint=source.fingerprint,
            mpp=float(source.mpp or 0),
            downscale=source.downscale,
            grid=parameters.grid.to_dict(),
            shard_tiles=parameters.shard_tiles,
            tiles=len(tiles),
            requested_mpp=source.requested_mpp,
        )
        rows = {"store": entry.store, "tile": tiles, "label": labels, "patient": entry.patient, "split": side}
        return entry, rows


def _dictionary(values: Any, tiles: int) -> Any:
    """Return a column of the table: numbers as they are, words by number; one word stands for all tiles."""
    import pyarrow as pa

    if values is None or isinstance(values, str):
        known = pa.array([] if values is None else [values], pa.string())
        codes = pa.nulls(tiles, pa.int32()) if values is None else pa.array(np.zeros(tiles, np.int32))
        return pa.DictionaryArray.from_arrays(codes, known)
    return pa.array(values, pa.string()).dictionary_encode() if values.dtype == object else pa.array(values, pa.int32())


def _count(count: dict[str, int], values: Any, tiles: int) -> None:
    """Count the tiles of each value: one for all, or one for each."""
    if isinstance(values, str):
        count[values] = count.get(values, 0) + tiles
    elif values is not None:
        for name, n in zip(*np.unique(values.astype(str), return_counts=True), strict=True):
            count[str(name)] = count.get(str(name), 0) + int(n)


class IndexedSource(StoreSource):
    """The tiles of a store that is opened when the first of them is read, and closed when others are needed.

    Parameters
    ----------
    entry : _Entry
    base : str
        Folder that a relative location starts from.
    """

    def __init__(self, entry: _Entry, base: str) -> None:
        self.location = entry.store if is_url(entry.store) else os.path.normpath(Path(base) / entry.store)
        self.id, self.patient, self.site, self.scanner = entry.id, entry.patient, entry.site, entry.scanner
        self.downscale, self.fingerprint = entry.downscale, entry.fingerprint
        self.shard_tiles = entry.shard_tiles
        self.mpp: float | None = entry.mpp
        self.requested_mpp = entry.requested_mpp
        self.grid = TileGrid(**entry.grid)
        self.size = self.grid.tile_size

    @property
    def store(self) -> TileStore:  # type: ignore[override]
        """The store, open."""
        store = open_store(self.location)
        if store.parameters.slide_fingerprint != self.fingerprint:
            raise StoreMismatchError(f"{store.url} is another store than when it was indexed: run wsivit index again")
        return store


@lru_cache(maxsize=OPEN_STORES)
def open_store(location: str) -> TileStore:
    """Open a store, or give one of the last that were opened; behind a URL, its shards are fetched whole."""
    store = TileStore(location)
    if isinstance(store.files, RemoteFiles):
        store.files.whole = True
    return store


def shards_of(samples: Samples) -> NDArray[np.int64]:
    """Number the shard of each tile of indexed stores, int64 (n,)."""
    per = np.array([getattr(source, "shard_tiles", 1) for source in samples.sources], np.int64)
    within = samples.index // per[samples.source]
    most = int(within.max(initial=0)) + 1
    return samples.source * most + within


def is_index(item: str) -> bool:
    """Whether something is named as an index is."""
    return item.lower().endswith(".parquet")


def labelled_index(item: str, label: str | None = None) -> list[LabelledTiles]:
    """Read an index as labelled tiles, a part for each store; no store is opened.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    UsageError
        It is no index, or has no labels, or another label.
    """
    notes, columns = _read(item)
    if notes["label"] is None or (label is not None and label != notes["label"]):
        known = f"its label is {notes['label']}" if notes["label"] else "it has none"
        raise UsageError(f"{item}: no label {label or ''}; {known}: make another one with wsivit index --label")
    base = "" if is_url(item) else str(Path(item).absolute().parent)
    classes, parts, start = tuple(columns.classes), [], 0
    for values in notes["stores"]:
        entry = _Entry(**values)
        rows = slice(start, start + entry.tiles)
        start += entry.tiles
        side = columns.side[rows] if columns.split else None
        tile, code = columns.tile[rows].astype(np.int64), columns.code[rows].astype(np.int64)
        parts.append(LabelledTiles(IndexedSource(entry, base), tile, code, classes, side, notes["label"]))
    return parts


@dataclass(frozen=True)
class _Columns:
    tile: NDArray[np.int32]
    code: NDArray[np.int16]
    side: NDArray[np.int8]
    classes: list[str]
    split: bool


def _read(item: str) -> tuple[dict[str, Any], _Columns]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with (
            RemoteFile(item).open() if is_url(item) else Path(item).open("rb") as file,
            parquet.ParquetFile(file) as table,
        ):
            notes = json.loads((table.metadata.metadata or {})[_NOTES])
            if notes["format"] != FORMAT:
                raise UsageError(f"{item}: index format {notes['format']}, this wsivit reads {FORMAT}: index again")
            n = table.metadata.num_rows
            tile, code, side = np.empty(n, np.int32), np.empty(n, np.int16), np.empty(n, np.int8)
            known: dict[str, int] = {}
            start = 0
            # In batches, so that the words of a million tiles are never in memory.
            for batch in table.iter_batches(_ROWS, columns=["tile", "label", "split"]):
                rows = slice(start, start + len(batch))
                label, split = (
                    column if hasattr(column, "dictionary") else column.dictionary_encode()
                    for column in (batch.column("label"), batch.column("split"))
                )
                tile[rows] = batch.column("tile").to_numpy()
                for word in label.dictionary.to_pylist():
                    known.setdefault(word, len(known))
                code[rows] = _numbers(label, known)
                side[rows] = _numbers(split, SIDE_NAMES)
                start = rows.stop
            return notes, _Columns(tile, code, side, list(known), bool((side >= 0).any()))
    except FileNotFoundError:
        raise InputNotFoundError(f"{item}: there is no such index; wsivit index makes one") from None
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{item}: is no index made by wsivit index, or is damaged: {error}") from None


def _numbers(column: Any, known: dict[str, int]) -> NDArray[np.int64]:
    """Numbers of words; -1 for none."""
    table = np.array([*(known[word] for word in column.dictionary.to_pylist()), -1], np.int64)
    found: NDArray[np.int64] = table[column.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)]
    return found
