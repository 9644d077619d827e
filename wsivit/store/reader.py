"""Reading a store: tiles at the speed of the JPEG decoder, and everything that is known about them.

zarr's own reading costs 38 times as much per chunk, so shards are read here; the pixels are those that zarr reads.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import StoreError, UnreadableTilesError
from wsivit.io import THREADS, LocalFiles, Range, files_at, parallel_for
from wsivit.slide import TileGrid
from wsivit.store import zarr_metadata
from wsivit.store.columns import TileColumns
from wsivit.store.parameters import COLUMNS, NO_PIXEL_STATUSES, Status, StoreParameters
from wsivit.store.schema import read_root, shard_key
from wsivit.store.shard import decode, decode_index, decode_verified_jpeg, index_size, strip_crc
from wsivit.store.slide_location import locate_slide

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

_BLOCK = 64  # tiles that iteration and dask read together
_SPAN = 256  # tiles whose shards are open at a time


class TileStore(TileColumns):
    """The tiles of one slide.

    ``store[i]`` is a tile, ``store.read(indexes)`` many, ``for tile in store`` all of them in order. Safe in
    threads, in forked and spawned processes, and to pickle.

    Parameters
    ----------
    path : path or URL
    allow_incomplete : bool
        Also open a store that is being written, or was interrupted.

    Attributes
    ----------
    url : str
        Where the store is, without credentials.
    files : Files
        Its files, as bytes.
    versions : dict
        Of the packages that it was made with.
    parameters : StoreParameters
    complete : bool

    Raises
    ------
    StoreError
        When there is no tile store, it is not complete, or it is of another format version.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        self.files = files_at(path)
        self._allow_incomplete = allow_incomplete
        root = read_root(self.files)
        self.complete = bool(root["complete"])
        if not self.complete and not allow_incomplete:
            raise StoreError(
                f"{self.files.url} is not complete: it is being written, or was interrupted; tile the slide again with"
                " the same options to resume"
            )
        self.url = self.files.url
        self.parameters = StoreParameters.from_dict(root["parameters"])
        self.versions: dict[str, str] = root["versions"]
        self._n = int(root["tiles"])
        self._indexes: dict[int, tuple[str, NDArray[np.int64]]] = {}

    @staticmethod
    def is_store(path: str | os.PathLike[str]) -> bool:
        """Whether there is a tile store at a path or URL, complete or not, of whatever format version."""
        try:
            return "format" in zarr_metadata.attributes_of(zarr_metadata.read_document(files_at(path), ""))
        except StoreError:
            return False

    def __reduce__(self) -> tuple[Callable[..., TileStore], tuple[str]]:
        return partial(TileStore, allow_incomplete=self._allow_incomplete), (self.files.location,)

    def __repr__(self) -> str:
        return f"<TileStore {self.url}: {self._n} tiles of {self.grid.tile_size} px at {self.mpp:g} mpp>"

    def _repr_html_(self) -> str:
        from wsivit.store.store_info import store_info

        return store_info(self)._repr_html_()

    # What it holds

    @property
    def path(self) -> Path:
        """Folder of the store; StoreError for one that is not in a folder."""
        if not isinstance(self.files, LocalFiles):
            raise StoreError(f"{self.url} is not a folder: use .url")
        return self.files.root

    @property
    def grid(self) -> TileGrid:
        """The lattice that the tiles lie on."""
        return self.parameters.grid

    @property
    def mpp(self) -> float:
        """Microns per pixel of the tiles; of a scale that differs in x and y (`parameters.mpp`) the mean."""
        x, y = self.parameters.mpp
        return x if x == y else math.sqrt(x * y)

    @property
    def coords(self) -> NDArray[np.int64]:
        """Top-left corner of every tile in level-0 pixels, x and y; int64 (n, 2)."""
        return np.stack([self.x0, self.y0], axis=1)

    @property
    def has_pixels(self) -> bool:
        """Whether the pixels are in the store; if not, they are read from the slide."""
        return self.parameters.codec != "none"

    def __len__(self) -> int:
        return self._n

    def _column(self, name: str) -> NDArray[Any]:
        values = zarr_metadata.read_array(self.files, name)
        if values.shape != (self._n,) or values.dtype != np.dtype(COLUMNS[name]):
            raise StoreError(f"{self.url}/{name} is damaged: {values.shape} {values.dtype}, not {self._n} values")
        values.flags.writeable = False
        return values

    @cached_property
    def col(self) -> NDArray[np.int64]:
        """Column of every tile in the grid; int64 (n,)."""
        return self._column("col")

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """Row of every tile in the grid; int64 (n,)."""
        return self._column("row")

    @cached_property
    def x0(self) -> NDArray[np.int64]:
        """Left edge of every tile in level-0 pixels; int64 (n,)."""
        return self._column("x0")

    @cached_property
    def y0(self) -> NDArray[np.int64]:
        """Top edge of every tile in level-0 pixels; int64 (n,)."""
        return self._column("y0")

    @cached_property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """Share of every tile that is tissue; float32 (n,)."""
        return self._column("tissue_fraction")

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """:class:`Status` of every tile; uint8 (n,)."""
        return self._column("status")

    @cached_property
    def readable(self) -> NDArray[np.int64]:
        """Indexes of the tiles that have pixels: ok or padded; int64."""
        return np.flatnonzero(~self._pixelless)

    @cached_property
    def _pixelless(self) -> NDArray[np.bool_]:
        return np.isin(self.status, NO_PIXEL_STATUSES)

    @cached_property
    def tissue_mask(self) -> tuple[NDArray[np.bool_], tuple[float, float]]:
        """The tissue mask, bool (h, w), and its level-0 pixels per mask pixel, x and y."""
        return self._picture("tissue_mask")

    @cached_property
    def thumbnail(self) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """The slide at low power, uint8 (h, w, 3), and its level-0 pixels per thumbnail pixel, x and y."""
        return self._picture("thumbnail")

    def _picture(self, name: str) -> tuple[NDArray[Any], tuple[float, float]]:
        x, y = zarr_metadata.attribute(self.files, name, "downsample")
        return zarr_metadata.read_array(self.files, name), (x, y)

    @property
    def qc(self) -> dict[str, NDArray[np.float32]]:
        """Quality control by name (``pen``, ``blur``, ``fold``, ``fat``): float32 (n,), a fraction of each tile."""
        return {
            name: zarr_metadata.read_array(self.files, f"qc/{name}") for name in zarr_metadata.nodes(self.files, "qc")
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return what is known of each tile, a row each: its place, status, quality control, labels, predictions.

        Columns are named as in the store: ``col``, ``x0``, ``tissue_fraction``, ``qc/blur``, ``labels/region`` (the
        class, None where there is none), ``predictions/<run>/<class>``. Features are in `features`.
        """
        import pandas as pd

        columns: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS}
        columns["status"] = np.array([Status(code).name.lower() for code in self.status], object)
        columns |= {f"qc/{name}": values for name, values in self.qc.items()}
        for name in self.labels:
            label = self.label(name)
            # The code -1, for none, takes the last name.
            columns[f"labels/{name}"] = np.array([*label.classes, None], object)[label.codes]
        for run in self.runs:
            predictions = self.predictions(run)
            columns |= {
                f"predictions/{run}/{title}": predictions.probabilities[:, code]
                for code, title in enumerate(predictions.classes)
            }
        return pd.DataFrame(columns)

    # Pixels

    def __getitem__(self, index: int | slice | ArrayLike) -> NDArray[np.uint8]:
        """Tile as uint8 (size, size, 3); of a slice, list or mask the tiles, (k, size, size, 3)."""
        if isinstance(index, slice):
            return self.read(np.arange(self._n)[index])
        if not isinstance(index, int | np.integer):
            several = np.asarray(index)
            return self.read(np.arange(self._n)[several] if several.dtype == np.bool_ else several)
        if not -self._n <= index < self._n:
            raise IndexError(f"tile {index} of {self._n} in {self.url}")
        if not self.has_pixels:
            return self.read([int(index)])[0]  # type: ignore[no-any-return]
        # Without what only a batch needs, which would cost a third of the decoding.
        tile = self._target(1, None)[0]
        self._read_span([int(index) % self._n], [tile], threads=1)
        return tile  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, self._n, _BLOCK):
            yield from self.read(np.arange(start, min(self._n, start + _BLOCK)))

    def dask(self, indexes: ArrayLike | None = None, *, block: int = _BLOCK) -> Any:
        """Return tiles as a dask array, uint8 (k, size, size, 3), in blocks; by default all readable ones."""
        import dask.array
        from dask.base import tokenize

        wanted = self.readable if indexes is None else self._indexes_of(indexes)
        # dask runs many reads in parallel: each keeps to its own thread.
        tiles = _SliceableTiles(partial(self.read, threads=1), wanted, self.grid.tile_size)
        name = "tiles-" + tokenize((self.url, self.parameters.to_dict(), wanted))
        from_array: Any = dask.array.from_array
        meta = np.empty((0, 0, 0, 0), np.uint8)  # or dask would read a tile to find the type
        return from_array(tiles, chunks=(block, *tiles.shape[1:]), name=name, meta=meta)

    def read(self, indexes: ArrayLike, out: Any = None, *, threads: int | None = None) -> NDArray[np.uint8]:
        """Read tiles, decoded in threads.

        Parameters
        ----------
        indexes : array-like of int (k,)
            In any order; negative ones count from the end.
        out : array or CPU tensor of uint8 (k, size, size, 3), optional
            C-contiguous; filled and returned. Reusing one saves much of the time of a batch.
        threads : int, optional
            1 decodes in the calling thread, as is best in a worker process. Default: as many as the machine has cores.

        Returns
        -------
        ndarray of uint8 (k, size, size, 3)

        Raises
        ------
        UnreadableTilesError
            When a tile has no pixels, because it could not be read from the slide or was never scanned; ``readable``
            lists those that have. Also when a copied tile turns out to be damaged in the slide.
        StoreError
            When the store is damaged.
        """
        wanted = self._indexes_of(indexes)
        target = self._target(len(wanted), out)
        without = wanted[self._pixelless[wanted]] if self.complete else wanted[:0]
        if len(without):
            raise UnreadableTilesError(
                f"{len(without)} of the tiles asked for have no pixels, the first is {without[0]}"
                f" ({Status(self.status[without[0]]).name.lower()}): take from store.readable ({self.url})"
            )
        if self.has_pixels:
            # In file order, as disks like it; in spans, so that few files are open at a time.
            order = np.argsort(wanted, kind="stable")
            for start in range(0, len(order), _SPAN):
                span = order[start : start + _SPAN]
                targets = [target[place] for place in span.tolist()]
                self._read_span(wanted[span].tolist(), targets, threads or THREADS)
            return target
        x, y = self.grid.plane_xy(self.col[wanted], self.row[wanted])
        tiles = self.slide.read_tiles(self.parameters.plan, self.grid.tile_size, x, y)
        for place, tile in enumerate(tiles):
            if not isinstance(tile, np.ndarray):
                slide = self.parameters.slide_path
                raise UnreadableTilesError(f"tile {wanted[place]} of {self.url}: {slide}: {tile.reason}")
            target[place] = tile
        return target

    @cached_property
    def slide(self) -> Any:
        """The `Slide` that the tiles are of, found and opened as when they were made."""
        from wsivit.slide import open_slide

        path = locate_slide(self.parameters, self.files)
        return open_slide(path, **self.parameters.open_options, max_pixels=sys.maxsize)

    def _indexes_of(self, indexes: ArrayLike) -> NDArray[np.int64]:
        wanted = np.asarray(indexes)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise IndexError(f"indexes must be one row of integers, not {wanted.dtype} {wanted.shape}")
        if wanted.size and not -self._n <= wanted.min() <= wanted.max() < self._n:
            raise IndexError(f"indexes from {wanted.min()} to {wanted.max()} for {self._n} tiles in {self.url}")
        return np.where(wanted < 0, wanted + self._n, wanted).astype(np.int64)

    def _target(self, k: int, out: Any) -> NDArray[np.uint8]:
        size = self.grid.tile_size
        if out is None:
            return np.empty((k, size, size, 3), np.uint8)
        target = np.asarray(out)
        if target.shape != (k, size, size, 3) or target.dtype != np.uint8 or not target.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous uint8 {(k, size, size, 3)}, not {target.dtype} {target.shape}")
        return target

    def _read_span(self, indexes: list[int], targets: list[NDArray[np.uint8]], threads: int) -> None:
        per_tile = self.parameters.chunks_per_tile
        with self._ranges(indexes) as fetch:

            def work(k: int) -> None:
                parts = [fetch(part) for part in range(k * per_tile, (k + 1) * per_tile)]
                # The usual case in one step; all else, damage too, in several.
                if per_tile > 1 or not decode_verified_jpeg(parts[0], targets[k]):
                    self._decode_tile(indexes[k], parts, targets[k])

            parallel_for(work, len(indexes), threads)

    def _decode_tile(self, index: int, parts: list[bytes], out: NDArray[np.uint8]) -> None:
        chunks = self._verified(index, parts)
        height, width = self.parameters.chunk
        columns = out.shape[1] // width
        try:
            if len(chunks) == 1:
                decode(chunks[0], out=out)
                return
            for k, chunk in enumerate(chunks):
                y, x = k // columns * height, k % columns * width
                out[y : y + height, x : x + width] = decode(chunk, (height, width))
        except StoreError as error:
            if self.parameters.encoding != "copied":
                raise self._damaged(index, error) from error
            # The checksums match, so these are the slide's own bytes: the tile was copied, undecoded, as damaged as it
            # is in the slide.
            path = self.parameters.slide_path
            raise UnreadableTilesError(
                f"tile {index} of {self.url} is damaged in the slide, {path}: {error}"
            ) from error

    def _verified(self, index: int, parts: list[bytes]) -> list[memoryview]:
        try:
            return [strip_crc(part) for part in parts]
        except StoreError as error:
            raise self._damaged(index, error) from error

    def _damaged(self, index: int, error: StoreError) -> StoreError:
        return StoreError(f"tile {index} of {self.url} is damaged: {error}")

    def encoded(self, index: int) -> list[bytes]:
        """Return the inner chunks of a tile as they are stored, without checksum; complete JPEGs with codec "jpeg".

        Raises
        ------
        UnreadableTilesError
            When the tile has none because it could not be read, or was never scanned.
        StoreError
            When the store is damaged, or has no pixels.
        """
        if not self.has_pixels:
            raise StoreError(f"{self.url} has no pixels of its own")
        with self._ranges(self._indexes_of([index]).tolist()) as fetch:
            return [*map(bytes, self._verified(index, [fetch(k) for k in range(self.parameters.chunks_per_tile)]))]

    @contextmanager
    def _ranges(self, wanted: Sequence[int]) -> Iterator[Callable[[int], bytes]]:
        """Open the chunks of some tiles; each is read when it is asked for, by its number."""
        size, per_tile, ranges = self.parameters.shard_tiles, self.parameters.chunks_per_tile, list[Range]()
        for shard, tiles in groupby(wanted, lambda tile: tile // size):
            key, index = self._shard_index(shard)
            # All at once: numpy takes as long for one tile as for many.
            slots = [tile - shard * size for tile in tiles]
            for k, (start, length) in enumerate(index[slots].reshape(-1, 2).tolist()):
                if start < 0:
                    tile = shard * size + slots[k // per_tile]
                    if self.complete and self.status[tile] not in NO_PIXEL_STATUSES:
                        raise StoreError(f"tile {tile} of {self.url} is damaged: its pixels are missing")
                    raise UnreadableTilesError(
                        f"tile {tile} of {self.url} could not be read from the slide, or was not scanned"
                    )
                ranges.append((key, start, start + length))
        try:
            with self.files.ranges(ranges) as fetch:
                yield fetch
        except FileNotFoundError as error:
            raise StoreError(f"{error.filename or self.url} is missing") from error

    def _shard_index(self, shard: int) -> tuple[str, NDArray[np.int64]]:
        """Key of a shard, and where its chunks are: (tiles, chunks of a tile, 2), offset and length."""
        # Two threads may both read it: they read the same.
        if shard not in self._indexes:
            key, per_tile = shard_key(shard), self.parameters.chunks_per_tile
            slots = self.parameters.shard_tiles * per_tile
            size = self.files.size(key)
            if size is None:
                raise StoreError(f"{self.url}/{key} is missing")
            start = max(0, size - index_size(slots))
            try:
                index = decode_index(self.files.read(key, start, size), slots, size)
            except StoreError as error:
                raise StoreError(f"{self.url}/{key} is damaged: {error}") from error
            self._indexes[shard] = key, index.reshape(-1, per_tile, 2)
        return self._indexes[shard]


class _SliceableTiles:
    """Tiles that can be sliced like an array (n, size, size, 3), read when they are: the interface that dask takes."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, read: Callable[[NDArray[np.int64]], NDArray[np.uint8]], indexes: NDArray[np.int64], size: int):
        self._read, self._indexes = read, indexes
        self.shape = (len(indexes), size, size, 3)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
        tiles, *inside = key
        return self._read(self._indexes[tiles])[(slice(None), *inside)]
