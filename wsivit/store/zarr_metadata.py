"""The zarr v3 documents and small arrays of a store, written and read without zarr.

So a store has the same bytes whatever the version of zarr, and each file is written atomically. Every document carries
a checksum, the sha256 of its content, which reveals flipped bits. Small arrays are cut into chunks along their first
axis only, each compressed with zstd and followed by its crc32c.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.io import TEMPORARY, Files
from wsivit.store.shard import ZSTD_LEVEL, append_crc, decompress, encode_zstd, strip_crc

KEY = "wsivit"
DOCUMENT = "zarr.json"
_CHECKSUM = "checksum"
CRC = {"name": "crc32c"}
COMPRESSED: list[dict[str, Any]] = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
    CRC,
]


@dataclass(frozen=True)
class ArraySpec:
    """The content of an array's document.

    Attributes
    ----------
    shape, chunk_shape : tuple of int
    dtype : str
        numpy's name, e.g. ``"uint8"``.
    dimensions : tuple of str
    codecs : list of dict
    fill : object
        What readers show where a chunk is absent.
    """

    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]
    codecs: list[dict[str, Any]] = field(default_factory=lambda: COMPRESSED)
    fill: Any = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the document without attributes."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": self.fill,
            "codecs": self.codecs,
            "dimension_names": list(self.dimensions),
        }


def chunk_key(array: str, *place: int) -> str:
    """Key of a chunk file of an array, by its place in the chunk grid."""
    return f"{array}/c." + ".".join(map(str, place))


def document_key(node: str) -> str:
    """Key of the document of a group or array; ``""`` is the store itself."""
    return f"{node}/{DOCUMENT}" if node else DOCUMENT


def _digest(document: dict[str, Any]) -> str:
    ours = {key: value for key, value in document.items() if key != "attributes"}
    ours[KEY] = attributes_of(document)  # attributes that others added are theirs to change
    return hashlib.sha256(json.dumps(ours, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_document(files: Files, node: str, document: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Write the document of a group or array, with our attributes and their checksum; others' attributes stay."""
    complete = {**document, "attributes": {**document.get("attributes", {}), KEY: attributes}}
    complete["attributes"][KEY] = {**attributes, _CHECKSUM: _digest(complete)}
    files.write(document_key(node), [_text(complete)])


def _text(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not valid text has surrogates; this writes them as JSON's own escapes.
    return text.encode("utf-8", "backslashreplace")


def write_group(files: Files, node: str, attributes: dict[str, Any]) -> None:
    """Write the document of a group."""
    write_document(files, node, {"zarr_format": 3, "node_type": "group"}, attributes)


def read_document(files: Files, node: str) -> dict[str, Any]:
    """Read a document.

    Raises
    ------
    StoreError
        When it is missing or is not JSON.
    """
    where = f"{files.url}/{document_key(node)}"
    try:
        document = json.loads(files.read(document_key(node)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{where} is missing") from error
    except ValueError as error:
        raise StoreError(f"{where} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise StoreError(f"{where} is damaged: not a JSON object")
    return document


def attribute(files: Files, node: str, name: str) -> Any:
    """Return one of our attributes of a node; StoreError when it is missing, or the document was changed."""
    document = read_document(files, node)
    attributes = attributes_of(document)
    # Columns that other programs added have attributes of ours without a checksum.
    if name not in attributes or (_CHECKSUM in document["attributes"][KEY] and not checksum_matches(document)):
        raise StoreError(f"{files.url}/{document_key(node)} is damaged, or has no attribute {name!r}")
    return attributes[name]


def attributes_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return our attributes of a document, without the checksum; empty where there are none."""
    attributes = document.get("attributes")
    ours = attributes.get(KEY) if isinstance(attributes, dict) else None
    return {key: value for key, value in ours.items() if key != _CHECKSUM} if isinstance(ours, dict) else {}


def checksum_matches(document: dict[str, Any]) -> bool:
    """Whether the content of a document is what was written."""
    attributes = document.get("attributes")
    ours = attributes.get(KEY) if isinstance(attributes, dict) else None
    return isinstance(ours, dict) and ours.get(_CHECKSUM) == _digest(document)


def matches_checksum(files: Files, node: str) -> bool:
    """Whether a document is, byte for byte, what we wrote; attributes of other programs may be added."""
    document = read_document(files, node)
    if not checksum_matches(document):
        return False
    return set(document["attributes"]) != {KEY} or files.read(document_key(node)) == _text(document)


def write_array(
    files: Files, name: str, values: NDArray[Any], dimensions: tuple[str, ...], attributes: dict[str, Any]
) -> None:
    """Write a small array as one chunk, its document last: without it a half-written array does not exist."""
    shape = tuple(max(1, side) for side in values.shape)
    spec = ArraySpec(values.shape, shape, values.dtype.name, dimensions, fill=values.dtype.type(0).item())
    if values.size:
        write_chunk(files, chunk_key(name, *(0,) * values.ndim), values)
    write_document(files, name, spec.to_dict(), attributes)


def write_chunk(files: Files, key: str, values: NDArray[Any]) -> None:
    """Write one chunk of a small array."""
    files.write(key, [append_crc(encode_zstd(values.astype(values.dtype.newbyteorder("<"), copy=False)))])


def read_array(files: Files, name: str) -> NDArray[Any]:
    """Read a small array.

    Raises
    ------
    StoreError
        When its document or a chunk is missing or damaged; fill values never stand for missing chunks.
    """
    document = read_document(files, name)
    if document.get("codecs") != COMPRESSED:  # added by another program
        import zarr

        try:
            return np.asarray(zarr.open_array(f"{files.location}/{name}", mode="r")[...])
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{files.url}/{name} cannot be read: {error!r}") from error
    try:
        shape, chunk = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        values = np.empty(shape, np.dtype(document["data_type"]))
        for place, start in enumerate(range(0, shape[0] if values.size else 0, chunk[0])):
            part = values[start : start + chunk[0]]  # the last chunk is stored at its full length
            key = chunk_key(name, place, *(0,) * (values.ndim - 1))
            try:
                raw = decompress(strip_crc(files.read(key)))
            except FileNotFoundError as error:
                raise StoreError(f"{files.url}/{key} is missing") from error
            except StoreError as error:
                raise StoreError(f"{files.url}/{key} is damaged: {error}") from error
            stored = np.frombuffer(raw, values.dtype.newbyteorder("<")).reshape(chunk[0], *shape[1:])
            part[...] = stored[: len(part)]
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{files.url}/{name}/{DOCUMENT} is damaged: {error!r}") from error
    return values


def names(files: Files, group: str) -> list[str]:
    """Names in a group, sorted, complete or not; empty where there is no such group."""
    return [name for name in files.list(group) if name != DOCUMENT and not name.startswith(TEMPORARY)]


def nodes(files: Files, group: str) -> list[str]:
    """Names of the groups and arrays in a group, sorted; empty where there is no such group."""
    below = f"{group}/" if group else ""
    return [name for name in names(files, group) if files.size(document_key(below + name)) is not None]


def ensure_group(files: Files, node: str) -> None:
    """Write the document of a group where there is none."""
    if files.size(document_key(node)) is None:
        write_group(files, node, {})
