"""Where the real slides are, and small slides written on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

SLIDES = Path(os.environ.get("WSIVIT_SLIDES") or Path(__file__).parents[3] / "shared" / "slides")
"""Real slides; CONTRIBUTING.md says where they can be had."""
TOOLS = SLIDES.parent / "tools"
"""Makers of large and damaged slides."""


def tissue_picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Paint pink, textured tissue in an ellipse on white glass; uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    inside = ((x / width - 0.5) / 0.38) ** 2 + ((y / height - 0.5) / 0.36) ** 2 < 1
    picture = np.full((height, width, 3), 243, np.uint8)
    tissue = np.array([205, 140, 185]) + rng.normal(0, 18, (height, width, 1))
    picture[inside] = np.clip(tissue, 0, 255).astype(np.uint8)[inside]
    return picture


def write_slide(
    path: Path, picture: NDArray[np.uint8], *, mpp: float | None = 0.5, levels: int = 2, tile: int = 128
) -> Path:
    """Write a pyramidal tiled JPEG TIFF (YCbCr 4:2:0, halved per level) with its scale in the resolution tags."""
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        for level in range(levels):
            scale = {} if mpp is None else {"resolution": (1e4 / (mpp * 2**level),) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(
                picture[:: 2**level, :: 2**level],
                tile=(tile, tile),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": 90, "outcolorspace": "YCBCR"},
                subfiletype=1 if level else 0,
                metadata=None,
                **scale,
            )
    return path
