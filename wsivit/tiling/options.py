"""How a slide is tiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from wsivit.ranges import Fraction, Mpp, Overlap, Range, TileSize, check_options
from wsivit.slide import Edge

Codec: TypeAlias = Literal["jpeg", "zstd", "none"]


@dataclass(frozen=True)
class TileOptions:
    """How a slide is tiled.

    Parameters
    ----------
    mpp : float
        Scale of the tiles, in microns per pixel.
    tile_size : int
        Side of a tile, in pixels at that scale.
    overlap : int
        Pixels that neighbouring tiles share.
    min_tissue : float
        Smallest fraction of a tile that must be tissue, 0 to 1. 0 keeps every tile.
    max_pen : float
        Largest fraction of a tile that may be pen ink, 0 to 1. 1, here and below, leaves it to training: the fractions
        are in the store under ``qc`` either way.
    max_blur : float
        Largest blur of a tile, judged at its own scale against the slide's sharp tissue: above 0.5 it is out of focus
        by a pixel and a half or more. Below 1, tiles are read once more, before they are chosen.
    max_fold : float
        Largest fraction of a tile that may be folded.
    max_fat : float
        Largest fraction of a tile that may be fat.
    tissue : str
        How tissue is found: ``auto``, ``otsu`` (saturation), ``none`` (everything is tissue), or the path of a
        GeoJSON or mask image of your own. In an image all that is neither 0 (black) nor transparent is tissue;
        ``mask.png:1,2`` chooses the labels 1 and 2.
    edge : {"pad", "drop"}
        Tiles that reach past the slide are padded with background (and say so in ``status``), or left out.
    codec : {"jpeg", "zstd", "none"}
        How pixels are kept. ``jpeg`` copies the slide's own compressed tiles where scale and grid allow it; ``zstd`` is
        lossless; ``none`` keeps coordinates only and reads pixels from the slide when they are needed.
    quality : int
        JPEG quality (4:4:4) of tiles that have to be encoded again, 1 to 100.
    mpp_tolerance : float
        Use a level as it is when its scale is within this fraction of the one asked for; 0 forces exact resampling.
    downscale : {"dct", "area"}
        Halve inside the JPEG decoder (fast), or decode in full and average (exact).
    sha256 : str, optional
        Before anything else compare the slide's bytes with this checksum (64 hex digits, or a file as ``sha256sum``
        writes it), or, with ``record``, only compute it. It is kept in the store. Nothing else shows every damage: of
        bit-damaged JPEG tiles about a fifth decode without complaint.
    """

    mpp: Mpp = 0.5
    tile_size: TileSize = 256
    overlap: Overlap = 0
    min_tissue: Fraction = 0.5
    max_pen: Fraction = 1.0
    max_blur: Fraction = 1.0
    max_fold: Fraction = 1.0
    max_fat: Fraction = 1.0
    tissue: str = "auto"
    edge: Edge = "pad"
    codec: Codec = "jpeg"
    quality: Annotated[int, Range(1, 100)] = 90
    mpp_tolerance: Fraction = 0.02
    downscale: Literal["dct", "area"] = "dct"
    sha256: str | None = None

    def __post_init__(self) -> None:
        # Here and not where they are used: wrong use ends before a slide is opened.
        check_options(self)

    def limits(self) -> dict[str, float]:
        """How much of a tile may be what, by the name in ``qc``."""
        return {"pen": self.max_pen, "blur": self.max_blur, "fold": self.max_fold, "fat": self.max_fat}
