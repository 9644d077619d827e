"""Which slide this is, by content: a name can change and a pixel cannot."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import tifffile

from wsivit.remote import is_url
from wsivit.slide.metadata import TIFF_ERRORS
from wsivit.slide.remote import remote_file
from wsivit.slide.source import ByteSource, LocalFile

_ENDS = 1 << 16
_BLOCK = 1 << 12
_BLOCKS = 64


def fingerprint(path: str) -> str:
    """``"sha256:<hex>"`` of a slide's size, TIFF directories and sampled blocks; the same wherever the file lies.

    A slide of several files (a DICOM folder, MIRAX and its directory) counts with all of them, under any names.
    """
    parts = sorted(_file_digest(file) for file in _files(path))
    digest = parts[0] if len(parts) == 1 else hashlib.sha256(b"".join(parts)).digest()
    return f"sha256:{digest.hex()}"


def _files(path: str) -> list[ByteSource]:
    if is_url(path):
        return [remote_file(path)]
    file = Path(path)
    if file.is_dir():
        parts = list(file.rglob("*"))
    elif file.suffix.lower() == ".mrxs":
        parts = [file, *file.with_suffix("").rglob("*")]
    elif file.suffix.lower() in (".vms", ".vmu"):
        parts = list(file.parent.glob(glob.escape(file.stem) + "*"))
    else:
        parts = [file]
    return [LocalFile(part) for part in parts if part.is_file()]


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
