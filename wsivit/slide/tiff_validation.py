"""A TIFF's structure, checked before any reader sees the file: readers crash, hang or make pixels up on a bad one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import LimitError, SlideError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
HEADER = 8  # bytes, at least
_MOST_DIRECTORIES, _MOST_TAGS = 4096, 4096
_SMALLEST_TILE, _LARGEST_TILE = 8, 8192
_NDPI = 65420
_TAIL = 1 << 16
_ROOM = 1 << 20  # for tables, comments and the like in each tile
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _SUB, _EXTRA, _FORMAT = 278, 284, 322, 323, 330, 338, 339
_TILE_INDEX, _STRIP_INDEX, _NDPI_INDEX = (324, 325), (273, 279), (65426, 65432)
_MOST_TEXT = 256 << 20  # bytes of all other tags together: readers hold them in memory, several times over
COLOURS = {0: "white-is-zero grey", 1: "grey", 2: "RGB", 3: "palette colour", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
KINDS = {1: "", 2: " signed", 3: " float", 4: ""}

Integers: TypeAlias = NDArray[np.int64]


class TiffReport(NamedTuple):
    """What the check of a TIFF brought to light.

    Attributes
    ----------
    doubts : tuple of str
        What is odd without making the file unreadable, such as tiles beyond its end.
    end : int
        Where its data end: its size, or the beginning of the zeros that a broken-off copy ends in.
    """

    anomalies: tuple[str, ...]
    end: int


@dataclass
class _Directory:
    """One TIFF directory: where each tag's values are, as (type, count, place in the file)."""

    offset: int
    tags: dict[int, tuple[int, int, int]] = field(default_factory=dict)


class _Tiff:
    """A file read as far as its directories; every complaint names what is wrong and where.

    `doubts` are oddities that a reader may survive: they do not condemn the file. `end` is where it ends, or was never
    written on: behind it uncompressed pixels would pass for black.
    """

    def __init__(self, file: IO[bytes], size: int, start: bytes) -> None:
        self.file, self.size, self.end = file, size, size
        self.anomalies: list[str] = []
        self.order = "<" if start[:2] == b"II" else ">"
        self.big = start[2:4] in (b"+\0", b"\0+")
        self.ndpi, self.text = False, 0

    def unpack(self, form: str, at: int, what: str) -> tuple[int, ...]:
        length = struct.calcsize(self.order + form)
        if at + length > self.size:
            raise SlideError(f"{what} at {at} lies beyond the end ({self.size}): truncated")
        self.file.seek(at)
        return struct.unpack(self.order + form, self.file.read(length))

    def directories(self) -> Iterator[_Directory]:
        """Walk all directories and those below them."""
        (first,) = self.unpack("Q" if self.big else "I", 8 if self.big else 4, "the place of the first directory")
        if not first:
            raise SlideError("the TIFF has no directory")
        waiting, seen = [(first, True)], set[int]()
        while waiting:
            at, in_chain = waiting.pop()
            if at in seen and in_chain:
                raise SlideError(f"TIFF directories form a loop (at {at})")
            if at in seen:
                continue  # listed twice below another
            if seen and self._is_void(at):
                self.anomalies.append(f"the TIFF directory at {at} is empty: what follows it is lost")
                written = self._written()
                self.end = min(self.end, written) if written <= at else self.end
                continue
            seen.add(at)
            if len(seen) > _MOST_DIRECTORIES:
                raise SlideError(f"more than {_MOST_DIRECTORIES} TIFF directories")
            directory, following = self._directory(at)
            below = self.values(directory, _SUB) if _SUB in directory.tags else ()
            waiting += [(place, False) for place in below if place]
            waiting += [(following, in_chain)] if following else []
            yield directory

    def _written(self) -> int:
        """Where the zeros begin that the file ends in; its size where it ends in none."""
        end = self.size
        while end > 0:
            start = max(0, end - _TAIL)
            self.file.seek(start)
            written = self.file.read(end - start).rstrip(b"\0")
            if written:
                return start + len(written)
            end = start
        return 0

    def _is_void(self, at: int) -> bool:
        return at + 8 <= self.size and self.unpack("Q" if self.big else "H", at, "TIFF directory") == (0,)

    def _directory(self, at: int) -> tuple[_Directory, int]:
        head, entry, offset = (8, 20, "Q") if self.big else (2, 12, "I")
        (n,) = self.unpack("Q" if self.big else "H", at, "TIFF directory")
        if not 0 < n <= _MOST_TAGS:
            raise SlideError(f"TIFF directory at {at} has {n} tags")
        (following,) = self.unpack(offset, at + head + n * entry, "the end of a TIFF directory")
        directory = _Directory(at)
        for index in range(n):
            self._tag(directory, at + head + index * entry)
        self.ndpi = self.ndpi or _NDPI in directory.tags
        if not self.ndpi:  # NDPI keeps offsets of more than 32 bits in places of its own
            for code, (kind, count, place) in directory.tags.items():
                if place + count * _SIZES.get(kind, 1) > self.size:
                    raise SlideError(
                        f"values of TIFF tag {code} at {place} lie beyond the end ({self.size}): truncated"
                    )
        for code, (kind, count, _) in directory.tags.items():
            if code not in (*_TILE_INDEX, *_STRIP_INDEX, *_NDPI_INDEX):
                self.text += count * _SIZES.get(kind, 1)
                if self.text > _MOST_TEXT:
                    raise SlideError(f"with TIFF tag {code}, its texts and tables are more than {_MOST_TEXT:,} bytes")
        return directory, following

    def _tag(self, directory: _Directory, at: int) -> None:
        code, kind = self.unpack("HH", at, "TIFF tag")
        (count,) = self.unpack("Q" if self.big else "I", at + 4, "TIFF tag")
        place = at + (12 if self.big else 8)
        if count * _SIZES.get(kind, 1) > (8 if self.big else 4):
            (place,) = self.unpack("Q" if self.big else "I", place, "TIFF tag")
        if code in directory.tags or kind not in _SIZES:
            self.anomalies.append(f"TIFF tag {code} is there twice or of the unknown type {kind}")
        directory.tags[code] = (kind, count, place)

    def values(self, directory: _Directory, code: int, default: int | None = None, most: int = 64) -> tuple[int, ...]:
        """The first values of a tag of whole numbers; the default, if there is one, where it is absent."""
        if code not in directory.tags and default is not None:
            return (default,)
        kind, count, place = self._whole_numbers(directory, code)
        return self.unpack(f"{min(count, most)}{_INTEGERS[kind]}", place, f"values of TIFF tag {code}")

    def _whole_numbers(self, directory: _Directory, code: int) -> tuple[int, int, int]:
        kind, count, place = directory.tags.get(code, (0, 0, 0))
        if not count:
            raise SlideError(f"TIFF directory at {directory.offset}: tag {code} is missing")
        if kind not in _INTEGERS:
            raise SlideError(f"TIFF directory at {directory.offset}: tag {code} has type {kind}, no whole number")
        if place < HEADER:  # OpenSlide would take the header for a table of places
            raise SlideError(f"values of TIFF tag {code} at {place} lie in the file's header")
        return kind, count, place

    def index(self, directory: _Directory, codes: tuple[int, int], needed: int) -> tuple[Integers, Integers]:
        """Offsets and byte counts of a picture's tiles or strips."""
        offsets, counts = (self._array(directory, code, needed) for code in codes)
        return offsets, counts

    def _array(self, directory: _Directory, code: int, needed: int) -> Integers:
        kind, count, place = self._whole_numbers(directory, code)
        if count != needed:
            raise SlideError(f"TIFF tag {code} has {count} entries where the picture needs {needed}")
        self.file.seek(place)
        raw = self.file.read(needed * _SIZES[kind])
        return np.frombuffer(raw, f"{self.order}u{_SIZES[kind]}").astype(np.int64)


