"""Which files of a folder are one DICOM slide: decided by the series that each states, never by names.

OpenSlide opens one file and finds the others of its series in the same folder. Only what tells series apart is read
here, with the standard's element structure (PS3.5, 7.1), because the same tags also stand inside nested sequences.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from wsivit.errors import UsageError
from wsivit.io import is_url

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_DIRECTORY = "1.2.840.10008.1.3.10"
_IMPLICIT = "1.2.840.10008.1.2"
_SOP_CLASS, _SYNTAX, _IMAGE_TYPE, _SERIES = 0x00020002, 0x00020010, 0x00080008, 0x0020000E
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_END_ITEM, _END_SEQUENCE = 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_DEEPEST, _FARTHEST = 32, 1 << 20  # of sequences, and bytes: a hostile file must not be walked for ever
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
            _read_values(file, found)
    except OSError:
        return None
    except (ValueError, struct.error):
        pass  # cut short: what came before it still counts
    return DicomHeader(found.get(_SOP_CLASS, ""), found.get(_IMAGE_TYPE, ""), found.get(_SERIES, ""))


def _read_values(file: IO[bytes], found: dict[int, str]) -> None:
    while file.tell() < _FARTHEST:
        place = file.tell()
        # The first group is always explicit; what follows is as it says.
        implicit = found.get(_SYNTAX) == _IMPLICIT and file.read(2) != b"\x02\0"
        file.seek(place)
        tag, length = _read_element(file, implicit)
        if tag > _SERIES:
            return
        if tag in (_SOP_CLASS, _SYNTAX, _IMAGE_TYPE, _SERIES) and length <= 1024:
            found[tag] = file.read(length).decode("ascii").strip(" \0")
        else:
            _skip(file, length, implicit, 0)


def _read_element(file: IO[bytes], implicit: bool) -> tuple[int, int]:
    """Read an element up to its value; its tag and the value's length."""
    raw = file.read(8)
    group, element, representation, length = struct.unpack("<HH2sH", raw)
    if implicit or group == 0xFFFE:
        (length,) = struct.unpack("<I", raw[4:])
    elif representation in _LONG:
        (length,) = struct.unpack("<I", file.read(4))
    return group << 16 | element, length


def _skip(file: IO[bytes], length: int, implicit: bool, depth: int) -> None:
    """Pass over a value. One without a length holds elements or items, each with an end marker of its own."""
    if length != _UNDEFINED:
        file.seek(length, os.SEEK_CUR)
        return
    while file.tell() < _FARTHEST and depth < _DEEPEST:
        tag, inner = _read_element(file, implicit)
        if tag in (_END_ITEM, _END_SEQUENCE):
            return
        _skip(file, inner, implicit, depth + 1)
    raise ValueError("sequences without an end")


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
