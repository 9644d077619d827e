"""JPEG at the level of bytes: one complete, unambiguous stream out of a TIFF tile and its shared tables."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_END = int.from_bytes(EOI, "little")
_TABLE = b"\xff\xdb"
_SOS, _COM = 0xDA, 0xFE
_APP = range(0xE0, 0xF0)
_RESTARTS_AND_END = frozenset((*range(0xD0, 0xD8), 0xD9))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_ALL_COMPONENTS = b"\0\x0c\x03"  # begins a scan of all three
_MAX_SCANS = 100


class JpegLimitError(ValueError):
    """A stream that would take more memory or time than a picture of its size can need."""


class SplitJpeg(NamedTuple):
    """A complete JPEG stream in two pieces, so that what was read need not be copied.

    Attributes
    ----------
    header : bytes
        Up to and with the marker of the scan.
    data : ndarray of uint8
        The rest, a view of what was read.
    """

    header: bytes
    data: NDArray[np.uint8]


class JpegHeader(NamedTuple):
    """What stands before the compressed data of a JPEG stream.

    Attributes
    ----------
    segments : bytes
        All segments up to the scan, without application data and comments.
    scan : int
        Where the first scan begins; the length of the data where there is none.
    width, height, components, precision : int
        From the frame; 0 where there is none.
    sequential : bool
        A scan that holds all components is then the only one.
    """

    segments: bytes
    scan: int
    width: int
    height: int
    components: int
    precision: int
    sequential: bool


def read_header(data: bytes) -> JpegHeader:
    """Read the segments of a JPEG stream up to its first scan.

    Raises
    ------
    ValueError
        If the data does not begin as a JPEG stream or a segment reaches past its end.
    """
    if data[:2] != SOI:
        raise ValueError("no JPEG start marker")
    kept, frame, at, end, sequential = [], (0, 0, 0, 0), 2, len(data), True
    while at + 4 <= end and data[at + 1] != _SOS:
        marker, length = data[at + 1], (data[at + 2] << 8) | data[at + 3]
        if data[at] != 0xFF:
            raise ValueError("JPEG segments are damaged")
        if marker in (0xFF, 0xD9):  # a fill byte, or the end of a tables-only stream
            at += 1 if marker == 0xFF else end
            continue
        if length < 2 or at + 2 + length > end:
            raise ValueError("a JPEG segment reaches past the end of its data")
        if marker in _FRAMES:
            frame, sequential = struct.unpack_from(">BHHB", data, at + 4), marker in _SEQUENTIAL
        if marker not in _APP and marker != _COM:
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    precision, height, width, components = frame
    return JpegHeader(b"".join(kept), min(at, end), width, height, components, precision, sequential)


def check_jpeg2000(data: bytes, width: int, height: int) -> None:
    """Check that a JPEG 2000 stream is complete and of a size, before a decoder believes its header.

    Raises
    ------
    ValueError
        If it is not: decoders fill up what is missing.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or start + 24 > len(data):
        raise ValueError("no JPEG 2000 start marker")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    if (right - left, bottom - top) != (width, height):
        raise ValueError(f"JPEG 2000 is {right - left}x{bottom - top}, its directory says {width}x{height}")
    if EOI not in data[-16:]:
        raise ValueError("JPEG 2000 is cut short (no end marker)")


