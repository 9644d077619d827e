"""From what the user names to slides: paths, folders, globs, lists, tables and URLs."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from wsivit.errors import InputNotFoundError, UsageError
from wsivit.io import files_at, local_path, public
from wsivit.slide import is_dicomdir, series_path
from wsivit.slide_list.folders import COHORT, is_own_export, matches_below, slides_below
from wsivit.slide_list.ids import assign_ids
from wsivit.slide_list.table import SlideRow, absolute, parent, read_table, read_text, resolve
from wsivit.store import TileStore, slide_paths

_log = logging.getLogger(__name__)
Kind: TypeAlias = Literal["any", "stores"]
_LISTED = 5  # of many missing files, so many are named in the message
_SAFE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
TABLES, LISTS = (".csv", ".tsv"), (".txt", ".lst")


class _Found(NamedTuple):
    """A slide, and the relative path from which its id is made."""

    relative: str
    row: SlideRow
    named: bool = True
    """By the user, so that it must exist; not just met in a folder."""


def find_slides(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    known: Mapping[str, str] = {},
    *,
    kind: Kind = "any",
) -> list[SlideRow]:
    """Find all slides of one or several sources.

    A slide whose store lies in the same folder, or a folder below it, is one row with both.

    Parameters
    ----------
    sources : path or URL, or sequence of these
        Slides, tile stores, folders (with all folders in them), outputs of cohorts, globs, tables (``.csv``, ``.tsv``)
        and lists (``.txt``, one path a line).
    known : mapping of str to str
        Ids assigned before, by path: they stay.
    kind : {"any", "stores"}
        ``stores`` passes over slides in folders, and slides of cohorts that have no store yet.

    Returns
    -------
    list of SlideRow
        In order, each slide once, each with a unique id.

    Raises
    ------
    UsageError
        If a source holds no slide (or no store), or a table cannot be used; the text names the line.
    InputNotFoundError
        If slides that the sources name do not exist. A broken link in a folder is left to the verb to report.
    """
    named_sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    found = [slide for source in named_sources for slide in _expand(_folder_of_dicomdir(local_path(source)), kind)]
    _check_exist([slide.row for slide in found if slide.named])
    unique: dict[str, _Found] = {}
    for slide in found:
        unique.setdefault(slide.row.source, slide)
    if not unique:
        what = "slide" if kind == "any" else "tile store"
        raise UsageError(f"{', '.join(os.fspath(source) for source in named_sources)}: there is no {what}")
    unnamed = [(slide.relative, public(source)) for source, slide in unique.items() if not slide.row.id]
    named = {public(source): slide.row.id for source, slide in unique.items() if slide.row.id}
    ids = dict(zip((path for _, path in unnamed), assign_ids(unnamed, {**known, **named}), strict=True))
    rows = [replace(slide.row, id=slide.row.id or ids[public(source)]) for source, slide in unique.items()]
    taken, times = Counter(row.id.lower() for row in rows).most_common(1)[0]
    if times > 1 and kind == "any":
        one, other = [row.source for row in rows if row.id.lower() == taken][:2]
        raise UsageError(
            f"two slides are called {taken}: {one} and {other}; give each a slide_id of its own in one table"
        )
    return rows


def read_slides(table: str) -> list[SlideRow]:
    """Read the slides of a table, whether they exist or not.

    Raises
    ------
    UsageError
        If the table cannot be used, or names a slide without a path or twice; the text names the line.
    """
    rows = read_table(table)
    # A safe id stays, dots included: cohort.csv holds ids that `assign_ids` made.
    rows = [
        row if _SAFE.fullmatch(row.id or "x") else replace(row, id=assign_ids([(row.id, "")], {})[0]) for row in rows
    ]
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
    source = _folder_of_dicomdir(local_path(source))
    if source.lower().endswith(TABLES + LISTS):
        return False
    if _is_folder(source):
        return "://" not in source and [*islice(slides_below(source), 2)] == [""]
    return not _is_glob(source)


def _expand(source: str, kind: Kind) -> Iterator[_Found]:
    """Yield each slide of a source."""
    if source.lower().endswith(TABLES):
        yield from _from_table(source)
    elif source.lower().endswith(LISTS):
        lines = (line.strip() for line in read_text(source).splitlines())
        yield from (_named(line, parent(source)) for line in lines if line and not line.startswith("#"))
    elif _is_glob(source):
        yield from _from_glob(source, kind)
    elif _is_folder(source):
        yield from _from_folder(source, kind)
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


def _from_folder(folder: str, kind: Kind) -> Iterator[_Found]:
    if files_at(folder).size(COHORT) is not None:
        yield from _from_cohort(folder, kind)
        return
    below = list(slides_below(folder, inside_cohorts=kind == "stores"))
    stores = [relative for relative in below if relative.endswith(".zarr")]
    if kind == "stores":
        below = stores
    if not below:
        what = "slide" if kind == "any" else "tile store"
        raise UsageError(f"{folder}: there is no {what} in this folder, nor in the folders in it")
    rows = {relative: _from_path(resolve(folder, relative)) for relative in below}
    if len(stores) < len(rows):
        rows = _with_stores(rows)
    for relative, row in rows.items():
        yield _Found(relative or posixpath.basename(row.source), row, named=False)


def _with_stores(rows: dict[str, SlideRow]) -> dict[str, SlideRow]:
    """Join slides with their stores, where a slide has one among these: its own output is not another slide."""
    slides = {row.path: relative for relative, row in rows.items() if row.path}
    stores: dict[str, list[str]] = {}
    for relative, row in rows.items():
        if row.store:
            for path in slide_paths(files_at(row.store)):
                if path in slides:
                    stores.setdefault(slides[path], []).append(relative)
                    break
    for slide, own in stores.items():
        if len(own) == 1:
            rows[slide] = replace(rows[slide], store=rows.pop(own[0]).store)
    return rows


def _from_cohort(folder: str, kind: Kind) -> Iterator[_Found]:
    found = list(_from_table(posixpath.join(folder, COHORT)))
    if kind == "stores":
        tiled = [slide for slide in found if TileStore.is_store(slide.row.store)]
        if len(tiled) < len(found):
            _log.warning("%s: %d slides have no tiles and are left out", folder, len(found) - len(tiled))
        found = tiled
    # Slides may have moved since: the verb reports those that it cannot do without.
    yield from (slide._replace(named=False) for slide in found)


def _from_glob(pattern: str, kind: Kind) -> Iterator[_Found]:
    pattern = absolute(pattern)
    fixed = parent(re.split(r"[*?\[]", pattern)[0] + "x")
    matches = sorted(_matches(fixed, pattern[len(fixed) :].lstrip("/")))
    if not matches:
        raise UsageError(f"{pattern}: nothing matches")
    for match in matches:
        folder = _folder_of_dicomdir(resolve(fixed, match))
        if _is_folder(folder):
            for slide in _from_folder(folder, kind):
                yield slide._replace(relative=_relative(slide.row.source, fixed))
        elif not is_own_export(folder):
            yield _named(match, fixed)


def _matches(folder: str, pattern: str) -> Iterator[str]:
    """Yield what matches in a folder, relative to it, but for hidden files."""
    if "://" in folder:
        below = [*matches_below(folder, pattern)]
    else:
        below = [path.relative_to(folder).as_posix() for path in Path(folder).glob(pattern)]
    yield from (path for path in below if not any(part.startswith(".") for part in path.split("/")))


def _check_exist(rows: Sequence[SlideRow]) -> None:
    each = (path for row in rows for path in (row.path or row.store, row.annotations))
    named = [path for path in each if path and "://" not in path]
    missing = [path for path in named if not Path(path).exists()]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputNotFoundError(f"not there: {', '.join(missing[:_LISTED])}{more}")


def _named(path: str, folder: str) -> _Found:
    row = _from_path(resolve(folder, path))
    return _Found(_relative(row.source, folder), row)


def _from_path(path: str) -> SlideRow:
    return SlideRow(store=path) if path.endswith(".zarr") else SlideRow(path=series_path(path))


def _folder_of_dicomdir(source: str) -> str:
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
