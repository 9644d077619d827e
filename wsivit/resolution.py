"""Microns per pixel: reading it from every source, agreeing on one, and planning how to reach another. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsivit.errors import ScaleError

Confidence: TypeAlias = Literal["given", "high", "medium", "low"]
Downscale: TypeAlias = Literal["dct", "area"]

MPP_RANGE = (0.05, 20.0)
"""Microns per level-0 pixel that a slide scanner can mean; anything else is taken for a wrong or lost unit."""

_DISAGREE = 1.10
_ANISOTROPIC = 1.01
_SPARE = 1.5


@dataclass(frozen=True)
class ScaleSource:
    """One place in a slide that speaks of its scale.

    Attributes
    ----------
    name : str
        Where it was read, e.g. ``"aperio.MPP"`` or ``"tiff.Resolution"``.
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
        Fractions ``1 / r`` at which its tiles can be decoded at once.
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


# --- sources: name -> (key of x, key of y) of the slide's properties, in order of trust

_SIZES = {
    "aperio.MPP": ("aperio.MPP", "aperio.MPP"),
    "ome.PhysicalSize": ("ome.PhysicalSizeX", "ome.PhysicalSizeY"),
    "dicom.PixelSpacing": (
        "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[1]",
        "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]",
    ),
    "openslide.mpp": ("openslide.mpp-x", "openslide.mpp-y"),
    "tiffslide.mpp": ("tiffslide.mpp-x", "tiffslide.mpp-y"),
    "tiff.Resolution": ("tiff.XResolution", "tiff.YResolution"),
}
_POWERS = {
    "aperio.AppMag": "aperio.AppMag",
    "hamamatsu.SourceLens": "hamamatsu.SourceLens",
    "openslide.objective-power": "openslide.objective-power",
    "tiffslide.objective-power": "tiffslide.objective-power",
}
_VENDOR_STATES = ("aperio.MPP", "ome.PhysicalSize", "dicom.PixelSpacing")
_MICRONS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_INCHES_AND_CENTIMETERS = {"inch": 25400.0, "2": 25400.0, "centimeter": 10000.0, "3": 10000.0}
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")


def scale_sources(properties: Mapping[str, str]) -> tuple[ScaleSource, ...]:
    """Read every place of a slide's properties that speaks of its scale.

    Parameters
    ----------
    properties : mapping of str to str
        Named as OpenSlide names them, with ``tiff.XResolution``, ``ome.PhysicalSizeX`` and the like added.

    Returns
    -------
    tuple of ScaleSource
        In order of trust. An objective's power stands for ``10 / power`` microns, only ever to compare with.
    """
    found = [
        _size_source(name, properties, keys) for name, keys in _SIZES.items() if any(key in properties for key in keys)
    ]
    found += [_power_source(name, properties[key]) for name, key in _POWERS.items() if key in properties]
    return tuple(found)


def _size_source(name: str, properties: Mapping[str, str], keys: tuple[str, str]) -> ScaleSource:
    texts = [properties.get(key, "") for key in keys]
    x, y = (_microns(name, text, axis, properties) for text, axis in zip(texts, "XY", strict=True))
    seen = " x ".join(repr(text[:40]) for text in dict.fromkeys(texts))
    if name == "tiff.Resolution":
        seen += f" per {properties.get('tiff.ResolutionUnit', 'unknown unit')}"
    problem = _problem(x, y)
    if problem:
        return ScaleSource(name, None, None, f"{seen}: {problem}")
    return ScaleSource(name, x, y)


def _power_source(name: str, text: str) -> ScaleSource:
    power = _number(text)
    if power is None or not 0.5 <= power <= 200:
        return ScaleSource(name, None, None, f"{text[:40]!r}: not a magnification")
    return ScaleSource(name, 10 / power, 10 / power, f"objective {power:g}x: nominal, never used as the scale")


