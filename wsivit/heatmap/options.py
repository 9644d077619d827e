"""What can be exported, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsivit.errors import UsageError
from wsivit.heatmap.score_map import Window
from wsivit.heatmap.slide_score import check_threshold

Form: TypeAlias = Literal[
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
    "tissue",
]


@dataclass(frozen=True)
class HeatmapOptions:
    """How predictions are stitched, drawn and cut into regions.

    Parameters
    ----------
    class_name : str, optional
        The class to show. Left out: of two classes the one that is not called "normal" or the like, else the
        last; of three and more, all of them (the picture is then a map of the most probable class).
    threshold : float
        Probability from which tissue belongs to a region: the line in the picture, the regions for QuPath.
    cmap : str
        A colormap of matplotlib. The default is even to the eye and neutral at 0.5.
    alpha : float
        Opacity of the colours, 0 to 1.
    vmin : float
        Probability at the lower end of the colours.
    vmax : float
        Probability at their upper end.
    size : int
        Longer side of the slide in the picture, in pixels.
    interpolation : {"linear", "nearest"}
        Colours run smoothly between the centres of tiles, or each tile has one colour.
    window : {"hann", "uniform", "max"}
        How overlapping tiles are blended.
    smoothing : float
        Standard deviation of a Gaussian over the score grid, in microns. 0 for none; noted in every export.
    encoder : str, optional
        Whose features go into an ``h5``; may be left out where the store has those of one encoder only.
    """

    class_name: str | None = None
    threshold: float = 0.5
    cmap: str = "coolwarm"
    alpha: float = 0.5
    vmin: float = 0.0
    vmax: float = 1.0
    size: int = 1800
    interpolation: Literal["linear", "nearest"] = "linear"
    window: Window = "hann"
    smoothing: float = 0.0
    encoder: str | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha must be between 0 and 1, not {self.alpha}")
        if not 0 <= self.vmin < self.vmax <= 1:
            raise UsageError(f"vmin must be below vmax, both between 0 and 1, not {self.vmin} and {self.vmax}")
        if not 200 <= self.size <= 20_000:
            raise UsageError(f"the size of a picture must be from 200 to 20000 pixels, not {self.size}")
        if self.interpolation not in ("linear", "nearest"):
            raise UsageError(f"interpolation must be linear or nearest, not {self.interpolation!r}")
