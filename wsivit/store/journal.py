"""The journal of a store: which shards are on disk, how long they are, their checksums, and what their tiles are.

zarr reads a missing shard as zeros without an error, so completeness comes from here and from ``status``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from wsivit.errors import StoreError
from wsivit.io import Files
from wsivit.store.schema import TILES, shard_key

JOURNAL = f"{TILES}/journal.jsonl"


@dataclass(frozen=True)
class JournalEntry:
    """One line of the journal: a shard, its size and sha256, and what was found while it was written.

    Attributes
    ----------
    shard, bytes : int
    sha256 : str
    status : dict of str to int
        The tiles, by index, whose status changed.
    sharpness : list of float or None, or None
        Of each tile, where it was measured.
    """

    shard: int
    bytes: int
    sha256: str
    status: dict[str, int]
    sharpness: list[float | None] | None = None

    @cached_property
    def line(self) -> str:
        """The entry as it stands in the file."""
        return json.dumps(asdict(self)) + "\n"


def read_journal(files: Files) -> dict[int, JournalEntry]:
    """Return the journal's entries by shard; StoreError when it is damaged."""
    try:
        raw = files.read(JOURNAL)
    except FileNotFoundError:
        return {}
    try:
        entries = [JournalEntry(**json.loads(line)) for line in raw.splitlines()]
    except (ValueError, TypeError) as error:
        raise StoreError(f"{files.url}/{JOURNAL} is damaged: {error!r}") from error
    return {entry.shard: entry for entry in entries}


def written_shards(files: Files) -> dict[int, JournalEntry]:
    """Return the entries of the shards that are on disk with the size on record; StoreError for a damaged journal."""
    return {k: entry for k, entry in read_journal(files).items() if files.size(shard_key(k)) == entry.bytes}


def write_journal(files: Files, entries: dict[int, JournalEntry]) -> None:
    """Replace the journal. It is small next to one shard, so writing all of it for each shard costs little."""
    files.write(JOURNAL, ["".join(entries[shard].line for shard in sorted(entries)).encode()])


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
