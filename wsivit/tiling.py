"""One slide into one tile store."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.annotations import label_tiles, read_annotations
from wsivit.errors import UnreadableTilesError, UsageError
from wsivit.grid import Edge, TileGrid
from wsivit.parallel import map_ordered
from wsivit.preview import write_preview
from wsivit.progress import progress_bar
from wsivit.resolution import ReadPlan
from wsivit.slide import NativeTiles, Slide, TileFailure, open_slide
from wsivit.store import Status, StoreParameters, StoreWriter, TileStore, TileTable
from wsivit.store.codec import encode_jpeg, encode_zstd
from wsivit.tissue import OVERVIEW_MPP, Tissue, find_tissue, qc_fractions, read_tissue, tissue_fractions

Codec: TypeAlias = Literal["jpeg", "zstd", "none"]
Pixels: TypeAlias = NDArray[np.uint8]
Chunks: TypeAlias = list[bytes]

_log = logging.getLogger(__name__)

LABEL = "region"
"""Name of the label column that annotations fill."""
PADDED = int(Status.PADDED)
THUMBNAIL_SIDE = 2048
"""Longer side of the thumbnail kept in the store, in pixels."""
SHARD_BYTES = 32 << 20
"""Shards are cut so that they hold about this much; a JPEG tile is taken for an eighth of its raw size."""


@dataclass(frozen=True)
class TileOptions:
    """How a slide is tiled.

    Parameters
    ----------
    mpp : float
        Scale of the tiles, in microns per pixel.
    tile_size : int
        Side of a tile, in pixels at that scale.
    overlap : int
        Pixels that neighbouring tiles share.
    min_tissue : float
        Smallest fraction of a tile that must be tissue, 0 to 1. 0 keeps every tile.
    max_pen, max_blur, max_fold, max_fat : float
        Largest fraction of a tile that may be pen ink, out of focus, folded or fat, 0 to 1. 1 leaves it to training:
        the fractions are in the store under ``qc`` either way.
    tissue : str
        How tissue is found: ``auto``, ``otsu`` (saturation), ``none`` (everything is tissue), or the path of a mask
        image or GeoJSON of your own.
    edge : {"pad", "drop"}
        Tiles that reach past the slide are padded with background (and say so in ``status``), or left out.
    codec : {"jpeg", "zstd", "none"}
        How pixels are kept. ``jpeg`` copies the slide's own compressed tiles where scale and grid allow it; ``zstd`` is
        lossless; ``none`` keeps coordinates only and reads pixels from the slide when they are needed.
    quality : int
        JPEG quality (4:4:4) of tiles that have to be encoded again, 1 to 100.
    mpp_tolerance : float
        Use a level as it is when its scale is within this fraction of the one asked for; 0 forces exact resampling.
    downscale : {"dct", "area"}
        Halve inside the JPEG decoder (fast), or decode in full and average (exact).
    """

    mpp: float = 0.5
    tile_size: int = 256
    overlap: int = 0
    min_tissue: float = 0.5
    max_pen: float = 1.0
    max_blur: float = 1.0
    max_fold: float = 1.0
    max_fat: float = 1.0
    tissue: str = "auto"
    edge: Edge = "pad"
    codec: Codec = "jpeg"
    quality: int = 90
    mpp_tolerance: float = 0.02
    downscale: Literal["dct", "area"] = "dct"

    def __post_init__(self) -> None:
        for name in ("min_tissue", "max_pen", "max_blur", "max_fold", "max_fat"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be between 1 and 100, not {self.quality}")
        if self.codec not in ("jpeg", "zstd", "none"):
            raise UsageError(f"codec must be jpeg, zstd or none, not {self.codec!r}")

    def limits(self) -> dict[str, float]:
        """How much of a tile may be what, by the name in ``qc``."""
        return {"pen": self.max_pen, "blur": self.max_blur, "fold": self.max_fold, "fat": self.max_fat}


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
    ScaleError
        Its scale is unknown or absurd, or coarser than the one asked for.
    StoreMismatchError
        The store is there, with other parameters or of another slide.
    UnreadableTilesError
        With ``on_bad_tile="fail"``.
    """
    with slide if isinstance(slide, Slide) else open_slide(slide, mpp=slide_mpp) as opened:
        regions = None if annotations is None else read_annotations(annotations, view_origin=opened.bounds[:2])
        layout = _lay_out(opened, options)
        path = _checked_folder(output) / f"{opened.id}.zarr"
        _warn(opened)
        with StoreWriter.open(path, layout.parameters, layout.table, overwrite=overwrite) as writer:
            failures, resumed = _fill(writer, _TileSource(opened, layout, options), on_bad_tile, progress)
        store = TileStore(path)
        if regions is not None:
            store.write_labels(LABEL, *label_tiles(regions, layout.boxes()))
        preview = _draw(path.with_name(f"{opened.id}-preview.png"), store, layout)
    return Tiling(store, preview, failures, resumed)


