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
from wsivit.slide import OtherPicture, SlideInfo
from wsivit.store import Status, TileStore
from wsivit.tiling import ImportOptions, OnUnreadableTile, TileOptions, TilingResult

JSON = Parameter(name="--json", negative=(), help="Print JSON.")
MAG = Parameter(help="Magnification instead of --mpp: 10 / MAG microns per pixel, so 20 is 0.5.")
MICRONS_AT_1X = 10.0


@documented_by(_info)
def info(
    slide: str,
    *,
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    private: Annotated[bool, FLAG] = False,
    as_json: Annotated[bool, JSON] = False,
) -> Report:
    found = _info(slide, **asdict(open_options), private=private)
    return Report(json.dumps(asdict(found), indent=2) if as_json else _describe(found))


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
    overwrite: Annotated[bool, FLAG] = False,
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    quiet: Annotated[bool, QUIET] = False,
) -> Report:
    options = _at_magnification(options, mag)
    if cohort := many_slides(slide, output, many, quiet=quiet, annotations=annotations):
        return format_report(
            cohort.tile(
                options, on_unreadable_tile=on_unreadable_tile, overwrite=overwrite, open_options=asdict(open_options)
            )
        )
    done = _tile(
        open_options.open(slide[0]),
        output,
        options,
        annotations=annotations,
        on_unreadable_tile=on_unreadable_tile,
        overwrite=overwrite,
        progress=not quiet,
    )
    unreadable = (done.store.status == Status.UNREADABLE).any()
    return Report(_tell_tiling(done), UnreadableTilesError.exit_code if unreadable else 0)


@documented_by(_import_tiles)
def import_tiles(
    coordinates: str,
    slide: str,
    *,
    output: Annotated[str, OUTPUT] = ".",
    options: Annotated[ImportOptions, FLAT] = ImportOptions(),
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    overwrite: Annotated[bool, FLAG] = False,
) -> Report:
    done = _import_tiles(coordinates, open_options.open(slide), output, options, overwrite=overwrite)
    return Report(_tell_tiling(done))


def _at_magnification(options: TileOptions, mag: float | None) -> TileOptions:
    if mag is None:
        return options
    if options.mpp != TileOptions.mpp:
        raise UsageError("give --mpp or --mag, not both")
    if mag <= 0:
        raise UsageError(f"--mag must be above 0, not {mag}")
    return replace(options, mpp=MICRONS_AT_1X / mag)


def _describe(found: SlideInfo) -> str:
    width, height = found.dimensions
    levels = ", ".join(f"{level.width} x {level.height} (1/{level.downsample_x:.4g})" for level in found.levels)
    lines = [
        found.path,
        f"format       {found.format}, read by {found.reader}: {found.reader_reason}",
        f"size         {width} x {height} px",
        f"levels       {levels}",
        f"tiles        {pair(found.tile_size)} px, {found.compression or 'compression unknown'}",
        f"objective    {f'{found.objective:g}x' if found.objective else 'not said'}",
        f"scale        {_describe_scale(found)}",
    ]
    lines += [f"  {source.name}: {pair((source.mpp_x, source.mpp_y))} {source.note}" for source in found.scale_sources]
    lines += [
        f"filled       level {level}: {count} native tiles are left out of the file; a finer level fills them"
        for level, count in enumerate(found.filled_tiles)
        if count
    ]
    lines += [f"picture      {_describe_picture(other)}" for other in found.others]
    lines += [f"warning      {warning}" for warning in found.warnings]
    lines += [f"private      {name}" + (f" = {value}" if value else "") for name, value in found.private.items()]
    return "\n".join(line.rstrip() for line in lines)


def _describe_picture(other: OtherPicture) -> str:
    name = f" {other.name!r}" if other.name else ""
    able = f"not supported: {other.problem}" if other.problem else f"not read; --scene {other.number} takes it"
    return f"{other.number}: {other.kind}{name}, {other.width} x {other.height} px, {able}"


def _describe_scale(found: SlideInfo) -> str:
    if found.scale is None:
        return f"unknown: {found.scale_error}"
    scale = found.scale
    size = f"{pair((scale.mpp_x, scale.mpp_y))} µm/px"
    known = "as given" if scale.confidence == "given" else f"({scale.confidence} confidence: {scale.reason})"
    return "; ".join([f"{size} {known}", *scale.warnings])


def _tell_tiling(done: TilingResult) -> str:
    store, parameters = done.store, done.store.parameters
    count = Counter(store.status.tolist())
    lines = [
        f"{len(store)} tiles of {parameters.grid.tile_size} px at {pair(parameters.mpp)} µm/px: {_how(done)}",
        f"store    {store.url}",
        f"preview  {done.preview}",
    ]
    if len(store) == 0:
        lines.insert(1, "no tile has enough tissue: look at the preview; --min-tissue 0 or --tissue none keeps more")
    if count[Status.PADDED]:
        lines.insert(1, f"{count[Status.PADDED]} of them reach past the slide and are padded")
    if count[Status.UNREADABLE]:
        lines.insert(1, f"{count[Status.UNREADABLE]} of them cannot be read and are marked so")
    if parameters.filled:
        where = f"that the file leaves out at level {parameters.plan['level']}"
        lines.insert(1, f"{parameters.filled} native tiles {where} are filled from a finer level")
    if done.resumed and done.resumed * parameters.shard_tiles >= len(store):
        lines.insert(1, "they were all there already: nothing was left to do")
    if count[Status.MISSING]:
        lines.insert(1, f"{count[Status.MISSING]} of them were never scanned and have no pixels")
    lines += [_tell_label(store, name) for name in store.labels]
    lines += [
        f"tile {index} (col {store.col[index]}, row {store.row[index]}): {why}" for index, why in done.failures.items()
    ]
    return "\n".join(lines)


def _how(done: TilingResult) -> str:
    parameters, plan, made = done.store.parameters, done.store.parameters.plan, done.made
    if not done.store.has_pixels:
        return "coordinates only, pixels stay in the slide"
    level = f"level {plan['level']}" + (f" at 1/{plan['reduce']}" if plan["reduce"] > 1 else "")
    factor = pair((plan["residual_x"], plan["residual_y"]))
    parts = [
        f"{count} {how}"
        for count, how in (
            (made.copied, "copied from the slide as they are"),
            (made.scaled, f"decoded from {level}"),
            (made.resampled, f"decoded from {level} and resampled by {factor}"),
        )
        if count
    ]
    if made.scaled or made.resampled:
        parts.append("lossless" if parameters.codec == "zstd" else f"JPEG quality {parameters.quality}")
    return ", ".join(parts) or "none to be made"


def _tell_label(store: TileStore, name: str) -> str:
    column = store.label(name)
    tiles = Counter(column.codes.tolist())
    counts = ", ".join(f"{title} {tiles[code]}" for code, title in enumerate(column.classes))
    return f"label    {name}: {counts}, none {tiles[-1]}"
