"""Tile a slide: lay it out, write what is missing, label it, draw the preview."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from wsivit.annotations import label_tiles, read_annotations
from wsivit.errors import UnreadableTilesError, UsageError
from wsivit.preview import write_preview
from wsivit.progress import progress_bar
from wsivit.slide import Slide, TileFailure, open_slide
from wsivit.store import StoreWriter, TileStore
from wsivit.tiling.layout import Layout, lay_out
from wsivit.tiling.options import TileOptions
from wsivit.tiling.source import TileSource

_log = logging.getLogger(__name__)

LABEL = "region"
"""Name of the label column that annotations fill."""


@dataclass(frozen=True)
class Tiling:
    """What one tiling did.

    Attributes
    ----------
    store : TileStore
        The finished store, open for reading.
    preview : Path
        PNG of tissue mask and tiles over the thumbnail.
    failures : dict of int to str
        Index of each unreadable tile and the reason.
    resumed : int
        Shards that were there already.
    """

    store: TileStore
    preview: Path
    failures: dict[int, str] = field(default_factory=dict)
    resumed: int = 0


def tile(
    slide: str | os.PathLike[str] | Slide,
    output: str | os.PathLike[str] = ".",
    options: TileOptions = TileOptions(),
    *,
    slide_mpp: float | None = None,
    annotations: str | os.PathLike[str] | None = None,
    on_bad_tile: Literal["skip", "fail"] = "skip",
    overwrite: bool = False,
    progress: bool = False,
) -> Tiling:
    """Tile a slide into a zarr store at an exact scale, where there is tissue.

    Killed and run again, it goes on after the last whole shard; run on a finished store, it does nothing but renew
    the labels.

    Parameters
    ----------
    slide : path or Slide
        A whole-slide image.
    output : path
        Folder in which ``<slide_id>.zarr`` and ``<slide_id>-preview.png`` are made.
    options : TileOptions
        Scale, tile size, tissue, codec.
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file does not say or is wrong.
    annotations : path, optional
        QuPath GeoJSON or ASAP XML; becomes the label column ``region``.
    on_bad_tile : {"skip", "fail"}
        Record an unreadable tile and go on, or stop at the first one.
    overwrite : bool
        Replace a store made with other parameters or of another slide.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tiling

    Raises
    ------
    SlideError
        The slide cannot be read.
    UsageError
        With a scale for a slide that is open already, or an output that is no local folder.
    ScaleError
        Its scale is unknown or absurd, or coarser than the one asked for.
    StoreMismatchError
        The store is there, with other parameters or of another slide.
    UnreadableTilesError
        With ``on_bad_tile="fail"``.
    """
    folder = _checked_folder(output)
    with _opened(slide, slide_mpp) as opened:
        regions = None if annotations is None else read_annotations(annotations, view_origin=opened.bounds[:2])
        layout = lay_out(opened, options)
        path = folder / f"{opened.id}.zarr"
        _warn(opened)
        with StoreWriter.open(path, layout.parameters, layout.table, overwrite=overwrite) as writer:
            failures, resumed = _fill(writer, TileSource(opened, layout, options), on_bad_tile, progress)
        store = TileStore(path)
        if regions is not None:
            store.write_labels(LABEL, *label_tiles(regions, layout.boxes()))
        preview = _draw(path.with_name(f"{opened.id}-preview.png"), store, layout)
    return Tiling(store, preview, failures, resumed)


def _opened(slide: str | os.PathLike[str] | Slide, slide_mpp: float | None) -> Slide:
    if not isinstance(slide, Slide):
        return open_slide(slide, mpp=slide_mpp)
    if slide_mpp is not None:
        raise UsageError(f"{slide.path} is open already: give its scale to open_slide(…, mpp={slide_mpp:g})")
    return slide


def _checked_folder(output: str | os.PathLike[str]) -> Path:
    if "://" in str(output):
        raise UsageError(f"{output}: tiles go to a local folder; copy the finished store, which reads from any URL")
    return Path(output)


def _warn(slide: Slide) -> None:
    for warning in dict.fromkeys([*slide.info().warnings, *slide.scale.warnings]):
        _log.warning("%s: %s", slide.path, warning)


def _fill(writer: StoreWriter, source: TileSource, on_bad_tile: str, progress: bool) -> tuple[dict[int, str], int]:
    """Write what is missing; return why tiles failed, by index, and how many shards were there already."""
    if writer.done:
        return {}, writer.n_shards
    todo = writer.pending()
    source.write_overview(writer)
    failures: dict[int, str] = {}
    # One pass over all shards: what two of them need is decoded once, and no thread waits where one ends.
    tiles = np.concatenate([np.arange(0), *map(np.asarray, todo)])
    stream = zip(tiles.tolist(), source.chunks(tiles), strict=True)
    with progress_bar(len(tiles), "tiling", "tile", show=progress and bool(todo)) as advance:
        for shard in todo:
            bad: dict[int, str] = {}
            parts = _parts(islice(stream, len(shard)), writer.parameters.chunks_per_tile, bad, advance)
            writer.write_shard(shard, parts)
            failures |= bad
            if bad and on_bad_tile == "fail":
                index, reason = next(iter(bad.items()))
                raise UnreadableTilesError(f"{writer.parameters.slide_path}: tile {index} cannot be read: {reason}")
    writer.finish()
    return failures, writer.n_shards - len(todo)


def _parts(
    tiles: Iterable[tuple[int, list[bytes] | TileFailure]],
    per_tile: int,
    bad: dict[int, str],
    advance: Callable[[int], object],
) -> Iterator[bytes | None]:
    """Yield a shard's chunks in C order; None for those of an unreadable tile, whose reason goes to `bad`."""
    for index, chunks in tiles:
        if isinstance(chunks, TileFailure):
            bad[index] = chunks.reason
            yield from [None] * per_tile
        else:
            yield from chunks
        advance(1)


def _draw(path: Path, store: TileStore, layout: Layout) -> Path:
    return write_preview(
        path,
        store.thumbnail[0],
        layout.tissue,
        layout.grid,
        store.col,
        store.row,
        slide_size=store.parameters.slide_size,
        mpp=store.parameters.slide_mpp,
    )
