"""The slides in a folder and the folders in it, here or at a URL."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from wsivit.io import Remote

SUFFIXES = frozenset(
    ".bif .btf .czi .dcm .mrxs .ndpi .qptiff .scn .svs .svslide .tf8 .tif .tiff .vms .vmu .zvi".split()  # noqa: SIM905
)
"""Endings of whole-slide files; pictures such as PNG, which may be masks or previews, are taken by name only."""
LEDGER = ".ledger"
"""Folder that makes another one the output of a cohort."""

Step: TypeAlias = tuple[str, list[str], list[str]]
"""A folder relative to the root, the folders in it (taken from to prune the walk), the files in it."""

_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI..|....)([0-9.]+)", re.DOTALL)
_HEADER = 1 << 16


def slides_below(root: str) -> Iterator[str]:
    """Yield slides and tile stores in a folder, as paths relative to it, in order; ``""`` is the folder itself.

    Hidden files and outputs of cohorts are passed over; what belongs to a slide (the folder beside a ``.mrxs``, the
    files of a DICOM series) is not taken for slides of its own.
    """
    remote = "://" in root
    for folder, folders, files in _walk_remote(root) if remote else _walk_local(root):
        if LEDGER in folders and folder:
            folders.clear()
            continue
        files = sorted(name for name in files if not name.startswith("."))
        hidden = {name for name in folders if name.startswith(".") or name.endswith(".zarr")}
        hidden |= {posixpath.splitext(name)[0] for name in files if name.lower().endswith(".mrxs")}
        yield from (posixpath.join(folder, name) for name in sorted(folders) if name.endswith(".zarr"))
        folders[:] = sorted(set(folders) - hidden)
        slides = [name for name in files if posixpath.splitext(name)[1].lower() in SUFFIXES]
        dicom = [name for name in slides if name.lower().endswith(".dcm")]
        if dicom and not remote:
            series = _one_of_each_series(Path(root, folder), dicom)
            if len(series) == 1 and len(slides) == len(dicom) > 1:
                yield folder
                continue
            slides = sorted({*slides} - {*dicom} | {*series})
        yield from (posixpath.join(folder, name) for name in slides)


def _one_of_each_series(folder: Path, names: list[str]) -> list[str]:
    """Return the first file of each DICOM series; OpenSlide finds the others of it."""
    first: dict[bytes, str] = {}
    for name in names:
        found = _SERIES.search(_head(folder / name))
        first.setdefault(found[1] if found else os.fsencode(name), name)
    return list(first.values())


def _head(path: Path) -> bytes:
    """Read the beginning of a file; nothing where it cannot be read, which is told of when it is its turn."""
    if not path.is_file():  # a pipe would be waited for
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEADER)
    except OSError:
        return b""


def _walk_local(root: str) -> Iterator[Step]:
    seen = set()  # of folders reached by links, which may lead round in circles
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        relative = os.path.relpath(folder, root)
        yield "" if relative == "." else Path(relative).as_posix(), folders, files


def _walk_remote(root: str) -> Iterator[Step]:
    remote = Remote(root)

    def below(folder: str) -> Iterator[Step]:
        found = remote.entries(folder)
        folders = [name for name, is_folder in found.items() if is_folder]
        yield folder, folders, [name for name, is_folder in found.items() if not is_folder]
        for name in folders:
            yield from below(posixpath.join(folder, name))

    return below("")


def matches_below(root: str, pattern: str) -> Iterator[str]:
    """Yield what matches a pattern at a URL, relative to it; the clients' own search passes over what fails."""
    from fsspec.utils import glob_translate

    matcher, depth = re.compile(glob_translate(pattern)), pattern.count("/")
    for folder, folders, files in _walk_remote(root):
        here = (posixpath.join(folder, name) for name in [*folders, *files])
        yield from (path for path in here if matcher.fullmatch(path))
        if "**" not in pattern and folder.count("/") + bool(folder) >= depth:
            folders.clear()
