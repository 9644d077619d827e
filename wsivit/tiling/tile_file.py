"""Tiles as another tool has them: where each is, how large, and what an encoder made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STAMP_BLOCK = 1024


@dataclass(frozen=True)
class TileFile:
    """The tiles of another tool's file. What it does not say is None.

    Attributes
    ----------
    form : str
        The tool and layout.
    xy : ndarray of float64, (n, 2)
        Top-left corners, in level-0 pixels; in microns where `microns` is set.
    side0 : float or None
        Side of a tile, in level-0 pixels, or in microns as `xy`.
    tile_size, overlap : int or None
        In pixels of the tiles' own scale.
    mpp : float or None
        Microns per pixel of the tiles, where the file has the exact value.
    step0 : float or None
        Distance of neighbouring tiles, in level-0 pixels.
    slide_size : (int, int) or None
        Width and height of level 0.
    tissue_fraction : ndarray of float32, (n,), or None
    microns : bool
        Whether places are in microns, from the corner of the slide.
    rounded : float
        Level-0 pixels by which the tool's rounding may put a place beside the tile's own.
    features : dict of str to ndarray, (n, d)
        One vector per tile, by the name that the tool has for its encoder; empty where it does not name it.
    facts : dict
        What else is known of the features: checksum of the weights, fingerprint.
    file, sha256 : str
        Name and content of the file.
    """

    form: str
    xy: NDArray[np.float64]
    side0: float | None = None
    tile_size: int | None = None
    overlap: int | None = None
    mpp: float | None = None
    step0: float | None = None
    slide_size: tuple[int, int] | None = None
    tissue_fraction: NDArray[np.float32] | None = None
    microns: bool = False
    rounded: float = 1.0
    features: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"coordinates are {self.xy.shape}, not (n, 2)")
        if not np.isfinite(self.xy).all():
            raise ValueError("not all coordinates are numbers")
        if self.tissue_fraction is not None and self.tissue_fraction.shape != (len(self.xy),):
            raise ValueError(f"{self.tissue_fraction.shape} tissue fractions for {len(self.xy)} tiles")
        if self.side0 is not None and not (math.isfinite(self.side0) and self.side0 >= 1):
            raise ValueError(f"tiles of {self.side0} pixels")
        if self.side0 is not None and self.step0 is not None and not 1 <= self.step0 <= self.side0:
            raise ValueError(f"tiles of {self.side0:g} pixels that are {self.step0:g} apart")
        for values in self.features.values():
            if values.ndim != 2 or len(values) != len(self.xy):
                raise ValueError(f"features are {values.shape} for {len(self.xy)} tiles")

    def in_pixels(self, slide_mpp: tuple[float, float]) -> TileFile:
        """Return the same with places in level-0 pixels of a slide of that scale."""
        if not self.microns:
            return self
        side0 = None if self.side0 is None else self.side0 / slide_mpp[0]
        # STAMP reads blocks of about this many pixels and counts the tiles of each with a side that is not rounded.
        in_block = 1.0 if side0 is None else _STAMP_BLOCK // side0
        rounded = max(self.rounded, in_block - 1)
        return replace(self, xy=self.xy / slide_mpp, side0=side0, microns=False, rounded=rounded)
