"""Writing a store: shard by shard, journalled, so that it can be killed at any moment and gone on with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import StoreError, StoreMismatchError
from wsivit.io import (
    Files,
    Lease,
    LocalFiles,
    Lock,
    exclusive,
    files_at,
    recover_replace,
    replace_directory,
    staging_path,
    versions,
)
from wsivit.store import zarr_metadata as layout
from wsivit.store.chunk_batches import Chunk, chunk_batches
from wsivit.store.columns import LabelColumn, check_name, write_label_column
from wsivit.store.journal import HashingIterator, Journal
from wsivit.store.parameters import COLUMNS, FORMAT, Status, StoreParameters, TileTable, mismatch
from wsivit.store.schema import (
    DESCRIPTIONS,
    JOURNAL,
    TILES,
    JournalEntry,
    column_attributes,
    read_root,
    refuse_foreign,
    shard_key,
    tiles_spec,
)
from wsivit.store.shard import encode_shard


class StoreWriter:
    """A store in the making. Open one with :meth:`open`; close it, or use it as a context manager.

    Attributes
    ----------
    parameters : StoreParameters
    table : TileTable
    done : bool
        Whether the store is complete: there is nothing left to write.
    """

    def __init__(self, files: Files, parameters: StoreParameters, table: TileTable, shared: bool = False) -> None:
        self._files = files
        self._shared = shared
        self.parameters = parameters
        self.table = table
        self._table_digest = table.digest()
        self._status = table.status.copy()
        self._journal = Journal(files)
        self._versions = versions()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wsivit-to-disk")
        self._flushing: Future[None] | None = None
        self._lock: Lock | Lease | None = None
        self._place: Path | None = None
        self.done = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        parameters: StoreParameters,
        table: TileTable,
        *,
        overwrite: bool = False,
        shared: bool = False,
    ) -> Self:
        """Begin a store, or go on with a half-built one of the same parameters, or with one that lost shards.

        Parameters
        ----------
        path : path or URL
            Of the store, ``<slide_id>.zarr``.
        parameters : StoreParameters
        table : TileTable
            The same, row for row, when gone on with.
        overwrite : bool
            Build a new store beside one that is there, and put it in its place once it is complete.
        shared : bool
            Others write this store too, so nothing is locked: each shard must have one writer only. Who writes the last
            shard calls :meth:`finish`; twice does no harm. A store of other content is refused; with `overwrite` it is
            removed, so `path` should lie `beside` the one to be replaced.

        Raises
        ------
        StoreMismatchError
            When a store of other parameters, of another slide or of other tiles is there; names each difference.
        StoreLockedError
            When another process is writing it.
        OutputExistsError
            When something that is no tile store is there.
        """
        files = files_at(path)
        if shared:
            refuse_foreign(files)
            writer = cls(files, parameters, table, shared)
            writer._begin(discard=overwrite)
            return writer
        lock = exclusive(files)
        try:
            writer = cls._open_locked(files, parameters, table, overwrite)
        except BaseException:
            lock.close()
            raise
        writer._lock = lock
        return writer

    @classmethod
    def join(cls, path: str | os.PathLike[str]) -> Self:
        """Write shards of a store that was begun with ``open(…, shared=True)``; its parameters and tiles are there.

        Raises
        ------
        StoreError
            When no such store was begun.
        """
        files = files_at(path)
        parameters = StoreParameters.from_dict(read_root(files)["parameters"])
        columns = [layout.read_array(files, name) for name in ("col", "row", "tissue_fraction")]
        return cls.open(path, parameters, TileTable.from_grid(parameters.grid, *columns), shared=True)

    @classmethod
    def _open_locked(cls, files: Files, parameters: StoreParameters, table: TileTable, overwrite: bool) -> Self:
        if not isinstance(files, LocalFiles):
            refuse_foreign(files)
            writer = cls(files, parameters, table)
            # Object stores cannot rename: the old store gives way before the new one is written.
            writer._begin(discard=overwrite)
            return writer
        new = staging_path(files.root)
        recover_replace(files.root, new)
        refuse_foreign(files)
        if overwrite and files.list():
            writer = cls(LocalFiles(new), parameters, table)
            writer._place = files.root
        else:
            LocalFiles(new).remove("")
            writer = cls(files, parameters, table)
        writer._begin(discard=overwrite)
        return writer

    def _begin(self, discard: bool) -> None:
        """Take up what is there, or create the store; `discard` what is complete or of other content."""
        there = self._files.size(layout.DOCUMENT) is not None
        differences = self._inspect_existing(discard) if there else []
        if there and discard and (differences or self.done):
            self._files.remove("")
            self.done, there, differences = False, False, []
            self._status, self._versions = self.table.status.copy(), versions()
            self._journal.entries = {}
        if differences:
            raise StoreMismatchError(mismatch(self._files.url, differences, read_root(self._files), self.parameters))
        if not there:
            self._create()
        if not (self.done or self._shared):
            self._files.remove_temporaries()

    def _create(self) -> None:
        if self.parameters.codec != "none":
            spec = tiles_spec(self.parameters, len(self.table))
            layout.write_document(self._files, TILES, spec.to_dict(), {"description": DESCRIPTIONS[TILES]})
        if self._shared:  # for those who join
            self._write_columns()
        self._write_root(complete=False)

    def _write_root(self, complete: bool) -> None:
        attributes = {
            "format": FORMAT,
            "complete": complete,
            "tiles": len(self.table),
            "table_sha256": self._table_digest,
            "parameters": self.parameters.to_dict(),
            "versions": self._versions,
        }
        if complete:
            journal = self._files.read(JOURNAL) if self._journal.entries else b""
            attributes["journal_sha256"] = hashlib.sha256(journal).hexdigest()
            attributes["arrays"] = [name for name in layout.nodes(self._files, "") if name in DESCRIPTIONS]
        layout.write_group(self._files, "", attributes)

    def _inspect_existing(self, discard: bool) -> list[str]:
        try:
            return self._resume()
        except StoreError as error:
            if discard:
                return [str(error)]
            raise

    def _resume(self) -> list[str]:
        """Go on with the store that is there; or return in what it is not the one asked for."""
        attributes = read_root(self._files)
        found = StoreParameters.from_dict(attributes["parameters"]).differences(self.parameters)
        if not found and attributes["table_sha256"] != self._table_digest:
            found = [f"its {attributes['tiles']} tiles are not the {len(self.table)} asked for"]
        if found:
            return found
        self._versions = attributes["versions"]
        self._resume_journal()
        # A shard that was lost from a complete store is made anew.
        self.done = bool(attributes["complete"]) and not self.pending()
        return []

    def _resume_journal(self) -> None:
        self._journal.load()
        for entry in self._journal.entries.values():
            changed = np.array([int(tile) for tile in entry.status], np.int64)
            self._status[changed] = list(entry.status.values())

    def _shards(self) -> list[range]:
        n, size = len(self.table), self.parameters.shard_tiles
        if self.parameters.codec == "none":
            return []
        return [range(start, min(n, start + size)) for start in range(0, n, size)]

    @property
    def n_shards(self) -> int:
        """Shard files that the store has when it is complete."""
        return len(self._shards())

    def pending(self) -> list[range]:
        """Return the shards not yet written, as ranges of tile indexes."""
        self._flush()
        return [tiles for shard, tiles in enumerate(self._shards()) if shard not in self._journal.entries]

    def write_shard(self, tiles: range, chunks: Iterable[Chunk], sharpness: list[float | None] | None = None) -> None:
        """Write one shard: all of it or nothing.

        It is brought to the disk while the next one is made, and there for good when that is written, or the store is
        finished or closed; what goes wrong with it is raised then.

        Parameters
        ----------
        tiles : range
            One of :meth:`pending`.
        chunks : iterable of bytes, (bytes, ndarray of uint8), Status or None
            Encoded inner chunks without checksum, whole or in two pieces; ``chunks_per_tile`` for each tile, each
            tile's in C order. None where one could not be read: the whole tile is then ``unreadable`` and none of it is
            stored; `Status.MISSING` for each of a tile of which nothing was scanned.
        sharpness : list of float or None, optional
            Of each tile, where it was measured; may be filled while `chunks` are drawn.

        Raises
        ------
        StoreError
            When `tiles` is not a shard, or there are too few or too many chunks.
        OutputError
            When it cannot be written.
        """
        shard = tiles.start // self.parameters.shard_tiles
        if tiles not in self._shards():
            raise StoreError(f"{tiles} is not a shard of {self._files.url}")
        slots = self.parameters.shard_tiles * self.parameters.chunks_per_tile
        runs = chunk_batches(tiles, iter(chunks), self.parameters.chunks_per_tile, self._status)
        hashed = HashingIterator(encode_shard(runs, slots))
        to_disk = self._files.begin(shard_key(shard), hashed)
        there = slice(tiles.start, tiles.stop)
        differ = np.flatnonzero(self._status[there] != self.table.status[there]) + tiles.start
        changed = {str(i): self._status.item(i) for i in differ.tolist()}
        entry = JournalEntry(shard, hashed.size, hashed.digest.hexdigest(), changed, sharpness)
        self._flush()
        self._flushing = self._thread.submit(self._commit_shard, entry, to_disk)

    def _commit_shard(self, entry: JournalEntry, to_disk: Callable[[], None]) -> None:
        to_disk()
        self._check_lease()
        self._journal.enter(entry)  # written to the same folder, which makes the shard last as well

    def _check_lease(self) -> None:
        if isinstance(self._lock, Lease):
            self._lock.check()

    def _flush(self) -> None:
        """Wait until the shard before is on disk and in the journal."""
        if self._flushing is not None:
            settling, self._flushing = self._flushing, None
            settling.result()

    def set_status(self, tiles: ArrayLike, status: Status) -> None:
        """Set the status of tiles, by index; kept from when their shard is written, so it must come before that."""
        self._flush()
        indexes = np.atleast_1d(np.asarray(tiles, np.int64))
        written = set((indexes // self.parameters.shard_tiles).tolist()) & set(self._journal.entries)
        if written:
            raise StoreError(f"shards {sorted(written)} of {self._files.url} are written: their status is fixed")
        self._status[indexes] = status

    @property
    def status(self) -> NDArray[np.uint8]:
        """Status of every tile so far; uint8 (n,)."""
        return self._status.copy()

    @property
    def sharpness(self) -> NDArray[np.float32]:
        """Sharpness of every tile, NaN where it is not measured; float32 (n,)."""
        self._flush()
        if self._shared:  # what others have measured
            self._journal.load()
        return self._journal.sharpness(len(self.table), self.parameters.shard_tiles)

    def write_mask(self, mask: NDArray[np.bool_], downsample: tuple[float, float]) -> None:
        """Write the tissue mask, bool (h, w), with its level-0 pixels per mask pixel."""
        self._write_picture("tissue_mask", np.asarray(mask, bool), ("y", "x"), downsample)

    def write_thumbnail(self, rgb: NDArray[np.uint8], downsample: tuple[float, float]) -> None:
        """Write the thumbnail, uint8 (h, w, 3), with its level-0 pixels per thumbnail pixel."""
        self._write_picture("thumbnail", np.asarray(rgb, np.uint8), ("y", "x", "channel"), downsample)

    def _write_picture(
        self, name: str, values: NDArray[Any], dimensions: tuple[str, ...], downsample: tuple[float, float]
    ) -> None:
        mpp = [float(d) * float(m) for d, m in zip(downsample, self.parameters.slide_mpp, strict=True)]
        attributes = {
            "description": DESCRIPTIONS[name],
            "downsample": [float(d) for d in downsample],
            "mpp": mpp,
        }
        layout.write_array(self._files, name, values, dimensions, attributes)

    def write_labels(self, name: str, codes: ArrayLike, classes: Iterable[str]) -> None:
        """Write a label column: int16 (n,) codes into `classes`, -1 for none."""
        column = LabelColumn(np.asarray(codes, np.int16), tuple(classes))
        layout.ensure_group(self._files, "labels")
        write_label_column(self._files, f"labels/{check_name('labels', name)}", column, len(self.table))

    def write_qc(self, name: str, values: NDArray[np.float32]) -> None:
        """Write a column of quality control, ``qc/<name>``: float32 (n,), a fraction of each tile, 0 to 1."""
        if values.shape != (len(self.table),):
            raise StoreError(f"qc/{name} for {self._files.url} must have {len(self.table)} values, not {values.shape}")
        layout.ensure_group(self._files, "qc")
        layout.write_array(self._files, f"qc/{check_name('qc', name)}", np.asarray(values, np.float32), ("tile",), {})

    def read_qc(self, name: str) -> NDArray[np.float32] | None:
        """Return a column of quality control that is written; None where it is not."""
        return layout.read_array(self._files, f"qc/{name}") if name in layout.nodes(self._files, "qc") else None

    def finish(self) -> None:
        """Write the columns, then mark the store as complete; with ``overwrite``, put it in its place.

        Raises
        ------
        StoreError
            When shards are still to be written.
        """
        if self.done:
            return
        self._flush()
        if self._shared:  # what others have written meanwhile
            self._resume_journal()
        if missing := self.pending():
            raise StoreError(f"{self._files.url}: {len(missing)} shards are not written yet, the first is {missing[0]}")
        self._check_lease()
        self._journal.merge()
        self._write_columns()
        self._journal.cleanup()
        self._write_root(complete=True)
        if self._shared:  # what was left by writers that were killed
            self._files.remove_temporaries()
        if self._place is not None:
            replace_directory(Path(self._files.url), self._place)
            self._files, self._place = LocalFiles(self._place), None
        self.done = True

    def _write_columns(self) -> None:
        for name in COLUMNS:
            values = self._status if name == "status" else getattr(self.table, name)
            layout.write_array(self._files, name, values, ("tile",), column_attributes(name))

    def close(self) -> None:
        """Release the store for other writers; what is written stays, complete or not."""
        try:
            self._flush()
        finally:
            self._thread.shutdown()
            if not self.done and self._lock is not None:
                self._files.remove_temporaries()
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
