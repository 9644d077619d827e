"""How a scale is reached: from which level, at which decoding fraction, with what resampling. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsivit.errors import ScaleError
from wsivit.slide.scale import ANISOTROPIC, SlideScale, apart

Downscale: TypeAlias = Literal["dct", "area"]

# A decoder's reduction must leave the resampler so many pixels per target pixel: with fewer, what the decoder has
# averaged away is missed.
_SPARE = 1.5


@dataclass(frozen=True)
class Level:
    """One resolution of a slide's pyramid.

    Attributes
    ----------
    width, height : int
    downsample_x, downsample_y : float
        Level-0 pixels per pixel of this level: the exact ratio of the sizes.
    tile_width, tile_height : int or None
        The file's own tiles, where it has them.
    compression : str or None
        Name of the compression of its tiles, e.g. ``"jpeg"``.
    reductions : tuple of int
        Fractions ``1 / r`` at which its tiles can be decoded or averaged at once.
    centred : bool
        Whether a pixel so reduced lies in the middle of those it stands for, as in JPEG; else it lies on the first of
        them, as in JPEG 2000, and is only used where a resampler can put that right.
    """

    width: int
    height: int
    downsample_x: float
    downsample_y: float
    tile_width: int | None = None
    tile_height: int | None = None
    compression: str | None = None
    reductions: tuple[int, ...] = (1,)
    centred: bool = True


@dataclass(frozen=True)
class ReadPlan:
    """How a slide is brought to one scale: which level, decoded at which fraction, resampled by how much.

    Attributes
    ----------
    requested_mpp : float
    mpp_x, mpp_y : float
        What the pixels really are; differs from the request within the tolerance when a level is used as it is.
    level : int
    reduce : int
        1, 2, 4 or 8: the level is decoded at ``1 / reduce`` (in the DCT domain for JPEG, by wavelet levels for
        JPEG 2000, by averaging squares of pixels for all others).
    residual_x, residual_y : float
        Pixels of the reduced level per target pixel; exactly 1.0 where nothing is resampled.
    downsample_x, downsample_y : float
        Level-0 pixels per target pixel.
    width, height : int
        The complete slide in target pixels: the target plane.
    downscale : {"dct", "area"}
        Whether the decoder and a filter reduce, or every pixel is decoded and averaged by exact area.
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
    downscale: Downscale = "dct"

    @property
    def resampled(self) -> bool:
        """Whether pixels are interpolated after decoding."""
        return (self.residual_x, self.residual_y) != (1.0, 1.0)

    @property
    def native(self) -> bool:
        """Whether the target plane is a level of the slide as it is."""
        return self.reduce == 1 and not self.resampled


def plan_read(
    mpp: float,
    scale: SlideScale,
    levels: Sequence[Level],
    *,
    tolerance: float = 0.02,
    downscale: Downscale = "dct",
) -> ReadPlan:
    """Decide from which level, at which decoding fraction and with what resampling a scale is reached.

    A level (or a level decoded at 1/2, 1/4, 1/8) within the tolerance is used as it is, the level before the
    fraction. Otherwise the coarsest that is still finer than the request is resampled by area; a fraction only where it
    is 1.5 times finer or more. Pixels are then within 0.01 pixels of their place, and differ from the exact area
    average of the level by 0.4 grey levels on average on dense tissue; by up to 2 where 1/2 is resampled further, by up
    to 3 where 1/4 is, by up to 4 (and 0.02 pixels) where 1/8 is. ``downscale="area"`` never decodes a fraction.

    Parameters
    ----------
    mpp : float
        The scale wanted, in microns per pixel.
    scale : SlideScale
    levels : sequence of Level
        Finest first.
    tolerance : float, optional
        Relative deviation within which nothing is resampled; 0 forces the exact scale.
    downscale : {"dct", "area"}, optional
        Whether decoders may reduce, or every pixel is decoded and averaged by area.

    Raises
    ------
    ScaleError
        If `mpp` is finer than the slide (beyond the tolerance), or not a positive number.
    """
    if not (math.isfinite(mpp) and mpp > 0):
        raise ScaleError(f"the scale wanted must be a positive number of microns per pixel, not {mpp}")
    wanted = (mpp / scale.mpp_x, mpp / scale.mpp_y)
    if min(wanted) < 1 - max(tolerance, 1e-6):
        raise ScaleError(
            f"{mpp:g} microns per pixel is finer than the slide itself ({scale.mpp_x:.4g} x {scale.mpp_y:.4g}); "
            "nothing is upsampled: ask for that or a coarser scale"
        )
    mpp0 = (scale.mpp_x, scale.mpp_y)
    return plan_downsample(wanted, levels, tolerance=tolerance, downscale=downscale, mpp=mpp, mpp0=mpp0)


def plan_downsample(
    wanted: tuple[float, float],
    levels: Sequence[Level],
    *,
    tolerance: float,
    downscale: Downscale = "dct",
    mpp: float = 0.0,
    mpp0: tuple[float, float] = (0.0, 0.0),
) -> ReadPlan:
    """`plan_read` for level-0 pixels per target pixel, ``(x, y)``; scales that are not known are recorded as 0."""
    options = [
        (index, reduce, (level.downsample_x * reduce, level.downsample_y * reduce))
        for index, level in enumerate(levels)
        for reduce in (level.reductions if downscale == "dct" else (1,))
    ]
    near = []
    for index, reduce, have in options:
        ratio = (have[0] / wanted[0], have[1] / wanted[1])
        # Used as it is only where pixels also keep their aspect within a percent and lie in their middle.
        if (
            apart(have, wanted) <= 1 + max(tolerance, 1e-9)
            and max(ratio) / min(ratio) <= ANISOTROPIC
            and (reduce == 1 or levels[index].centred)
        ):
            near.append((index, reduce, have))
    if near:
        index, reduce, have = min(near, key=lambda o: (o[1], apart(o[2], wanted)))
        wanted = have
        width, height = levels[index].width // reduce, levels[index].height // reduce
    else:
        # The coarsest that is no coarser than wanted; of nearly equal ones the least reduced.
        finer = [
            (index, reduce, have)
            for index, reduce, have in options
            if all(w / h >= (_SPARE if reduce > 1 else 1 - 1e-9) for w, h in zip(wanted, have, strict=True))
        ]
        coarsest = max((math.prod(have) for _, _, have in finer), default=0.0)
        finer = [option for option in finer if math.prod(option[2]) > 0.95 * coarsest]
        index, reduce, have = min(finer, key=lambda o: o[1]) if finer else options[0]
        # Target pixels that lie inside the slide: the last part of one is not invented.
        width, height = (int(n / d + 1e-6) for n, d in zip((levels[0].width, levels[0].height), wanted, strict=True))
    residual = (wanted[0] / have[0], wanted[1] / have[1])
    effective = (wanted[0] * mpp0[0], wanted[1] * mpp0[1])
    return ReadPlan(mpp, *effective, index, reduce, *residual, *wanted, max(1, width), max(1, height), downscale)
