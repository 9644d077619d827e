"""Named columns of a store, ``<kind>/<name>``: labels, predictions, features. How one is put into a complete store.

In a folder a column is built under a temporary name and then renamed, so readers see the old one or the new one.
Elsewhere it is built in its place, and readers see it once its document is there, which is written last.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreLockedError, UsageError
from wsivit.io import TEMPORARY, Files, LocalFiles, exclusive, lock_file, replace_directory, sync_folder, writing
from wsivit.store import zarr_metadata

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WAIT = 60.0
"""Seconds to wait for another writer of the same column."""


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
            f"{kind} {name!r}: use at most 100 letters, digits, '.', '_' and '-', and begin with a letter or digit"
        )
    return name


def find_column(files: Files, kind: str, name: str) -> str:
    """Return the key of an existing column; UsageError names the existing ones."""
    existing = zarr_metadata.nodes(files, kind)
    if name not in existing:
        raise UsageError(f"{files.url} has no {kind} {name!r}; it has {', '.join(existing) or 'none'}")
    return f"{kind}/{name}"


@dataclass(frozen=True)
class ColumnLocation:
    """Where in a store a column of `n` tiles is written.

    Raises
    ------
    UsageError
        For a name that cannot be part of a store.
    """

    files: Files
    kind: str
    name: str
    n: int

    def __post_init__(self) -> None:
        check_name(self.kind, self.name)

    @property
    def building_key(self) -> str:
        """Key at which the column is built: under a temporary name where that can be renamed, else in its place."""
        return f"{self.kind}/{TEMPORARY if isinstance(self.files, LocalFiles) else ''}{self.name}"

    def lock(self, wait: float = WAIT) -> AbstractContextManager[object]:
        """Lock the column for one writer; other columns of the store can be written meanwhile."""
        return exclusive(self.files, f".{self.kind}.{self.name}", wait)

    def ensure_group(self) -> None:
        """Write the document of the kind's group where there is none."""
        document = zarr_metadata.document_key(self.kind)
        if self.files.size(document) is not None:
            return
        if not isinstance(self.files, LocalFiles):
            zarr_metadata.write_group(self.files, self.kind, {})
            return
        # Written below the building key and moved: a killed writer's temporary files are looked for there only.
        zarr_metadata.write_group(self.files, self.building_key, {})
        with writing(self.files.root / document):
            (self.files.root / zarr_metadata.document_key(self.building_key)).replace(self.files.root / document)
            sync_folder(self.files.root / self.kind)

    def put_in_place(self) -> None:
        """Rename the column that was built to its final name, and remove an older one."""
        if isinstance(self.files, LocalFiles):
            replace_directory(self.files.root / self.building_key, self.files.root / self.kind / self.name)

    def cleanup(self) -> None:
        """Remove what a writer left that was killed after it had put its column in place."""
        if not isinstance(self.files, LocalFiles):
            return
        root = self.files.root
        lock = lock_file(root.with_name(f"{root.name}.{self.kind}.{self.name}"))
        if (root / self.building_key).exists() or lock.exists():
            # A writer that is at work cleans up itself; in a folder that cannot be written nothing was left by us.
            with suppress(StoreLockedError, OSError), self.lock(wait=0):
                self.files.remove(self.building_key)
