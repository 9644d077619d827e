"""The score grid as an OME-TIFF pyramid: float32 channels per class, coverage, uncertainty and status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.aggregate import ScoreGrid
from wsivit.export.files import replacing
from wsivit.export.source import Heat

_TILE = 256
_SMALLEST = 256


def write_scores(heat: Heat, path: Path) -> Path:
    """Write all channels of a run at stride resolution, with half-size levels below where it is large.

    Pixel ``(i, j)`` covers level-0 pixels ``[j * step_x, (j + 1) * step_x)`` of the whole slide and the same along y.
    The physical size of a pixel is exact, and its position follows the rule that a slide's first pixel has its
    centre at 0: the first cell's centre is ``(step - 1) / 2`` level-0 pixels away from there.

    Returns
    -------
    Path
        `path`.
    """
    import tifffile

    names, channels = score_channels(heat)
    size, position = physical_frame(heat)
    metadata: dict[str, Any] = {
        "axes": "CYX",
        "Name": f"{heat.slide_id} {heat.run}",
        "Channel": {"Name": names},
        "PhysicalSizeX": size[0],
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": size[1],
        "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [position[0]] * len(names),
            "PositionXUnit": ["µm"] * len(names),
            "PositionY": [position[1]] * len(names),
            "PositionYUnit": ["µm"] * len(names),
        },
    }
    levels = list(pyramid(channels))
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, ome=True, bigtiff=False) as tiff:
        for depth, level in enumerate(levels):
            tiff.write(
                level,
                tile=(_TILE, _TILE),
                compression="zlib",
                predictor=True,
                photometric="minisblack",
                resolution=(1e4 / (size[0] * 2**depth), 1e4 / (size[1] * 2**depth)),
                resolutionunit="CENTIMETER",
                subifds=len(levels) - 1 if depth == 0 else None,
                subfiletype=1 if depth else 0,
                metadata=metadata if depth == 0 else None,
            )
    return path


def score_channels(heat: Heat) -> tuple[list[str], NDArray[np.float32]]:
    """All bands of the score grid, float32 (classes + 3, h, w), and their names."""
    scores: ScoreGrid = heat.scores
    bands = [*np.moveaxis(scores.scores, -1, 0), scores.coverage, scores.uncertainty, scores.status]
    return [*heat.classes, "coverage", "uncertainty", "status"], np.stack(bands).astype(np.float32)


def physical_frame(heat: Heat) -> tuple[tuple[float, float], tuple[float, float]]:
    """Size of a cell in microns, and where the centre of the first one lies from that of the slide's first pixel."""
    steps = heat.scores.downsample0
    size_x, size_y = (step * mpp for step, mpp in zip(steps, heat.slide_mpp, strict=True))
    x, y = (
        (origin + (step - 1) / 2) * mpp
        for origin, step, mpp in zip(heat.scores.origin0, steps, heat.slide_mpp, strict=True)
    )
    return (size_x, size_y), (x, y)


def pyramid(channels: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the channels (c, h, w), then each level halved, until it fits a tile.

    Means leave out what is NaN. The last channel holds codes and is taken, not averaged.
    """
    yield channels
    while max(channels.shape[1:]) > _SMALLEST:
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
