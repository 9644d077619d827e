"""Which files of a folder are one DICOM slide, decided by the series that each states; and which frames each holds.

OpenSlide opens one file and finds the others of its series in the same folder. Only what tells series and frames apart
is read here, by the standard's element structure (PS3.5, 7.1), because the same tags also stand in nested sequences.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import SlideError, UsageError
from wsivit.io import is_url

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_DIRECTORY = "1.2.840.10008.1.3.10"
_IMPLICIT = "1.2.840.10008.1.2"
_SOP_CLASS, _SYNTAX, _IMAGE_TYPE, _SERIES = 0x00020002, 0x00020010, 0x00080008, 0x0020000E
_CONCATENATION, _FIRST_FRAME, _ORGANIZATION = 0x00209161, 0x00209228, 0x00209311
_FRAMES, _ROWS, _COLUMNS, _WIDTH, _HEIGHT = 0x00280008, 0x00280010, 0x00280011, 0x00480006, 0x00480007
_PER_FRAME, _PLACE, _PLACE_COLUMN, _PLACE_ROW = 0x52009230, 0x0048021A, 0x0048021E, 0x0048021F
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_END_ITEM, _END_SEQUENCE = 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 32  # of sequences in sequences
_LONGEST = 1024  # bytes of a text
# Bytes into the file: a hostile one must not be walked for ever. Places of a million frames take 200 MB.
_FARTHEST, _FARTHEST_FRAMES = 1 << 20, 1 << 30
_MOST_FILES = 10_000
_LISTED = 5


class DicomHeader(NamedTuple):
    """What a DICOM file says of its place among others.

    Attributes
    ----------
    sop_class : str
    image_type : str
    series : str
        Its UID; each is empty where the file does not say it.
    """

    sop_class: str
    image_type: str
    series: str

    @property
    def is_slide(self) -> bool:
        """Whether it is a level of a slide: whole-slide microscopy, and no label or overview.

        What states nothing counts as one, so that it fails when it is opened instead of being passed over.
        """
        volume = not self.image_type or "VOLUME" in self.image_type.split("\\")
        return volume and bool(self.series) and self.sop_class in (_WHOLE_SLIDE, "")


class DicomFrames(NamedTuple):
    """Which frames of its level a DICOM file holds.

    Attributes
    ----------
    size, tile : tuple of int
        Width and height of the level and of a frame.
    concatenation : str
        The same for files that hold parts of one level; empty if the file stands for itself.
    stored : ndarray of bool, (rows, columns)
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    concatenation: str
    stored: NDArray[np.bool_]


def says_dicom(start: bytes) -> bool:
    """Whether a file that starts so is a DICOM file."""
    return start[128:132] == b"DICM"


def read_header(path: Path) -> DicomHeader | None:
    """Read what a file says of its series; None where it is no DICOM file or cannot be read."""
    if not path.is_file():  # reading a pipe would block
        return None
    found: dict[int, str] = {}
    try:
        with path.open("rb") as file:
            if not says_dicom(file.read(132)):
                return None
            elements = _Elements(file, _FARTHEST)
            for tag, length in elements.top(_SERIES):
                if tag in (_SOP_CLASS, _IMAGE_TYPE, _SERIES) and length <= _LONGEST:
                    found[tag] = elements.text(length)
    except OSError:
        return None
    except (ValueError, struct.error):
        pass  # cut short: what came before it still counts
    return DicomHeader(found.get(_SOP_CLASS, ""), found.get(_IMAGE_TYPE, ""), found.get(_SERIES, ""))


