"""One or many: what the verbs take for slides and stores, and the stores that it stands for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import TypeAlias

from wsivit.errors import UsageError
from wsivit.io import local_path
from wsivit.slide import Slide
from wsivit.slide_list.find import find_slides, is_one_file
from wsivit.store import TileStore

_log = logging.getLogger(__name__)

Source: TypeAlias = str | os.PathLike[str] | Slide | TileStore
"""A path or URL (of a slide, a store, a folder of them, a cohort, a table, a list, a glob), an open slide or store."""
Sources: TypeAlias = Source | Iterable[Source]
"""One source or several."""
_ONE = (str, os.PathLike, Slide, TileStore)


def each_source(sources: Sources) -> list[Source]:
    """Return sources as a list: a string is one path, and an open store one store, though both can be iterated.

    Raises
    ------
    UsageError
        If there are none, or something is neither a path nor an open slide or store.
    """
    try:
        listed = [sources] if isinstance(sources, _ONE) else list(sources)
    except TypeError:
        listed = [sources]  # type: ignore[list-item]
    if not listed:
        raise UsageError("no data were given: slides, stores, folders or tables")
    for source in listed:
        if not isinstance(source, _ONE) or (isinstance(source, str) and not source):
            raise UsageError(f"a path, URL, open slide or tile store is wanted, not {source!r}")
    return listed


def is_one(sources: object) -> bool:
    """Whether something is one slide or store: open, or by the path of it alone; not a list, whatever its length."""
    if isinstance(sources, str | os.PathLike):
        return is_one_file(os.fspath(sources))
    return isinstance(sources, _ONE)


def locations(sources: Sources) -> list[str]:
    """Return the path or URL of each source; see `each_source`."""
    return [_location(source) for source in each_source(sources)]


def _location(source: Source) -> str:
    if isinstance(source, TileStore):
        return source.files.location
    if isinstance(source, Slide):
        raise UsageError(f"{source.path} is open: several slides are given by their paths")
    return local_path(source)


def find_stores(sources: Sources) -> list[TileStore | str]:
    """Find all stores of several sources: open ones, named ones, those in folders, cohorts and tables.

    Raises
    ------
    UsageError
        If there is none, or a table names a slide without its store.
    """
    stores: dict[str, TileStore | str] = {}
    for source in each_source(sources):
        if isinstance(source, TileStore):
            stores[source.url] = source
            continue
        location = _location(source)
        if TileStore.is_store(location):
            stores[location] = location
            continue
        rows = find_slides(location, kind="stores")
        if slide := next((row.path for row in rows if not row.store), ""):
            raise UsageError(f"{slide} is a slide: tile it first (wsivit tile), and give its store")
        stores |= {row.store: row.store for row in rows}
    return list(stores.values())
