"""OME-Zarr 0.5: the score map with the channels and levels of the OME-TIFF, for tools that read zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import wsivit
from wsivit.errors import OutputExistsError
from wsivit.heatmap.heatmap_data import HeatmapData
from wsivit.heatmap.ome_tiff import physical_frame, pyramid, score_channels
from wsivit.io import replacing

_CHUNK = 256


def write_ome_zarr(data: HeatmapData, path: Path) -> None:
    """Write all channels of a run as an image pyramid with exact scale and translation.

    As in the OME-TIFF, the first pixel of the slide has its centre at 0.

    Raises
    ------
    OutputExistsError
        If the folder exists and is not such an export: a tile store is a ``.zarr`` too.
    """
    import zarr

    if path.exists() and not _is_score_export(path):
        raise OutputExistsError(f"{path} exists and is not an export of scores; choose another name")
    names, channels = score_channels(data)
    levels = list(pyramid(channels))
    with replacing(path, folder=True) as temporary:
        about = {"kind": "scores", "version": wsivit.__version__, **data.facts}
        attributes = {"ome": _metadata(data, names, len(levels)), "wsivit": about}
        group = zarr.create_group(temporary, zarr_format=3, attributes=attributes)
        for depth, level in enumerate(levels):
            group.create_array(
                str(depth),
                data=level,
                chunks=(1, min(_CHUNK, level.shape[1]), min(_CHUNK, level.shape[2])),
                dimension_names=("c", "y", "x"),
                fill_value=float("nan"),
            )


def _metadata(data: HeatmapData, names: list[str], levels: int) -> dict[str, Any]:
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = []
    for depth in range(levels):
        size, position = physical_frame(data.scores.downsample0, data.slide_mpp, depth)
        scale = {"type": "scale", "scale": [1.0, size[1], size[0]]}
        translation = {"type": "translation", "translation": [0.0, position[1], position[0]]}
        datasets.append({"path": str(depth), "coordinateTransformations": [scale, translation]})
    multiscale = {"name": f"{data.slide_id} {data.run}", "axes": axes, "datasets": datasets, "type": "mean"}
    return {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": _channels(data, names)}}


def _channels(data: HeatmapData, names: list[str]) -> list[dict[str, Any]]:
    """Display settings of the channels: each class in its colour from 0 to 1, the main one switched on."""
    colors = ["{:02X}{:02X}{:02X}".format(*rgb) for rgb in data.class_colors] + ["FFFFFF"] * 3
    tops = [1] * (len(names) - 1) + [255]
    return [
        {
            "label": name,
            "color": colour,
            "active": k == data.main_class,
            "window": {"min": 0, "max": top, "start": 0, "end": top},
        }
        for k, (name, colour, top) in enumerate(zip(names, colors, tops, strict=True))
    ]


def _is_score_export(path: Path) -> bool:
    try:
        document = json.loads((path / "zarr.json").read_bytes())
        return bool(document["attributes"]["wsivit"]["kind"] == "scores")
    except (OSError, ValueError, KeyError, TypeError):
        return False
