"""Options of the verbs that read predictions: which class, how tiles are blended, how pictures look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsivit.errors import UsageError
from wsivit.heatmap.colors import CMAP
from wsivit.heatmap.score_map import Window

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
    threshold: float = 0.5
    window: Window = "hann"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_threshold(self.threshold)


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
    alpha: float = 0.5
    vmin: float = 0.0
    vmax: float = 1.0
    size: int = 1800
    interpolation: Literal["linear", "nearest"] = "linear"
    encoder: str | None = None
    hatch_trained: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha must be between 0 and 1, not {self.alpha}")
        if not 0 <= self.vmin < self.vmax <= 1:
            raise UsageError(f"vmin must be below vmax, both between 0 and 1, not {self.vmin} and {self.vmax}")
        if not 200 <= self.size <= 20_000:
            raise UsageError(f"the size of a picture must be from 200 to 20000 pixels, not {self.size}")
        if self.interpolation not in ("linear", "nearest"):
            raise UsageError(f"interpolation must be linear or nearest, not {self.interpolation!r}")


def check_threshold(threshold: float) -> None:
    """Raise UsageError unless `threshold` is a probability."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is a probability and must be in [0, 1], not {threshold}")
