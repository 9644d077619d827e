"""From what was asked for to slides: paths, folders, globs, lists and tables."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from wsivit.errors import InputNotFoundError, UsageError
from wsivit.io import local_path, public
from wsivit.slide_list.folders import matches_below, slides_below
from wsivit.slide_list.ids import assign_ids
from wsivit.slide_list.table import Line, read_manifest, read_text

_NAMED = 5  # how many of many missing files are told
_SAFE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
TABLES, LISTS = (".csv", ".tsv"), (".txt", ".lst")


@dataclass(frozen=True)
class CohortSlide:
    """One slide, or tile store, of many.

    Attributes
    ----------
    id : str
        Safe in file names; from the relative path, or the table's own.
    path : str
        Absolute path or URL of the slide; empty where only a store is known.
    store : str
        Absolute path or URL of a tile store that is there already; else empty.
    patient, site, split, annotations : str
        Empty where unknown.
    mpp : float or None
        Microns per pixel of the slide, where the table says.
    values : dict of str to str
        All columns of the table.
    """

    id: str
    path: str = ""
    store: str = ""
    patient: str = ""
    site: str = ""
    split: str = ""
    annotations: str = ""
    mpp: float | None = None
    values: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The slide, or else the store."""
        return self.path or self.store


class _Found(NamedTuple):
    """A slide, and the path that its name is made of; `named`: not just met in a folder."""

    relative: str
    slide: CohortSlide
    named: bool = True


def find_slides(sources: Sequence[str | os.PathLike[str]], known: Mapping[str, str] = {}) -> list[CohortSlide]:
    """Find the slides that are meant.

    Parameters
    ----------
    sources : sequence of path or URL
        Slides, tile stores, folders (with all folders in them), globs, tables (``.csv``, ``.tsv``) and lists
        (``.txt``, one path a line).
    known : mapping of str to str
        Names given before, by path: they stay.

    Returns
    -------
    list of CohortSlide
        In order, each slide once.

    Raises
    ------
    UsageError
        If a source holds no slide, or a table cannot be used; the text names the line.
    InputNotFoundError
        If slides that are named are not there; of what a folder holds, such as a link to nowhere, the verb will tell.
    """
    found = [one for source in sources for one in _expand(local_path(source))]
    _check_there(one.slide for one in found if one.named)
    first = {one.slide.source: one for one in reversed(found)}
    places = [(one.relative, one.slide) for one in found if one is first[one.slide.source]]
    unnamed = [(relative, public(slide.source)) for relative, slide in places if not slide.id]
    named = {public(slide.source): slide.id for _, slide in places if slide.id}
    ids = dict(zip((path for _, path in unnamed), assign_ids(unnamed, {**known, **named}), strict=True))
    slides = [slide if slide.id else replace(slide, id=ids[public(slide.source)]) for _, slide in places]
    if not slides:
        raise UsageError(f"{', '.join(os.fspath(source) for source in sources)}: there is no slide")
    return slides


def read_slides(table: str) -> list[CohortSlide]:
    """Read the slides of a table, whether they are there or not.

    Raises
    ------
    UsageError
        If the table cannot be used; the text names the line.
    """
    return [one.slide for one in _from_table(table)]


def is_one_file(source: str) -> bool:
    """Whether a source is one slide or store, not a folder, glob, table or list of them."""
    source = local_path(source)
    if source.lower().endswith(TABLES + LISTS):
        return False
    if _is_folder(source):
        return "://" not in source and next(slides_below(source), None) == ""
    return not _is_glob(source)


def _expand(source: str) -> Iterator[_Found]:
    """Yield each slide of a source."""
    if source.lower().endswith(TABLES):
        yield from _from_table(source)
    elif source.lower().endswith(LISTS):
        base = _parent(source)
        lines = (line.strip() for line in read_text(source).splitlines())
        yield from (_named(line, base) for line in lines if line and not line.startswith("#"))
    elif _is_glob(source):
        yield from _from_glob(source)
    elif _is_folder(source):
        yield from _from_folder(source)
    else:
        yield _named(source, str(Path.cwd()))


def _from_folder(folder: str) -> Iterator[_Found]:
    found = [(relative, _slide(_join(folder, relative))) for relative in slides_below(folder)]
    if not found:
        raise UsageError(f"{folder}: there is no slide in this folder, nor in the folders in it")
    for relative, slide in found:
        yield _Found(relative or posixpath.basename(slide.source), slide, named=False)


