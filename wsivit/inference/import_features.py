"""Features that another tool has made of a slide's tiles, as a column of its store."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import InputNotFoundError, OutputExistsError, StoreMismatchError, UsageError
from wsivit.inference.predict import PathLike, check_compatibility, tile_differences
from wsivit.io import join
from wsivit.models import Encoder, ModelSpec, Pooling, find_encoder
from wsivit.models import encoder as encoder_of
from wsivit.slide import Slide, open_slide
from wsivit.slide_list import Source
from wsivit.store import TileStore
from wsivit.tiling import ImportOptions, TileFile, import_tiles, read_tile_file

_log = logging.getLogger(__name__)


def import_features(
    features: PathLike,
    target: Source,
    encoder: str,
    *,
    output: PathLike = ".",
    options: ImportOptions = ImportOptions(),
    pooling: Pooling | None = None,
    allow_mismatch: bool = False,
    slide_mpp: float | None = None,
    force: bool = False,
) -> TileStore:
    """Keep the features that another tool has made of a slide's tiles in the slide's store.

    Each vector goes to the tile at its coordinates, whatever the order, as float16 in ``features/<encoder>``. The
    column records the file, and a fingerprint of its own: nothing proves that the other tool fed the encoder as wsivit
    does, so these features are never mixed with wsivit's (``wsivit encoders NAME --check`` compares the two).

    Parameters
    ----------
    features : path
        ``.h5`` of TRIDENT, CLAM or STAMP, ``tile_embeddings/<slide>.npz`` of slide2vec, ``<slide>.embeddings.zarr`` of
        raw2features, or ``.h5`` or ``.parquet`` of ``wsivit export``, which keep their fingerprint.
    target : path, TileStore or Slide
        The slide's store; or the slide, whose store in `output` is taken, or made of the tiles in the file.
    encoder : str
        Name in the registry (``wsivit encoders`` lists it).
    output : path or URL
        Folder of the store, where a slide is given.
    options : ImportOptions
        What the file does not say of its tiles, and whether they are moved to the nearest of the store's.
    pooling : {"cls", "cls+mean", "mean"}, optional
        What of the encoder's output the vectors are. Default: the registry's; another one becomes part of the name.
    allow_mismatch : bool
        Accept tiles of another scale or size than the encoder's; it is recorded.
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file has no scale or a wrong one.
    force : bool
        Replace features of the same name.

    Returns
    -------
    TileStore
        The store with the features.

    Raises
    ------
    UsageError
        The encoder is unknown; the file holds no features, or such of another encoder or length, or NaN, or vectors
        that are all alike.
    StoreMismatchError
        The vectors are not of the store's tiles, or these are not the encoder's.
    OutputExistsError
        The store has other features of that name.
    """
    known = encoder_of(encoder).with_pooling(pooling)
    name = known.column_name
    source = Path(features)
    file = read_tile_file(source)
    values = _checked(_chosen(file, known, source), known, source)
    fingerprint = str(file.facts.get("encoder_fingerprint") or _fingerprint(file, known))
    spec = ModelSpec(name, known.name, (), known.preprocessing, fingerprint, known.mpp, known.tile_size)

    store = _store_of(target, source, file, spec, output, options, slide_mpp, allow=allow_mismatch)
    mismatch = check_compatibility(spec, store, allow=allow_mismatch)
    rows, snapped = _match(file, store, options, source)
    made_by = {"form": file.form, "file": file.file, "sha256": file.sha256, "snapped": snapped}
    if name in store.encoders and not force:
        existing = store.features(name).attrs
        if existing.get("imported") == made_by and existing.get("model_fingerprint") == fingerprint:
            store.cleanup("features", name)
            return store
        raise OutputExistsError(f"{store.url}: has other features {name!r}; replace them with --force")
    attrs = {
        "model_fingerprint": fingerprint,
        "run": name,
        "model": known.name,
        "pooling": known.pooling,
        "mismatch": mismatch,
        "imported": made_by,
        **{key: value for key, value in file.facts.items() if key == "weights_sha256"},
    }
    with store.features_writer(name, values.shape[1:], attrs) as writer:
        for block in writer.pending():
            of_block = np.full((len(block), values.shape[1]), np.nan, np.float16)
            numbers = rows[block.start : block.stop]
            of_block[numbers >= 0] = values[numbers[numbers >= 0]]
            writer.write(block, of_block)
        writer.finish()
    return TileStore(store.files.location)


def _chosen(file: TileFile, known: Encoder, source: Path) -> NDArray[Any]:
    """Return the vectors of the encoder; those of a file that names no encoder are taken for its."""
    # `wsivit export` writes the name of the column, which has the pooling in it where that is not the registry's.
    named = {name: known if name == known.column_name else find_encoder(name) for name in file.features}
    own = [name for name, found in named.items() if found is not None and found.name == known.name]
    unnamed = [name for name, found in named.items() if found is None]
    if not file.features:
        raise UsageError(f"{source}: holds tile coordinates and no features; without --encoder they are imported")
    if not own and len(file.features) == 1 and unnamed:
        own = unnamed
    if len(own) != 1:
        raise UsageError(f"{source}: its features are of {', '.join(sorted(file.features))}, not of {known.name}")
    return file.features[own[0]]


def _checked(values: NDArray[Any], known: Encoder, source: Path) -> NDArray[np.float16]:
    """Return vectors as they are stored; UsageError for those that cannot be the encoder's."""
    if values.dtype.kind != "f":
        raise UsageError(f"{source}: features are {values.dtype}, expected were floating-point numbers")
    if values.shape[1] != known.dim:
        poolings: tuple[Pooling, ...] = () if known.pooling == "own" else ("cls", "cls+mean")
        fits = [pooling for pooling in poolings if known.width(pooling) == values.shape[1]]
        hint = f"; with pooling {fits[0]} it has as many: --pooling {fits[0]}" if fits else ""
        raise UsageError(
            f"{source}: vectors of {values.shape[1]} numbers; {known.name} has {known.dim} by its pooling "
            f"{known.pooling}{hint}"
        )
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise UsageError(
            f"{source}: NaN or infinity in {bad.sum()} of {len(values)} vectors, the first in row {bad.argmax()}"
        )
    if not np.isfinite(half).all():
        raise UsageError(f"{source}: values up to {np.abs(values).max():g}, more than half precision holds")
    constant = np.ptp(half, axis=1) == 0
    if constant.any():
        raise UsageError(
            f"{source}: {constant.sum()} of {len(half)} vectors are one number throughout: they are damaged"
        )
    if len(half) > 1 and (half == half[0]).all():
        raise UsageError(f"{source}: all {len(half)} vectors are alike: what made them saw no pictures")
    return half


