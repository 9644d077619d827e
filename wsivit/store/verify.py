"""Check that a store is what was written, that it is complete, and that it matches its slide."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, WsivitError
from wsivit.io import files_at
from wsivit.store import zarr_metadata
from wsivit.store.codec import strip_crc
from wsivit.store.journal import JOURNAL, read_journal
from wsivit.store.parameters import COLUMNS, NO_PIXEL_STATUSES, Status, TileTable
from wsivit.store.reader import TileStore
from wsivit.store.schema import TILES, read_root, shard_key, tiles_spec
from wsivit.store.shard import decode_index, index_size

if TYPE_CHECKING:
    from wsivit.slide import Slide

_PART = 1 << 24
_MIN_PSNR = 25.0
_MAX_SHIFT = 0.25
_NOISE = 1.0  # grey levels squared


def verify(
    store: str | os.PathLike[str], *, slide: str | os.PathLike[str] | None = None, sample: int = 32
) -> list[str]:
    """Check a tile store against its own records, and against its slide.

    Every file is read: documents and against their checksums and the grid, shards against the
    journal, their chunks against their checksums, the status of each tile against what is stored of it. Nothing is
    changed. To mend a damaged shard, remove its file and tile the slide again with the same options.

    Parameters
    ----------
    store : path or URL
        The store, ``<slide_id>.zarr``.
    slide : path, optional
        The slide that it was made of: its fingerprint is compared, and a sample of tiles.
    sample : int
        How many tiles to compare with the slide.

    Returns
    -------
    list of str
        The problems, one line each; empty for a sound store.

    Raises
    ------
    StoreError
        When there is no tile store at all.
    """
    files = files_at(store)
    if files.size(zarr_metadata.DOCUMENT) is None:
        read_root(files)
    try:
        opened = TileStore(store, allow_incomplete=True)
    except StoreError as error:
        return [str(error)]
    if not opened.complete:
        return [f"{opened.url} is not complete"]
    problems = [*_documents(opened), *_columns(opened), *_results(opened)]
    if opened.has_pixels:
        problems += _shards(opened)
    if slide is not None and not problems:
        problems += _against_slide(opened, slide, sample)
    return problems


def _documents(store: TileStore) -> Iterator[str]:
    files = store.files
    root = read_root(files)
    missing = set(root["arrays"]) - set(zarr_metadata.nodes(files, ""))
    yield from (f"{store.url}/{name} is missing" for name in sorted(missing))
    groups = [group for group in ("qc", "labels", "predictions", "features") if files.list(group)]
    columns = [f"{group}/{name}" for group in groups for name in zarr_metadata.names(files, group)]
    of_runs = [
        f"{run}/{name}" for run in columns if run.startswith("predictions/") for name in zarr_metadata.names(files, run)
    ]
    for node in ["", *sorted(set(root["arrays"]) - missing), *groups, *columns, *of_runs]:
        try:
            if not zarr_metadata.matches_checksum(files, node):
                yield f"{store.url}/{zarr_metadata.document_key(node)} was changed after it was written"
        except StoreError as error:
            yield str(error)
    if store.has_pixels and TILES not in missing:
        yield from _tiles_document(store)


def _tiles_document(store: TileStore) -> Iterator[str]:
    try:
        document = zarr_metadata.read_document(store.files, TILES)
    except StoreError:
        return  # reported with the documents
    expected = tiles_spec(store.parameters, len(store)).to_dict()
    if any(document.get(key) != value for key, value in expected.items()):
        yield f"{store.url}/{zarr_metadata.document_key(TILES)} does not describe the tiles that the parameters make"


def _columns(store: TileStore) -> Iterator[str]:
    problems = []
    for name in (*COLUMNS, "tissue_mask", "thumbnail"):
        try:
            if name in COLUMNS or store.files.list(name):
                getattr(store, name)
        except StoreError as error:
            problems.append(str(error))
    yield from problems
    if problems:
        return
    table = TileTable(*(getattr(store, name) for name in COLUMNS))
    if table.digest() != read_root(store.files)["table_sha256"]:
        yield f"{store.url}: the columns are not those of the tiles that were written"
    x0, y0 = store.grid.level0_xy(store.col, store.row)
    if not (np.array_equal(x0, store.x0) and np.array_equal(y0, store.y0)):
        yield f"{store.url}: x0, y0 are not where the grid has the tiles"
    if not np.isin(store.status, list(Status)).all():
        yield f"{store.url}/status holds values that mean nothing"


def _results(store: TileStore) -> Iterator[str]:
    try:
        short = [name for name, values in store.qc.items() if len(values) != len(store)]
        yield from (f"{store.url}/qc/{name} has another number of rows than the {len(store)} tiles" for name in short)
    except StoreError as error:
        yield str(error)
    added: list[tuple[str, list[str], Callable[[str], Any]]] = [
        ("labels", store.labels, lambda name: store.label(name).codes),
        ("predictions", store.runs, lambda name: store.predictions(name).probabilities),
        ("features", store.encoders, lambda name: store.features(name).values),
    ]
    for kind, names, read in added:
        for name in names:
            try:
                values = read(name)
                if len(values) != len(store):
                    yield f"{store.url}/{kind}/{name} has {len(values)} rows for {len(store)} tiles"
            except StoreError as error:
                yield f"{store.url}/{kind}/{name}: {error}"


def _shards(store: TileStore) -> Iterator[str]:
    try:
        journal = read_journal(store.files)
        recorded = hashlib.sha256(store.files.read(JOURNAL) if journal else b"").hexdigest()
    except (StoreError, FileNotFoundError) as error:
        yield f"{store.url}/{JOURNAL}: {error}"
        return
    if recorded != read_root(store.files)["journal_sha256"]:
        yield f"{store.url}/{JOURNAL} was changed after it was written"
    for shard in range(-(-len(store) // store.parameters.shard_tiles)):
        key, entry = shard_key(shard), journal.get(shard)
        size = store.files.size(key)
        if entry is None:
            yield f"{store.url}/{JOURNAL} does not know shard {shard}"
        elif size is None:
            yield f"{store.url}/{key} is missing"
        elif size != entry.bytes:
            yield f"{store.url}/{key} has {size} bytes where {entry.bytes} were written"
        else:
            yield from _shard(store, shard, size, entry.sha256)


def _shard(store: TileStore, shard: int, size: int, sha256: str) -> Iterator[str]:
    """Compare one shard with its sha256 and the status of its tiles; where it differs, say which tiles are hit."""
    key, digest = shard_key(shard), hashlib.sha256()
    for start in range(0, size, _PART):
        digest.update(store.files.read(key, start, min(size, start + _PART)))
    damaged = digest.hexdigest() != sha256
    if damaged:
        yield f"{store.url}/{key} is damaged: not the bytes that were written"
    per_tile, slots = store.parameters.chunks_per_tile, store.parameters.shard_tiles * store.parameters.chunks_per_tile
    tail = store.files.read(key, max(0, size - index_size(slots)), size)
    try:
        index = decode_index(tail, slots, size).reshape(-1, per_tile, 2)
        status = store.status
    except StoreError as error:
        yield f"{store.url}/{key}: {error}"
        return
    first = shard * store.parameters.shard_tiles
    for tile, entries in enumerate(index[: len(store) - first], first):
        absent = bool((entries[:, 0] < 0).all())
        if absent != (status[tile] in NO_PIXEL_STATUSES) or (not absent and (entries[:, 0] < 0).any()):
            yield f"tile {tile} of {store.url} is {Status(status[tile]).name.lower()}, but its pixels say otherwise"
        elif damaged and not absent and not _is_sound(store, key, entries):
            yield f"tile {tile} of {store.url} is damaged"


def _is_sound(store: TileStore, key: str, entries: NDArray[np.int64]) -> bool:
    try:
        for start, length in entries.tolist():
            strip_crc(store.files.read(key, start, start + length))
    except StoreError:
        return False
    return True


@dataclass(frozen=True)
class TileComparison:
    """How a stored tile compares with the slide now.

    Attributes
    ----------
    index : int
    psnr : float
        Peak signal to noise ratio in dB; infinite where they are equal.
    shift : (float, float)
        How far the stored tile lies from the slide's, x and y, in pixels.
    """

    index: int
    psnr: float
    shift: tuple[float, float]


def compare_with_slide(store: TileStore, slide: Slide, sample: int = 32) -> list[TileComparison]:
    """Read tiles from store and slide and compare them.

    Parameters
    ----------
    store : TileStore
    slide : Slide
    sample : int
        How many tiles, spread evenly over the readable ones.

    Returns
    -------
    list of TileComparison
    """
    readable = store.readable
    chosen = readable[np.unique(np.linspace(0, len(readable) - 1, min(sample, len(readable))).astype(int))]
    x, y = store.grid.plane_xy(store.col[chosen], store.row[chosen])
    fresh = slide.read_tiles(store.parameters.plan, store.grid.tile_size, x, y)
    found = []
    for index, stored, tile in zip(chosen.tolist(), store.read(chosen), fresh, strict=True):
        if not isinstance(tile, np.ndarray):
            raise StoreError(f"tile {index} of {store.url} cannot be read from the slide any more: {tile.reason}")
        found.append(TileComparison(index, *_compare(stored.astype(np.float64), tile.astype(np.float64))))
    return found


def _compare(stored: NDArray[np.float64], tile: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    error = float(np.square(stored - tile).mean())
    psnr = float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
    # Least squares over the gradient: stored(x) = tile(x - shift), to first order; damped, as flat tiles show no shift.
    grey, difference = tile.mean(axis=2), (tile - stored).mean(axis=2)
    gradients = np.stack([g.ravel() for g in np.gradient(grey)[::-1]], axis=1)
    normal = gradients.T @ gradients + np.eye(2) * _NOISE * len(gradients)
    shift = np.linalg.solve(normal, gradients.T @ difference.ravel())
    return psnr, (float(shift[0]), float(shift[1]))


def _against_slide(store: TileStore, path: str | os.PathLike[str], sample: int) -> Iterator[str]:
    from wsivit.slide import open_slide

    try:
        with open_slide(path, **store.parameters.open_options, max_pixels=sys.maxsize) as slide:
            if slide.fingerprint != store.parameters.slide_fingerprint:
                yield f"{os.fspath(path)} is not the slide that {store.url} was made of: its content differs"
            elif store.has_pixels:
                for tile in compare_with_slide(store, slide, sample):
                    if tile.psnr < _MIN_PSNR or max(map(abs, tile.shift)) > _MAX_SHIFT:
                        x, y = tile.shift
                        yield (
                            f"tile {tile.index} of {store.url} is not what the slide has there:"
                            f" {tile.psnr:.1f} dB, shifted by ({x:.2f}, {y:.2f}) px"
                        )
    except WsivitError as error:
        yield str(error)
