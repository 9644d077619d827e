"""The slides in a folder and the folders in it, local or at a URL."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from wsivit.io import Remote, files_at
from wsivit.slide import group_series, read_header

SUFFIXES = frozenset(
    ".bif .btf .czi .dcm .mrxs .ndpi .qptiff .scn .svs .svslide .tf8 .tif .tiff .vms .vmu .zvi".split()  # noqa: SIM905
)
"""Of whole-slide files. Pictures such as PNG must be named: in a folder they may be masks or previews."""
LEDGER = ".ledger"
"""Folder with the records of a cohort; a folder that has one is the output of a cohort."""
COHORT = "cohort.csv"
"""Table of the slides of a cohort, in its output."""
EXPORT_SOFTWARE = "wsivit export"
"""What the TIFFs that wsivit exports name as their software, so that none is taken for a slide."""
_HEAD = 1 << 16

Step: TypeAlias = tuple[str, list[str], list[str]]
"""As of `os.walk`: a folder relative to the root, its folders (remove some to prune the walk), its files."""

_DICOM_NAME = re.compile(r"(?s)[^.]*|.*\.(\d*|dcm|dicom)", re.IGNORECASE)
"""Archives name files by UID, or without an extension: ``1.2.276.0.1``, ``IM0001``."""


def slides_below(root: str, *, inside_cohorts: bool = False) -> Iterator[str]:
    """Yield slides and tile stores in a folder, as paths relative to it, in order; ``""`` is the folder itself.

    Skips hidden files, exports of wsivit, and outputs of cohorts unless `inside_cohorts`. The folder next to a
    ``.mrxs`` and the other files of a DICOM series belong to a slide and are no slides themselves; DICOM files need no
    extension, and a DICOMDIR is none of them.
    """
    remote = "://" in root
    for folder, folders, files in _walk_remote(root) if remote else _walk_local(root):
        if LEDGER in folders and folder and not inside_cohorts:
            folders.clear()  # prunes the walk
            continue
        files = sorted(name for name in files if not name.startswith("."))
        hidden = {name for name in folders if name.startswith(".") or name.endswith(".zarr")}
        hidden |= {posixpath.splitext(name)[0] for name in files if name.lower().endswith(".mrxs")}
        stores = (name for name in sorted(folders) if name.endswith(".zarr") and not name.endswith(".ome.zarr"))
        yield from (posixpath.join(folder, name) for name in stores)
        folders[:] = sorted(set(folders) - hidden)
        slides = [
            name
            for name in files
            if posixpath.splitext(name)[1].lower() in SUFFIXES and not is_own_export(posixpath.join(root, folder, name))
        ]
        if not remote:
            dicom = [name for name in files if _DICOM_NAME.fullmatch(name)]
            series = _dicom_slides(Path(root, folder), dicom)
            if len(series) == 1 and len(series[0]) > 1:
                yield folder
                series = []
            slides = sorted({*slides} - {*dicom} | {names[0] for names in series})
        yield from (posixpath.join(folder, name) for name in slides)


def is_own_export(path: str) -> bool:
    """Whether a file is a score map or overlay that wsivit wrote: an OME-TIFF, as slides can be."""
    if not path.lower().endswith((".ome.tif", ".ome.tiff")):
        return False
    folder, _, name = path.rpartition("/")
    files = files_at(folder or ".")
    size = files.size(name)
    return size is not None and EXPORT_SOFTWARE.encode() in files.read(name, 0, min(size, _HEAD))


def _dicom_slides(folder: Path, names: list[str]) -> list[list[str]]:
    """Sort file names by DICOM series; a ``.dcm`` that cannot be read is one, so that the verb reports it."""
    found = [[file.name for file in files] for files in group_series(folder / name for name in names)]
    known = {name for files in found for name in files}
    doubtful = [name for name in names if name.lower().endswith(".dcm") and name not in known]
    return found + [[name] for name in doubtful if read_header(folder / name) is None]


def _walk_local(root: str) -> Iterator[Step]:
    seen = set()  # links may form cycles
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
        entries = remote.entries(folder)
        folders = [name for name, is_folder in entries.items() if is_folder]
        yield folder, folders, [name for name, is_folder in entries.items() if not is_folder]
        for name in folders:
            yield from below(posixpath.join(folder, name))

    return below("")


def matches_below(root: str, pattern: str) -> Iterator[str]:
    """Yield what matches a pattern at a URL, relative to it. fsspec's own glob hides folders that fail to list."""
    from fsspec.utils import glob_translate

    matcher, depth = re.compile(glob_translate(pattern)), pattern.count("/")
    for folder, folders, files in _walk_remote(root):
        here = (posixpath.join(folder, name) for name in [*folders, *files])
        yield from (path for path in here if matcher.fullmatch(path))
        if "**" not in pattern and folder.count("/") + bool(folder) >= depth:
            folders.clear()
