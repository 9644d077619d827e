"""Labels: one per tile. And how a named column is put into a store that is there."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, StoreLockedError, UsageError
from wsivit.io import TEMPORARY, Files, LocalFiles, exclusive, lock_file, replace_directory, sync_folder, writing
from wsivit.store import zarr_metadata as layout

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WAIT = 60.0


@dataclass(frozen=True)
class LabelColumn:
    """One label per tile.

    Attributes
    ----------
    codes : ndarray of int16 (n,)
        Index into `classes`; -1 where there is none.
    classes : tuple of str
    """

    codes: NDArray[np.int16]
    classes: tuple[str, ...]


def check_name(kind: str, name: str) -> str:
    """Return a name that can be part of a store; UsageError for others."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} {name!r}: use letters, digits, '.', '_' and '-', at most 100, beginning with one of the first"
        )
    return name


def present(files: Files, kind: str, name: str) -> str:
    """Return the key of a named column; UsageError names the ones that are there."""
    there = layout.nodes(files, kind)
    if name not in there:
        raise UsageError(f"{files.url} has no {kind} {name!r}; it has {', '.join(there) or 'none'}")
    return f"{kind}/{name}"


def lock_column(files: Files, kind: str, name: str, wait: float = WAIT) -> AbstractContextManager[object]:
    """Lock a named column of a store."""
    return exclusive(files, f".{kind}.{name}", wait)


def building_key(files: Files, kind: str, name: str) -> str:
    """Key at which a named column is built: beside its place where it can be renamed, else in its place."""
    return f"{kind}/{TEMPORARY if isinstance(files, LocalFiles) else ''}{check_name(kind, name)}"


def cleanup_column(files: Files, kind: str, name: str) -> None:
    """Clear away what a writer left that was killed after its column was put in place."""
    if not isinstance(files, LocalFiles):
        return
    built = files.root / building_key(files, kind, name)
    lock = lock_file(files.root.with_name(f"{files.root.name}.{kind}.{name}"))
    if built.exists() or lock.exists():
        # Whoever writes it now clears up himself; nothing that cannot be written is left by us.
        with suppress(StoreLockedError, OSError), lock_column(files, kind, name, wait=0):
            files.remove(building_key(files, kind, name))


def ensure_kind(files: Files, kind: str, name: str) -> None:
    """Write the document of a kind's group where there is none, by way of what is built: it is cleared away there."""
    document = layout.document_key(kind)
    if files.size(document) is not None:
        return
    if not isinstance(files, LocalFiles):
        layout.write_group(files, kind, {})
        return
    built = building_key(files, kind, name)
    layout.write_group(files, built, {})
    with writing(files.root / document):
        (files.root / layout.document_key(built)).replace(files.root / document)
        sync_folder(files.root / kind)


def put_column(files: Files, kind: str, name: str) -> None:
    """Put a column that was built into its place, and away with an older one."""
    if isinstance(files, LocalFiles):
        replace_directory(files.root / building_key(files, kind, name), files.root / kind / name)


def read_labels(files: Files, name: str) -> LabelColumn:
    """Read ``labels/<name>``; UsageError names the ones that are there."""
    key = present(files, "labels", name)
    classes = tuple(layout.attribute(files, key, "classes"))
    return LabelColumn(layout.read_array(files, key).astype(np.int16, copy=False), classes)


def save_labels(files: Files, name: str, column: LabelColumn, n: int) -> None:
    """Write ``labels/<name>`` into a store of `n` tiles, or replace it; StoreError where the column does not fit."""
    key, codes = building_key(files, "labels", name), np.asarray(column.codes, np.int16)
    if codes.shape != (n,) or (n and not -1 <= codes.min() <= codes.max() < len(column.classes)):
        raise StoreError(f"labels for {files.url} must be {n} codes from -1 to {len(column.classes) - 1}, one per tile")
    with lock_column(files, "labels", name):
        files.remove(key)
        try:
            ensure_kind(files, "labels", name)
            layout.write_array(files, key, codes, ("tile",), {"classes": list(column.classes), "none": -1})
            put_column(files, "labels", name)
        except BaseException:
            with suppress(OSError):
                files.remove(key)
            raise
