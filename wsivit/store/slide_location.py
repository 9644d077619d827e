"""Where the slide of a store is: known by its path, recognised by its content.

A store records the absolute path of its slide and the path from the store, so that both may move together. Where the
slide is at neither, it is looked for next to the store and below ``WSIVIT_SLIDE_ROOT`` (``--slide-root``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsivit.errors import SlideError, SlideNotFoundError, StoreError, StoreMismatchError
from wsivit.io import Files, LocalFiles, exclusive, is_url
from wsivit.slide import fingerprint
from wsivit.store import zarr_metadata
from wsivit.store.parameters import StoreParameters
from wsivit.store.schema import read_root

SLIDE_ROOT = "WSIVIT_SLIDE_ROOT"
"""Environment variable: folder in which slides are looked for that are not where their stores have them."""


def recorded_paths(slide: str, store: str) -> tuple[str, str]:
    """Return where a slide is as a store records it: its absolute path, and the path from the store."""
    if is_url(slide):
        return slide, ""
    path = Path(slide).absolute()
    try:
        relative = "" if is_url(store) else Path(os.path.relpath(path, Path(store).absolute())).as_posix()
    except ValueError:  # on another drive
        relative = ""
    return str(path), relative


def slide_paths(files: Files) -> list[str]:
    """Return where a store says that its slide is: the absolute path or URL, and the one relative to the store."""
    try:
        recorded = read_root(files)["parameters"]
        paths = [str(recorded["slide_path"])]
        if recorded["slide_relative_path"] and isinstance(files, LocalFiles):
            paths.append(os.path.normpath(files.root.absolute() / recorded["slide_relative_path"]))
    except (StoreError, KeyError, TypeError):
        return []  # damaged, or of another version: what reads it says so
    return paths


def locate_slide(parameters: StoreParameters, files: Files) -> str:
    """Find the slide of a store by its content.

    Raises
    ------
    SlideError
        If the slide is nowhere, or what is at its path cannot be read.
    StoreMismatchError
        If only another slide is at its path.
    """
    recorded = parameters.slide_path
    tried, another, unreadable = set[str](), False, None
    for path in _candidates(parameters, files):
        if path in tried:
            continue
        tried.add(path)
        try:
            if fingerprint(path) == parameters.slide_fingerprint:
                return path
            another = another or path == recorded
        except (SlideError, OSError) as error:
            unreadable = error if path == recorded else unreadable
    if unreadable is not None:
        raise SlideError(f"{recorded} cannot be read as the slide of {files.url}: {unreadable}") from unreadable
    root = os.environ.get(SLIDE_ROOT)
    nowhere = f"next to the store{f' or below {root}' if root else ''}: give --slide-root, or run wsivit relink"
    if another:
        raise StoreMismatchError(
            f"{recorded} is not the slide that {files.url} was made of: its content differs. Nor is that {nowhere}"
        )
    raise SlideNotFoundError(f"{recorded}: there is no such slide, nor is the slide of {files.url} {nowhere}")


def _candidates(parameters: StoreParameters, files: Files) -> Iterator[str]:
    """Yield where the slide may be, likeliest first; elsewhere only what has its name, then what has its extension."""
    recorded = parameters.slide_path
    if is_url(recorded):
        yield recorded
        return
    if Path(recorded).exists():
        yield recorded
    elsewhere: list[Path] = []
    if isinstance(files, LocalFiles):
        store = files.root.absolute()
        if parameters.slide_relative_path:
            moved_along = os.path.normpath(store / parameters.slide_relative_path)
            if Path(moved_along).exists():
                yield moved_along
        for folder in (store.parent, store.parent.parent):
            elsewhere += sorted(folder.iterdir())
    if root := os.environ.get(SLIDE_ROOT):
        for below, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.endswith(".zarr"))
            elsewhere += [Path(below, name) for name in (*folders, *sorted(names))]
    name, suffix = Path(recorded).name, Path(recorded).suffix.lower()
    yield from (str(path) for path in elsewhere if path.name == name)
    yield from (str(path) for path in elsewhere if suffix and path.suffix.lower() == suffix and path.is_file())


def set_slide_path(files: Files, slide: str) -> None:
    """Record where the slide of a store is; nothing else of the store changes."""
    lock = exclusive(files)
    try:
        attributes: dict[str, Any] = read_root(files)
        path, relative = recorded_paths(slide, files.url)
        parameters = {**attributes["parameters"], "slide_path": path, "slide_relative_path": relative}
        document = zarr_metadata.read_document(files, "")
        zarr_metadata.write_document(files, "", document, {**attributes, "parameters": parameters})
    finally:
        lock.close()
