"""Shard files byte for byte: tiles become chunks, chunks become shards, and back. Pure.

A chunk is a complete JPEG, or the raw bytes of the tile compressed with zstd; the crc32c of its bytes follows it
(little-endian), as zarr's ``crc32c`` codec appends it. A shard has the layout of zarr's ``sharding_indexed`` codec with
the index at the end: the chunks, then for each slot, in C order, offset and length as little-endian uint64 (both
``2**64 - 1`` where the chunk is absent), then the crc32c of that index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeAlias, cast

import google_crc32c
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.store.parameters import NO_PIXEL_STATUSES, Status

Bytes: TypeAlias = bytes | memoryview
Encoded: TypeAlias = bytes | tuple[bytes, NDArray[np.uint8]]
"""An encoded chunk without checksum: complete, or in two pieces, of which the second then need not be copied."""
Chunk: TypeAlias = Encoded | Status | None
"""What a shard is written from: an encoded chunk; None where it is unreadable; `Status.MISSING` where never scanned."""

ABSENT = np.uint64(2**64 - 1)
CRC_SIZE = 4
ZSTD_LEVEL = 3
_JPEG_MAGIC = b"\xff\xd8\xff"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# The crc32c of any bytes followed by their own crc32c is this constant: one pass verifies without cutting.
_RESIDUE = 0x48674BC7
_BATCH = 32  # tiles whose statuses are looked at together: one at a time costs more than it saves
_BUFFER = 512 << 10  # bytes: stays in the processor's cache from one step to the next


# Checksums


def append_crc(data: bytes) -> bytes:
    """Return ``data`` followed by its crc32c."""
    return data + _crc(data)


def _crc(first: bytes, rest: NDArray[np.uint8] | None = None) -> bytes:
    value: int = google_crc32c.value(first) if rest is None else google_crc32c.extend(_header_crc(first), rest)
    return value.to_bytes(CRC_SIZE, "little")


# A copied JPEG comes as header and rest; the header is the same for most tiles of a slide.
_header_crc = lru_cache(maxsize=16)(google_crc32c.value)


def strip_crc(data: bytes) -> memoryview:
    """Verify the crc32c at the end, and return a view of the bytes before it.

    Raises
    ------
    StoreError
        When the bytes are not the ones that were written.
    """
    if len(data) < CRC_SIZE or google_crc32c.value(data) != _RESIDUE:
        raise StoreError("checksum does not match: the bytes are not the ones that were written")
    return memoryview(data)[:-CRC_SIZE]


# Chunks


def encode_jpeg(tile: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode a uint8 (height, width, 3) RGB tile as JPEG, without chroma subsampling (4:4:4)."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(tile), quality=quality, colorspace="RGB", colorsubsampling="444", fastdct=False
    )
    return encoded


def encode_zstd(tile: NDArray[np.uint8], level: int = ZSTD_LEVEL) -> bytes:
    """Compress the bytes of an array without loss."""
    import imagecodecs

    return bytes(imagecodecs.zstd_encode(np.ascontiguousarray(tile).tobytes(), level=level))


def decompress(data: Bytes) -> bytes:
    """Undo :func:`encode_zstd`, to raw bytes; StoreError for bytes that are not zstd."""
    import imagecodecs

    try:
        return bytes(imagecodecs.zstd_decode(bytes(data)))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"cannot decompress: {error}") from error


def pieces_of(chunk: Encoded) -> tuple[bytes | NDArray[np.uint8], ...]:
    """Return the pieces of a chunk in order; the ``len`` of each is its bytes."""
    return (chunk,) if isinstance(chunk, bytes) else chunk


def decode(
    data: Bytes, shape: tuple[int, int] | None = None, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode one chunk: JPEG or zstd, by its first bytes.

    Parameters
    ----------
    data : bytes or memoryview
        Without the checksum.
    shape : (height, width), optional
        What the chunk must be; required for zstd, which does not say, unless `out` is given.
    out : ndarray of uint8 (height, width, 3), optional
        C-contiguous; decoded into and returned.

    Returns
    -------
    ndarray of uint8 (height, width, 3)

    Raises
    ------
    StoreError
        For bytes that are neither, are damaged, or hold another size than asked for.
    """
    wanted = (*shape, 3) if shape is not None else None if out is None else out.shape
    if data[:3] == _JPEG_MAGIC:
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
        except ValueError as error:
            raise StoreError(f"cannot decode a JPEG: {error}") from error
        if wanted is not None and pixels.shape != wanted:
            raise StoreError(f"a JPEG of {pixels.shape[1]} x {pixels.shape[0]} where {wanted[1]} x {wanted[0]} belongs")
        return pixels
    if data[:4] == _ZSTD_MAGIC and wanted is not None:
        raw = np.frombuffer(decompress(data), np.uint8)
        if raw.size != np.prod(wanted):
            raise StoreError(f"{raw.size} bytes where {' x '.join(map(str, wanted))} belong")
        if out is None:
            return raw.reshape(wanted)
        out[...] = raw.reshape(wanted)
        return out
    raise StoreError(f"neither JPEG nor zstd: the chunk begins with {bytes(data[:4])!r}")


