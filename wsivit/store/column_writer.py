"""Columns of floats for every tile, written block by block, so that an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.store import zarr_metadata
from wsivit.store.columns import WAIT, ColumnLocation

BLOCK = 4096
_STARTED = "started.json"


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
    """Writes columns at ``<kind>/<name>`` in blocks of tiles. Use it as a context manager.

    An interrupted writer of the same columns and attributes is resumed: its blocks stay. Otherwise writing starts anew.
    Readers see nothing of it before :meth:`finish`.

    Parameters
    ----------
    location : ColumnLocation
    columns : dict of str to Column
        By the key of each below the location, in the order they are written in: a block is complete when its last
        column is there. A single column ``""`` is the location itself.
    attributes : dict
        What describes the columns; kept with them.
    restart : bool
        Start anew whatever is there, and wait for another writer to end.

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
            self._start_or_resume(restart)
            self._stack = stack.pop_all()

    def _start_or_resume(self, restart: bool) -> None:
        shapes = {name: [list(column.shape), column.dtype] for name, column in self._columns.items()}
        description = json.dumps({**self._attributes, "columns": shapes}).encode()
        key = f"{self._key}/{_STARTED}"
        if restart or self._files.size(key) is None or self._files.read(key) != description:
            self._files.remove(self._key)
            self.location.ensure_group()
            self._files.write(key, [description])

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
            if part is None or part.shape != (len(tiles), *column.shape) or tiles.start % BLOCK or len(tiles) > BLOCK:
                shape = None if part is None else part.shape
                raise StoreError(f"{name or 'values'} of {self.location.name} for {tiles}: {shape} is not a block")
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
