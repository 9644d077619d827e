"""What can be said of a file before any reader sees it: is it there, is it one, is it what its name says."""

from __future__ import annotations

import stat
from pathlib import Path

from wsivit.errors import SlideError, SlideNotFoundError
from wsivit.slide.source import ByteSource, LocalFile, RemoteFile, is_url
from wsivit.slide.tiffcheck import check_tiff

_IMPOSTORS = (
    (b"version https://git-lfs.github.com", "a Git LFS pointer, not the slide: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page, not a slide: the download went wrong"),
    (b"<html", "an HTML page, not a slide: the download went wrong"),
    (b"<?xml", "an XML document, not a slide"),
    (b"%pdf", "a PDF document, not a slide"),
    (b"pk\x03\x04", "a zip archive, not a slide: unpack it first"),
    (b"\x1f\x8b", "a gzip archive, not a slide: unpack it first"),
)


def check_slide(path: str) -> ByteSource:
    """Return the bytes of a slide: of the file itself, of one file of a folder that holds a DICOM series, of a URL.

    Raises
    ------
    SlideNotFoundError
        If there is nothing there.
    SlideError
        If it cannot be a slide; the text says what it is instead, or what is wrong with its TIFF structure.
    """
    source = RemoteFile(path) if is_url(path) else LocalFile(_regular_file(Path(path)))
    try:
        with source.open() as file:
            start = file.read(512)
            _check_start(start)
            check_tiff(file, source.size, start)
    except SlideError as error:
        raise SlideError(f"{path}: {error}") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error}") from error
    return source


def _check_start(start: bytes) -> None:
    if not start:
        raise SlideError("the file is empty (0 bytes)")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, what in _IMPOSTORS:
        if text.startswith(prefix):
            raise SlideError(what)


def _regular_file(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlideNotFoundError(f"{path}: there is no such slide") from error
    except (OSError, ValueError) as error:
        raise SlideError(f"{path}: cannot be looked at: {error}") from error
    if stat.S_ISDIR(mode):
        return _regular_file(_first_dicom(path))
    if not stat.S_ISREG(mode):
        raise SlideError(f"{path}: not a regular file (a pipe, socket or device cannot be read as a slide)")
    return path


def _first_dicom(folder: Path) -> Path:
    found = next((file for file in sorted(folder.iterdir()) if _is_dicom(file)), None)
    if found is None:
        raise SlideError(f"{folder}: a folder without DICOM files; give the slide file itself")
    return found


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
