"""``wsivit tile``, and what is reported of the tiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

from wsivit import tile as _tile
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAT, MANY, CommonOptions, OpenOptions, documented_by
from wsivit.cohort import CohortOptions
from wsivit.errors import UnreadableTilesError
from wsivit.io import x_by_y
from wsivit.store import Status, TileStore
from wsivit.tiling import OnUnreadableTile, TileOptions, TilingResult


@documented_by(_tile)
def tile(
    slide: Annotated[list[str], MANY],
    *,
    output: str = ".",
    options: Annotated[TileOptions, FLAT] = TileOptions(),
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    annotations: str | None = "auto",
    on_unreadable_tile: OnUnreadableTile = "skip",
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    named = None if annotations in ("auto", "none") else annotations
    if cohort := many_slides(slide, output, many, progress=common.progress, annotations=named):
        return format_report(
            cohort.tile(options, open_options=asdict(open_options), on_unreadable_tile=on_unreadable_tile)
        )
    result = _tile(
        open_options.open(slide[0]),
        output,
        options,
        annotations=annotations,
        on_unreadable_tile=on_unreadable_tile,
        force=many.force,
        progress=common.progress,
    )
    unreadable = (result.store.status == Status.UNREADABLE).any()
    return Report(describe_tiling(result), UnreadableTilesError.exit_code if unreadable else 0)


def describe_tiling(result: TilingResult) -> str:
    store, parameters = result.store, result.store.parameters
    count = Counter(store.status.tolist())
    lines = [
        f"{len(store)} tiles of {parameters.grid.tile_size} px at {x_by_y(parameters.mpp)} µm/px: {_origins(result)}"
    ]
    lines += [f"WARNING  {warning}" for warning in result.warnings]
    if parameters.filled:
        where = f"that the file leaves out at level {parameters.plan.level}"
        lines.append(f"{parameters.filled} native tiles {where} are filled from a finer level")
    if count[Status.MISSING]:
        lines.append(f"{count[Status.MISSING]} of them were never scanned and have no pixels")
    if result.resumed and result.resumed * parameters.shard_tiles >= len(store):
        lines.append("all of them existed already: nothing to do")
    if count[Status.UNREADABLE]:
        lines.append(f"{count[Status.UNREADABLE]} of them are unreadable and marked so")
    if count[Status.PADDED]:
        lines.append(f"{count[Status.PADDED]} of them reach past the slide and are padded")
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
    level = f"level {plan.level}" + (f" at 1/{plan.reduce}" if plan.reduce > 1 else "")
    factor = x_by_y((plan.residual_x, plan.residual_y))
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