def _checked_folder(output: str | os.PathLike[str]) -> Path:
    if "://" in str(output):
        raise UsageError(f"{output}: tiles go to a local folder; copy the finished store, which reads from any URL")
    return Path(output)


def _warn(slide: Slide) -> None:
    for warning in dict.fromkeys([*slide.info().warnings, *slide.scale.warnings]):
        _log.warning("%s: %s", slide.path, warning)


@dataclass(frozen=True)
class _Layout:
    """What is decided before the first tile is read."""

    plan: ReadPlan
    grid: TileGrid
    tissue: Tissue
    table: TileTable
    qc: dict[str, NDArray[np.float32]]
    parameters: StoreParameters

    def boxes(self) -> NDArray[np.float64]:
        return self.grid.boxes0(self.table.col, self.table.row)


def _lay_out(slide: Slide, options: TileOptions) -> _Layout:
    plan = slide.plan(options.mpp, tolerance=options.mpp_tolerance, downscale=options.downscale)
    grid = TileGrid.from_plan(plan, options.tile_size, options.overlap, options.edge)
    tissue = _find_tissue(slide, options.tissue)
    table, qc = _choose_tiles(grid, tissue, slide.dimensions, options)
    return _Layout(plan, grid, tissue, table, qc, _parameters(slide, plan, grid, tissue, options))


def _find_tissue(slide: Slide, method: str) -> Tissue:
    scale, (width, height) = slide.scale, slide.dimensions
    overview = slide.survey(OVERVIEW_MPP)
    if Path(method).suffix:
        return read_tissue(method, overview.pixels.shape[:2], slide.dimensions)
    tissue = find_tissue(overview.pixels, scale.mpp_x * width / overview.pixels.shape[1], method)
    if not overview.unreadable.any():
        return tissue
    # What the overview could not show may be tissue: its tiles are tried, and end as unreadable, not as glass.
    damaged = tissue_fractions(overview.unreadable, _pixel_boxes(tissue.mask, (width, height)), (width, height)) > 0
    return replace(tissue, mask=tissue.mask | damaged.reshape(tissue.mask.shape))


def _pixel_boxes(mask: NDArray[np.bool_], slide_size: tuple[int, int]) -> NDArray[np.float64]:
    """Extents of a mask's pixels, in level-0 pixels, in reading order."""
    (height, width), (slide_width, slide_height) = mask.shape, slide_size
    pixels = TileGrid(1, 0, width, height, slide_width / width, slide_height / height)
    return pixels.boxes0(*pixels.cells())


def _choose_tiles(
    grid: TileGrid, tissue: Tissue, slide_size: tuple[int, int], options: TileOptions
) -> tuple[TileTable, dict[str, NDArray[np.float32]]]:
    col, row = grid.cells()
    boxes = grid.boxes0(col, row)
    fraction, qc = tissue_fractions(tissue.mask, boxes, slide_size), qc_fractions(tissue, boxes, slide_size)
    keep = fraction >= options.min_tissue
    for name, limit in options.limits().items():
        if name in qc:
            keep &= qc[name] <= limit
    kept = {name: values[keep] for name, values in qc.items()}
    return TileTable.from_grid(grid, col[keep], row[keep], fraction[keep]), kept


def _parameters(slide: Slide, plan: ReadPlan, grid: TileGrid, tissue: Tissue, options: TileOptions) -> StoreParameters:
    native = _copyable(slide, plan, grid) if options.codec == "jpeg" else None
    chunk = (grid.tile_size,) * 2 if native is None else (native.tile_height, native.tile_width)
    return StoreParameters(
        slide_id=slide.id,
        slide_path=slide.path,
        slide_fingerprint=slide.fingerprint,
        slide_size=slide.dimensions,
        slide_mpp=(slide.scale.mpp_x, slide.scale.mpp_y),
        scale=asdict(slide.scale),
        requested_mpp=options.mpp,
        mpp=(plan.mpp_x, plan.mpp_y),
        plan=asdict(plan),
        grid=grid,
        tissue={**tissue.parameters, "limits": options.limits()},
        min_tissue=options.min_tissue,
        codec=options.codec,
        quality=options.quality,
        encoding="encoded" if native is None else "copied",
        chunk=chunk,
        shard_tiles=_shard_tiles(options),
        opening=slide.opening,
        slide_bounds=slide.bounds,
    )


def _shard_tiles(options: TileOptions) -> int:
    raw = options.tile_size**2 * 3
    per_shard = SHARD_BYTES * (8 if options.codec == "jpeg" else 2) // raw
    return int(np.clip(1 << max(0, per_shard.bit_length() - 1), 16, 2048))


def _copyable(slide: Slide, plan: ReadPlan, grid: TileGrid) -> NativeTiles | None:
    """Return the slide's compressed tiles if a tile of the grid is a whole number of them."""
    native = slide.native_tiles(plan.level) if plan.native else None
    if native is None:
        return None
    sides = (native.tile_width, native.tile_height)
    fits = all(grid.step % side == 0 and grid.tile_size % side == 0 for side in sides)
    return native if fits else None