def _from_glob(pattern: str) -> Iterator[_Found]:
    fixed = _parent(re.split(r"[*?\[]", _absolute(pattern))[0] + "x")
    matches = sorted(_matches(fixed, _absolute(pattern)[len(fixed) :].lstrip("/")))
    if not matches:
        raise UsageError(f"{pattern}: nothing matches")
    for match in matches:
        if _is_folder(_join(fixed, match)):
            for one in _from_folder(_join(fixed, match)):
                yield one._replace(relative=_relative(one.slide.source, fixed))
        else:
            yield _named(match, fixed)


def _matches(folder: str, pattern: str) -> Iterator[str]:
    """Yield what matches in a folder, relative to it; hidden files do not."""
    if "://" in folder:
        below = [*matches_below(folder, pattern)]
    else:
        below = [path.relative_to(folder).as_posix() for path in Path(folder).glob(pattern)]
    yield from (path for path in below if not any(part.startswith(".") for part in path.split("/")))


def _from_table(path: str) -> Iterator[_Found]:
    lines, base = read_manifest(path), _parent(path)
    slides = [_from_line(path, line, base) for line in lines]
    for what, values in (
        ("slide", [slide.id.lower() for slide in slides]),
        ("path", [slide.source for slide in slides]),
    ):
        first: dict[str, int] = {}
        for line, value in zip(lines, values, strict=True):
            if value and first.setdefault(value, line.number) != line.number:
                raise UsageError(f"{path}, line {line.number}: the same {what} as line {first[value]}: {value}")
    yield from (_Found(_relative(slide.source, base), slide) for slide in slides)


def _from_line(path: str, line: Line, base: str) -> CohortSlide:
    if not (line.path or line.store):
        raise UsageError(f"{path}, line {line.number}: no path of slide {line.slide}: add a column path")
    try:
        mpp = float(line.mpp) if line.mpp else None
    except ValueError:
        raise UsageError(f"{path}, line {line.number}: {line.mpp!r} is no scale in microns per pixel") from None
    slide = _slide(_join(base, line.path)) if line.path else CohortSlide("")
    return replace(
        slide,
        id=_id_in_table(line.slide) if line.slide else "",
        store=_join(base, line.store) if line.store else slide.store,
        annotations=_join(base, line.annotations) if line.annotations else "",
        mpp=mpp,
        **{name: getattr(line, name) for name in ("patient", "site", "split", "values")},
    )


def _id_in_table(given: str) -> str:
    """Keep what is safe in file names, dots and all: it may be a name that we gave."""
    return given if _SAFE.fullmatch(given) else assign_ids([(given, "")], {})[0]


def _check_there(slides: Iterable[CohortSlide]) -> None:
    named = [path for slide in slides for path in (slide.path, slide.annotations) if path and "://" not in path]
    missing = [path for path in named if not Path(path).exists()]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise InputNotFoundError(f"not there: {', '.join(missing[:_NAMED])}{more}")


def _named(path: str, base: str) -> _Found:
    whole = _join(base, path)
    return _Found(_relative(whole, base), _slide(whole))


def _slide(whole: str) -> CohortSlide:
    return CohortSlide("", store=whole) if whole.endswith(".zarr") else CohortSlide("", path=whole)


def _is_glob(source: str) -> bool:
    # What follows the ? of a URL is its query: a signature, a version.
    signs = r"[*\[]" if "://" in source else r"[*?\[]"
    return re.search(signs, source) is not None and not Path(source).exists()


def _is_folder(source: str) -> bool:
    if "://" in source:
        ending = posixpath.splitext(source.partition("?")[0].rstrip("/"))[1]
        return source.endswith("/") or not ending
    return Path(source).is_dir() and not source.rstrip("/").endswith(".zarr")


def _absolute(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.normpath(Path(path).absolute())


def _join(base: str, path: str) -> str:
    path = local_path(path)
    return _absolute(path if "://" in path else posixpath.join(base, path))


def _parent(path: str) -> str:
    return _absolute(path).rpartition("/")[0] or "/"


def _relative(path: str, base: str) -> str:
    """Return a path relative to a folder; where it lies outside, the last two parts of it."""
    inside = path.removeprefix(base.rstrip("/") + "/")
    return inside if inside != path else "/".join(Path(path.partition("://")[2] or path).parts[-2:])
