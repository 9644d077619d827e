"""Which shards of a store are written: a file for each, which are put together when the store is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from wsivit.io import Files
from wsivit.store.schema import JOURNAL, TILES, JournalEntry, parse_journal, read_journal, shard_key

_ENTRY = "entry-"


class Journal:
    """The shards of a store that are on disk.

    Each goes to a file of its own: no two writers touch one file, and none is written again and again as it grows.
    :meth:`gather` puts them together.

    Parameters
    ----------
    files : Files

    Attributes
    ----------
    entries : dict of int to JournalEntry
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self.entries: dict[int, JournalEntry] = {}

    def load(self) -> None:
        """Take up what is written and has its size; StoreError where a journal is damaged."""
        # Entries first: whoever gathers them writes the journal before they go.
        found = {entry.shard: entry for key in self._keys() for entry in self._parse(key)}
        found |= read_journal(self._files)
        self.entries = {k: entry for k, entry in found.items() if self._files.size(shard_key(k)) == entry.bytes}

    def enter(self, entry: JournalEntry) -> None:
        """Record that a shard is on disk."""
        self.entries[entry.shard] = entry
        self._files.write(f"{TILES}/{_ENTRY}{entry.shard}.json", [_line(entry)])

    def sharpness(self, n_tiles: int, shard_tiles: int) -> NDArray[np.float32]:
        """Sharpness of the store's tiles as far as it is on record, NaN where not; float32 (n,)."""
        values = np.full(n_tiles, np.nan, np.float32)
        for shard, entry in self.entries.items():
            known = np.array(entry.sharpness or [], np.float32)
            values[shard * shard_tiles :][: len(known)] = known
        return values

    def merge(self) -> None:
        """Put the entries of all writers into the journal."""
        if self._keys():
            self._files.write(JOURNAL, [_line(self.entries[shard]) for shard in sorted(self.entries)])

    def cleanup(self) -> None:
        """Remove the files of single entries, which are in the journal now."""
        for key in self._keys():
            self._files.remove(key)

    def _keys(self) -> list[str]:
        return [f"{TILES}/{name}" for name in self._files.list(TILES) if name.startswith(_ENTRY)]

    def _parse(self, key: str) -> list[JournalEntry]:
        try:
            return parse_journal(self._files.read(key), f"{self._files.url}/{key}")
        except FileNotFoundError:  # gathered meanwhile
            return []


class HashingIterator:
    """Pass parts through, keeping their sha256 and size."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts
        self.digest = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.digest.update(part)
            self.size += len(part)
            yield part


def _line(entry: JournalEntry) -> bytes:
    return json.dumps(asdict(entry)).encode() + b"\n"
