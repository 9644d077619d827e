"""Tile a slide: plan the tiles, write what is missing, label them, draw the preview."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from wsivit._keywords import options_as_keywords
from wsivit.errors import UsageError
from wsivit.io import Output, display_path, join, local_output
from wsivit.slide import Slide, color_warnings, open_slide
from wsivit.slide_list import Sources, takes_many
from wsivit.store import StoreWriter, TileStore, recorded_paths
from wsivit.tiling.annotations import Annotation, find_annotations, label_tiles, read_annotations
from wsivit.tiling.options import TileOptions
from wsivit.tiling.preview import write_preview
from wsivit.tiling.shard_writer import OnUnreadableTile, TileSource, write_shards
from wsivit.tiling.tile_report import TileOrigins, count_tile_origins, store_warnings
from wsivit.tiling.tiling_plan import MIN_REFERENCE_TISSUE, BlurSource, TilingPlan, plan_tiling
from wsivit.tissue import blur_scores

_log = logging.getLogger(__name__)

LABEL = "region"
"""Name of the label column that annotations fill."""
THUMBNAIL_SIDE = 2048
"""Longer side of the thumbnail in the store, in pixels."""


@dataclass(frozen=True)
class TilingResult:
    """What `tile` did.

    Attributes
    ----------
    store : TileStore
        The finished store, open for reading.
    preview : Path or str
        Path or URL of the PNG of tissue mask and tiles over the thumbnail.
    failures : dict of int to str
        Index of each unreadable tile and the reason.
    resumed : int
        Shards that an earlier run had written.
    origins : TileOrigins
        How many tiles were copied, scaled, resampled.
    warnings : tuple of str
        What is suspicious about the tiles: none, empty glass, a class without any.
    """

    store: TileStore
    preview: Output
    failures: dict[int, str] = field(default_factory=dict)
    resumed: int = 0
    origins: TileOrigins = TileOrigins()
    warnings: tuple[str, ...] = ()

    def _repr_png_(self) -> bytes | None:
        """Show the preview in a notebook."""
        return self.preview.read_bytes() if isinstance(self.preview, Path) and self.preview.is_file() else None


@dataclass(frozen=True)
class TilingTarget:
    """Path or URL of the store and of the preview, and the id of the slide in the store."""

    store: str
    preview: str
    slide_id: str

    @classmethod
    def in_folder(cls, folder: str | os.PathLike[str], slide: Slide) -> Self:
        """Return where `tile` writes a slide."""
        # Of a file of several slides each has a store of its own; the one that is read unasked has the file's name.
        name = slide.id if slide.is_default_scene else f"{slide.id}-scene{slide.open_options['scene']}"
        return cls(join(folder, f"{name}.zarr"), join(folder, f"{name}-preview.png"), name)


@takes_many("slide")
@options_as_keywords
def tile(
    slide: Sources,
    output: str | os.PathLike[str] = ".",
    options: TileOptions = TileOptions(),
    *,
    slide_mpp: float | None = None,
    annotations: str | os.PathLike[str] | None = "auto",
    on_unreadable_tile: OnUnreadableTile = "skip",
    force: bool = False,
    progress: bool = False,
    **keywords: Any,
) -> TilingResult:
    """Tile a slide into a zarr store at an exact scale, where there is tissue.

    Interrupted runs resume from the last completed shard and produce byte-identical output. On a finished store, only
    the labels are renewed.

    Parameters
    ----------
    slide : path or Slide, or several
        A whole-slide image. Several (a list, a folder, a glob, a table) are a `Cohort` in `output`, and give its
        `CohortResult`.
    output : path or URL
        Folder for ``<slide_id>.zarr`` and ``<slide_id>-preview.png``; of a file of several slides
        ``<slide_id>-scene<n>.zarr``.
    options : TileOptions
        Scale, tile size, tissue, codec.
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file has no scale or a wrong one; of several slides only where
        a file has none.
    annotations : path, optional
        QuPath GeoJSON, XML of ASAP or Aperio ImageScope, or HALO ``.annotations``; becomes the label column
        ``region``. Default, ``auto``: the file next to the slide that has its name, if there is one; ``none``: none.
    on_unreadable_tile : {"skip", "skip-all", "fail"}
        ``skip`` marks an unreadable tile in the store and continues, but fails after 1,000 of them in a row;
        ``skip-all`` never fails; ``fail`` fails at the first.
    force : bool
        Tile the slide again and replace the store, also one with other parameters or of another slide.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options`, in its place: ``tile(slide, mpp=1.0)``.

    Returns
    -------
    TilingResult

    Raises
    ------
    SlideError
        The slide cannot be read, or does not have the checksum in the options.
    UsageError
        For a `slide_mpp` with a `Slide` that is already open.
    ScaleError
        Its scale is unknown or absurd, or coarser than the one asked for.
    StoreMismatchError
        A store with other parameters or of another slide exists.
    UnreadableTilesError
        With ``on_unreadable_tile="fail"``.
    """
    with ensure_open(slide, slide_mpp) as opened:
        return tile_into(
            TilingTarget.in_folder(output, opened),
            opened,
            options,
            annotations=annotations,
            on_unreadable_tile=on_unreadable_tile,
            force=force,
            progress=progress,
        )


def tile_into(
    target: TilingTarget,
    slide: Slide,
    options: TileOptions | TilingPlan,
    *,
    annotations: str | os.PathLike[str] | None = None,
    on_unreadable_tile: OnUnreadableTile = "skip",
    force: bool = False,
    progress: bool = False,
) -> TilingResult:
    """Tile an open slide to any target, by options or by a plan of another origin; see `tile`."""
    # Read first: an annotation file that cannot be used should fail in a second, not after an hour.
    regions, unusable = _read_regions(slide, annotations)
    plan = plan_tiling(slide, options, progress=progress) if isinstance(options, TileOptions) else options
    slide_path, relative = recorded_paths(slide.path, target.store)
    parameters = replace(plan.parameters, slide_id=target.slide_id, slide_path=slide_path, slide_relative_path=relative)
    colors = slide.info().warnings if plan.overview is None else color_warnings(plan.overview)
    for warning in dict.fromkeys([*slide.warnings, *colors, *slide.scale.warnings]):
        _log.warning("%s: %s", slide.path, warning)
    failures: dict[int, str] = {}
    with StoreWriter.open(target.store, parameters, plan.table, overwrite=force) as writer:
        todo = [] if writer.done else writer.pending()
        if not writer.done:
            _write_low_power(writer, slide, plan)
            source = TileSource(slide, parameters, plan.table)
            failures = write_shards(writer, source, todo, on_unreadable_tile, progress)
            if parameters.tissue.get("blur") == BlurSource.TILES_WHILE_TILING:
                # What the tiles' own pixels say replaces what the overview showed.
                overview_blur = plan.qc.get("blur", 0.0)
                reference = plan.table.tissue_fraction >= MIN_REFERENCE_TISSUE
                writer.write_qc("blur", blur_scores(writer.sharpness, overview_blur, reference))
            writer.finish()
        resumed = len(writer.shards) - len(todo)
    store = TileStore(target.store)
    if regions is not None:  # also on a finished store: labels can be drawn later
        store.write_labels(LABEL, *label_tiles(regions, store.grid.boxes0(store.col, store.row)))
    warnings = [*unusable, *store_warnings(store)]
    for warning in warnings:
        _log.warning("%s: %s", slide.path, warning)
    with local_output(target.preview) as path:
        write_preview(
            path,
            store.thumbnail[0],
            plan.tissue,
            store.grid,
            store.col,
            store.row,
            slide_size=parameters.slide_size,
            mpp=parameters.slide_mpp,
            title=parameters.slide_id,
            annotations=regions or (),
            warnings=warnings,
        )
    origins = count_tile_origins(store, slide)
    return TilingResult(store, display_path(target.preview), failures, resumed, origins, tuple(warnings))


def _read_regions(
    slide: Slide, annotations: str | os.PathLike[str] | None
) -> tuple[list[Annotation] | None, list[str]]:
    """Return the annotations of a slide, and why a file next to it that nobody named is not used."""
    named = None if annotations in (None, "none") else annotations
    path = find_annotations(slide.path) if named == "auto" else named
    if path is None:
        return None, []
    try:
        return read_annotations(path, view_origin=slide.bounds[:2], slide_size=slide.dimensions), []
    except UsageError as error:
        if named != "auto":
            raise
        # Its name alone: the warning is drawn into the preview, where folders are nobody's business.
        return None, [f"ANNOTATIONS NOT USED: {str(error).replace(str(path), Path(path).name)}"]


def _write_low_power(writer: StoreWriter, slide: Slide, plan: TilingPlan) -> None:
    """Write what is known at low power: quality control, tissue mask, thumbnail."""
    for name, values in plan.qc.items():
        writer.write_qc(name, values)
    (width, height), mask, overview = slide.dimensions, plan.tissue.mask, plan.overview
    writer.write_mask(mask, (width / mask.shape[1], height / mask.shape[0]))
    if overview is not None and max(overview.shape) >= THUMBNAIL_SIDE:
        # The overview is decoded already, and large enough.
        factor = max(overview.shape) / THUMBNAIL_SIDE
        size = max(1, round(overview.shape[1] / factor)), max(1, round(overview.shape[0] / factor))
        thumbnail = np.asarray(Image.fromarray(overview).resize(size, Image.Resampling.BOX))
    else:
        thumbnail = slide.thumbnail(THUMBNAIL_SIDE)
    writer.write_thumbnail(thumbnail, (width / thumbnail.shape[1], height / thumbnail.shape[0]))


def ensure_open(slide: Sources, slide_mpp: float | None) -> Slide:
    """Open a slide, unless it is open."""
    if isinstance(slide, str | os.PathLike):
        return open_slide(slide, mpp=slide_mpp)
    if not isinstance(slide, Slide):
        raise UsageError(f"{slide!r} is no slide")
    if slide_mpp is not None:
        raise UsageError(f"{slide.path} is open already: give its scale to open_slide(…, mpp={slide_mpp:g})")
    return slide
