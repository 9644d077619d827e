"""Checks of a file before any reader opens it: readers crash, hang or invent pixels on a bad one."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import LimitError, SlideError, SlideNotFoundError
from wsivit.io import ByteSource, LocalFile, is_url, remote_file
from wsivit.slide.dicom import is_dicomdir, says_dicom, series_files

_IMPOSTORS = (
    (b"version https://git-lfs.github.com", "a Git LFS pointer, not the slide: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page, not a slide: the download went wrong"),
    (b"<html", "an HTML page, not a slide: the download went wrong"),
    (b"<?xml", "an XML document, not a slide"),
    (b"%pdf", "a PDF document, not a slide"),
    (b"pk\x03\x04", "a zip archive, not a slide: unpack it first"),
    (b"\x1f\x8b", "a gzip archive, not a slide: unpack it first"),
)
MAX_PIXELS = 100_000_000_000
"""Pixels of level 0 from which a slide is refused unless the limit is raised: 400,000 x 250,000."""


class PreflightResult(NamedTuple):
    """A slide that passed the checks: its bytes (of a DICOM folder, those of one file), and what is odd about it.

    Anomalies are reason to decode it in a subprocess.
    """

    source: ByteSource
    anomalies: tuple[str, ...]


def check_slide(path: str, max_pixels: int = MAX_PIXELS) -> PreflightResult:
    """Check a slide's bytes, without any reader.

    Raises
    ------
    SlideNotFoundError
        If there is nothing there.
    SlideError
        If it cannot be a slide; the text says what it is instead, or what is wrong with its TIFF structure.
    LimitError
        If it is a TIFF of more pixels than `max_pixels`.
    UsageError
        If it is a folder of several DICOM series.
    """
    source: ByteSource = remote_file(path) if is_url(path) else LocalFile(_regular_file(Path(path)))
    try:
        with source.open() as file:
            start = file.read(512)
            if not start:
                raise SlideError("the file is empty (0 bytes)")
            text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
            for prefix, what in _IMPOSTORS:
                if text.startswith(prefix):
                    raise SlideError(what)
            if not start.strip(b"\0"):
                raise SlideError("it begins with zeros: room was made for the file, but nothing was written there")
            if not is_url(path):
                _check_neighbours(Path(source.name), start)
            anomalies, source.size = check_tiff(file, source.size, start, max_pixels)
    except SlideError as error:
        raise SlideError(f"{path}: {error}") from None
    except LimitError as error:
        raise LimitError(f"{path}: {error}") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error}") from error
    return PreflightResult(source, anomalies)


def _regular_file(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlideNotFoundError(f"{path}: there is no such slide") from error
    except (OSError, ValueError) as error:
        raise SlideError(f"{path}: cannot be looked at: {error}") from error
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and is_dicomdir(path)):
        files = series_files(path)
        if not files:
            raise SlideError(f"{path}: a folder without DICOM slides; give the slide file itself")
        return files[0]
    if not stat.S_ISREG(mode):
        raise SlideError(f"{path}: not a regular file (a pipe, socket or device cannot be read as a slide)")
    return path


def _check_neighbours(path: Path, start: bytes) -> None:
    """Refuse a pipe among the files that OpenSlide opens along with one of a slide of several: it would wait for it."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
    elif suffix in (".vms", ".vmu") or says_dicom(start):  # of DICOM it opens all that lies beside the file
        folder = path.parent
    else:
        return
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.is_fifo() or file.is_char_device():
            raise SlideError(f"{file} is not a regular file: a reader would wait for it as for a part of the slide")


# --- the structure of a TIFF

