"""A TIFF's structure, checked before any reader sees the file: readers crash, hang or make pixels up on a bad one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from wsivit.errors import SlideError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_DIRECTORIES, _MOST_TAGS = 4096, 4096
_LARGEST_TILE = 8192
_NDPI = 65420
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_PLANAR, _TILE_WIDTH, _TILE_LENGTH, _OFFSETS, _COUNTS, _SUB, _EXTRA, _FORMAT = 284, 322, 323, 324, 325, 330, 338, 339
_COLOURS = {0: "white-is-zero grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_KINDS = {1: "unsigned", 2: "signed", 3: "float", 4: "untyped"}


@dataclass
class _Directory:
    """One TIFF directory: where each tag's values are, as (type, count, place in the file)."""

    offset: int
    tags: dict[int, tuple[int, int, int]] = field(default_factory=dict)


class _Tiff:
    """A file read as far as its directories; every complaint names what is wrong and where."""

    def __init__(self, file: IO[bytes], size: int, start: bytes) -> None:
        self.file, self.size = file, size
        self.order = "<" if start[:2] == b"II" else ">"
        self.big = start[2:4] in (b"+\0", b"\0+")
        self.ndpi = False

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
            if at in seen or (seen and self._is_void(at)):
                continue  # listed twice below another; or cut off behind the first level: what there is can be read
            seen.add(at)
            if len(seen) > _MOST_DIRECTORIES:
                raise SlideError(f"more than {_MOST_DIRECTORIES} TIFF directories")
            directory, following = self._directory(at)
            below = self.values(directory, _SUB) if _SUB in directory.tags else ()
            waiting += [(place, False) for place in below if place]
            waiting += [(following, in_chain)] if following else []
            yield directory

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
        return directory, following

    def _tag(self, directory: _Directory, at: int) -> None:
        code, kind = self.unpack("HH", at, "TIFF tag")
        (count,) = self.unpack("Q" if self.big else "I", at + 4, "TIFF tag")
        place = at + (12 if self.big else 8)
        if count * _SIZES.get(kind, 1) > (8 if self.big else 4):
            (place,) = self.unpack("Q" if self.big else "I", place, "TIFF tag")
        directory.tags[code] = (kind, count, place)

    def values(self, directory: _Directory, code: int, default: int | None = None, most: int = 64) -> tuple[int, ...]:
        """The first values of a tag of whole numbers; the default, if there is one, where it is absent."""
        if code not in directory.tags and default is not None:
            return (default,)
        kind, count, place = directory.tags.get(code, (0, 0, 0))
        if kind not in _INTEGERS or not count:
            raise SlideError(f"TIFF directory at {directory.offset}: tag {code} is missing or no whole number")
        return self.unpack(f"{min(count, most)}{_INTEGERS[kind]}", place, f"values of TIFF tag {code}")


def check_tiff(file: IO[bytes], size: int, start: bytes) -> None:
    """Check a TIFF's directories: inside the file, no loops, index as long as the picture needs, 8-bit RGB or grey.

    A file that is no TIFF passes.

    Raises
    ------
    SlideError
        With what is wrong, and where.
    """
    if start[:2] not in (b"II", b"MM") or start[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+", start[2:3], b""):
        return
    if size < 8:
        raise SlideError(f"a TIFF of {size} bytes: truncated")
    tiff = _Tiff(file, size, start)
    directories = list(tiff.directories())
    areas = [_check_size(tiff, directory) for directory in directories]
    _check_pixels(tiff, directories[areas.index(max(areas))], areas.count(max(areas)))


def _check_size(tiff: _Tiff, directory: _Directory) -> int:
    """Check a directory's sides and the length of its tile index; return its area in pixels."""
    width, height = (tiff.values(directory, code)[0] for code in (_WIDTH, _LENGTH))
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise SlideError(f"TIFF directory at {directory.offset}: a picture of {width}x{height} pixels")
    if _TILE_WIDTH in directory.tags and not tiff.ndpi:
        tile = [tiff.values(directory, code)[0] for code in (_TILE_WIDTH, _TILE_LENGTH)]
        if not all(0 < side <= _LARGEST_TILE for side in tile):
            raise SlideError(f"TIFF directory at {directory.offset}: tiles of {tile[0]}x{tile[1]} pixels")
        planes = tiff.values(directory, _SAMPLES, 1)[0] if tiff.values(directory, _PLANAR, 1)[0] == 2 else 1
        needed = -(-width // tile[0]) * -(-height // tile[1]) * planes
        for code in (_OFFSETS, _COUNTS):
            kind, count, _ = directory.tags.get(code, (0, 0, 0))
            if kind not in _INTEGERS or count < needed:
                raise SlideError(f"{count} tiles are indexed where {width}x{height} pixels need {needed}")
    return width * height


def _check_pixels(tiff: _Tiff, directory: _Directory, alike: int) -> None:
    """Refuse pixels that are not 8-bit RGB or grey, by name."""
    samples = tiff.values(directory, _SAMPLES, 1)[0]
    bits = tiff.values(directory, _BITS, 1)
    kind = tiff.values(directory, _FORMAT, 1)[0]
    color = tiff.values(directory, _PHOTOMETRIC, 2)[0]
    extra = tiff.values(directory, _EXTRA, 0)
    name = f"{samples} x {bits[0]}-bit {_KINDS.get(kind, 'unknown')} {_COLOURS.get(color, f'photometric {color}')}"
    if set(bits) != {8} or kind not in (1, 4):
        raise SlideError(f"{name} pixels are not supported, only 8-bit RGB and grey")
    known = (samples, color) in {(3, 2), (3, 6), (1, 1)} or ((samples, color) == (4, 2) and extra[0] in (1, 2))
    if not known:
        raise SlideError(f"{name} pixels are not supported, only 8-bit RGB and grey")
    if color == 1 and alike > 1:
        raise SlideError(
            f"{alike} grey pictures of one size (channels or focal planes): only one RGB picture is a slide"
        )
