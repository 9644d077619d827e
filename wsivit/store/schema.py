"""The records of a store: the documents of its group and of the array of tiles, and the journal of its shards.

The journal says which shards are on disk, how long they are, their checksums, and the status of their tiles. zarr reads
a missing shard as zeros without an error, so completeness comes from the journal and from ``status``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from wsivit.errors import OutputExistsError, StoreError
from wsivit.io import TEMPORARY, Files, LocalFiles
from wsivit.store import zarr_metadata
from wsivit.store.parameters import FORMAT, Status, StoreParameters

TILES = "tiles"
JOURNAL = f"{TILES}/journal.jsonl"
DESCRIPTIONS = {
    "tiles": "RGB pixels of the tiles; a tile whose status is unreadable or missing has none and reads as zeros",
    "col": "column of the tile in the grid",
    "row": "row of the tile in the grid",
    "x0": "left edge of the tile, in level-0 pixels of the slide",
    "y0": "top edge of the tile, in level-0 pixels of the slide",
    "tissue_fraction": "share of the tile that is tissue",
    "status": "what the pixels of the tile are",
    "tissue_mask": "where the slide is tissue; downsample: level-0 pixels per mask pixel (x, y)",
    "thumbnail": "the slide at low power; downsample: level-0 pixels per thumbnail pixel (x, y)",
}


def shard_key(shard: int) -> str:
    """Key of a shard file."""
    return zarr_metadata.chunk_key(TILES, shard, 0, 0, 0)


def tiles_spec(parameters: StoreParameters, n: int) -> zarr_metadata.ArraySpec:
    """Return the document of the ``tiles`` array."""
    size, (height, width) = parameters.grid.tile_size, parameters.chunk
    if parameters.codec == "zstd":
        inner: list[dict[str, Any]] = zarr_metadata.COMPRESSED
    elif parameters.encoding == "copied":
        inner = [{"name": "imagecodecs_jpeg"}, zarr_metadata.CRC]
    else:
        settings = {"level": parameters.quality, "subsampling": "444"}
        inner = [{"name": "imagecodecs_jpeg", "configuration": settings}, zarr_metadata.CRC]
    sharding = {
        "chunk_shape": [1, height, width, 3],
        "codecs": inner,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, zarr_metadata.CRC],
        "index_location": "end",
    }
    return zarr_metadata.ArraySpec(
        shape=(n, size, size, 3),
        chunk_shape=(parameters.shard_tiles, size, size, 3),
        dtype="uint8",
        dimensions=("tile", "y", "x", "channel"),
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
    )


def column_attributes(name: str) -> dict[str, Any]:
    """Attributes of a column of the tile table."""
    attributes: dict[str, Any] = {"description": DESCRIPTIONS[name]}
    if name == "status":
        attributes["values"] = {status.name.lower(): int(status) for status in Status}
    return attributes


def read_root(files: Files) -> dict[str, Any]:
    """Return the attributes of a store.

    Raises
    ------
    StoreError
        When there is no tile store, or it is of another format version, or its document is damaged.
    """
    if files.size(zarr_metadata.DOCUMENT) is None:
        if isinstance(files, LocalFiles) and not files.root.exists():
            raise StoreError(f"{files.url}: there is no such tile store")
        raise StoreError(f"{files.url} is not a tile store: it has no {zarr_metadata.DOCUMENT}")
    document = zarr_metadata.read_document(files, "")
    attributes = zarr_metadata.attributes_of(document)
    if "format" not in attributes:
        raise StoreError(f"{files.url} is a zarr group, but not a tile store of wsivit")
    # Before the checksum, which another version may compute in another way.
    if attributes["format"] != FORMAT:
        raise StoreError(
            f"{files.url} has store format {attributes['format']}, this wsivit reads {FORMAT}: tile the slide"
            f" again with --force, or use the wsivit that wrote it"
            f" ({attributes.get('versions', {}).get('wsivit', 'unknown')})"
        )
    if not zarr_metadata.checksum_matches(document):
        raise StoreError(
            f"{files.url}/{zarr_metadata.DOCUMENT} was changed after it was written: tile it again with --force"
        )
    return attributes


def refuse_foreign(files: Files) -> None:
    """Raise OutputExistsError where something exists that is not a tile store."""
    names = [name for name in files.list() if not name.startswith(TEMPORARY)]
    # Never replace what this program did not write: a folder given by mistake may be anything.
    if zarr_metadata.DOCUMENT not in names:
        # A writer killed before the group's document was written leaves the folder of tiles only.
        if names and names != [TILES]:
            raise OutputExistsError(f"{files.url} exists and is not a tile store: choose another folder")
    elif "format" not in zarr_metadata.attributes_of(zarr_metadata.read_document(files, "")):
        raise OutputExistsError(f"{files.url} is a zarr group, but not a tile store: choose another folder")


@dataclass(frozen=True)
class JournalEntry:
    """One line of the journal: a shard, its size and sha256, and what was observed while it was written.

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


def write_journal(files: Files, entries: dict[int, JournalEntry]) -> None:
    """Replace the journal. It is small next to one shard, so writing all of it for each shard costs little."""
    files.write(JOURNAL, ["".join(entries[shard].line for shard in sorted(entries)).encode()])
