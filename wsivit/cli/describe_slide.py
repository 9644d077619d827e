"""``wsivit info``; apart from the other verbs on slides, so that it loads what opens a slide and no more."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from wsivit import info as _info
from wsivit.cli.app import Report
from wsivit.cli.common import FLAG, FLAT, JSON, OpenOptions, documented_by
from wsivit.io import x_by_y
from wsivit.slide import OtherPicture, SlideInfo


@documented_by(_info)
def info(
    path: str,
    *,
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    private: Annotated[bool, FLAG] = False,
    as_json: Annotated[bool, JSON] = False,
) -> Report:
    result = _info(path, **open_options.keywords(), private=private)
    if as_json:
        return Report(json.dumps(asdict(result), indent=2))
    return Report(_describe(result) if isinstance(result, SlideInfo) else str(result))


def _describe(info: SlideInfo) -> str:
    width, height = info.dimensions
    levels = ", ".join(f"{level.width} x {level.height} (1/{level.downsample_x:.4g})" for level in info.levels)
    lines = [
        info.path,
        f"format       {info.format}, read by {info.reader}: {info.reader_reason}",
        f"size         {width} x {height} px",
        f"levels       {levels}",
        f"tiles        {x_by_y(info.tile_size)} px, {info.compression or 'compression unknown'}",
        f"objective    {f'{info.objective:g}x' if info.objective else 'unknown'}",
        f"scale        {_describe_scale(info)}",
    ]
    lines += [f"  {source.name}: {x_by_y((source.mpp_x, source.mpp_y))} {source.note}" for source in info.scale_sources]
    lines += [
        f"filled       level {level}: {count} native tiles are left out of the file; a finer level fills them"
        for level, count in enumerate(info.filled_tiles)
        if count
    ]
    lines += [f"picture      {_describe_picture(other)}" for other in info.others]
    lines += [f"warning      {warning}" for warning in info.warnings]
    lines += [f"private      {name}" + (f" = {value}" if value else "") for name, value in info.private.items()]
    return "\n".join(line.rstrip() for line in lines)


def _describe_picture(other: OtherPicture) -> str:
    name = f" {other.name!r}" if other.name else ""
    action = f"never read: {other.problem}" if other.problem else f"not read; --scene {other.number} takes it"
    return f"{other.number}: {other.kind}{name}, {other.width} x {other.height} px, {action}"


def _describe_scale(info: SlideInfo) -> str:
    if info.scale is None:
        return f"unknown: {info.scale_error}"
    scale = info.scale
    size = f"{x_by_y((scale.mpp_x, scale.mpp_y))} µm/px"
    known = "as given" if scale.confidence == "given" else f"({scale.confidence} confidence: {scale.reason})"
    return "; ".join([f"{size} {known}", *scale.warnings])
