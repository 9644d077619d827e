"""What is known of every tile, written block by block, so that making it can be killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.io import Files
from wsivit.store import zarr_metadata as layout
from wsivit.store.columns import WAIT, building_key, ensure_kind, lock_column, put_column

BLOCK = 4096
_BEGUN = "begun.json"


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
        A float type of numpy: what is not there is NaN.
    """

    shape: tuple[int, ...]
    dimensions: tuple[str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class ColumnLocation:
    """Where in a store something is built: its files, ``<kind>/<name>``, and of how many tiles."""

    files: Files
    kind: str
    name: str
    n: int


class ColumnWriter:
    """Columns in the making, at ``<kind>/<name>``. Use it as a context manager.

    They are written in blocks of tiles. What was broken off goes on with the blocks that are not written yet, if it is
    described in the same words; if not, it begins anew. Nothing is seen of it in the store before it is finished.

    Parameters
    ----------
    place : Place
    columns : dict of str to Column
        By the key of each below the place, in the order they are written in: a block is there when its last one is.
        The one column ``""`` is the place itself.
    attributes : dict
        What describes it; kept with it.
    afresh : bool
        Begin anew whatever is there, waiting for another writer to end.

    Raises
    ------
    StoreLockedError
        When another process is writing it.
    """

    def __init__(
        self, place: ColumnLocation, columns: Mapping[str, Column], attributes: dict[str, Any], *, afresh: bool = False
    ) -> None:
        self.place, self._columns, self._attributes = place, dict(columns), attributes
        self._files, self._n = place.files, place.n
        self._key = building_key(place.files, place.kind, place.name)
        with ExitStack() as stack:
            stack.enter_context(lock_column(place.files, place.kind, place.name, wait=WAIT if afresh else 0))
            self._begin(afresh)
            self._stack = stack.pop_all()

    def _begin(self, afresh: bool) -> None:
        shapes = {name: [list(column.shape), column.dtype] for name, column in self._columns.items()}
        begun = json.dumps({**self._attributes, "columns": shapes}).encode()
        key = f"{self._key}/{_BEGUN}"
        if afresh or self._files.size(key) is None or self._files.read(key) != begun:
            self._files.remove(self._key)
            ensure_kind(self._files, self.place.kind, self.place.name)
            self._files.write(key, [begun])

    def blocks(self) -> list[range]:
        """Return all blocks, as ranges of tile indexes."""
        return [range(start, min(self._n, start + BLOCK)) for start in range(0, self._n, BLOCK)]

    def pending(self) -> list[range]:
        """Return the blocks not yet written, as ranges of tile indexes."""
        last = list(self._columns)[-1]
        return [block for block in self.blocks() if self._files.size(self._chunk(last, block)) is None]

    def _node(self, name: str) -> str:
        return f"{self._key}/{name}" if name else self._key

    def _chunk(self, name: str, block: range) -> str:
        return layout.chunk_key(self._node(name), block.start // BLOCK, *(0 for _ in self._columns[name].shape))

    def put(self, tiles: range, values: Mapping[str, NDArray[Any]]) -> None:
        """Write one block of :meth:`pending`: of each column (len(tiles), …), NaN where there is nothing.

        Raises
        ------
        StoreError
            When `tiles` is not a block, a column is missing or unknown, or the shapes do not fit.
        """
        if unknown := set(values) - set(self._columns):
            raise StoreError(f"{self.place.name} was not begun with {', '.join(sorted(unknown))}")
        for name, column in self._columns.items():
            part = values.get(name)
            if part is None or part.shape != (len(tiles), *column.shape) or tiles.start % BLOCK or len(tiles) > BLOCK:
                found = None if part is None else part.shape
                raise StoreError(f"{name or 'values'} of {self.place.name} for {tiles}: {found} is no block of it")
            block = np.full((min(self._n, BLOCK), *column.shape), np.nan, column.dtype)
            block[: len(tiles)] = part
            layout.write_chunk(self._files, self._chunk(name, tiles), block)

    def finish(self) -> None:
        """Put the columns in their place, and away with older ones of the name.

        Raises
        ------
        StoreError
            When blocks are still to be written.
        """
        if missing := self.pending():
            what = f"{self.place.kind} of {self.place.name}"
            raise StoreError(f"{what}: {len(missing)} blocks are not written, the first {missing[0]}")
        for name, column in self._columns.items():
            layout.write_document(
                self._files, self._node(name), self._spec(column).to_dict(), {} if name else self._attributes
            )
        self._files.remove_temporaries(self._key)
        self._files.remove(f"{self._key}/{_BEGUN}")
        if "" not in self._columns:
            layout.write_group(self._files, self._key, self._attributes)
        put_column(self._files, self.place.kind, self.place.name)

    def _spec(self, column: Column) -> layout.ArraySpec:
        chunk = tuple(max(1, side) for side in (min(self._n, BLOCK), *column.shape))
        return layout.ArraySpec((self._n, *column.shape), chunk, column.dtype, ("tile", *column.dimensions), fill="NaN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
