"""The slides in a folder and the folders in it, local or at a URL."""

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
"""Of whole-slide files. Pictures such as PNG must be named: in a folder they may be masks or previews."""
LEDGER = ".ledger"
"""Folder with the records of a cohort; a folder that has one is the output of a cohort."""

Step: TypeAlias = tuple[str, list[str], list[str]]
"""As of `os.walk`: a folder relative to the root, its folders (remove some to prune the walk), its files."""

_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI..|....)([0-9.]+)", re.DOTALL)
_HEADER = 1 << 16


def slides_below(root: str) -> Iterator[str]:
    """Yield slides and tile stores in a folder, as paths relative to it, in order; ``""`` is the folder itself.

    Skips hidden files and outputs of cohorts. The folder next to a ``.mrxs`` and the other files of a DICOM series
    belong to a slide and are no slides themselves.
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
    """Return the first file of each DICOM series; OpenSlide finds its other files."""
    first: dict[bytes, str] = {}
    for name in names:
        match = _SERIES.search(_head(folder / name))
        first.setdefault(match[1] if match else os.fsencode(name), name)
    return list(first.values())


def _head(path: Path) -> bytes:
    """Read the start of a file; nothing where it cannot be read, which the verb reports when it opens the slide."""
    if not path.is_file():  # reading a pipe would block
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEADER)
    except OSError:
        return b""


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