class _TileSource:
    """The encoded chunks of any run of tiles, in order."""

    def __init__(self, slide: Slide, layout: _Layout, options: TileOptions) -> None:
        self._slide, self._layout, self._options = slide, layout, options
        copied = layout.parameters.encoding == "copied"
        self._native = slide.native_tiles(layout.plan.level) if copied else None

    def write_overview(self, writer: StoreWriter) -> None:
        """Write what is known at low power: tissue mask, quality control, thumbnail."""
        for name, values in self._layout.qc.items():
            writer.write_qc(name, values)
        (width, height), mask = self._slide.dimensions, self._layout.tissue.mask
        writer.write_mask(mask, (width / mask.shape[1], height / mask.shape[0]))
        thumbnail = self._slide.thumbnail(THUMBNAIL_SIDE)
        writer.write_thumbnail(thumbnail, (width / thumbnail.shape[1], height / thumbnail.shape[0]))

    def chunks(self, tiles: range) -> Iterator[Chunks | TileFailure]:
        """Yield the inner chunks of each tile, or why it cannot be read."""
        if self._native is None:
            yield from self._encoded(np.asarray(tiles))
        else:
            yield from self._copied(tiles, self._native)

    def _copied(self, tiles: range, native: NativeTiles) -> Iterator[Chunks | TileFailure]:
        # Plain lists: reading a numpy scalar costs as much as copying the tile.
        table = self._layout.table
        col, row, status = (
            getattr(table, name)[tiles.start : tiles.stop].tolist() for name in ("col", "row", "status")
        )
        for i, x, y, state in zip(tiles, col, row, status, strict=True):
            if state == PADDED:
                # Its native tiles hold whatever the scanner put past the edge, so it is read and padded like any other.
                yield from self._encoded(np.array([i]))
            else:
                yield self._copy(native, x, y)

    def _copy(self, native: NativeTiles, col: int, row: int) -> Chunks | TileFailure:
        grid = self._layout.grid
        x, y = col * grid.step // native.tile_width, row * grid.step // native.tile_height
        nx, ny = grid.tile_size // native.tile_width, grid.tile_size // native.tile_height
        try:
            return [
                native.jpeg(x + dx, y + dy) or self._blank(native.tile_height, native.tile_width)
                for dy in range(ny)
                for dx in range(nx)
            ]
        except OSError as error:
            return TileFailure(str(error))

    def _blank(self, height: int, width: int) -> bytes:
        return self._encode(np.full((height, width, 3), self._slide.background, np.uint8))

    def _encoded(self, tiles: NDArray[np.int64]) -> Iterator[Chunks | TileFailure]:
        table, grid = self._layout.table, self._layout.grid
        x, y = grid.plane_xy(table.col[tiles], table.row[tiles])
        pixels = self._slide.read_tiles(self._layout.plan, grid.tile_size, x, y)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from map_ordered(pool, self._encode_tile, pixels)

    def _encode_tile(self, pixels: Pixels | TileFailure) -> Chunks | TileFailure:
        if isinstance(pixels, TileFailure):
            return pixels
        height, width = self._layout.parameters.chunk
        rows = range(0, pixels.shape[0], height)
        return [
            self._encode(pixels[y : y + height, x : x + width]) for y in rows for x in range(0, pixels.shape[1], width)
        ]

    def _encode(self, pixels: Pixels) -> bytes:
        pixels = np.ascontiguousarray(pixels)
        return encode_zstd(pixels) if self._options.codec == "zstd" else encode_jpeg(pixels, self._options.quality)


def _fill(writer: StoreWriter, source: _TileSource, on_bad_tile: str, progress: bool) -> tuple[dict[int, str], int]:
    """Write what is missing; return why tiles failed, by index, and how many shards were there already."""
    if writer.done:
        return {}, writer.n_shards
    todo = writer.pending()
    source.write_overview(writer)
    failures: dict[int, str] = {}
    with progress_bar(sum(map(len, todo)), "tiling", "tile", show=progress and bool(todo)) as advance:
        for tiles in todo:
            bad: dict[int, str] = {}
            writer.write_shard(tiles, _shard(source, tiles, writer.parameters.chunks_per_tile, bad, advance))
            failures |= bad
            if bad and on_bad_tile == "fail":
                index, reason = next(iter(bad.items()))
                raise UnreadableTilesError(f"{writer.parameters.slide_path}: tile {index} cannot be read: {reason}")
    writer.finish()
    return failures, writer.n_shards - len(todo)


def _shard(
    source: _TileSource, tiles: range, per_tile: int, bad: dict[int, str], advance: Callable[[int], object]
) -> Iterator[bytes | None]:
    """Yield the shard's chunks in C order; None for those of an unreadable tile, whose reason goes to `bad`."""
    for index, chunks in zip(tiles, source.chunks(tiles), strict=True):
        if isinstance(chunks, TileFailure):
            bad[index] = chunks.reason
            yield from [None] * per_tile
        else:
            yield from chunks
        advance(1)


def _draw(path: Path, store: TileStore, layout: _Layout) -> Path:
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
