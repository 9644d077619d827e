"""Record where the slides of stores are now."""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsivit.errors import InputNotFoundError, WsivitError
from wsivit.io import is_url, local_path
from wsivit.slide import fingerprint
from wsivit.slide_list import Sources, find_stores, locations, slides_below
from wsivit.store import TileStore, set_slide_path

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Relinked:
    """What `relink` did with one store.

    Attributes
    ----------
    store : str
        Path or URL of the store.
    before : str
        Where it had its slide.
    slide : str
        Where the slide is; empty where it was not found, and the store is unchanged.
    """

    store: str
    before: str
    slide: str


def relink(stores: Sources, root: str | os.PathLike[str]) -> list[Relinked]:
    """Record where the slides of stores are, after stores or slides moved.

    Slides are recognised by their content, under whatever name. Stores whose slide is not found stay unchanged.

    Parameters
    ----------
    stores : path or TileStore, or several
        Stores, folders of them, globs, tables, outputs of cohorts.
    root : path or URL
        A slide, or a folder of slides, with all folders in it.

    Returns
    -------
    list of Relinked
        One for each store, in order.

    Raises
    ------
    InputNotFoundError
        If there is no `root`.
    UsageError
        If there is no tile store among `stores`.
    StoreError
        If one cannot be read.
    """
    found = [TileStore(path, allow_incomplete=True) for path in locations(find_stores(stores))]
    opened = {store.url: store for store in found}
    wanted = {store.parameters.slide_fingerprint for store in opened.values()}
    names = {posixpath.basename(store.parameters.slide_path) for store in opened.values()}
    slides: dict[str, str] = {}
    for path in _slides(os.fspath(root), names):
        if wanted <= slides.keys():
            break  # a slide's content is read only as long as one is missing
        try:
            slides.setdefault(fingerprint(path), path)
        except (WsivitError, OSError) as error:
            _log.warning("%s: passed over: %s", path, error)
    results = []
    for store in opened.values():
        slide = slides.get(store.parameters.slide_fingerprint, "")
        if slide:
            set_slide_path(store.files, slide)
        results.append(Relinked(store.url, store.parameters.slide_path, slide))
    return results


def _slides(root: str, names: set[str]) -> Iterator[str]:
    """Yield the slides below a root, first those that have one of the names."""
    root = local_path(root)
    if is_url(root):
        found = [posixpath.join(root, relative) for relative in slides_below(root)]
    elif Path(root).is_dir():
        found = [posixpath.join(root, relative) if relative else root for relative in slides_below(root)]
        # A picture counts as a slide only where it is named: by a store, that is.
        pictures = (path for path in sorted(Path(root).rglob("*")) if path.name in names)
        found += [str(path) for path in pictures if path.is_file() and str(path) not in found]
    elif Path(root).exists():
        found = [root]
    else:
        raise InputNotFoundError(f"{root}: there is no such slide or folder")
    slides = [path for path in found if not path.endswith(".zarr")]
    # Fingerprints cost reads of each slide: those of a matching name are most likely enough.
    yield from sorted(slides, key=lambda path: posixpath.basename(path) not in names)