def decode_verified_jpeg(data: bytes, out: NDArray[np.uint8]) -> bool:
    """Verify and decode a JPEG followed by its checksum, in the fewest Python steps, as threads wait for each other.

    Parameters
    ----------
    data : bytes
    out : ndarray of uint8 (height, width, 3)
        C-contiguous.

    Returns
    -------
    bool
        False where it is not a JPEG, is damaged or of another size: `strip_crc` and `decode` say which.
    """
    if not data.startswith(_JPEG_MAGIC) or google_crc32c.value(data) != _RESIDUE:
        return False
    try:
        shape = simplejpeg.decode_jpeg(memoryview(data)[:-CRC_SIZE], buffer=out).shape
    except ValueError:
        return False
    return bool(shape == out.shape)


# Shards


def chunk_batches(
    tiles: range, chunks: Iterator[Chunk], per_tile: int, status: NDArray[np.uint8]
) -> Iterator[list[Encoded | None]]:
    """Draw the chunks of a shard's tiles; yield what is stored of them, several tiles at a time.

    Parameters
    ----------
    tiles : range
    chunks : iterator of Chunk
        As of `StoreWriter.write_shard`.
    per_tile : int
        Chunks of each tile.
    status : ndarray of uint8
        Of all tiles of the store, updated in place. Nothing is stored of a tile without pixels; a tile that lacks one
        of its chunks becomes one without pixels.

    Raises
    ------
    StoreError
        For too few or too many chunks.
    """
    without = np.isin(status[tiles.start : tiles.stop], NO_PIXEL_STATUSES).tolist()
    for first in range(0, len(tiles), _BATCH):
        batch = tiles[first : first + _BATCH]
        parts = list(islice(chunks, len(batch) * per_tile))
        if len(parts) != len(batch) * per_tile:
            raise StoreError(f"too few chunks for {tiles}: they end at tile {batch[len(parts) // per_tile]}")
        # Nearly all batches have pixels everywhere: only the others are looked at tile by tile.
        if any(without[first : first + _BATCH]) or not {type(None), Status}.isdisjoint(map(type, parts)):
            for place, tile in enumerate(batch):
                of_tile = slice(place * per_tile, (place + 1) * per_tile)
                if None in parts[of_tile] or Status.MISSING in parts[of_tile] or status[tile] in NO_PIXEL_STATUSES:
                    missing = all(part == Status.MISSING for part in parts[of_tile])
                    status[tile] = Status.MISSING if missing else Status.UNREADABLE
                    parts[of_tile] = [None] * per_tile
        yield cast("list[Encoded | None]", parts)
    if next(chunks, status) is not status:  # an object that no iterator of chunks yields
        raise StoreError(f"too many chunks for {tiles}")


def index_size(slots: int) -> int:
    """Bytes of the index of a shard of so many slots, checksum included."""
    return 16 * slots + CRC_SIZE


def encode_shard(batches: Iterable[Sequence[Encoded | None]], slots: int) -> Iterator[bytes]:
    """Yield the bytes of a shard, in few large parts: hashing and writing each costs less than many small ones would.

    Parameters
    ----------
    batches : iterable of sequences of encoded chunks or None
        Chunks without checksum, in C order; None where there is none. Fewer than `slots` leave the rest absent.
    slots : int
        Chunks that a full shard holds.

    Raises
    ------
    StoreError
        For more chunks than slots.
    """
    sizes: list[int] = []  # a list: numpy is slow one by one
    parts: list[Any] = []  # buffers
    buffered = 0
    for batch in batches:
        for chunk in batch:
            if chunk is None:
                sizes.append(0)
                continue
            if isinstance(chunk, bytes):
                size = len(chunk) + CRC_SIZE
                parts += (chunk, _crc(chunk))
            else:
                header, rest = chunk
                size = len(header) + len(rest) + CRC_SIZE
                parts += (header, rest, _crc(header, rest))
            sizes.append(size)
            buffered += size
            if buffered >= _BUFFER:
                yield b"".join(parts)
                parts, buffered = [], 0
        if len(sizes) > slots:
            raise StoreError(f"more than {slots} chunks for one shard")
    index = np.full((slots, 2), ABSENT, "<u8")
    index[: len(sizes), 1] = sizes
    index[: len(sizes), 0] = np.cumsum(sizes) - sizes
    index[: len(sizes)][np.equal(sizes, 0)] = ABSENT
    yield b"".join([*parts, append_crc(index.tobytes())])


def decode_index(data: bytes, slots: int, shard_size: int) -> NDArray[np.int64]:
    """Decode the index at the end of a shard.

    Parameters
    ----------
    data : bytes
        The last ``index_size(slots)`` bytes of the shard, or more that end there.
    slots : int
    shard_size : int
        Length of the complete shard, which all entries must lie within.

    Returns
    -------
    ndarray of int64 (slots, 2)
        Offset and length (checksum included) of every chunk; -1, -1 where it is absent.

    Raises
    ------
    StoreError
        When the index is cut off, damaged, or points outside the shard.
    """
    size = index_size(slots)
    if len(data) < size:
        raise StoreError(f"cut off: {shard_size} bytes cannot hold an index of {size}")
    index = np.frombuffer(strip_crc(data[-size:]), "<u8").reshape(slots, 2)
    present = (index != ABSENT).all(axis=1)
    ends = index[present].sum(axis=1, dtype=np.uint64)
    if (ends > shard_size - size).any():
        raise StoreError("its index points outside the file")
    entries = np.full((slots, 2), -1, np.int64)
    entries[present] = index[present]
    return entries
