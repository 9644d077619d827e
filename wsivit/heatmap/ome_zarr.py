"""The score grid as OME-Zarr 0.5: the channels and levels of the OME-TIFF, for tools that read zarr."""

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


def write_ome_zarr(heat: HeatmapData, path: Path) -> None:
    """Write all channels of a run as an image pyramid with exact scale and translation.

    As in the OME-TIFF, the first pixel of the slide has its centre at 0.

    Raises
    ------
    OutputExistsError
        If a folder is there that is not such an export: a tile store is a ``.zarr`` too.
    """
    import zarr

    if path.exists() and not _is_ours(path):
        raise OutputExistsError(f"{path} is there and is no export of scores; give another name")
    names, channels = score_channels(heat)
    levels = list(pyramid(channels))
    with replacing(path, folder=True) as temporary:
        attributes = {"ome": _metadata(heat, names, len(levels)), "wsivit": _about(heat)}
        group = zarr.create_group(temporary, zarr_format=3, attributes=attributes)
        for depth, level in enumerate(levels):
            group.create_array(
                str(depth),
                data=level,
                chunks=(1, min(_CHUNK, level.shape[1]), min(_CHUNK, level.shape[2])),
                dimension_names=("c", "y", "x"),
                fill_value=float("nan"),
            )


def _metadata(heat: HeatmapData, names: list[str], levels: int) -> dict[str, Any]:
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = []
    for depth in range(levels):
        size, position = physical_frame(heat.scores.downsample0, heat.slide_mpp, depth)
        scale = {"type": "scale", "scale": [1.0, size[1], size[0]]}
        translation = {"type": "translation", "translation": [0.0, position[1], position[0]]}
        datasets.append({"path": str(depth), "coordinateTransformations": [scale, translation]})
    multiscale = {"name": f"{heat.slide_id} {heat.run}", "axes": axes, "datasets": datasets, "type": "mean"}
    return {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": _channels(heat, names)}}


def _channels(heat: HeatmapData, names: list[str]) -> list[dict[str, Any]]:
    """How viewers show the channels: each class in its colour from 0 to 1, the main one switched on."""
    colours = ["{:02X}{:02X}{:02X}".format(*rgb) for rgb in heat.colours] + ["FFFFFF"] * 3
    tops = [1] * (len(names) - 1) + [255]
    return [
        {
            "label": name,
            "color": colour,
            "active": k == heat.main_class,
            "window": {"min": 0, "max": top, "start": 0, "end": top},
        }
        for k, (name, colour, top) in enumerate(zip(names, colours, tops, strict=True))
    ]


def _about(heat: HeatmapData) -> dict[str, Any]:
    return {"kind": "scores", "version": wsivit.__version__, **heat.facts}


def _is_ours(path: Path) -> bool:
    try:
        document = json.loads((path / "zarr.json").read_bytes())
        return bool(document["attributes"]["wsivit"]["kind"] == "scores")
    except (OSError, ValueError, KeyError, TypeError):
        return False
