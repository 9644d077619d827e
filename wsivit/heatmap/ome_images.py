"""The score map as OME-TIFF and OME-Zarr, a pyramid of float32 channels; the colours alone as an OME-TIFF overlay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import wsivit
from wsivit.errors import OutputExistsError
from wsivit.heatmap.colors import score_colors
from wsivit.heatmap.figure import SlideBackground
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.options import HeatmapOptions
from wsivit.io import replacing
from wsivit.slide_list import EXPORT_SOFTWARE

Pair: TypeAlias = tuple[float, float]

_SIDE = 256
"""Pixels along a tile of the TIFF and a chunk of the zarr; levels are halved until they fit one."""


def write_ome_tiff(data: HeatmapData, path: Path) -> None:
    """Write all channels of a run at stride resolution, with half-size levels where it is large.

    Pixel ``(i, j)`` covers level-0 pixels ``[j * step_x, (j + 1) * step_x)`` of the whole slide and the same along y.
    The physical size of a pixel is exact, and its position follows the rule that a slide's first pixel has its
    centre at 0: the first cell's centre is ``(step - 1) / 2`` level-0 pixels away from there.
    """
    names, channels = _score_channels(data)
    size, position = _physical_frame(data.scores.downsample0, data.slide_mpp)
    metadata = _ome_tiff_metadata(data, size, position) | {"axes": "CYX", "Channel": {"Name": names}}
    metadata["Plane"] = {key: [value] * len(names) for key, value in metadata["Plane"].items()}
    _write_tiff(path, list(_pyramid(channels)), size, metadata, photometric="minisblack", predictor=True)


def write_overlay(data: HeatmapData, options: HeatmapOptions, path: Path) -> None:
    """Write the colours alone as an RGBA image over the whole slide, transparent where there are none."""
    background = SlideBackground.read(data.store, options.size)
    index = data.class_index(options.class_name)
    field = background.sample(data.scores, data.scores.scores[..., index], options.interpolation)
    colored = np.isfinite(field) & background.tissue
    colors = score_colors(field, options.cmap, options.vmin, options.vmax)
    rgba = np.dstack([colors, np.full(colored.shape, round(255 * options.alpha), np.uint8)])
    rgba[~colored] = 0
    size, position = _physical_frame(background.scale0, data.slide_mpp)
    metadata = _ome_tiff_metadata(data, size, position) | {"axes": "YXS"}
    _write_tiff(path, [rgba], size, metadata, photometric="rgb", extrasamples=["unassalpha"])


def _ome_tiff_metadata(data: HeatmapData, size: Pair, position: Pair) -> dict[str, Any]:
    plane = {f"Position{axis}": value for axis, value in zip("XY", position, strict=True)}
    physical = {f"PhysicalSize{axis}": value for axis, value in zip("XY", size, strict=True)}
    units = {f"{name}Unit": "µm" for name in physical}
    plane_units = {f"{name}Unit": "µm" for name in plane}
    about = {"Name": f"{data.slide_id} {data.run}", "Description": json.dumps(data.facts, ensure_ascii=False)}
    return {**about, **physical, **units, "Plane": plane | plane_units}


def _write_tiff(
    path: Path, levels: Sequence[NDArray[Any]], size: Pair, metadata: dict[str, Any], **options: Any
) -> None:
    import tifffile

    # OME's way of a pyramid: the smaller levels are SubIFDs of the first, which alone has the metadata.
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, ome=True) as tiff:
        for depth, level in enumerate(levels):
            tiff.write(
                level,
                tile=(_SIDE, _SIDE),
                compression="zlib",
                resolution=(1e4 / (size[0] * 2**depth), 1e4 / (size[1] * 2**depth)),
                resolutionunit="CENTIMETER",
                subifds=None if depth else len(levels) - 1,
                subfiletype=1 if depth else 0,
                metadata=None if depth else metadata,
                software=EXPORT_SOFTWARE,
                **options,
            )


def write_ome_zarr(data: HeatmapData, path: Path) -> None:
    """Write all channels of a run as an OME-Zarr 0.5 pyramid with exact scale and translation.

    As in the OME-TIFF, the first pixel of the slide has its centre at 0.

    Raises
    ------
    OutputExistsError
        If the folder exists and is not such an export: a tile store is a ``.zarr`` too.
    """
    import zarr

    if path.exists():
        try:
            kind = json.loads((path / "zarr.json").read_bytes())["attributes"]["wsivit"]["kind"]
        except (OSError, ValueError, KeyError, TypeError):
            kind = None
        if kind != "scores":
            raise OutputExistsError(f"{path} exists and is not an export of scores; choose another name")
    names, channels = _score_channels(data)
    levels = list(_pyramid(channels))
    with replacing(path, folder=True) as temporary:
        about = {"kind": "scores", "version": wsivit.__version__, **data.facts}
        attributes = {"ome": _ome_zarr_metadata(data, names, len(levels)), "wsivit": about}
        group = zarr.create_group(temporary, zarr_format=3, attributes=attributes)
        for depth, level in enumerate(levels):
            group.create_array(
                str(depth),
                data=level,
                chunks=(1, min(_SIDE, level.shape[1]), min(_SIDE, level.shape[2])),
                dimension_names=("c", "y", "x"),
                fill_value=float("nan"),
            )


def _ome_zarr_metadata(data: HeatmapData, names: list[str], levels: int) -> dict[str, Any]:
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = []
    for depth in range(levels):
        size, position = _physical_frame(data.scores.downsample0, data.slide_mpp, depth)
        scale = {"type": "scale", "scale": [1.0, size[1], size[0]]}
        translation = {"type": "translation", "translation": [0.0, position[1], position[0]]}
        datasets.append({"path": str(depth), "coordinateTransformations": [scale, translation]})
    multiscale = {"name": f"{data.slide_id} {data.run}", "axes": axes, "datasets": datasets, "type": "mean"}
    # Display settings: each class in its colour from 0 to 1, the main one switched on; the status has codes up to 255.
    colors = ["{:02X}{:02X}{:02X}".format(*rgb) for rgb in data.class_colors] + ["FFFFFF"] * 3
    tops = [1] * (len(names) - 1) + [255]
    channels = [
        {
            "label": name,
            "color": color,
            "active": k == data.main_class,
            "window": {"min": 0, "max": top, "start": 0, "end": top},
        }
        for k, (name, color, top) in enumerate(zip(names, colors, tops, strict=True))
    ]
    return {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": channels}}


def _score_channels(data: HeatmapData) -> tuple[list[str], NDArray[np.float32]]:
    """Names and values, float32 (classes + 3, h, w), of all bands of the score map."""
    scores = data.scores
    bands = [*np.moveaxis(scores.scores, -1, 0), scores.coverage, scores.uncertainty, scores.status]
    return [*data.classes, "coverage", "uncertainty", "status"], np.stack(bands).astype(np.float32)


def _physical_frame(step0: Pair, slide_mpp: Pair, depth: int = 0) -> tuple[Pair, Pair]:
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


def _pyramid(channels: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the channels (c, h, w), then each level halved, until it fits a tile; means leave out NaN."""
    yield channels
    while max(channels.shape[1:]) > _SIDE:
        _, height, width = channels.shape
        padded = np.pad(channels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
        blocks = np.stack([padded[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
        known = np.isfinite(blocks)
        total, count = np.where(known, blocks, 0).sum(axis=0), known.sum(axis=0)
        channels = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
        channels[-1] = blocks[0, -1]  # the status holds codes, which have no mean
        yield channels
