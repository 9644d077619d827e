"""What can be said of a file before any reader sees it: is it there, is it one, is it what its name says."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from wsivit.errors import LimitError, SlideError, SlideNotFoundError
from wsivit.io import ByteSource, LocalFile, is_url, remote_file
from wsivit.slide.dicom import is_dicomdir, says_dicom, series_files
from wsivit.slide.tiff_validation import check_tiff

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
    """A slide that passed the first look.

    Attributes
    ----------
    source : ByteSource
        The bytes of the file itself, of one file of a folder that holds a DICOM series, or of a URL.
    doubts : tuple of str
        What is odd about it: reason to decode it in a process of its own.
    """

    source: ByteSource
    anomalies: tuple[str, ...]


def check_slide(path: str, max_pixels: int = MAX_PIXELS) -> PreflightResult:
    """Look at a slide's bytes, without any reader.

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
            _check_start(start)
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


def _check_start(start: bytes) -> None:
    if not start:
        raise SlideError("the file is empty (0 bytes)")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, what in _IMPOSTORS:
        if text.startswith(prefix):
            raise SlideError(what)
    if not start.strip(b"\0"):
        raise SlideError("it begins with zeros: room was made for the file, but nothing was written there")


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