def read_frames(path: Path) -> DicomFrames:
    """Read which frames a level's file holds.

    A level that is tiled in full has them in reading order; of another each frame states its place (PS3.3, C.7.6.17.3).

    Raises
    ------
    SlideError
        If the file does not say it.
    """
    found: dict[int, int] = {}
    texts: dict[int, str] = {}
    places: list[tuple[int, int]] = []
    try:
        with path.open("rb") as file:
            file.seek(132)
            elements = _Elements(file, _FARTHEST_FRAMES)
            for tag, length in elements.top(_PER_FRAME):
                if tag in (_FIRST_FRAME, _ROWS, _COLUMNS, _WIDTH, _HEIGHT):
                    found[tag] = elements.integer(length)
                elif tag in (_CONCATENATION, _ORGANIZATION, _FRAMES) and length <= _LONGEST:
                    texts[tag] = elements.text(length)
                elif tag == _PER_FRAME:
                    places = list(elements.places(length))
        size, tile = (found[_WIDTH], found[_HEIGHT]), (found[_COLUMNS], found[_ROWS])
        stored = np.zeros((-(-size[1] // tile[1]), -(-size[0] // tile[0])), np.bool_)
        if places and texts.get(_ORGANIZATION) != "TILED_FULL":
            x, y = (np.array(places) - 1).T
            inside = (x >= 0) & (y >= 0) & (x < size[0]) & (y < size[1])
            stored[y[inside] // tile[1], x[inside] // tile[0]] = True
        else:
            first = found.get(_FIRST_FRAME, 0)
            stored.ravel()[first : first + int(texts.get(_FRAMES, 1))] = True
    except (KeyError, ValueError, ArithmeticError, struct.error) as error:
        raise SlideError(f"{path}: the DICOM file does not say where its frames lie ({error!r})") from error
    return DicomFrames(size, tile, texts.get(_CONCATENATION, ""), stored)


class _Elements:
    """Walks the elements of a DICOM file; `ValueError` or `struct.error` where it is damaged."""

    def __init__(self, file: IO[bytes], farthest: int) -> None:
        self._file, self._farthest = file, farthest
        self._implicit = False

    def top(self, last: int) -> Iterator[tuple[int, int]]:
        """Yield tag and length of each element up to a tag; the caller reads all of the value or nothing."""
        syntax = ""
        while self._file.tell() < self._farthest:
            place = self._file.tell()
            # The first group is always explicit; what follows is as it says.
            self._implicit = syntax == _IMPLICIT and self._file.read(2) != b"\x02\0"
            self._file.seek(place)
            tag, length = self._element()
            if tag > last:
                return
            value = self._file.tell()
            if tag == _SYNTAX:
                syntax = self.text(length)
            else:
                yield tag, length
            if self._file.tell() == value:
                self._skip(length, 0)

    def _element(self) -> tuple[int, int]:
        """Read an element up to its value; its tag and the value's length."""
        raw = self._file.read(8)
        group, element, representation, length = struct.unpack("<HH2sH", raw)
        if self._implicit or group == 0xFFFE:
            (length,) = struct.unpack("<I", raw[4:])
        elif representation in _LONG:
            (length,) = struct.unpack("<I", self._file.read(4))
            if representation == b"UN" and length == _UNDEFINED:  # what it holds is implicit always (PS3.5, 6.2.2)
                self._implicit = True
                self._skip(length, 0)
                self._implicit, length = False, 0
        return group << 16 | element, length

    def _skip(self, length: int, depth: int) -> None:
        """Pass over a value. One without a length holds elements or items, each with an end marker of its own."""
        if length != _UNDEFINED:
            self._file.seek(length, os.SEEK_CUR)
            return
        if depth >= _DEEPEST:
            raise ValueError("sequences without an end")
        for _, inner in self._children(length):
            self._skip(inner, depth + 1)

    def _children(self, length: int) -> Iterator[tuple[int, int]]:
        """Yield tag and length of a sequence's items or an item's elements; the caller reads or skips each value."""
        end = self._farthest if length == _UNDEFINED else self._file.tell() + length
        while self._file.tell() < min(end, self._farthest):
            tag, inner = self._element()
            if tag in (_END_ITEM, _END_SEQUENCE):
                return
            yield tag, inner
        if self._file.tell() < end or length == _UNDEFINED:
            raise ValueError("a sequence without an end")

    def places(self, length: int) -> Iterator[tuple[int, int]]:
        """Yield column and row of each frame in the level, from 1, out of PerFrameFunctionalGroupsSequence."""
        for _, frame in self._children(length):
            place = {_PLACE_COLUMN: 0, _PLACE_ROW: 0}
            for tag, inner in self._children(frame):
                if tag != _PLACE:
                    self._skip(inner, 0)
                    continue
                for _, item in self._children(inner):
                    for name, value in self._children(item):
                        if name in place:
                            place[name] = self.integer(value)
                        else:
                            self._skip(value, 0)
            yield place[_PLACE_COLUMN], place[_PLACE_ROW]

    def text(self, length: int) -> str:
        """Read a value as text."""
        return self._file.read(length).decode("ascii").strip(" \0")

    def integer(self, length: int) -> int:
        """Read a value as a number."""
        return int.from_bytes(self._file.read(length), "little")


def is_dicomdir(path: Path) -> bool:
    """Whether a file is the directory of a DICOM file set, and no slide itself."""
    header = read_header(path)
    return header is not None and (header.sop_class == _DIRECTORY or path.name.upper() == "DICOMDIR")


def group_series(files: Iterable[Path]) -> list[list[Path]]:
    """Sort the levels of DICOM slides by series, each by name; other files count for nothing."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        header = None if file.name.startswith(".") else read_header(file)
        if header is not None and header.is_slide:
            found.setdefault(header.series, []).append(file)
    return list(found.values())


def series_below(folder: Path) -> list[list[Path]]:
    """Find the series of a folder and the folders in it; files of one series in two folders are two.

    Raises
    ------
    UsageError
        If there are so many files that this is no folder of one slide.
    """
    found, n_files = [], 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".zarr"))
        n_files += len(names)
        if n_files > _MOST_FILES:
            raise UsageError(f"{folder}: holds more than {_MOST_FILES:,} files; give the folder of the one slide")
        found += group_series(Path(place, name) for name in names)
    return found


def series_files(path: Path) -> list[Path]:
    """Return the files of the series that a path means; none where it is no DICOM slide.

    Parameters
    ----------
    path : Path
        One file of the series, a folder that holds one, or a DICOMDIR beside or above it.

    Raises
    ------
    UsageError
        If a folder holds several; the text names a file of each.
    """
    if path.is_dir():
        return _only_series(path)
    header = read_header(path)
    if header is None:
        return []
    if is_dicomdir(path):
        return _only_series(path.parent)
    return next((files for files in group_series(path.parent.iterdir()) if path in files), [])


def _only_series(folder: Path) -> list[Path]:
    series = series_below(folder)
    if len(series) > 1:
        named = [f"{files[0].relative_to(folder).as_posix()} ({len(files)} files)" for files in series[:_LISTED]]
        more = f" and {len(series) - _LISTED} more" if len(series) > _LISTED else ""
        raise UsageError(
            f"{folder}: holds {len(series)} DICOM series, each a slide of its own; give a file of the one that is "
            f"meant: {', '.join(named)}{more}"
        )
    return series[0] if series else []


def series_path(path: str) -> str:
    """Return the one path of a DICOM slide, whichever of its files or folders is given; any other path as it is.

    It is the folder of a series of several files that holds no other, else the series' first file: so a file, a
    folder and a DICOMDIR lead to the same name, fingerprint and store.

    Raises
    ------
    UsageError
        See `series_files`.
    """
    files = [] if is_url(path) else series_files(Path(path))
    if not files:
        return path
    folder = files[0].parent
    if len(files) == 1 or len(group_series(folder.iterdir())) > 1:
        return str(files[0])
    return str(folder if folder.name else folder.absolute())
