"""Shard files, byte for byte: chunks, each with its crc32c, then an index that says where they are. Pure.

The layout is that of zarr's ``sharding_indexed`` codec with the index at the end: for every inner chunk of
the shard, in C order, its offset and length as little-endian uint64, both ``2**64 - 1`` where the chunk is
absent; then the crc32c of that index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.store.codec import CRC_SIZE, Encoded, append_crc, crc, strip_crc

ABSENT = np.uint64(2**64 - 1)
_PIECE = 512 << 10  # bytes: stays in the processor's cache from one step to the next


def index_size(slots: int) -> int:
    """Bytes that the index of a shard of so many chunks takes, checksum included."""
    return 16 * slots + CRC_SIZE


def encode_shard(runs: Iterable[Sequence[Encoded | None]], slots: int) -> Iterator[bytes]:
    """Yield the bytes of a shard, in few pieces: what is done with each costs less than the pieces would.

    Parameters
    ----------
    runs : iterable of sequences of encoded chunks or None
        Chunks without checksum, in C order, some at a time; None where there is none. Fewer than `slots` leave
        the rest absent.
    slots : int
        Chunks that a full shard holds.

    Raises
    ------
    StoreError
        For more chunks than slots.
    """
    sizes: list[int] = []  # numpy is slow one by one
    parts: list[Any] = []  # buffers
    held = 0
    for run in runs:
        for chunk in run:
            if chunk is None:
                sizes.append(0)
                continue
            if isinstance(chunk, bytes):
                size = len(chunk) + CRC_SIZE
                parts += (chunk, crc(chunk))
            else:
                header, rest = chunk
                size = len(header) + len(rest) + CRC_SIZE
                parts += (header, rest, crc(header, rest))
            sizes.append(size)
            held += size
            if held >= _PIECE:
                yield b"".join(parts)
                parts, held = [], 0
        if len(sizes) > slots:
            raise StoreError(f"more than {slots} chunks for one shard")
    yield b"".join([*parts, append_crc(_index(sizes, slots).tobytes())])


def _index(sizes: list[int], slots: int) -> NDArray[np.uint64]:
    """Where chunks of these sizes lie; one of size 0 is absent, as are those that are missing."""
    index = np.full((slots, 2), ABSENT, "<u8")
    index[: len(sizes), 1] = sizes
    index[: len(sizes), 0] = np.cumsum(sizes) - sizes
    index[: len(sizes)][np.equal(sizes, 0)] = ABSENT
    return index


def decode_index(data: bytes, slots: int, shard_size: int) -> NDArray[np.int64]:
    """Decode the index at the end of a shard.

    Parameters
    ----------
    data : bytes
        The last ``index_size(slots)`` bytes of the shard, or more that end there.
    slots : int
    shard_size : int
        Length of the whole shard, against which the entries are checked.

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
