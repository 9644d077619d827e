"""Writing a store, from the first shard to the last. It can be killed at any moment and resumed to the same bytes.

1. `StoreWriter.open` locks the store, then resumes an existing one or creates it: the document of ``tiles`` and the
   group's, which says that the store is not complete.
2. `StoreWriter.write_shard` writes each shard under a temporary name, syncs it to disk, renames it, and then enters it
   in the journal. A shard that is not in the journal does not count, whatever is on disk.
3. `StoreWriter.finish` writes the columns, then the group's document again, which now says ``complete``.

With `overwrite` this happens in a folder next to the old store; the two are swapped when the new one is complete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

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
from wsivit.store import zarr_metadata
from wsivit.store.column_writer import check_name
from wsivit.store.parameters import COLUMNS, FORMAT, StoreParameters, TileTable, describe_mismatch
from wsivit.store.schema import (
    DESCRIPTIONS,
    JOURNAL,
    TILES,
    JournalEntry,
    column_attributes,
    read_journal,
    read_root,
    refuse_foreign,
    shard_key,
    tiles_spec,
    write_journal,
)
from wsivit.store.shard import Chunk, chunk_batches, encode_shard


class StoreWriter:
    """Writes a store. Open one with :meth:`open`; close it, or use it as a context manager.

    Attributes
    ----------
    parameters : StoreParameters
    table : TileTable
    done : bool
        Whether the store is complete: there is nothing left to write.
    """

    def __init__(
        self, files: Files, parameters: StoreParameters, table: TileTable, lock: Lock | Lease, target: Path | None
    ) -> None:
        self._files, self.parameters, self.table, self._lock = files, parameters, table, lock
        self._table_digest = table.digest()
        self._target = target
        """The store that this one replaces when it is complete."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wsivit-to-disk")
        self._flushing: Future[None] | None = None
        self._closed = self.done = False
        self._load(versions(), {})

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], parameters: StoreParameters, table: TileTable, *, overwrite: bool = False
    ) -> Self:
        """Create a store, or resume an incomplete one of the same parameters, or one that lost shards.

        Parameters
        ----------
        path : path or URL
            Of the store, ``<slide_id>.zarr``.
        parameters : StoreParameters
        table : TileTable
            The same, row for row, when the store is resumed.
        overwrite : bool
            Write a new store next to an existing one, and replace that once the new one is complete. At a URL the old
            store is removed first, as object stores cannot rename.

        Raises
        ------
        StoreMismatchError
            When a store of other parameters, of another slide or of other tiles exists; names each difference.
        StoreLockedError
            When another process is writing it.
        OutputExistsError
            When something exists that is not a tile store.
        """
        files, target = files_at(path), None
        lock = exclusive(files)
        try:
            if isinstance(files, LocalFiles):
                staging = staging_path(files.root)
                recover_replace(files.root, staging)
                refuse_foreign(files)
                if overwrite and files.list():
                    target, files = files.root, LocalFiles(staging)
                else:
                    LocalFiles(staging).remove("")
            else:
                refuse_foreign(files)
            writer = cls(files, parameters, table, lock, target)
            writer._resume_or_create(overwrite)
        except BaseException:
            lock.close()
            raise
        return writer

    def _resume_or_create(self, overwrite: bool) -> None:
        existing = self._files.size(zarr_metadata.DOCUMENT) is not None
        if existing:
            try:
                root = read_root(self._files)
                differences = StoreParameters.from_dict(root["parameters"]).differences(self.parameters)
                if not differences and root["table_sha256"] != self._table_digest:
                    differences = [f"its {root['tiles']} tiles are not the {len(self.table)} asked for"]
                if differences:
                    raise StoreMismatchError(describe_mismatch(self._files.url, differences, root, self.parameters))
                # Only shards that are still on disk, at the length on record, count as written. So a complete store
                # that lost shards is resumed like an incomplete one.
                journal = read_journal(self._files)
                written = {k: entry for k, entry in journal.items() if self._files.size(shard_key(k)) == entry.bytes}
                self._load(root["versions"], written)
                self.done = bool(root["complete"]) and not self.pending()
                replace = overwrite and self.done
            except StoreError:  # damaged, or of other content
                if not overwrite:
                    raise
                replace = True
            if replace:
                self._files.remove("")
                self.done, existing = False, False
                self._load(versions(), {})
        if not existing:
            if self.parameters.codec != "none":
                spec = tiles_spec(self.parameters, len(self.table))
                zarr_metadata.write_document(self._files, TILES, spec.to_dict(), {"description": DESCRIPTIONS[TILES]})
            self._write_root(complete=False)
        if not self.done:
            self._files.remove_temporaries()

    def _load(self, recorded: dict[str, str], entries: dict[int, JournalEntry]) -> None:
        self._versions, self._entries = recorded, entries
        self._status = self.table.status.copy()
        for entry in entries.values():
            self._status[[int(tile) for tile in entry.status]] = [*entry.status.values()]

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
            journal = self._files.read(JOURNAL) if self._entries else b""
            attributes["journal_sha256"] = hashlib.sha256(journal).hexdigest()
            attributes["arrays"] = [name for name in zarr_metadata.nodes(self._files, "") if name in DESCRIPTIONS]
        zarr_metadata.write_group(self._files, "", attributes)

    @property
    def shards(self) -> list[range]:
        """All shards, as ranges of tile indexes; none where the store holds no pixels."""
        n, size = len(self.table), self.parameters.shard_tiles
        if self.parameters.codec == "none":
            return []
        return [range(start, min(n, start + size)) for start in range(0, n, size)]

    def pending(self) -> list[range]:
        """Return the shards not yet written, as ranges of tile indexes."""
        self._flush()
        return [tiles for shard, tiles in enumerate(self.shards) if shard not in self._entries]

    def write_shard(self, tiles: range, chunks: Iterable[Chunk], sharpness: list[float | None] | None = None) -> None:
        """Write one shard, atomically.

        It is synced to disk while the next one is encoded, and durable when the next one is written, or the store is
        finished or closed; those calls raise the errors of writing it.

        Parameters
        ----------
        tiles : range
            One of :meth:`pending`.
        chunks : iterable of bytes, (bytes, ndarray of uint8), Status or None
            Encoded inner chunks without checksum, complete or in two pieces; ``chunks_per_tile`` for each tile, each
            tile's in C order. None for a chunk that could not be read: the tile is then ``unreadable`` and nothing of
            it is stored; `Status.MISSING` for each chunk of a tile that was never scanned.
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
        if tiles not in self.shards:
            raise StoreError(f"{tiles} is not a shard of {self._files.url}")
        per_tile = self.parameters.chunks_per_tile
        batches = chunk_batches(tiles, iter(chunks), per_tile, self._status)
        digest, size = hashlib.sha256(), 0

        def hashed() -> Iterator[bytes]:
            nonlocal size
            for part in encode_shard(batches, self.parameters.shard_tiles * per_tile):
                digest.update(part)
                size += len(part)
                yield part

        sync_and_rename = self._files.begin(shard_key(shard), hashed())
        span = slice(tiles.start, tiles.stop)
        differ = np.flatnonzero(self._status[span] != self.table.status[span]) + tiles.start
        changed = {str(tile): self._status.item(tile) for tile in differ.tolist()}
        entry = JournalEntry(shard, size, digest.hexdigest(), changed, sharpness)

        def commit() -> None:
            sync_and_rename()
            self._lock.check()
            self._entries[shard] = entry
            # In the same folder as the shards: syncing that folder makes the shard's name durable too.
            write_journal(self._files, self._entries)

        self._flush()
        # The disk works while the next shard is encoded: a sync takes as long as encoding a good part of a shard.
        self._flushing = self._thread.submit(commit)

    def _flush(self) -> None:
        """Wait until the last shard is on disk and in the journal."""
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            flushing.result()

    @property
    def sharpness(self) -> NDArray[np.float32]:
        """Sharpness of every tile, NaN where it is not measured; float32 (n,)."""
        self._flush()
        values = np.full(len(self.table), np.nan, np.float32)
        for shard, entry in self._entries.items():
            known = np.array(entry.sharpness or [], np.float32)
            values[shard * self.parameters.shard_tiles :][: len(known)] = known
        return values

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
        attributes = {"description": DESCRIPTIONS[name], "downsample": [float(d) for d in downsample], "mpp": mpp}
        zarr_metadata.write_array(self._files, name, values, dimensions, attributes)

    def write_qc(self, name: str, values: NDArray[np.float32]) -> None:
        """Write a column of quality control, ``qc/<name>``: float32 (n,), a fraction of each tile, 0 to 1."""
        key = f"qc/{check_name('qc', name)}"
        if values.shape != (len(self.table),):
            raise StoreError(f"{key} for {self._files.url} must have {len(self.table)} values, not {values.shape}")
        zarr_metadata.ensure_group(self._files, "qc")
        zarr_metadata.write_array(self._files, key, np.asarray(values, np.float32), ("tile",), {})

    def finish(self) -> None:
        """Write the columns, then mark the store as complete; with ``overwrite``, replace the old one.

        Raises
        ------
        StoreError
            When shards are still to be written.
        """
        if self.done:
            return
        if missing := self.pending():
            raise StoreError(f"{self._files.url}: {len(missing)} shards are not written yet, the first is {missing[0]}")
        self._lock.check()
        for name in COLUMNS:
            values = self._status if name == "status" else getattr(self.table, name)
            zarr_metadata.write_array(self._files, name, values, ("tile",), column_attributes(name))
        self._write_root(complete=True)
        if self._target is not None:
            replace_directory(Path(self._files.url), self._target)
            self._files, self._target = LocalFiles(self._target), None
        self.done = True

    def close(self) -> None:
        """Release the store for other writers; what is written stays, complete or not."""
        if self._closed:
            return  # the store may be another writer's by now
        self._closed = True
        try:
            self._flush()
        finally:
            self._thread.shutdown()
            if not self.done:
                self._files.remove_temporaries()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
