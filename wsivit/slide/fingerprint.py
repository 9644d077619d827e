"""Which slide this is, by content: a name can change and a pixel cannot."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

import tifffile

from wsivit.errors import SlideError, UsageError
from wsivit.io import ByteSource, LocalFile, is_url, remote_file
from wsivit.slide.dicom import series_files
from wsivit.slide.metadata import TIFF_ERRORS

_ENDS = 1 << 16
_BLOCK = 1 << 12
_BLOCKS = 64
_READ = 1 << 20


def fingerprint(path: str) -> str:
    """``"sha256:<hex>"`` of a slide's size, TIFF directories and sampled blocks; the same wherever the file lies.

    A slide of several files (a DICOM series, MIRAX and its directory) counts with all of them, under any names.
    """
    parts = sorted(_file_digest(file) for file in _files(path))
    digest = parts[0] if len(parts) == 1 else hashlib.sha256(b"".join(parts)).digest()
    return f"sha256:{digest.hex()}"


def check_sha256(path: str, wanted: str | None) -> str:
    """Compute a slide's checksum and compare it.

    Parameters
    ----------
    path : str
        A slide; of one that is several files the checksum is that of the lines that ``sha256sum`` writes of them,
        sorted by name.
    wanted : str or None
        64 hex digits, or the path of a file as ``sha256sum`` writes it; ``"record"`` to only compute it, None not to.

    Returns
    -------
    str
        64 hex digits; empty with None.

    Raises
    ------
    SlideError
        If the slide's is another.
    UsageError
        If `wanted` is none of that, or does not name the slide.
    """
    if wanted is None:
        return ""
    expected = None if wanted == "record" else _expected(path, wanted)
    found = sha256(path)
    if expected is not None and found != expected:
        raise SlideError(f"{path}: its sha256 is {found}, not {expected}: these are not the bytes that were meant")
    return found


def _expected(path: str, wanted: str) -> str:
    """The checksum that is meant: itself, or that of a line that names the slide."""
    if re.fullmatch("[0-9a-fA-F]{64}", wanted):
        return wanted.lower()
    try:
        lines = Path(wanted).read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"--sha256 takes 64 hex digits, a file of checksums or 'record', not {wanted!r}") from error
    name = PurePosixPath(path.replace("\\", "/")).name
    for line in lines:
        digits, _, named = line.partition(" ")
        if re.fullmatch("[0-9a-fA-F]{64}", digits) and PurePosixPath(named.lstrip(" *")).name == name:
            return digits.lower()
    raise UsageError(f"{wanted} has no sha256 of {name}")


def sha256(path: str) -> str:
    """Checksum of all bytes of a slide; see `check_sha256`."""
    named = sorted(((PurePosixPath(file.name).name, file) for file in _files(path)), key=lambda pair: pair[0])
    digests = [_whole_digest(file) for _, file in named]
    if len(digests) == 1:
        return digests[0]
    lines = "".join(f"{digest}  {name}\n" for digest, (name, _) in zip(digests, named, strict=True))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _whole_digest(source: ByteSource) -> str:
    digest = hashlib.sha256()
    with source.open() as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _files(path: str) -> list[ByteSource]:
    return [remote_file(path)] if is_url(path) else [LocalFile(file) for file in slide_files(path)]


def slide_files(path: str) -> list[Path]:
    """Return the local files of a slide: one, or those of a DICOM series, of MIRAX and its folder, of Hamamatsu VMS."""
    file, series = Path(path), []
    with suppress(UsageError):  # a folder of several slides: it cannot be opened, but may be watched for changes
        series = series_files(file)
    if series:
        parts = series
    elif file.is_dir():
        parts = list(file.rglob("*"))
    elif file.suffix.lower() == ".mrxs":
        parts = [file, *file.with_suffix("").rglob("*")]
    elif file.suffix.lower() in (".vms", ".vmu"):
        parts = list(file.parent.glob(glob.escape(file.stem) + "*"))
    else:
        parts = [file]
    return [part for part in parts if part.is_file()]


def _file_digest(source: ByteSource) -> bytes:
    digest, size = hashlib.sha256(), source.size
    digest.update(size.to_bytes(8, "little"))
    for sample in source.read_spread(list(_samples(size))):
        digest.update(sample)
    with source.open() as file:
        for value in _tiff_values(file):
            digest.update(value)
    return digest.digest()


def _samples(size: int) -> Iterator[tuple[int, int]]:
    """Both ends and evenly spread blocks; everything where that is no more."""
    if size <= 2 * _ENDS + _BLOCKS * _BLOCK:
        yield 0, size
        return
    yield 0, _ENDS
    step = (size - 2 * _ENDS - _BLOCK) / (_BLOCKS - 1)
    for index in range(_BLOCKS):
        start = _ENDS + int(index * step)
        yield start, start + _BLOCK
    yield size - _ENDS, size


def _tiff_values(file: IO[bytes]) -> Iterator[bytes]:
    """The stored bytes of every tag of every directory; nothing where the file is no TIFF."""
    file.seek(0)
    if file.read(2) not in (b"II", b"MM"):
        return
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            for page in tiff.pages:
                for tag in page.tags if isinstance(page, tifffile.TiffPage) else ():
                    yield f"{tag.code} {tag.dtype} {tag.count}".encode()
                    file.seek(tag.valueoffset)
                    yield file.read(tag.valuebytecount)
    except TIFF_ERRORS:
        return
