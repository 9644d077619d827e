"""``wsivit info``, ``tile`` and ``import``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from typing import Annotated

from cyclopts import Parameter

from wsivit import import_tiles as _import_tiles
from wsivit import info as _info
from wsivit import tile as _tile
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAG, FLAT, MANY, OUTPUT, QUIET, OpenOptions, documented_by, pair
from wsivit.cohort import CohortOptions
from wsivit.errors import UnreadableTilesError, UsageError
from wsivit.slide import SlideInfo
from wsivit.store import Status, TileStore
from wsivit.tiling import ImportOptions, OnUnreadableTile, TileOptions, TilingResult

JSON = Parameter(name="--json", negative=(), help="Print JSON.")
MAG = Parameter(help="Magnification instead of --mpp: 10 / MAG microns per pixel, so 20 is 0.5.")
FORCE = Parameter(negative=(), help="Make the store again, and replace one with other parameters or of another slide.")
MICRONS_AT_1X = 10.0


@documented_by(_info)
def info(
    slide: str,
    *,
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    private: Annotated[bool, FLAG] = False,
    as_json: Annotated[bool, JSON] = False,
) -> Report:
    result = _info(slide, **asdict(open_options), private=private)
    return Report(json.dumps(asdict(result), indent=2) if as_json else _describe(result))


@documented_by(_tile)
def tile(
    slide: Annotated[list[str], MANY],
    *,
    output: Annotated[str, OUTPUT] = ".",
    options: Annotated[TileOptions, FLAT] = TileOptions(),
    mag: Annotated[float | None, MAG] = None,
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    annotations: str | None = None,
    on_unreadable_tile: OnUnreadableTile = "skip",
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    quiet: Annotated[bool, QUIET] = False,
) -> Report:
    options = _at_magnification(options, mag)
    if cohort := many_slides(slide, output, many, quiet=quiet, annotations=annotations):
        return format_report(
            cohort.tile(options, open_options=asdict(open_options), on_unreadable_tile=on_unreadable_tile)
        )
    result = _tile(
        open_options.open(slide[0]),
        output,
        options,
        annotations=annotations,
        on_unreadable_tile=on_unreadable_tile,
        overwrite=many.force,
        progress=not quiet,
    )
    unreadable = (result.store.status == Status.UNREADABLE).any()
    return Report(_describe_tiling(result), UnreadableTilesError.exit_code if unreadable else 0)


@documented_by(_import_tiles)
def import_tiles(
    coordinates: str,
    slide: str,
    *,
    output: Annotated[str, OUTPUT] = ".",
    options: Annotated[ImportOptions, FLAT] = ImportOptions(),
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    force: Annotated[bool, FORCE] = False,
) -> Report:
    return Report(
        _describe_tiling(_import_tiles(coordinates, open_options.open(slide), output, options, overwrite=force))
    )


def _at_magnification(options: TileOptions, mag: float | None) -> TileOptions:
    if mag is None:
        return options
    if options.mpp != TileOptions.mpp:
        raise UsageError("give --mpp or --mag, not both")
    if mag <= 0:
        raise UsageError(f"--mag must be above 0, not {mag}")
    return replace(options, mpp=MICRONS_AT_1X / mag)


def _describe(info: SlideInfo) -> str:
    width, height = info.dimensions
    levels = ", ".join(f"{level.width} x {level.height} (1/{level.downsample_x:.4g})" for level in info.levels)
    lines = [
        info.path,
        f"format       {info.format}, read by {info.reader}: {info.reader_reason}",
        f"size         {width} x {height} px",
        f"levels       {levels}",
        f"tiles        {pair(info.tile_size)} px, {info.compression or 'compression unknown'}",
        f"objective    {f'{info.objective:g}x' if info.objective else 'unknown'}",
        f"scale        {_describe_scale(info)}",
    ]
    lines += [f"  {source.name}: {pair((source.mpp_x, source.mpp_y))} {source.note}" for source in info.scale_sources]
    lines += [f"warning      {warning}" for warning in info.warnings]
    lines += [f"private      {name}" + (f" = {value}" if value else "") for name, value in info.private.items()]
    return "\n".join(line.rstrip() for line in lines)


def _describe_scale(info: SlideInfo) -> str:
    scale = info.scale
    if scale is None:
        return f"unknown: {info.scale_error}"
    confidence = "as given" if scale.confidence == "given" else f"({scale.confidence} confidence: {scale.reason})"
    return "; ".join([f"{pair((scale.mpp_x, scale.mpp_y))} µm/px {confidence}", *scale.warnings])


def _describe_tiling(result: TilingResult) -> str:
    store, parameters = result.store, result.store.parameters
    count = Counter(store.status.tolist())
    lines = [
        f"{len(store)} tiles of {parameters.grid.tile_size} px at {pair(parameters.mpp)} µm/px: {_origins(result)}"
    ]
    if count[Status.MISSING]:
        lines.append(f"{count[Status.MISSING]} of them were never scanned and have no pixels")
    if result.resumed and result.resumed * parameters.shard_tiles >= len(store):
        lines.append("all of them existed already: nothing to do")
    if count[Status.UNREADABLE]:
        lines.append(f"{count[Status.UNREADABLE]} of them are unreadable and marked so")
    if count[Status.PADDED]:
        lines.append(f"{count[Status.PADDED]} of them reach past the slide and are padded")
    if len(store) == 0:
        lines.append("no tile has enough tissue: look at the preview; --min-tissue 0 or --tissue none keeps more")
    lines += [f"store    {store.url}", f"preview  {result.preview}"]
    lines += [_describe_label(store, name) for name in store.labels]
    lines += [
        f"tile {index} (col {store.col[index]}, row {store.row[index]}): {why}"
        for index, why in result.failures.items()
    ]
    return "\n".join(lines)


def _origins(result: TilingResult) -> str:
    parameters, plan, origins = result.store.parameters, result.store.parameters.plan, result.origins
    if not result.store.has_pixels:
        return "coordinates only, pixels stay in the slide"
    level = f"level {plan['level']}" + (f" at 1/{plan['reduce']}" if plan["reduce"] > 1 else "")
    factor = pair((plan["residual_x"], plan["residual_y"]))
    parts = [
        f"{count} {how}"
        for count, how in (
            (origins.copied, "copied from the slide unchanged"),
            (origins.scaled, f"decoded from {level}"),
            (origins.resampled, f"decoded from {level} and resampled by {factor}"),
        )
        if count
    ]
    if origins.scaled or origins.resampled:
        parts.append("lossless" if parameters.codec == "zstd" else f"JPEG quality {parameters.quality}")
    return ", ".join(parts) or "none"


def _describe_label(store: TileStore, name: str) -> str:
    column = store.label(name)
    tiles = Counter(column.codes.tolist())
    counts = ", ".join(f"{title} {tiles[code]}" for code, title in enumerate(column.classes))
    return f"label    {name}: {counts}, none {tiles[-1]}"