def _number(text: str) -> float | None:
    """A plain decimal number; None for anything else (words, nan, inf, hexadecimal, nothing)."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    return float(text.replace(",", "."))


def _microns(name: str, text: str, axis: str, properties: Mapping[str, str]) -> float | None:
    value = _number(text)
    if value is None:
        return None
    if name == "tiff.Resolution":
        per_unit = _INCHES_AND_CENTIMETERS.get(properties.get("tiff.ResolutionUnit", "").lower())
        return per_unit / value if per_unit and value else None
    if name == "ome.PhysicalSize":
        factor = _MICRONS.get(properties.get(f"ome.PhysicalSize{axis}Unit", "µm"))
        return value * factor if factor else None
    return value * 1000 if name == "dicom.PixelSpacing" else value


def _problem(x: float | None, y: float | None) -> str:
    if x is None or y is None:
        return "not a length per pixel"
    low, high = MPP_RANGE
    if not (low <= x <= high and low <= y <= high):
        return f"{x:.4g} x {y:.4g} microns per pixel is outside {low:g} to {high:g}"
    if max(x, y) / min(x, y) > _DISAGREE:
        return f"x ({x:.4g}) and y ({y:.4g}) differ by more than {_DISAGREE - 1:.0%}"
    return ""


# --- the verdict


def judge_scale(
    sources: Sequence[ScaleSource], *, given: float | None = None, vendor: str | None = None
) -> ScaleVerdict:
    """Choose one scale of all that a slide says of it, or refuse; never guess.

    Parameters
    ----------
    sources : sequence of ScaleSource
        As `scale_sources` gives them, in order of trust.
    given : float, optional
        The caller's own microns per pixel: taken before everything else, and compared with it.
    vendor : str, optional
        The slide's format. What OpenSlide says of a scanner's own format is trusted more than of a generic TIFF.

    Raises
    ------
    ScaleError
        If there is no usable source; the text names each one looked at. Or if `given` is not a positive number.
    """
    sources = tuple(sources)
    usable = [source for source in sources if source.mpp_x and source.name not in _POWERS]
    if given is not None:
        return _given(given, sources)
    if not usable:
        raise ScaleError(_refusal(sources))
    chosen = usable[0]
    assert chosen.mpp_x is not None and chosen.mpp_y is not None
    warnings = _warnings(chosen.mpp_x, chosen.mpp_y, chosen.name, sources)
    broken = [s.name for s in sources[: sources.index(chosen)] if s.mpp_x is None]
    confidence, reason = _confidence(chosen.name, vendor, broken, bool(warnings))
    return ScaleVerdict(chosen.mpp_x, chosen.mpp_y, chosen.name, confidence, reason, sources, warnings)


def _given(mpp: float, sources: tuple[ScaleSource, ...]) -> ScaleVerdict:
    if not (math.isfinite(mpp) and mpp > 0):
        raise ScaleError(f"the given scale must be a positive number of microns per pixel, not {mpp}")
    warnings = _warnings(mpp, mpp, "the given scale", sources)
    low, high = MPP_RANGE
    if not low <= mpp <= high:
        warnings += (f"the given scale, {mpp:g} microns per pixel, is outside {low:g} to {high:g}",)
    return ScaleVerdict(mpp, mpp, "given", "given", "given by the caller", sources, warnings)


def _confidence(name: str, vendor: str | None, broken: list[str], doubts: bool) -> tuple[Confidence, str]:
    if broken:
        return "low", f"{name} is plausible, but {', '.join(broken)} is there and unusable"
    if doubts:
        return "low", f"{name} is the best source, with doubts: see the warnings"
    if name in _VENDOR_STATES or (name == "openslide.mpp" and vendor not in (None, "generic-tiff")):
        return "high", f"stated by the scanner's own metadata ({name})"
    return "medium", f"plausible, and nothing contradicts it ({name})"


def _warnings(x: float, y: float, name: str, sources: Iterable[ScaleSource]) -> tuple[str, ...]:
    uneven = [f"{name}: x ({x:.4g}) and y ({y:.4g}) differ; each is resampled on its own"]
    others = [
        f"{name} says {x:.4g} x {y:.4g}, {other.name} {other.mpp_x:.4g} x {other.mpp_y:.4g} microns"
        for other in sources
        if other.mpp_x and other.mpp_y and _apart((x, y), (other.mpp_x, other.mpp_y)) > _DISAGREE
    ]
    return tuple((uneven if max(x, y) / min(x, y) > _ANISOTROPIC else []) + others)


def _apart(a: tuple[float, float], b: tuple[float, float]) -> float:
    return max(max(p, q) / min(p, q) for p, q in zip(a, b, strict=True))


def _refusal(sources: Iterable[ScaleSource]) -> str:
    seen = [f"{source.name}: {source.note}" for source in sources]
    absent = sorted({*_SIZES, *_POWERS} - {source.name for source in sources})
    lines = "; ".join([*seen, f"absent: {', '.join(absent)}"])
    return f"no usable scale. Looked at {lines}. Give the microns per level-0 pixel with --slide-mpp"


# --- the plan


def plan_read(
    mpp: float,
    scale: ScaleVerdict,
    levels: Sequence[Level],
    *,
    tolerance: float = 0.02,
    downscale: Downscale = "dct",
) -> ReadPlan:
    """Decide from which level, at which decoding fraction and with what resampling a scale is reached.

    A level (or a level decoded at 1/2, 1/4, 1/8) within the tolerance is used as it is, the level before the
    fraction. Otherwise the coarsest that is still finer than the request is resampled; a fraction only where it is
    1.5 times finer or more. Against the area average of the level, pixels are then within 2.5 grey levels on average
    (1.7 without a fraction, 0.4 for a fraction as it is) and 0.01 pixels of their place on dense tissue.

    Parameters
    ----------
    mpp : float
        The scale wanted, in microns per pixel.
    scale : ScaleVerdict
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
    near = [
        (index, reduce, have)
        for index, reduce, have in options
        if _apart(have, wanted) <= 1 + max(tolerance, 1e-9)
        and _square(have, wanted)
        and (reduce == 1 or levels[index].centred)
    ]
    index, reduce, have = min(near, key=lambda o: (o[1], _apart(o[2], wanted))) if near else _finer(options, wanted)
    if near:
        wanted = have
        size = (max(1, levels[index].width // reduce), max(1, levels[index].height // reduce))
    else:
        size = _plane_size(levels[0], wanted)
    residual = (wanted[0] / have[0], wanted[1] / have[1])
    effective = (wanted[0] * mpp0[0], wanted[1] * mpp0[1])
    return ReadPlan(mpp, *effective, index, reduce, *residual, *wanted, *size, downscale)


_Option: TypeAlias = tuple[int, int, tuple[float, float]]


def _square(have: tuple[float, float], wanted: tuple[float, float]) -> bool:
    """Whether pixels keep their aspect within a percent when `have` stands in for `wanted`."""
    x, y = have[0] / wanted[0], have[1] / wanted[1]
    return max(x, y) / min(x, y) <= _ANISOTROPIC


def _finer(options: list[_Option], wanted: tuple[float, float]) -> _Option:
    """The coarsest of the options that are no coarser than wanted; of nearly equal ones the least reduced.

    A decoder's reduction must leave the resampler `_SPARE` pixels per target pixel: with fewer, what the decoder has
    averaged away is missed.
    """
    finer = [
        (index, reduce, have)
        for index, reduce, have in options
        if all(w / h >= (_SPARE if reduce > 1 else 1 - 1e-9) for w, h in zip(wanted, have, strict=True))
    ]
    if not finer:
        return options[0]
    coarsest = max(math.prod(o[2]) for o in finer)
    return min((o for o in finer if math.prod(o[2]) > 0.95 * coarsest), key=lambda o: o[1])


def _plane_size(level0: Level, downsample: tuple[float, float]) -> tuple[int, int]:
    """Whole target pixels that lie inside the slide (the last part of one is not invented), at least one."""
    width, height = (int(n / d + 1e-6) for n, d in zip((level0.width, level0.height), downsample, strict=True))
    return max(1, width), max(1, height)
