"""Tile a slide: lay it out, write what is missing, label it, draw the preview."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsivit.errors import UsageError
from wsivit.io import Output, display_path, join, local_output, rename_in_place
from wsivit.slide import Slide, color_warnings, open_slide
from wsivit.store import StoreWriter, TileStore
from wsivit.tiling.annotations import Annotation, label_tiles, read_annotations
from wsivit.tiling.blur import write_blur
from wsivit.tiling.options import TileOptions
from wsivit.tiling.preview import write_preview
from wsivit.tiling.shard_writer import OnUnreadableTile, write_shards
from wsivit.tiling.tile_origins import TileOrigins, count_tile_origins
from wsivit.tiling.tile_source import TileSource, write_overview
from wsivit.tiling.tiling_plan import TilingPlan, plan_tiling

_log = logging.getLogger(__name__)

LABEL = "region"
"""Name of the label column that annotations fill."""


@dataclass(frozen=True)
class TilingResult:
    """What one tiling did.

    Attributes
    ----------
    store : TileStore
        The finished store, open for reading.
    preview : Path or str
        Path or URL of the PNG of tissue mask and tiles over the thumbnail.
    failures : dict of int to str
        Index of each unreadable tile and the reason.
    resumed : int
        Shards that were there already.
    made : Made
        How many tiles were copied, scaled, resampled.
    """

    store: TileStore
    preview: Output
    failures: dict[int, str] = field(default_factory=dict)
    resumed: int = 0
    made: TileOrigins = TileOrigins()


def tile(
    slide: str | os.PathLike[str] | Slide,
    output: str | os.PathLike[str] = ".",
    options: TileOptions = TileOptions(),
    *,
    slide_mpp: float | None = None,
    annotations: str | os.PathLike[str] | None = None,
    on_unreadable_tile: OnUnreadableTile = "skip",
    overwrite: bool = False,
    progress: bool = False,
) -> TilingResult:
    """Tile a slide into a zarr store at an exact scale, where there is tissue.

    Killed and run again, it goes on after the last whole shard; run on a finished store, it does nothing but renew
    the labels.

    Parameters
    ----------
    slide : path or Slide
        A whole-slide image.
    output : path or URL
        Folder in which ``<slide_id>.zarr`` and ``<slide_id>-preview.png`` are made.
    options : TileOptions
        Scale, tile size, tissue, codec.
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file does not say or is wrong.
    annotations : path, optional
        QuPath GeoJSON or ASAP XML; becomes the label column ``region``.
    on_unreadable_tile : {"skip", "skip-all", "fail"}
        Record an unreadable tile and go on, but give the slide up after 1,000 of them in a row; go on whatever comes;
        or stop at the first one.
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
        The slide cannot be read, or is not the one of the checksum in the options.
    UsageError
        With a scale for a slide that is open already.
    ScaleError
        Its scale is unknown or absurd, or coarser than the one asked for.
    StoreMismatchError
        The store is there, with other parameters or of another slide.
    UnreadableTilesError
        With ``on_unreadable_tile="fail"``.
    """
    with ensure_open(slide, slide_mpp) as at:
        place = TilingTarget(join(output, f"{at.id}.zarr"), join(output, f"{at.id}-preview.png"), at.id)
        how = Tiler(
            options, None if annotations is None else os.fspath(annotations), on_unreadable_tile, overwrite, progress
        )
        return how.tile(at, place)


@dataclass(frozen=True)
class TilingTarget:
    """Where a tiling goes, and under which name of the slide."""

    store: str
    preview: str
    slide_id: str


@dataclass(frozen=True)
class Tiler:
    """The tiling of any slide to any place: at once, or in parts that need not be done by one process.

    Parameters are those of `tile`.
    """

    options: TileOptions = TileOptions()
    annotations: str | None = None
    on_unreadable_tile: OnUnreadableTile = "skip"
    overwrite: bool = False
    progress: bool = False

    def tile(self, slide: Slide, place: TilingTarget, layout: TilingPlan | None = None) -> TilingResult:
        """Tile a slide from beginning to end; with a layout, that is how."""
        regions = self._regions(slide)
        layout = layout or self.plan_tiling(slide, place)
        _warn(slide, layout)
        with StoreWriter.open(place.store, layout.parameters, layout.table, overwrite=self.overwrite) as writer:
            todo = [] if writer.done else writer.pending()
            failures = self._fill(writer, slide, layout, todo)
            resumed = writer.n_shards - len(todo)
        store = TileStore(place.store)
        if regions is not None:
            store.write_labels(LABEL, *label_tiles(regions, layout.boxes()))
        return TilingResult(
            store, _draw(place.preview, store, layout), failures, resumed, count_tile_origins(store, slide)
        )

    def begin(self, slide: Slide, place: TilingTarget, layout: TilingPlan) -> list[range]:
        """Do all but the shards of a tiling in parts; return the shards that are to be written.

        Raises
        ------
        StoreMismatchError
            The store is there, with other parameters or of another slide, and not to be overwritten.
        """
        _warn(slide, layout)
        with StoreWriter.open(
            place.store, layout.parameters, layout.table, overwrite=self.overwrite, shared=True
        ) as writer:
            if writer.done:
                return []
            write_overview(writer, slide, layout)
            todo = writer.pending()
        _draw(place.preview, TileStore(place.store, allow_incomplete=True), layout)
        return todo

    def write(self, slide: Slide, store: str, shards: Sequence[range]) -> dict[int, str]:
        """Write some shards of a store that was begun; return why tiles failed, by index."""
        with StoreWriter.join(store) as writer:
            todo = [shard for shard in shards if shard in writer.pending()]
            source = TileSource(slide, writer.parameters, writer.table)
            return write_shards(writer, source, todo, self.on_unreadable_tile, self.progress)

    def finish(self, slide: Slide, store: str, target: str | None = None) -> TileStore:
        """Complete a store whose shards are written; with a `target`, put it there, in place of what is."""
        regions = self._regions(slide)
        with StoreWriter.join(store) as writer:
            write_blur(writer)
            writer.finish()
        if target is not None:
            rename_in_place(Path(store), Path(target))
        finished = TileStore(target or store)
        if regions is not None:
            finished.write_labels(LABEL, *label_tiles(regions, finished.grid.boxes0(finished.col, finished.row)))
        return finished

    def plan_tiling(self, slide: Slide, place: TilingTarget) -> TilingPlan:
        """Decide which tiles are made, and how."""
        layout = plan_tiling(slide, self.options, progress=self.progress)
        return replace(layout, parameters=replace(layout.parameters, slide_id=place.slide_id))

    def _regions(self, slide: Slide) -> list[Annotation] | None:
        if self.annotations is None:
            return None
        return read_annotations(self.annotations, view_origin=slide.bounds[:2])

    def _fill(self, writer: StoreWriter, slide: Slide, layout: TilingPlan, todo: list[range]) -> dict[int, str]:
        if writer.done:
            return {}
        write_overview(writer, slide, layout)
        source = TileSource(slide, layout.parameters, layout.table)
        failures = write_shards(writer, source, todo, self.on_unreadable_tile, self.progress)
        write_blur(writer)
        writer.finish()
        return failures


def ensure_open(slide: str | os.PathLike[str] | Slide, slide_mpp: float | None) -> Slide:
    """Open a slide, unless it is."""
    if not isinstance(slide, Slide):
        return open_slide(slide, mpp=slide_mpp)
    if slide_mpp is not None:
        raise UsageError(f"{slide.path} is open already: give its scale to open_slide(…, mpp={slide_mpp:g})")
    return slide


def _warn(slide: Slide, layout: TilingPlan) -> None:
    colors = slide.info().warnings if layout.overview is None else color_warnings(layout.overview)
    for warning in dict.fromkeys([*slide.warnings, *colors, *slide.scale.warnings]):
        _log.warning("%s: %s", slide.path, warning)


def _draw(location: str, store: TileStore, layout: TilingPlan) -> Output:
    with local_output(location) as path:
        write_preview(
            path,
            store.thumbnail[0],
            layout.tissue,
            layout.grid,
            store.col,
            store.row,
            slide_size=store.parameters.slide_size,
            mpp=store.parameters.slide_mpp,
        )
    return display_path(location)
