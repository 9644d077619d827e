"""Microns per pixel: reading it from every source, agreeing on one, and planning how to reach another. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Confidence: TypeAlias = Literal["given", "high", "medium", "low"]


@dataclass(frozen=True)
class ScaleSource:
    """One place in a slide that speaks of its scale.

    Attributes
    ----------
    name : str
        Where it was read, e.g. ``"aperio.MPP"`` or ``"tiff.XResolution"``.
    mpp_x, mpp_y : float or None
        Microns per level-0 pixel; None where the source is there but says nothing usable.
    note : str
        What was seen, in words, when it could not be used or was judged.
    """

    name: str
    mpp_x: float | None
    mpp_y: float | None
    note: str = ""


@dataclass(frozen=True)
class ScaleVerdict:
    """The scale that was chosen, why, and everything that was looked at.

    Attributes
    ----------
    mpp_x, mpp_y : float
        Microns per level-0 pixel.
    source : str
        Name of the chosen source; ``"given"`` when the caller supplied it.
    confidence : {"given", "high", "medium", "low"}
    reason : str
    sources : tuple of ScaleSource
    warnings : tuple of str
    """

    mpp_x: float
    mpp_y: float
    source: str
    confidence: Confidence
    reason: str
    sources: tuple[ScaleSource, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadPlan:
    """How the slide is brought to one scale: which level, decoded at which fraction, resampled by how much.

    Attributes
    ----------
    requested_mpp : float
    mpp_x, mpp_y : float
        What the pixels really are; differs from the request within the tolerance when a level is used as it is.
    level : int
    reduce : int
        1, 2, 4 or 8: the level is decoded at ``1 / reduce`` (DCT domain for JPEG, wavelet levels for JPEG 2000).
    residual_x, residual_y : float
        Pixels of the reduced level per target pixel; exactly 1.0 where nothing is resampled.
    downsample_x, downsample_y : float
        Level-0 pixels per target pixel.
    width, height : int
        The whole slide in target pixels: the target plane.
    """

    requested_mpp: float
    mpp_x: float
    mpp_y: float
    level: int
    reduce: int
    residual_x: float
    residual_y: float
    downsample_x: float
    downsample_y: float
    width: int
    height: int

    @property
    def resampled(self) -> bool:
        """Whether pixels are interpolated after decoding."""
        return (self.residual_x, self.residual_y) != (1.0, 1.0)

    @property
    def native(self) -> bool:
        """Whether the target plane is a level of the slide as it is."""
        return self.reduce == 1 and not self.resampled
