"""Writing named columns of a store, ``<kind>/<name>``: one writer per column, block by block, resumable.

In a folder a column is built under a temporary name and then renamed, so readers see the old one or the new one. At a
URL it is built in its place, and readers see it once its document is there, which is written last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, StoreLockedError, UsageError
from wsivit.io import TEMPORARY, Files, LocalFiles, exclusive, lock_file, replace_directory, sync_folder, writing
from wsivit.store import zarr_metadata

BLOCK = 4096
WAIT = 60.0
"""Seconds to wait for another writer of the same column."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STARTED = "started.json"


def check_name(kind: str, name: str) -> str:
    """Return a name that can be part of a store; UsageError for others."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} {name!r}: use at most 100 letters, digits, '.', '_' and '-', and begin with a letter or digit"
        )
    return name


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
        """Rename the built column to its final name, and remove an older one."""
        if isinstance(self.files, LocalFiles):
            replace_directory(self.files.root / self.building_key, self.files.root / self.kind / self.name)

    def cleanup(self) -> None:
        """Remove what a writer left that was killed after it had put its column in place."""
        if not isinstance(self.files, LocalFiles):
            return
        root = self.files.root
        lock = lock_file(root.with_name(f"{root.name}.{self.kind}.{self.name}"))
        if (root / self.building_key).exists() or lock.exists():
            # A writer at work cleans up itself; in a folder that cannot be written we left nothing.
            with suppress(StoreLockedError, OSError), self.lock(wait=0):
                self.files.remove(self.building_key)


@dataclass(frozen=True)
class Column:
    """Values of every tile.

    Attributes
    ----------
    shape : tuple of int
        Of one tile's values.
    dimensions : tuple of str
        Names of its axes.
    dtype : str
        A float type of numpy: missing values are NaN.
    """

    shape: tuple[int, ...]
    dimensions: tuple[str, ...]
    dtype: str = "float32"


class ColumnWriter:
    """Writes columns of floats at ``<kind>/<name>`` in blocks of tiles. Use it as a context manager.

    An interrupted writer of the same columns and attributes is resumed: its blocks stay. Readers see nothing of it
    before :meth:`finish`.

    Parameters
    ----------
    location : ColumnLocation
    columns : dict of str to Column
        By the key of each below the location, in the order they are written: a block is complete when its last column
        is written. A single column ``""`` is the location itself.
    attributes : dict
        What describes the columns; stored with them.
    restart : bool
        Discard an interrupted writer's blocks, and wait for another writer to end.

    Raises
    ------
    StoreLockedError
        When another process is writing it.
    """

    def __init__(
        self,
        location: ColumnLocation,
        columns: Mapping[str, Column],
        attributes: dict[str, Any],
        *,
        restart: bool = False,
    ) -> None:
        self.location, self._columns, self._attributes = location, dict(columns), attributes
        self._files, self._n = location.files, location.n
        self._key = location.building_key
        with ExitStack() as stack:
            stack.enter_context(location.lock(WAIT if restart else 0))
            # Resumed only where an earlier writer was started with the very same columns and attributes.
            shapes = {name: [list(column.shape), column.dtype] for name, column in self._columns.items()}
            description = json.dumps({**self._attributes, "columns": shapes}).encode()
            started = f"{self._key}/{_STARTED}"
            if restart or self._files.size(started) is None or self._files.read(started) != description:
                self._files.remove(self._key)
                location.ensure_group()
                self._files.write(started, [description])
            self._stack = stack.pop_all()

    def blocks(self) -> list[range]:
        """Return all blocks, as ranges of tile indexes."""
        return [range(start, min(self._n, start + BLOCK)) for start in range(0, self._n, BLOCK)]

    def pending(self) -> list[range]:
        """Return the blocks not yet written, as ranges of tile indexes."""
        last = list(self._columns)[-1]
        return [block for block in self.blocks() if self._files.size(self._chunk_key(last, block)) is None]

    def _node(self, name: str) -> str:
        return f"{self._key}/{name}" if name else self._key

    def _chunk_key(self, name: str, block: range) -> str:
        return zarr_metadata.chunk_key(self._node(name), block.start // BLOCK, *(0 for _ in self._columns[name].shape))

    def write_block(self, tiles: range, values: Mapping[str, NDArray[Any]]) -> None:
        """Write one block of :meth:`pending`: of each column (len(tiles), …), NaN where there is nothing.

        Raises
        ------
        StoreError
            When `tiles` is not a block, a column is missing or unknown, or the shapes do not fit.
        """
        if unknown := set(values) - set(self._columns):
            raise StoreError(f"{self.location.name} was not started with {', '.join(sorted(unknown))}")
        for name, column in self._columns.items():
            part = values.get(name)
            if part is None or part.shape != (len(tiles), *column.shape) or tiles not in self.blocks():
                shape = None if part is None else part.shape
                raise StoreError(f"{name or 'values'} of {self.location.name} for {tiles}: {shape} is not a block")
            # zarr stores the last chunk of an array at its full length too.
            block = np.full((min(self._n, BLOCK), *column.shape), np.nan, column.dtype)
            block[: len(tiles)] = part
            zarr_metadata.write_chunk(self._files, self._chunk_key(name, tiles), block)

    def finish(self) -> None:
        """Put the columns in their place, and remove older ones of the same name.

        Raises
        ------
        StoreError
            When blocks are still to be written.
        """
        if missing := self.pending():
            what = f"{self.location.kind} of {self.location.name}"
            raise StoreError(f"{what}: {len(missing)} blocks are not written yet, the first is {missing[0]}")
        for name, column in self._columns.items():
            chunk = tuple(max(1, side) for side in (min(self._n, BLOCK), *column.shape))
            dimensions = ("tile", *column.dimensions)
            spec = zarr_metadata.ArraySpec((self._n, *column.shape), chunk, column.dtype, dimensions, fill="NaN")
            attributes = {} if name else self._attributes
            zarr_metadata.write_document(self._files, self._node(name), spec.to_dict(), attributes)
        self._files.remove_temporaries(self._key)
        self._files.remove(f"{self._key}/{_STARTED}")
        if "" not in self._columns:
            zarr_metadata.write_group(self._files, self._key, self._attributes)
        self.location.put_in_place()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
