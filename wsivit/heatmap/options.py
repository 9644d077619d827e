"""Options of the verbs that read predictions: which class, how tiles are blended, how pictures look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from wsivit.errors import UsageError
from wsivit.heatmap.colors import CMAP
from wsivit.heatmap.score_map import Window
from wsivit.ranges import Fraction, NonNegative, Range, check_options

Format: TypeAlias = Literal[
    "png",
    "argmax",
    "side-by-side",
    "uncertainty",
    "contact",
    "geojson",
    "regions",
    "ome-tiff",
    "overlay",
    "ome-zarr",
    "csv",
    "h5",
    "stamp",
    "pt",
    "parquet",
    "h5ad",
    "tissue",
]
"""Export formats; `wsivit.heatmap.export.export_formats` has one entry for each."""


@dataclass(frozen=True)
class StitchOptions:
    """Which class is meant, from which probability on, and how tiles are blended.

    Parameters
    ----------
    class_name : str, optional
        Class to show. Default: of two classes the one that is not called "normal" or the like; of three and more,
        all of them (the picture is then a map of the most probable class).
    threshold : float
        Probability from which tissue belongs to a region: contour line, QuPath regions, area fraction.
    window : {"hann", "uniform", "max"}
        How overlapping tiles are blended.
    smoothing : float
        Standard deviation in microns of a Gaussian over the score map. 0 for none; recorded in every output.
    """

    class_name: str | None = None
    threshold: Fraction = 0.5
    window: Window = "hann"
    smoothing: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class HeatmapOptions(StitchOptions):
    """How predictions are stitched, drawn and exported.

    Parameters
    ----------
    cmap : str
        A matplotlib colormap. The default is perceptually even and neutral at 0.5.
    alpha : float
        Opacity of the colours, 0 to 1.
    vmin : float
        Probability at the lower end of the colours.
    vmax : float
        Probability at their upper end.
    size : int
        Longer side of the slide in the picture, in pixels.
    interpolation : {"linear", "nearest"}
        Interpolate between tile centres, or draw each tile in one colour.
    encoder : str, optional
        Encoder whose features are exported; required only if the store has features of several.
    hatch_trained : bool
        Hatch the tiles that the model learned from.
    """

    cmap: str = CMAP
    alpha: Fraction = 0.5
    vmin: Fraction = 0.0
    vmax: Fraction = 1.0
    size: Annotated[int, Range(200, 20_000)] = 1800
    interpolation: Literal["linear", "nearest"] = "linear"
    encoder: str | None = None
    hatch_trained: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vmin >= self.vmax:
            raise UsageError(f"vmin must be below vmax, not {self.vmin} and {self.vmax}")