def adobe_marker(rgb: bool) -> bytes:
    """An APP14 segment that states how colours are stored: as RGB or as YCbCr."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if rgb else b"\x01")


class Normaliser:
    """Makes complete JPEG streams of a TIFF directory's tiles.

    Tables are spliced in, every APPn and comment is dropped and one APP14 put in: an Aperio RGB stream without a
    marker is else taken for YCbCr, and a JFIF marker left in a tile wins over APP14.

    Parameters
    ----------
    tables : bytes or None
        The directory's JPEGTables.
    rgb : bool
        Whether the directory's photometric interpretation is RGB (YCbCr otherwise).
    width, height : int
        The size that every tile must have.

    Raises
    ------
    ValueError
        If the tables are damaged.
    """

    def __init__(self, tables: bytes | None, rgb: bool, width: int, height: int) -> None:
        segments = read_header(tables).segments if tables else b""
        self.prefix = SOI + adobe_marker(rgb) + segments
        self.size = (width, height)
        # A header as stored, its replacement, and whether it is sequential: nearly always those of the next tile too.
        self._seen = (b"\0", b"", True)

    def __call__(self, tile: bytes) -> bytes:
        """Return the complete stream to decode; `ValueError` says what is wrong with a damaged one."""
        stored, normalised = self._checked(tile)
        return normalised + tile[len(stored) :]

    def alone(self, tile: bytes) -> bytes:
        """Return the complete stream to keep, without what stands behind its end; `ValueError` as above."""
        stored, normalised = self._checked(tile)
        scan, end = len(stored), tile.find(EOI, len(stored))
        stop = len(tile) if end < 0 else end + 2
        if stop < len(tile) and SOI[:1] + bytes((_SOS,)) in tile[scan:]:
            # The data of one scan hold no end marker but the end; what stands between several scans may.
            stop = tile.rfind(EOI) + 2
        return normalised + tile[scan:stop]

    def header(self, tile: bytes) -> bytes:
        """Return what should stand before a tile's compressed data; `ValueError` as for a complete tile."""
        stored, normalised, sequential = self._headers(tile)
        scan = tile[len(stored) :]
        if not (sequential and scan.startswith(_ALL_COMPONENTS)):
            raise ValueError("JPEG is of several scans")
        return normalised + scan[: int.from_bytes(scan[:2], "big")]

    def all_alone(self, data: bytes, places: Sequence[tuple[int, int]]) -> list[SplitJpeg] | None:
        """Return `alone` of each of the tiles at ``[start, stop)`` in the data.

        None where one of them begins unlike the others, or must be checked by itself.
        """
        stored, normalised, sequential = self._known(data)
        begin = stored + _ALL_COMPONENTS
        alike = all(data.startswith(begin, start) and data.endswith(EOI, start, stop) for start, stop in places)
        if not (alike and sequential):
            return None
        # Each may hold one end marker only. Counted as pairs of bytes, from the first and from the second byte on, in a
        # tenth of the time of bytes.find, which is longer than copying; sliced first, as numpy is slow where they lie
        # unevenly.
        pairs = (np.frombuffer(part, "<u2", len(part) // 2) for part in (data, data[1:]))
        if sum(int(np.count_nonzero(both == _END)) for both in pairs) != len(places):
            return None
        scan, view = len(stored), np.frombuffer(data, np.uint8)
        return [SplitJpeg(normalised, view[start + scan : stop]) for start, stop in places]

    def _checked(self, tile: bytes) -> tuple[bytes, bytes]:
        stored, normalised, sequential = self._known(tile)
        alone = sequential and tile.startswith(_ALL_COMPONENTS, len(stored))
        # Each scan passes through the complete picture, however few bytes it has.
        if not alone and tile.count(stored[-2:], len(stored)) >= _MAX_SCANS:
            raise JpegLimitError(f"JPEG of more than {_MAX_SCANS} scans")
        return stored, normalised

    def _known(self, tile: bytes) -> tuple[bytes, bytes, bool]:
        if not tile.startswith(self._seen[0]) or len(tile) < len(self._seen[0]) + 2:
            self._seen = self._headers(tile)
        return self._seen

    def _headers(self, tile: bytes) -> tuple[bytes, bytes, bool]:
        """A tile's bytes up to and with the scan's marker, as stored and as they should be; if it is sequential."""
        header = read_header(tile)
        if (header.components, header.precision) != (3, 8):
            raise ValueError(f"JPEG has {header.components} components of {header.precision} bits, not 3 of 8")
        if (header.width, header.height) != self.size:
            raise ValueError(
                f"JPEG is {header.width}x{header.height}, its directory says {self.size[0]}x{self.size[1]}"
            )
        if header.scan + 4 > len(tile):
            raise ValueError("JPEG has no image data")
        if _TABLE not in self.prefix and _TABLE not in header.segments:
            raise ValueError("JPEG has no quantization table")
        marker = tile[header.scan : header.scan + 2]
        return tile[: header.scan + 2], self.prefix + header.segments + marker, header.sequential


def join_stripes(header: bytes, stripes: Sequence[bytes | None], height: int) -> bytes:
    """Join what stands between restart markers to one stream of `height` rows.

    Parameters
    ----------
    header : bytes
        Everything before the compressed data, of a stream as wide as the stripes.
    stripes : sequence of bytes
        Each with the marker that ends it, whichever that was.
    height : int

    Raises
    ------
    ValueError
        If a stripe is missing or does not end with a restart or end marker.
    """
    parts = []
    for number, stripe in enumerate(stripes):
        if not stripe or stripe[-2] != 0xFF or stripe[-1] not in _RESTARTS_AND_END:
            raise ValueError("a stripe does not end with a restart marker")
        parts += [stripe[:-2], bytes((0xFF, 0xD0 + number % 8))]
    parts[-1] = EOI
    at = 2
    while header[at + 1] not in _FRAMES:
        at += 2 + int.from_bytes(header[at + 2 : at + 4], "big")
    at += 5  # where the frame states its height
    return b"".join((header[:at], height.to_bytes(2, "big"), header[at + 2 :], *parts))
