"""OME-TIFF: the score map as a pyramid of float32 channels, or the colours alone as an overlay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.heatmap.colors import score_colors
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.slide_background import SlideBackground
from wsivit.io import replacing

Pair: TypeAlias = tuple[float, float]

_TILE = 256


def write_scores(data: HeatmapData, path: Path) -> None:
    """Write all channels of a run at stride resolution, with half-size levels where it is large.

    Pixel ``(i, j)`` covers level-0 pixels ``[j * step_x, (j + 1) * step_x)`` of the whole slide and the same along y.
    The physical size of a pixel is exact, and its position follows the rule that a slide's first pixel has its
    centre at 0: the first cell's centre is ``(step - 1) / 2`` level-0 pixels away from there.
    """
    names, channels = score_channels(data)
    size, position = physical_frame(data.scores.downsample0, data.slide_mpp)
    metadata = _metadata(data, size, position) | {"axes": "CYX", "Channel": {"Name": names}}
    metadata["Plane"] = {key: [value] * len(names) for key, value in metadata["Plane"].items()}
    _write(path, list(pyramid(channels)), size, metadata, photometric="minisblack", predictor=True)


def write_overlay(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Write the colours alone as an RGBA image over the whole slide, transparent where there are none."""
    background = SlideBackground.read(data.store, options.size)
    index = data.class_index(options.class_name)
    field = background.sample(data.scores, data.scores.scores[..., index], options.interpolation)
    shown = np.isfinite(field) & background.tissue
    colors = score_colors(field, options.cmap, options.vmin, options.vmax)
    rgba = np.dstack([colors, np.full(shown.shape, round(255 * options.alpha), np.uint8)])
    rgba[~shown] = 0
    size, position = physical_frame(background.scale0, data.slide_mpp)
    metadata = _metadata(data, size, position) | {"axes": "YXS"}
    _write(path, [rgba], size, metadata, photometric="rgb", extrasamples=["unassalpha"])


def _metadata(data: HeatmapData, size: Pair, position: Pair) -> dict[str, Any]:
    plane = {f"Position{axis}": value for axis, value in zip("XY", position, strict=True)}
    physical = {f"PhysicalSize{axis}": value for axis, value in zip("XY", size, strict=True)}
    units = {f"{name}Unit": "µm" for name in physical}
    plane_units = {f"{name}Unit": "µm" for name in plane}
    about = {"Name": f"{data.slide_id} {data.run}", "Description": json.dumps(data.facts, ensure_ascii=False)}
    return {**about, **physical, **units, "Plane": plane | plane_units}


def _write(path: Path, levels: Sequence[NDArray[Any]], size: Pair, metadata: dict[str, Any], **options: Any) -> None:
    import tifffile

    with replacing(path) as temporary, tifffile.TiffWriter(temporary, ome=True) as tiff:
        for depth, level in enumerate(levels):
            tiff.write(
                level,
                tile=(_TILE, _TILE),
                compression="zlib",
                resolution=(1e4 / (size[0] * 2**depth), 1e4 / (size[1] * 2**depth)),
                resolutionunit="CENTIMETER",
                subifds=None if depth else len(levels) - 1,
                subfiletype=1 if depth else 0,
                metadata=None if depth else metadata,
                **options,
            )


def score_channels(data: HeatmapData) -> tuple[list[str], NDArray[np.float32]]:
    """Names and values, float32 (classes + 3, h, w), of all bands of the score map."""
    scores = data.scores
    bands = [*np.moveaxis(scores.scores, -1, 0), scores.coverage, scores.uncertainty, scores.status]
    return [*data.classes, "coverage", "uncertainty", "status"], np.stack(bands).astype(np.float32)


def physical_frame(step0: Pair, slide_mpp: Pair, depth: int = 0) -> tuple[Pair, Pair]:
    """Physical size and position of pixels that cover `step0` level-0 pixels, halved `depth` times.

    Returns
    -------
    size, position : (float, float)
        Extent of a pixel, and how far the centre of the first one is from that of the slide's first pixel; in
        microns, ``x, y``.
    """
    steps = [step * 2**depth for step in step0]
    x, y = slide_mpp
    return (steps[0] * x, steps[1] * y), ((steps[0] - 1) / 2 * x, (steps[1] - 1) / 2 * y)


def pyramid(channels: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the channels (c, h, w), then each level halved, until it fits a tile.

    Means leave out NaN. The last channel, the status, holds codes: of four cells the first is taken, not the mean.
    """
    yield channels
    while max(channels.shape[1:]) > _TILE:
        channels = _halve(channels)
        yield channels


def _halve(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    _, height, width = channels.shape
    padded = np.pad(channels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    blocks = np.stack([padded[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
    known = np.isfinite(blocks)
    total = np.where(known, blocks, 0).sum(axis=0)
    count = known.sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    mean[-1] = blocks[0, -1]
    return mean
