"""One table of the tiles of many stores, so that training need not open them all: which, of whom, on which side.

A parquet file with a row per readable tile: ``store, tile, label, patient, split``. What else training must know of a
store (its scale, grid, fingerprint) stands once in the notes of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.data.image_sources import SPLIT_FOLDERS
from wsivit.data.labelled_tiles import LabelledTiles, Samples, StoreSource, require_one_scale
from wsivit.errors import InputNotFoundError, StoreMismatchError, UsageError
from wsivit.io import Output, RemoteFiles, display_path, is_url, local_output, map_ordered, progress_bar, replacing
from wsivit.slide import TileGrid
from wsivit.slide_list import SlideRow, find_slides
from wsivit.store import TileStore

FORMAT = 1
OPEN_STORES = 32
"""Stores that are open at a time in each process."""
_NOTES = b"wsivit"
_ROWS = 1 << 18
_SIDES = {0: "train", 1: "validation", 2: "test"}


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
    """What the notes say of one store."""

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
    stores: Sequence[str | os.PathLike[str]],
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
    stores : sequence of path or URL
        Tile stores, folders or globs of them, or a cohort table (``.csv``: store, patient, site, split, labels).
    output : path or URL
        The table to write, ``.parquet``.
    label : str, optional
        Column of the cohort table, one value per slide, or label column of the stores. Tiles without a value are left
        out. Default: no labels, all tiles.
    holdout : float
        About this part of the patients, of those of whom the table does not say a split, is on the validation side.
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
    import pyarrow.parquet as parquet

    if not 0 <= holdout < 1:
        raise UsageError(f"holdout must be a part, from 0 to below 1, not {holdout}")
    slides = find_slides(stores)
    notes: list[_Entry] = []
    count = {"label": dict[str, int](), "split": dict[str, int]()}
    with local_output(output) as path, ThreadPoolExecutor(8) as pool:
        how = _How(label, holdout, seed, None if is_url(output) else path.parent.absolute())
        read = map_ordered(pool, how.read, slides, ahead=16)
        with replacing(path) as temporary, progress_bar(len(slides), "indexing", "store", show=progress) as advance:
            writer = parquet.ParquetWriter(temporary, _schema(), compression="zstd")
            with writer:
                for entry, rows in read:
                    _refuse_another_scale(notes, entry)
                    notes.append(entry)
                    writer.write_table(_table(entry, rows))
                    for name, column in count.items():
                        _add(column, rows[name], entry.tiles)
                    advance(1)
                told = {"format": FORMAT, "label": label, "stores": [asdict(entry) for entry in notes]}
                writer.add_key_value_metadata({_NOTES: json.dumps(told).encode()})
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
        store, parameters, patient = source.store, source.store.parameters, source.patient
        tiles, labels = self._labelled(store, slide)
        entry = _Entry(
            store=self._place(store.url),
            id=parameters.slide_id,
            patient=patient,
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
        return entry, {"tile": tiles, "label": labels, "split": self._side(slide, patient)}

    def _labelled(self, store: TileStore, slide: SlideRow) -> tuple[NDArray[np.int64], Any]:
        """Tiles, and their values: one for all, or one for each."""
        readable = store.readable
        if self.label is None or self.label in slide.values:
            value = slide.values.get(self.label or "")
            return (readable[:0] if self.label and not value else readable), value
        column = store.label(self.label)
        codes = column.codes[readable]
        return readable[codes >= 0], np.asarray(column.classes, object)[codes[codes >= 0]]

    def _side(self, slide: SlideRow, patient: str) -> str | None:
        if slide.split:
            side = SPLIT_FOLDERS.get(slide.split.lower())
            if side is None:
                raise UsageError(f"{slide.store}: split {slide.split!r} is none of {', '.join(SPLIT_FOLDERS)}")
            return _SIDES[side]
        if not self.holdout:
            return None
        drawn = hashlib.sha256(f"{self.seed}/{patient}".encode()).digest()[:8]
        return "validation" if int.from_bytes(drawn, "big") < self.holdout * 2**64 else "train"

    def _place(self, url: str) -> str:
        """Where a store is, seen from the table's folder where both are on this machine, so that they can be moved."""
        return url if self.folder is None or is_url(url) else os.path.relpath(url, self.folder)