HEADER = 8  # bytes, at least
_COLOURS = {0: "white-is-zero grey", 1: "grey", 2: "RGB", 3: "palette colour", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
SUPPORTED_PIXELS = {(2, 3), (6, 3), (2, 4), (1, 1)}
"""Photometric interpretations, with their samples per pixel, that readers may read; a fourth sample must be alpha."""
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
_SAMPLE_FORMATS = {1: "", 2: " signed", 3: " float", 4: ""}

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _SUB, _EXTRA, _FORMAT = 278, 284, 322, 323, 330, 338, 339
_TILE_INDEX, _STRIP_INDEX, _NDPI_INDEX = (324, 325), (273, 279), (65426, 65432)
_NDPI = 65420

_MAX_DIRECTORIES, _MAX_TAGS = 4096, 4096
_MIN_TILE, _MAX_TILE = 8, 8192
_MAX_TEXT = 256 << 20  # bytes of all other tags together: readers hold them in memory, several times over
_TILE_OVERHEAD = 1 << 20  # for tables, comments and the like in each tile
_TAIL = 1 << 16

Integers: TypeAlias = NDArray[np.int64]


@dataclass
class _Directory:
    """One TIFF directory: where each tag's values are, as (type, count, place in the file)."""

    offset: int
    tags: dict[int, tuple[int, int, int]] = field(default_factory=dict)


class _TiffStructure:
    """A TIFF's directories, read from the bytes; each error says what is wrong and where.

    `anomalies` are oddities that readers may survive. `end` is where the file ends, or where an interrupted copy left
    only zeros: behind it uncompressed pixels would pass for black.
    """

    def __init__(self, file: IO[bytes], size: int, start: bytes) -> None:
        self.file, self.size, self.end = file, size, size
        self.anomalies: list[str] = []
        self.order = "<" if start[:2] == b"II" else ">"
        # Formats of a directory's number of tags, and of counts and places: BigTIFF has 8 bytes for each.
        self.big = start[2:4] in (b"+\0", b"\0+")
        self.n_tags, self.word = ("Q", "Q") if self.big else ("H", "I")
        self.ndpi, self.text = False, 0

    def unpack(self, form: str, at: int, what: str) -> tuple[int, ...]:
        length = struct.calcsize(self.order + form)
        if at + length > self.size:
            raise SlideError(f"{what} at {at} lies beyond the end ({self.size}): truncated")
        self.file.seek(at)
        return struct.unpack(self.order + form, self.file.read(length))

    def directories(self) -> Iterator[_Directory]:
        """Walk all directories and the SubIFDs of each."""
        (first,) = self.unpack(self.word, 8 if self.big else 4, "the place of the first directory")
        if not first:
            raise SlideError("the TIFF has no directory")
        waiting, seen = [(first, True)], set[int]()
        while waiting:
            at, in_chain = waiting.pop()
            if at in seen:
                if in_chain:
                    raise SlideError(f"TIFF directories form a loop (at {at})")
                continue  # a SubIFD that is listed twice
            # Where a copy was interrupted, a directory behind the first may lie in zeros: what precedes it is readable.
            if seen and at + 8 <= self.size and self.unpack(self.n_tags, at, "TIFF directory") == (0,):
                self.anomalies.append(f"the TIFF directory at {at} is empty: what follows it is lost")
                written = self._written_size()
                self.end = min(self.end, written) if written <= at else self.end
                continue
            seen.add(at)
            if len(seen) > _MAX_DIRECTORIES:
                raise SlideError(f"more than {_MAX_DIRECTORIES} TIFF directories")
            directory, following = self._read_directory(at)
            sub_directories = self.values(directory, _SUB) if _SUB in directory.tags else ()
            waiting += [(place, False) for place in sub_directories if place]
            waiting += [(following, in_chain)] if following else []
            yield directory

    def _written_size(self) -> int:
        """Size without the zeros that the file ends in."""
        end = self.size
        while end > 0:
            start = max(0, end - _TAIL)
            self.file.seek(start)
            written = self.file.read(end - start).rstrip(b"\0")
            if written:
                return start + len(written)
            end = start
        return 0

    def _read_directory(self, at: int) -> tuple[_Directory, int]:
        """Read the tags of a directory; return it and the place of the next."""
        head, entry, inline = (8, 20, 8) if self.big else (2, 12, 4)
        (n,) = self.unpack(self.n_tags, at, "TIFF directory")
        if not 0 < n <= _MAX_TAGS:
            raise SlideError(f"TIFF directory at {at} has {n} tags")
        (following,) = self.unpack(self.word, at + head + n * entry, "the end of a TIFF directory")
        directory = _Directory(at)
        for place in range(at + head, at + head + n * entry, entry):
            code, kind = self.unpack("HH", place, "TIFF tag")
            (count,) = self.unpack(self.word, place + 4, "TIFF tag")
            at_values = place + entry - inline  # values that fit stand in the entry itself
            if count * _TYPE_SIZES.get(kind, 1) > inline:
                (at_values,) = self.unpack(self.word, at_values, "TIFF tag")
            if code in directory.tags or kind not in _TYPE_SIZES:
                self.anomalies.append(f"TIFF tag {code} is there twice or of the unknown type {kind}")
            directory.tags[code] = (kind, count, at_values)
        self.ndpi = self.ndpi or _NDPI in directory.tags
        for code, (kind, count, place) in directory.tags.items():
            length = count * _TYPE_SIZES.get(kind, 1)
            if not self.ndpi and place + length > self.size:  # NDPI keeps the upper half of large offsets elsewhere
                raise SlideError(f"values of TIFF tag {code} at {place} lie beyond the end ({self.size}): truncated")
            if code not in (*_TILE_INDEX, *_STRIP_INDEX, *_NDPI_INDEX):
                self.text += length
                if self.text > _MAX_TEXT:
                    raise SlideError(f"with TIFF tag {code}, its texts and tables are more than {_MAX_TEXT:,} bytes")
        return directory, following

    def values(self, directory: _Directory, code: int, default: int | None = None) -> tuple[int, ...]:
        """The first 64 values of an integer tag; the default, if there is one, where it is absent."""
        if code not in directory.tags and default is not None:
            return (default,)
        kind, count, place = self._integer_tag(directory, code)
        return self.unpack(f"{min(count, 64)}{_INTEGERS[kind]}", place, f"values of TIFF tag {code}")

    def _integer_tag(self, directory: _Directory, code: int) -> tuple[int, int, int]:
        kind, count, place = directory.tags.get(code, (0, 0, 0))
        if not count:
            raise SlideError(f"TIFF directory at {directory.offset}: tag {code} is missing")
        if kind not in _INTEGERS:
            raise SlideError(f"TIFF directory at {directory.offset}: tag {code} has type {kind}, no integer")
        if place < HEADER:  # OpenSlide would take the header for a table of places
            raise SlideError(f"values of TIFF tag {code} at {place} lie in the file's header")
        return kind, count, place

    def size_of(self, directory: _Directory) -> tuple[int, int]:
        """Width and height of a picture in pixels."""
        return self.values(directory, _WIDTH)[0], self.values(directory, _LENGTH)[0]

    def tiling(self, directory: _Directory) -> tuple[int, int, int]:
        """Width and height of a picture's tiles or strips, and how many of them it needs."""
        width, height = self.size_of(directory)
        if _TILE_WIDTH in directory.tags:
            across, down = self.values(directory, _TILE_WIDTH)[0], self.values(directory, _TILE_LENGTH)[0]
        else:
            across, down = width, min(height, max(1, self.values(directory, _ROWS_PER_STRIP, height)[0]))
        planes = self.values(directory, _SAMPLES, 1)[0] if self.values(directory, _PLANAR, 1)[0] == 2 else 1
        return across, down, -(-width // across) * -(-height // down) * planes

    def count_stored(self, directory: _Directory) -> tuple[int, int, int]:
        """How many tiles or strips a picture needs, how many have bytes, and how many of those lie outside the file."""
        across, down, needed = self.tiling(directory)
        index: list[Integers] = []
        for code in _TILE_INDEX if _TILE_WIDTH in directory.tags else _STRIP_INDEX:
            kind, count, place = self._integer_tag(directory, code)
            if count != needed:
                raise SlideError(f"TIFF tag {code} has {count} entries where the picture needs {needed}")
            self.file.seek(place)
            raw = self.file.read(needed * _TYPE_SIZES[kind])
            index.append(np.frombuffer(raw, f"{self.order}u{_TYPE_SIZES[kind]}").astype(np.int64))
        offsets, counts = index
        lost = int(((counts > 0) & ~stored_tiles(offsets, counts, self.size)).sum())
        if lost:
            self.anomalies.append(
                f"{lost} of {needed} tiles or strips lie outside the file ({self.size} bytes): truncated"
            )
        heavy = int((counts > max_tile_bytes(across, down)).sum())
        if heavy:
            self.anomalies.append(f"{heavy} of {needed} tiles or strips have more bytes than their pixels can need")
        return needed, int((counts > 0).sum()), lost


def check_tiff(file: IO[bytes], size: int, start: bytes, max_pixels: int) -> tuple[tuple[str, ...], int]:
    """Check a TIFF's directories: inside the file, no loops, index as long as the picture needs, 8-bit RGB or grey.

    A file that is no TIFF passes.

    Returns
    -------
    anomalies : tuple of str
        What is odd without making the file unreadable, such as tiles beyond its end.
    end : int
        Where its data end: its size, or the beginning of the zeros that an interrupted copy ends in.

    Raises
    ------
    SlideError
        With what is wrong, and where.
    LimitError
        If the largest picture has more pixels than `max_pixels`.
    """
    if start[:2] not in (b"II", b"MM") or start[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+", start[2:3], b""):
        return (), size
    if size < HEADER:
        raise SlideError(f"a TIFF of {size} bytes: truncated")
    tiff = _TiffStructure(file, size, start)
    directories = list(tiff.directories())
    areas = []
    for directory in directories:
        width, height = tiff.size_of(directory)
        if not (0 < width < 2**31 and 0 < height < 2**31):
            raise SlideError(f"TIFF directory at {directory.offset}: a picture of {width}x{height} pixels")
        if _TILE_WIDTH in directory.tags and not tiff.ndpi:
            tile = [tiff.values(directory, code)[0] for code in (_TILE_WIDTH, _TILE_LENGTH)]
            if not all(_MIN_TILE <= side <= _MAX_TILE for side in tile):
                raise SlideError(f"TIFF directory at {directory.offset}: tiles of {tile[0]}x{tile[1]} pixels")
            needed, indexed = tiff.tiling(directory)[2], directory.tags.get(_TILE_INDEX[0], (0, 0, 0))[1]
            if indexed != needed:  # too many: the picture's size is wrong, and readers would show a part of it
                raise SlideError(f"{indexed} tiles are indexed where {width}x{height} pixels need {needed}")
        areas.append(width * height)
    tiff.size = tiff.end  # from here on, what lies in an interrupted copy's zeros counts as lost
    largest = directories[areas.index(max(areas))]
    check_pixel_limit(max(areas), max_pixels)
    # Which picture is the slide is not decided yet: one that can be read is enough.
    problems = [_pixel_problem(tiff, directory) for directory in directories]
    if all(problems):
        raise SlideError(problems[directories.index(largest)])
    if not tiff.ndpi:
        # Tiles may be lost one by one; strips are read all at once.
        tiled = _TILE_WIDTH in largest.tags
        needed, stored, lost = tiff.count_stored(largest)
        what = "tiles" if tiled else "strips"
        if lost and (lost == stored or not tiled):
            raise SlideError(f"{lost} of {needed} {what} lie outside the file ({tiff.size} bytes): truncated")
        for directory in directories:
            if directory is not largest:
                try:
                    tiff.count_stored(directory)
                except SlideError as error:  # a coarser level or a label: the slide itself may still be read
                    tiff.anomalies.append(str(error))
    return tuple(dict.fromkeys(tiff.anomalies)), tiff.end


def check_pixel_limit(pixels: int, limit: int) -> None:
    """Raise `LimitError` for a picture of more pixels than the limit."""
    if pixels > limit:
        raise LimitError(f"{pixels:,} pixels are more than the limit of {limit:,}: raise it with --max-pixels")


def max_tile_bytes(width: int, height: int) -> int:
    """Return how many bytes a tile of 8-bit RGB may have: no compression takes more, and they are held in memory."""
    return 2 * 3 * width * height + _TILE_OVERHEAD


def stored_tiles(offsets: Integers, counts: Integers, size: int) -> NDArray[np.bool_]:
    """Return which tiles of an index have bytes of their own inside a file of that size."""
    stored: NDArray[np.bool_] = (counts > 0) & (offsets >= HEADER) & (offsets + counts <= size)
    return stored


def unsupported_pixels(bits: int, sample_format: int, color: int, samples: int) -> str:
    """Say which pixels are not supported, in words."""
    odd = "" if samples == _CHANNELS.get(color) else f" of {samples} samples, none of them alpha,"
    kind = _SAMPLE_FORMATS.get(sample_format, " unknown")
    name = f"{bits}-bit{kind} {_COLOURS.get(color, f'photometric {color}')}"
    return f"{name}{odd} is not supported, only 8-bit RGB and grey"


def _pixel_problem(tiff: _TiffStructure, directory: _Directory) -> str:
    """Say why no reader can read such pixels; empty if they are 8-bit RGB or grey."""
    try:
        bits, samples = tiff.values(directory, _BITS, 1), tiff.values(directory, _SAMPLES, 1)[0]
        kind, color = tiff.values(directory, _FORMAT, 1)[0], tiff.values(directory, _PHOTOMETRIC)[0]
        extra = tiff.values(directory, _EXTRA, 0)[0]
    except SlideError as error:
        return str(error)
    supported = (color, samples) in SUPPORTED_PIXELS and (samples != 4 or extra in (1, 2))
    if set(bits) == {8} and kind in (1, 4) and supported:
        return ""
    return unsupported_pixels(bits[0], kind, color, samples)
