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
from wsivit.ranges import CountOrZero, check_option
from wsivit.store import zarr_metadata
from wsivit.store.parameters import COLUMNS, NO_PIXEL_STATUSES, Status, TileTable
from wsivit.store.reader import TileStore
from wsivit.store.schema import JOURNAL, TILES, read_journal, read_root, shard_key, tiles_spec
from wsivit.store.shard import decode_index, index_size, strip_crc

if TYPE_CHECKING:
    from wsivit.slide import Slide

_PART = 1 << 24  # bytes of a shard that are hashed at a time
_MIN_PSNR = 25.0  # dB
_MAX_SHIFT = 0.25  # pixels
_NOISE = 1.0  # grey levels squared


def verify(
    store: str | os.PathLike[str], *, slide: str | os.PathLike[str] | None = None, sample: int = 32
) -> list[str]:
    """Check a tile store against its own records, and against its slide.

    Reads every file and compares documents with their checksums, columns with the grid, shards with the journal, chunks
    with their checksums, and the status of each tile with what is stored of it. Changes nothing. To repair a damaged
    shard, remove its file and tile the slide again with the same options.

    Parameters
    ----------
    store : path or URL
        The store, ``<slide_id>.zarr``.
    slide : path, optional
        The slide of the store: compares its fingerprint, and a sample of tiles.
    sample : int
        How many tiles to compare with the slide.

    Returns
    -------
    list of str
        The problems, one line each; empty for a sound store.

    Raises
    ------
    StoreError
        When there is no tile store.
    """
    check_option("sample", sample, CountOrZero)
    files = files_at(store)
    if files.size(zarr_metadata.DOCUMENT) is None:
        read_root(files)
    try:
        opened = TileStore(store, allow_incomplete=True)
    except StoreError as error:
        return [str(error)]
    if not opened.complete:
        return [f"{opened.url} is not complete"]
    problems = [*_documents(opened), *_columns(opened)]
    if opened.has_pixels:
        problems += _shards(opened)
    # Reading tiles of a store that is damaged would only repeat what is wrong with it.
    if slide is not None and not problems:
        problems += _against_slide(opened, slide, sample)
    return problems


def _documents(store: TileStore) -> Iterator[str]:
    files = store.files
    root = read_root(files)
    missing = set(root["arrays"]) - set(zarr_metadata.nodes(files, ""))
    yield from (f"{store.url}/{name} is missing" for name in sorted(missing))
    groups = [group for group in ("qc", "labels", "predictions", "features", "evidence", "slides") if files.list(group)]
    columns = [f"{group}/{name}" for group in groups for name in zarr_metadata.names(files, group)]
    of_runs = [
        f"{run}/{name}"
        for run in columns
        if run.startswith(("predictions/", "evidence/"))
        for name in zarr_metadata.names(files, run)
    ]
    for node in ["", *sorted(set(root["arrays"]) - missing), *groups, *columns, *of_runs]:
        try:
            if not zarr_metadata.matches_checksum(files, node):
                yield f"{store.url}/{zarr_metadata.document_key(node)} was changed after it was written"
            # zarr decodes by this document, wsivit by the parameters: they must say the same.
            expected = tiles_spec(store.parameters, len(store)).to_dict() if node == TILES else {}
            document = zarr_metadata.read_document(files, node)
            if any(document.get(key) != value for key, value in expected.items()):
                key = zarr_metadata.document_key(TILES)
                yield f"{store.url}/{key} does not describe the tiles that the parameters define"
        except StoreError as error:
            yield str(error)


def _columns(store: TileStore) -> Iterator[str]:
    unreadable = []
    for name in (*COLUMNS, "tissue_mask", "thumbnail"):
        try:
            if name in COLUMNS or store.files.list(name):
                getattr(store, name)
        except StoreError as error:
            unreadable.append(str(error))
    yield from unreadable
    if not unreadable:
        table = TileTable(*(getattr(store, name) for name in COLUMNS))
        if table.digest() != read_root(store.files)["table_sha256"]:
            yield f"{store.url}: the columns are not those of the tiles that were written"
        x0, y0 = store.grid.level0_xy(store.col, store.row)
        if not (np.array_equal(x0, store.x0) and np.array_equal(y0, store.y0)):
            yield f"{store.url}: x0, y0 are not where the grid has the tiles"
        if not np.isin(store.status, list(Status)).all():
            yield f"{store.url}/status holds undefined values"
    added: list[tuple[str, list[str], Callable[[str], NDArray[Any]]]] = [
        (
            "qc",
            zarr_metadata.nodes(store.files, "qc"),
            lambda name: zarr_metadata.read_array(store.files, f"qc/{name}"),
        ),
        ("labels", store.labels, lambda name: store.label(name).codes),
        ("predictions", store.runs, lambda name: store.predictions(name).probabilities),
        ("features", store.encoders, lambda name: store.features(name).values),
        ("evidence", store.evidence_runs, lambda name: next(iter(store.evidence(name).methods.values()))),
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
            yield f"{store.url}/{JOURNAL} has no entry for shard {shard}"
        elif size is None:
            yield f"{store.url}/{key} is missing"
        elif size != entry.bytes:
            yield f"{store.url}/{key} has {size} bytes where {entry.bytes} were written"
        else:
            yield from _shard(store, shard, size, entry.sha256)


def _shard(store: TileStore, shard: int, size: int, sha256: str) -> Iterator[str]:
    """Compare one shard with its sha256 and the status of its tiles; where it differs, name the damaged tiles."""
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
        absent = entries[:, 0] < 0
        pixelless = status[tile] in NO_PIXEL_STATUSES
        if absent.all() != pixelless or absent.any() != pixelless:
            named = {int(known): known.name.lower() for known in Status}.get(
                int(status[tile]), f"status {status[tile]}"
            )
            yield f"tile {tile} of {store.url} is {named}, but its pixels say otherwise"
        elif damaged and not pixelless:
            try:
                for start, length in entries.tolist():
                    strip_crc(store.files.read(key, start, start + length))
            except StoreError:
                yield f"tile {tile} of {store.url} is damaged"


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
    comparisons = []
    for index, stored, tile in zip(chosen.tolist(), store.read(chosen), fresh, strict=True):
        if not isinstance(tile, np.ndarray):
            raise StoreError(f"tile {index} of {store.url} cannot be read from the slide any more: {tile.reason}")
        difference = tile.astype(np.float64) - stored
        error = float(np.square(difference).mean())
        psnr = float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
        # Least squares over the gradient: stored(x) = tile(x - shift), to first order; damped, as flat tiles show no
        # shift.
        gradients = np.stack([g.ravel() for g in np.gradient(tile.mean(axis=2))[::-1]], axis=1)
        normal = gradients.T @ gradients + np.eye(2) * _NOISE * len(gradients)
        x_shift, y_shift = np.linalg.solve(normal, gradients.T @ difference.mean(axis=2).ravel())
        comparisons.append(TileComparison(index, psnr, (float(x_shift), float(y_shift))))
    return comparisons


def _against_slide(store: TileStore, path: str | os.PathLike[str], sample: int) -> Iterator[str]:
    from wsivit.slide import open_slide

    try:
        with open_slide(path, **store.parameters.open_options, max_pixels=sys.maxsize) as slide:
            if slide.fingerprint != store.parameters.slide_fingerprint:
                yield f"{os.fspath(path)} is not the slide of {store.url}: its content differs"
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