def _fingerprint(file: TileFile, known: Encoder) -> str:
    """Return the identity of another tool's features: the same for all slides, and none that wsivit gives its own."""
    parts = {"made by": file.form, "encoder": known.name, "pooling": known.pooling}
    return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _store_of(
    target: Source,
    source: Path,
    file: TileFile,
    spec: ModelSpec,
    output: PathLike,
    options: ImportOptions,
    slide_mpp: float | None,
    *,
    allow: bool,
) -> TileStore:
    """Return the store that is given, or that of the slide that is; made of the file's tiles where there is none."""
    if isinstance(target, TileStore):
        return target
    if not isinstance(target, Slide) and TileStore.is_store(target):
        return TileStore(target)
    if not isinstance(target, Slide) and os.fspath(target).rstrip("/").endswith(".zarr"):
        raise InputNotFoundError(
            f"{target}: no tile store there; give the slide in its place, and the store is made of the file's tiles"
        )
    slide = target if isinstance(target, Slide) else open_slide(target, mpp=slide_mpp)
    location = join(output, f"{slide.id}.zarr")
    if TileStore.is_store(location):
        return TileStore(location)
    # What is refused is refused before a store is made.
    in_pixels = file.in_pixels((slide.scale.mpp_x, slide.scale.mpp_y))
    tile_size, mpp = file.tile_size or options.tile_size, options.mpp or file.mpp
    if tile_size and in_pixels.side0 and mpp is None:
        mpp = in_pixels.side0 / tile_size * slide.scale.mpp_x
    if tile_size and mpp and not allow and (differences := tile_differences(spec, tile_size, mpp)):
        raise StoreMismatchError(
            f"{source} does not fit {spec.name}: {'; '.join(differences).replace('the store', 'the file')}. Import it "
            "all the same with --allow-mismatch, which is recorded, or have wsivit make the features"
        )
    return import_tiles(source, slide, output, options).store


def _match(file: TileFile, store: TileStore, options: ImportOptions, source: Path) -> tuple[NDArray[np.int64], int]:
    """Find the file's row for each tile, -1 where an unreadable one has none; and how many rows were moved."""
    parameters, grid = store.parameters, store.grid
    file = file.in_pixels(parameters.slide_mpp)

    def refuse(why: str) -> StoreMismatchError:
        return StoreMismatchError(f"{source} does not fit {store.url}: {why}")

    if file.slide_size is not None and file.slide_size != tuple(parameters.slide_size):
        raise refuse(f"it is of a slide of {file.slide_size}, not {tuple(parameters.slide_size)} pixels")
    side0 = grid.tile_size * grid.downsample_x
    if file.side0 is not None and abs(file.side0 - side0) > 1 + file.rounded:
        raise refuse(f"its tiles cover {file.side0:g} pixels of level 0, the store's {side0:g}")
    cells = np.rint(file.xy / grid.stride0).astype(np.int64)
    distance = np.abs(file.xy - cells * grid.stride0).max(axis=1)
    off = distance > file.rounded
    if off.any() and not options.snap:
        raise refuse(
            f"{off.sum()} of {len(off)} vectors are of tiles that it does not have, up to {distance.max():.0f} pixels "
            "away from its own; give the slide instead of the store and another output folder, and a store of the "
            "file's tiles is made; or take the nearest tiles with --snap, which is recorded"
        )
    # A lattice ends with the last tile that shows something new of the slide; other tools add one more.
    inside = (cells < (grid.n_cols, grid.n_rows)).all(axis=1) & (cells >= 0).all(axis=1)
    if not inside.all():
        _log.warning("%s: %d vectors of tiles at the slide's edge have no place in the store", source, (~inside).sum())
    number = np.full((grid.n_rows, grid.n_cols), -1, np.int64)
    number[store.row, store.col] = np.arange(len(store))
    candidates = np.flatnonzero(inside)[np.argsort(-distance[inside], kind="stable")]  # the nearest is put in last
    tiles = number[cells[candidates, 1], cells[candidates, 0]]
    if (tiles < 0).any():
        raise refuse(
            f"{(tiles < 0).sum()} of {len(file.xy)} vectors are of tiles that it does not have; give the slide instead "
            "of the store and another output folder, and a store of the file's tiles is made"
        )
    if len(np.unique(tiles)) < len(tiles) and not options.snap:
        raise refuse(f"{len(tiles) - len(np.unique(tiles))} vectors are of a tile that has one already")
    rows = np.full(len(store), -1, np.int64)
    rows[tiles] = candidates
    without = store.readable[rows[store.readable] < 0]
    if len(without):
        raise refuse(
            f"{len(without)} of its {len(store)} tiles have no vector in the file, the first is tile {without[0]}; "
            "give the slide instead of the store and another output folder, and a store of the file's tiles is made"
        )
    return rows, int(off.sum())
