"""The documents of a store: what the group, the array of tiles and the journal say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wsivit.errors import OutputExistsError, StoreError
from wsivit.io import TEMPORARY, Files, LocalFiles
from wsivit.store import zarr_metadata as layout
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
    return layout.chunk_key(TILES, shard, 0, 0, 0)


def tiles_spec(parameters: StoreParameters, n: int) -> layout.ArraySpec:
    """Return the document of the ``tiles`` array."""
    size, (height, width) = parameters.grid.tile_size, parameters.chunk
    if parameters.codec == "zstd":
        inner: list[dict[str, Any]] = layout.COMPRESSED
    elif parameters.encoding == "copied":
        inner = [{"name": "imagecodecs_jpeg"}, layout.CRC]
    else:
        settings = {"level": parameters.quality, "subsampling": "444"}
        inner = [{"name": "imagecodecs_jpeg", "configuration": settings}, layout.CRC]
    sharding = {
        "chunk_shape": [1, height, width, 3],
        "codecs": inner,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, layout.CRC],
        "index_location": "end",
    }
    return layout.ArraySpec(
        shape=(n, size, size, 3),
        chunk_shape=(parameters.shard_tiles, size, size, 3),
        dtype="uint8",
        dimensions=("tile", "y", "x", "channel"),
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
    )


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


def read_journal(files: Files) -> dict[int, JournalEntry]:
    """Return the journal's entries by shard; StoreError when it is damaged."""
    try:
        raw = files.read(JOURNAL)
    except FileNotFoundError:
        return {}
    return {entry.shard: entry for entry in parse_journal(raw, f"{files.url}/{JOURNAL}")}


def parse_journal(raw: bytes, where: str) -> list[JournalEntry]:
    """Return the entries in a piece of journal; StoreError when it is damaged."""
    try:
        return [JournalEntry(**json.loads(line)) for line in raw.splitlines()]
    except (ValueError, TypeError) as error:
        raise StoreError(f"{where} is damaged: {error!r}") from error


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
    if files.size(layout.DOCUMENT) is None:
        if isinstance(files, LocalFiles) and not files.root.exists():
            raise StoreError(f"{files.url}: there is no such tile store")
        raise StoreError(f"{files.url} is not a tile store: it has no {layout.DOCUMENT}")
    document = layout.read_document(files, "")
    attributes = layout.attributes_of(document)
    if "format" not in attributes:
        raise StoreError(f"{files.url} is a zarr group, but not a tile store of wsivit")
    if attributes["format"] != FORMAT:
        raise StoreError(
            f"{files.url} has store format {attributes['format']}, this wsivit reads {FORMAT}: use the wsivit that"
            f" wrote it ({attributes.get('versions', {}).get('wsivit', 'unknown')}), or make the store anew"
        )
    if not layout.checksum_matches(document):
        raise StoreError(f"{files.url}/{layout.DOCUMENT} was changed after it was written: make the store anew")
    return attributes


def refuse_foreign(files: Files) -> None:
    """Leave alone what is there and is no tile store; OutputExistsError."""
    strangers = [name for name in files.list() if not name.startswith(TEMPORARY)]
    if strangers and layout.DOCUMENT not in strangers and strangers != [TILES]:
        raise OutputExistsError(f"{files.url} is there and is not a tile store: choose another folder")
    if layout.DOCUMENT in strangers and "format" not in layout.attributes_of(layout.read_document(files, "")):
        raise OutputExistsError(f"{files.url} is a zarr group, but not a tile store: choose another folder")
