"""Pixels to bytes and back: what one inner chunk of a store holds.

A chunk is a complete JPEG, or the raw bytes of the tile compressed with zstd. On disk each is followed by the crc32c
of its bytes (little-endian), which is what zarr's ``crc32c`` codec appends.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import google_crc32c
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsivit.errors import StoreError

Bytes: TypeAlias = bytes | memoryview
Encoded: TypeAlias = bytes | tuple[bytes, NDArray[np.uint8]]
"""An encoded chunk, without checksum: whole, or in two pieces, of which the second need then not be copied."""

CRC_SIZE = 4
# The crc32c of any bytes followed by their own crc32c is this constant: one pass checks without cutting.
_RESIDUE = 0x48674BC7
_JPEG_MAGIC = b"\xff\xd8\xff"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_LEVEL = 3


def crc(first: bytes, rest: NDArray[np.uint8] | None = None) -> bytes:
    """Return the crc32c of what the pieces are together, as it stands in files."""
    value: int = google_crc32c.value(first) if rest is None else google_crc32c.extend(_value_of(first), rest)
    return value.to_bytes(CRC_SIZE, "little")


@lru_cache(maxsize=16)
def _value_of(header: bytes) -> int:
    """The crc32c of a JPEG's header, which is the same for most tiles of a slide."""
    value: int = google_crc32c.value(header)
    return value


def pieces_of(chunk: Encoded) -> tuple[bytes | NDArray[np.uint8], ...]:
    """Return what a chunk is made of, in order; the ``len`` of each is its bytes."""
    return (chunk,) if isinstance(chunk, bytes) else chunk


def append_crc(data: bytes) -> bytes:
    """Return ``data`` followed by its crc32c."""
    return data + crc(data)


def strip_crc(data: bytes) -> memoryview:
    """Check the crc32c at the end, and look at what stands before it; nothing is copied.

    Raises
    ------
    StoreError
        When the bytes are not the ones that were written.
    """
    if len(data) < CRC_SIZE or google_crc32c.value(data) != _RESIDUE:
        raise StoreError("checksum does not match: the bytes are not the ones that were written")
    return memoryview(data)[:-CRC_SIZE]


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


def decode_bytes(data: Bytes) -> bytes:
    """Undo :func:`encode_zstd`, to raw bytes.

    Raises
    ------
    StoreError
        For bytes that are not zstd.
    """
    import imagecodecs

    try:
        return bytes(imagecodecs.zstd_decode(bytes(data)))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"cannot decompress: {error}") from error


def decode(
    data: Bytes, shape: tuple[int, int] | None = None, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode one chunk (JPEG or zstd, told apart by their first bytes).

    Parameters
    ----------
    data : bytes or memoryview
        Without the checksum.
    shape : (height, width), optional
        What the chunk must be; needed for zstd, which does not say, unless `out` is given.
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
        return _decode_jpeg(data, wanted, out)
    if data[:4] == _ZSTD_MAGIC and wanted is not None:
        return _decode_zstd(data, wanted, out)
    raise StoreError(f"neither JPEG nor zstd: the chunk begins with {bytes(data[:4])!r}")


def decode_checked_jpeg(data: bytes, out: NDArray[np.uint8]) -> bool:
    """Decode a JPEG with the checksum behind it, in the fewest Python steps, as threads wait for each other there.

    Parameters
    ----------
    data : bytes
    out : ndarray of uint8 (height, width, 3)
        C-contiguous.

    Returns
    -------
    bool
        False where it is not a JPEG, is damaged or of another size: `strip_crc` and `decode` say what it is.
    """
    if not data.startswith(_JPEG_MAGIC) or google_crc32c.value(data) != _RESIDUE:
        return False
    try:
        shape = simplejpeg.decode_jpeg(memoryview(data)[:-CRC_SIZE], buffer=out).shape
    except ValueError:
        return False
    return bool(shape == out.shape)


def _decode_jpeg(data: Bytes, wanted: tuple[int, ...] | None, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
    except ValueError as error:
        raise StoreError(f"cannot decode a JPEG: {error}") from error
    if wanted is not None and pixels.shape != tuple(wanted):
        raise StoreError(f"a JPEG of {pixels.shape[1]} x {pixels.shape[0]} where {wanted[1]} x {wanted[0]} belongs")
    return pixels


def _decode_zstd(data: Bytes, wanted: tuple[int, ...], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    raw = np.frombuffer(decode_bytes(data), np.uint8)
    if raw.size != np.prod(wanted):
        raise StoreError(f"{raw.size} bytes where {' x '.join(map(str, wanted))} belong")
    if out is None:
        return raw.reshape(wanted)
    out[...] = raw.reshape(wanted)
    return out