def _schema() -> Any:
    import pyarrow as pa

    words = pa.dictionary(pa.int32(), pa.string())
    fields = {"store": words, "tile": pa.int32(), "label": words, "patient": words, "split": words}
    return pa.schema(list(fields.items()))


def _table(entry: _Entry, rows: dict[str, Any]) -> Any:
    import pyarrow as pa

    def words(value: Any) -> Any:
        if value is None or isinstance(value, str):
            known = pa.array([] if value is None else [value], pa.string())
            codes = pa.nulls(entry.tiles, pa.int32()) if value is None else pa.array(np.zeros(entry.tiles, np.int32))
            return pa.DictionaryArray.from_arrays(codes, known)
        return pa.array(value, pa.string()).dictionary_encode()

    columns = [words(entry.store), pa.array(rows["tile"], pa.int32()), words(rows["label"])]
    return pa.table([*columns, words(entry.patient), words(rows["split"])], schema=_schema())


def _add(count: dict[str, int], values: Any, tiles: int) -> None:
    """Count the tiles of each value: one for all, or one for each."""
    if isinstance(values, str):
        count[values] = count.get(values, 0) + tiles
    elif values is not None:
        for name, n in zip(*np.unique(values.astype(str), return_counts=True), strict=True):
            count[str(name)] = count.get(str(name), 0) + int(n)


def _refuse_another_scale(notes: list[_Entry], entry: _Entry) -> None:
    if notes:
        require_one_scale([IndexedSource(notes[0], ""), IndexedSource(entry, "")])


class IndexedSource(StoreSource):
    """The tiles of a store that is opened when the first of them is read, and closed when others are needed.

    Parameters
    ----------
    entry : _Entry
    base : str
        Folder from which relative places are meant.
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
        here = slice(start, start + entry.tiles)
        start += entry.tiles
        side = columns.side[here] if columns.split else None
        tile, code = columns.tile[here].astype(np.int64), columns.code[here].astype(np.int64)
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
        with _file(item) as file, parquet.ParquetFile(file) as table:
            notes = json.loads((table.metadata.metadata or {})[_NOTES])
            if notes["format"] != FORMAT:
                raise UsageError(f"{item}: index format {notes['format']}, this wsivit reads {FORMAT}: index again")
            return notes, _columns(table)
    except FileNotFoundError:
        raise InputNotFoundError(f"{item}: there is no such index; wsivit index makes one") from None
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{item}: is no index made by wsivit index, or is damaged: {error}") from None


def _file(item: str) -> Any:
    if is_url(item):
        from wsivit.io import RemoteFile

        return RemoteFile(item).open()
    return Path(item).open("rb")


def _columns(table: Any) -> _Columns:
    """Read the columns in batches, so that they are never there as words."""
    n = table.metadata.num_rows
    tile, code, side = np.empty(n, np.int32), np.empty(n, np.int16), np.empty(n, np.int8)
    known: dict[str, int] = {}
    sides = {name: number for number, name in _SIDES.items()}
    start = 0
    for batch in _batches(table):
        here = slice(start, start + len(batch["tile"]))
        tile[here] = batch["tile"].to_numpy()
        for word in batch["label"].dictionary.to_pylist():
            known.setdefault(word, len(known))
        code[here] = _numbers(batch["label"], known)
        side[here] = _numbers(batch["split"], sides)
        start = here.stop
    return _Columns(tile, code, side, list(known), bool((side >= 0).any()))


def _batches(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.iter_batches(_ROWS, columns=["tile", "label", "split"]):
        words = {name: batch.column(name) for name in ("label", "split")}
        words = {name: c if hasattr(c, "dictionary") else c.dictionary_encode() for name, c in words.items()}
        yield {"tile": batch.column("tile"), **words}


def _numbers(column: Any, known: dict[str, int]) -> NDArray[np.int64]:
    """Numbers of words; -1 for none."""
    table = np.array([*(known[word] for word in column.dictionary.to_pylist()), -1], np.int64)
    found: NDArray[np.int64] = table[column.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)]
    return found
