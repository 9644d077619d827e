"""From what the user names to slides: paths, folders, globs, lists, tables and URLs."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from wsivit.errors import InputNotFoundError, UsageError
from wsivit.io import local_path, public
from wsivit.slide import is_dicomdir, series_path
from wsivit.slide_list.folders import matches_below, slides_below
from wsivit.slide_list.ids import assign_ids
from wsivit.slide_list.table import SlideRow, absolute, parent, read_table, read_text, resolve

_LISTED = 5  # of many missing files, so many are named in the message
_SAFE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
TABLES, LISTS = (".csv", ".tsv"), (".txt", ".lst")


class _Found(NamedTuple):
    """A slide, and the relative path from which its id is made."""

    relative: str
    row: SlideRow
    named: bool = True
    """By the user, so that it must exist; not just met in a folder."""


def find_slides(sources: Sequence[str | os.PathLike[str]], known: Mapping[str, str] = {}) -> list[SlideRow]:
    """Find all slides of several sources.

    Parameters
    ----------
    sources : sequence of path or URL
        Slides, tile stores, folders (with all folders in them), globs, tables (``.csv``, ``.tsv``) and lists
        (``.txt``, one path a line).
    known : mapping of str to str
        Ids assigned before, by path: they stay.

    Returns
    -------
    list of SlideRow
        In order, each slide once, each with a unique id.

    Raises
    ------
    UsageError
        If a source holds no slide, or a table cannot be used; the text names the line.
    InputNotFoundError
        If slides that the sources name do not exist. A broken link in a folder is left to the verb to report.
    """
    found = [slide for source in sources for slide in _expand(_beside(local_path(source)))]
    _check_exist([slide.row for slide in found if slide.named])
    unique: dict[str, _Found] = {}
    for slide in found:
        unique.setdefault(slide.row.source, slide)
    if not unique:
        raise UsageError(f"{', '.join(os.fspath(source) for source in sources)}: there is no slide")
    unnamed = [(slide.relative, public(source)) for source, slide in unique.items() if not slide.row.id]
    named = {public(source): slide.row.id for source, slide in unique.items() if slide.row.id}
    ids = dict(zip((path for _, path in unnamed), assign_ids(unnamed, {**known, **named}), strict=True))
    return [replace(slide.row, id=slide.row.id or ids[public(source)]) for source, slide in unique.items()]


def read_slides(table: str) -> list[SlideRow]:
    """Read the slides of a table, whether they exist or not.

    Raises
    ------
    UsageError
        If the table cannot be used, or names a slide without a path or twice; the text names the line.
    """
    rows = [replace(row, id=_safe_id(row.id) if row.id else "") for row in read_table(table)]
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        if not row.source:
            raise UsageError(f"{table}, line {row.line}: no path of slide {row.id}: add a column path")
        for what, value in (("slide", row.id.lower()), ("path", row.source)):
            if value and (line := first.setdefault((what, value), row.line)) != row.line:
                raise UsageError(f"{table}, line {row.line}: the same {what} as line {line}: {value}")
    return rows


def is_one_file(source: str) -> bool:
    """Whether a source is one slide or store, not a folder, glob, table or list of them."""
    source = _beside(local_path(source))
    if source.lower().endswith(TABLES + LISTS):
        return False
    if _is_folder(source):
        return "://" not in source and [*islice(slides_below(source), 2)] == [""]
    return not _is_glob(source)


def _expand(source: str) -> Iterator[_Found]:
    """Yield each slide of a source."""
    if source.lower().endswith(TABLES):
        yield from _from_table(source)
    elif source.lower().endswith(LISTS):
        lines = (line.strip() for line in read_text(source).splitlines())
        yield from (_named(line, parent(source)) for line in lines if line and not line.startswith("#"))
    elif _is_glob(source):
        yield from _from_glob(source)
    elif _is_folder(source):
        yield from _from_folder(source)
    else:
        found = _named(source, str(Path.cwd()))
        # A file of a DICOM series means its folder, and is called as if that were given.
        series = Path(found.row.path).is_dir()
        yield found._replace(relative=posixpath.basename(found.row.path)) if series else found


def _from_table(table: str) -> Iterator[_Found]:
    first: dict[str, int] = {}
    for given in read_slides(table):
        row = replace(given, path=series_path(given.path)) if given.path else given
        if (line := first.setdefault(row.source, row.line)) != row.line:
            raise UsageError(f"{table}, line {row.line}: the same DICOM series as line {line}: {given.path}")
        yield _Found(_relative(row.source, parent(table)), row)


def _from_folder(folder: str) -> Iterator[_Found]:
    below = list(slides_below(folder))
    if not below:
        raise UsageError(f"{folder}: there is no slide in this folder, nor in the folders in it")
    for relative in below:
        path = resolve(folder, relative)
        yield _Found(relative or posixpath.basename(path), _from_path(path), named=False)


def _from_glob(pattern: str) -> Iterator[_Found]:
    pattern = absolute(pattern)
    fixed = parent(re.split(r"[*?\[]", pattern)[0] + "x")
    matches = sorted(_matches(fixed, pattern[len(fixed) :].lstrip("/")))
    if not matches:
        raise UsageError(f"{pattern}: nothing matches")
    for match in matches:
        folder = _beside(resolve(fixed, match))
        if _is_folder(folder):
            for slide in _from_folder(folder):
                yield slide._replace(relative=_relative(slide.row.source, fixed))
        else:
            yield _named(match, fixed)


def _matches(folder: str, pattern: str) -> Iterator[str]:
    """Yield what matches in a folder, relative to it, but for hidden files."""
    if "://" in folder:
        below = [*matches_below(folder, pattern)]
    else:
        below = [path.relative_to(folder).as_posix() for path in Path(folder).glob(pattern)]
    yield from (path for path in below if not any(part.startswith(".") for part in path.split("/")))


def _safe_id(given: str) -> str:
    """Keep an id that is safe in file names, dots included: cohort.csv holds ids that `assign_ids` made."""
    return given if _SAFE.fullmatch(given) else assign_ids([(given, "")], {})[0]


def _check_exist(rows: Sequence[SlideRow]) -> None:
    named = [path for row in rows for path in (row.path, row.annotations) if path and "://" not in path]
    missing = [path for path in named if not Path(path).exists()]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputNotFoundError(f"not there: {', '.join(missing[:_LISTED])}{more}")


def _named(path: str, folder: str) -> _Found:
    row = _from_path(resolve(folder, path))
    return _Found(_relative(row.source, folder), row)


def _from_path(path: str) -> SlideRow:
    return SlideRow(store=path) if path.endswith(".zarr") else SlideRow(path=series_path(path))


def _beside(source: str) -> str:
    """Return the folder of a DICOMDIR: it means all the slides below it; any other source as it is."""
    return parent(source) if "://" not in source and is_dicomdir(Path(source)) else source


def _is_glob(source: str) -> bool:
    # What follows the ? of a URL is its query: a signature, a version.
    signs = r"[*\[]" if "://" in source else r"[*?\[]"
    return re.search(signs, source) is not None and not Path(source).exists()


def _is_folder(source: str) -> bool:
    if "://" in source:
        ending = posixpath.splitext(source.partition("?")[0].rstrip("/"))[1]
        return source.endswith("/") or not ending
    return Path(source).is_dir() and not source.rstrip("/").endswith(".zarr")


def _relative(path: str, folder: str) -> str:
    """Return a path relative to a folder; the last two parts of one that lies elsewhere."""
    inside = path.removeprefix(folder.rstrip("/") + "/")
    return inside if inside != path else "/".join(Path(path.partition("://")[2] or path).parts[-2:])