def check_tiff(file: IO[bytes], size: int, start: bytes, max_pixels: int) -> TiffReport:
    """Check a TIFF's directories: inside the file, no loops, index as long as the picture needs, 8-bit RGB or grey.

    A file that is no TIFF passes.

    Returns
    -------
    Findings

    Raises
    ------
    SlideError
        With what is wrong, and where.
    LimitError
        If the largest picture has more pixels than `max_pixels`.
    """
    if start[:2] not in (b"II", b"MM") or start[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+", start[2:3], b""):
        return TiffReport((), size)
    if size < 8:
        raise SlideError(f"a TIFF of {size} bytes: truncated")
    tiff = _Tiff(file, size, start)
    directories = list(tiff.directories())
    areas = [_check_size(tiff, directory) for directory in directories]
    tiff.size = tiff.end
    largest = directories[areas.index(max(areas))]
    check_pixels(max(areas), max_pixels)
    if not any(_is_plain(tiff, directory) for directory in directories):
        _check_pixels(tiff, largest)
    if not tiff.ndpi:
        _check_data(tiff, largest)
        tiff.anomalies += [doubt for other in directories if other is not largest for doubt in _doubts(tiff, other)]
    return TiffReport(tuple(dict.fromkeys(tiff.anomalies)), tiff.end)


def check_pixels(pixels: int, most: int) -> None:
    """Refuse a picture of more pixels than the limit."""
    if pixels > most:
        raise LimitError(f"{pixels:,} pixels are more than the limit of {most:,}: raise it with --max-pixels")


def max_tile_bytes(width: int, height: int) -> int:
    """Return how many bytes a tile of 8-bit RGB may have: no compression takes more, and they are held in memory."""
    return 2 * 3 * width * height + _ROOM


def stored_tiles(offsets: Integers, counts: Integers, size: int) -> NDArray[np.bool_]:
    """Return which tiles of an index have bytes of their own inside a file of that size."""
    stored: NDArray[np.bool_] = (counts > 0) & (offsets >= HEADER) & (offsets + counts <= size)
    return stored


def _check_size(tiff: _Tiff, directory: _Directory) -> int:
    """Check a directory's sides and those of its tiles; return its area in pixels."""
    width, height = (tiff.values(directory, code)[0] for code in (_WIDTH, _LENGTH))
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise SlideError(f"TIFF directory at {directory.offset}: a picture of {width}x{height} pixels")
    if _TILE_WIDTH in directory.tags and not tiff.ndpi:
        tile = [tiff.values(directory, code)[0] for code in (_TILE_WIDTH, _TILE_LENGTH)]
        if not all(_SMALLEST_TILE <= side <= _LARGEST_TILE for side in tile):
            raise SlideError(f"TIFF directory at {directory.offset}: tiles of {tile[0]}x{tile[1]} pixels")
        needed, indexed = _tiles_needed(tiff, directory), directory.tags.get(_TILE_INDEX[0], (0, 0, 0))[1]
        if indexed != needed:  # too many: the picture's size is a lie, and readers would show a part of it
            raise SlideError(f"{indexed} tiles are indexed where {width}x{height} pixels need {needed}")
    return width * height


def _tiles_needed(tiff: _Tiff, directory: _Directory) -> int:
    """How many tiles or strips a picture is made of."""
    width, height = (tiff.values(directory, code)[0] for code in (_WIDTH, _LENGTH))
    across, down = _sides(tiff, directory)
    planes = tiff.values(directory, _SAMPLES, 1)[0] if tiff.values(directory, _PLANAR, 1)[0] == 2 else 1
    return -(-width // across) * -(-height // down) * planes


def _sides(tiff: _Tiff, directory: _Directory) -> tuple[int, int]:
    """Width and height of a picture's tiles or strips."""
    if _TILE_WIDTH in directory.tags:
        return tiff.values(directory, _TILE_WIDTH)[0], tiff.values(directory, _TILE_LENGTH)[0]
    width, height = (tiff.values(directory, code)[0] for code in (_WIDTH, _LENGTH))
    return width, min(height, max(1, tiff.values(directory, _ROWS_PER_STRIP, height)[0]))


def _check_data(tiff: _Tiff, directory: _Directory) -> None:
    """Check that the largest picture lies inside the file: tiles may be lost one by one, strips are read whole."""
    tiled = _TILE_WIDTH in directory.tags
    needed, lost, stored = _lost(tiff, directory)
    what = "tiles" if tiled else "strips"
    if lost and (lost == stored or not tiled):
        raise SlideError(f"{lost} of {needed} {what} lie outside the file ({tiff.size} bytes): truncated")
    if stored < needed and not tiled:
        raise SlideError(f"{needed - stored} of {needed} strips are empty")


def _lost(tiff: _Tiff, directory: _Directory) -> tuple[int, int, int]:
    """How many tiles or strips a picture needs, how many lie outside the file, and how many are not empty."""
    needed = _tiles_needed(tiff, directory)
    codes = _TILE_INDEX if _TILE_WIDTH in directory.tags else _STRIP_INDEX
    offsets, counts = tiff.index(directory, codes, needed)
    lost = int(((counts > 0) & ~stored_tiles(offsets, counts, tiff.size)).sum())
    if lost:
        tiff.anomalies.append(f"{lost} of {needed} tiles or strips lie outside the file ({tiff.size} bytes): truncated")
    heavy = int((counts > max_tile_bytes(*_sides(tiff, directory))).sum())
    if heavy:
        tiff.anomalies.append(f"{heavy} of {needed} tiles or strips have more bytes than their pixels can need")
    return needed, lost, int((counts > 0).sum())


def _doubts(tiff: _Tiff, directory: _Directory) -> tuple[str, ...]:
    """What is wrong with the data of a lesser picture: a coarser level, a label."""
    try:
        _lost(tiff, directory)
    except SlideError as error:
        return (str(error),)
    return ()


def _is_plain(tiff: _Tiff, directory: _Directory) -> bool:
    """Whether a picture could be read: which one is the slide is not decided here."""
    try:
        _check_pixels(tiff, directory)
    except SlideError:
        return False
    return True


def _check_pixels(tiff: _Tiff, directory: _Directory) -> None:
    """Refuse pixels that are not 8-bit RGB or grey, by name."""
    samples = tiff.values(directory, _SAMPLES, 1)[0]
    bits = tiff.values(directory, _BITS, 1)
    kind = tiff.values(directory, _FORMAT, 1)[0]
    color = tiff.values(directory, _PHOTOMETRIC)[0]
    extra = tiff.values(directory, _EXTRA, 0)
    known = (samples, color) in {(3, 2), (3, 6), (1, 1)} or ((samples, color) == (4, 2) and extra[0] in (1, 2))
    if set(bits) != {8} or kind not in (1, 4) or not known:
        name = f"{bits[0]}-bit{KINDS.get(kind, ' unknown')} {COLOURS.get(color, f'photometric {color}')}"
        odd = "" if samples == CHANNELS.get(color) else f" of {samples} samples, none of them alpha,"
        raise SlideError(f"{name}{odd} is not supported, only 8-bit RGB and grey")
