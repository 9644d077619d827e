"""The scale of a slide: read from every source in the file, checked, one chosen. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsivit.errors import ScaleError

Confidence: TypeAlias = Literal["given", "high", "medium", "low"]

MPP_RANGE = (0.05, 20.0)
"""Microns per level-0 pixel that a slide scanner can mean; anything else has a wrong or lost unit."""

MICRONS_AT_1X = 10.0
"""Microns per pixel at magnification 1, as other tools count: 40x is 0.25."""

ANISOTROPIC = 1.01
"""From this ratio of x and y on, pixels count as not square."""

_DISAGREE = 1.10


@dataclass(frozen=True)
class ScaleSource:
    """One place in a slide that states its scale.

    Attributes
    ----------
    name : str
        Where it was read, e.g. ``"aperio.MPP"`` or ``"tiff.Resolution"``.
    mpp_x, mpp_y : float or None
        Microns per level-0 pixel; None where the source is there but says nothing usable.
    note : str
        What stands there, where it is not usable or only nominal.
    """

    name: str
    mpp_x: float | None
    mpp_y: float | None
    note: str = ""


@dataclass(frozen=True)
class SlideScale:
    """The chosen scale, why, and every source.

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


# --- sources: name -> (key of x, key of y) of the slide's properties, in order of trust

_SIZES = {
    "aperio.MPP": ("aperio.MPP", "aperio.MPP"),
    "ome.PhysicalSize": ("ome.PhysicalSizeX", "ome.PhysicalSizeY"),
    "dicom.PixelSpacing": (
        "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[1]",
        "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]",
    ),
    "imagej.PixelSize": ("imagej.PixelSizeX", "imagej.PixelSizeY"),
    "openslide.mpp": ("openslide.mpp-x", "openslide.mpp-y"),
    "tiffslide.mpp": ("tiffslide.mpp-x", "tiffslide.mpp-y"),
    "tiff.Resolution": ("tiff.XResolution", "tiff.YResolution"),
}
_POWERS = ("aperio.AppMag", "hamamatsu.SourceLens", "openslide.objective-power", "tiffslide.objective-power")
_VENDOR_STATES = ("aperio.MPP", "ome.PhysicalSize", "dicom.PixelSpacing")
_MICRONS = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "thou": 25.4,
    "in": 25400.0,
    "inch": 25400.0,
}
_INCHES_AND_CENTIMETERS = {"inch": 25400.0, "2": 25400.0, "centimeter": 10000.0, "3": 10000.0}
_WORD = re.compile(r"[^\W\d_]+")
_HARMLESS = {*_MICRONS, "e", "x", "micron", "microns", "nan", "inf", "infinity", "none", "unknown", "true", "false"}
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")


def scale_sources(properties: Mapping[str, str]) -> tuple[ScaleSource, ...]:
    """Read every place of a slide's properties that states its scale.

    Parameters
    ----------
    properties : mapping of str to str
        Named as OpenSlide names them, with ``tiff.XResolution``, ``ome.PhysicalSizeX`` and the like added.

    Returns
    -------
    tuple of ScaleSource
        In order of trust. An objective's power stands for ``10 / power`` microns, only to compare with.
    """
    sources = []
    for name, keys in _SIZES.items():
        if not any(key in properties for key in keys):
            continue
        texts = [properties.get(key, "") for key in keys]
        x, y = (_microns(name, text, axis, properties) for text, axis in zip(texts, "XY", strict=True))
        problem = _problem(x, y)
        seen = " x ".join(_quoted(text) for text in dict.fromkeys(texts))
        units = {unit for axis in "XY" if (unit := properties.get(f"{name}{axis}Unit"))}
        if units - {"µm"}:
            seen += f" {' x '.join(map(_quoted, sorted(units)))}"
        if name == "tiff.Resolution":
            seen += f" per {properties.get('tiff.ResolutionUnit', 'unknown unit')}"
        sources.append(ScaleSource(name, None, None, f"{seen}: {problem}") if problem else ScaleSource(name, x, y))
    if "ome.problem" in properties:
        sources.append(ScaleSource("ome.PhysicalSize", None, None, properties["ome.problem"]))
    for name in _POWERS:
        text = properties.get(name)
        if text is None:
            continue
        power = _number(text)
        if power is not None and 0.5 <= power <= 200:
            note = f"objective {power:g}x: nominal, never used as the scale"
            sources.append(ScaleSource(name, MICRONS_AT_1X / power, MICRONS_AT_1X / power, note))
        else:
            sources.append(ScaleSource(name, None, None, f"{_quoted(text)}: not a magnification"))
    return tuple(sources)


def objective_power(sources: Iterable[ScaleSource]) -> float | None:
    """The nominal magnification, from the first source that states one."""
    powers = (MICRONS_AT_1X / source.mpp_x for source in sources if source.name in _POWERS and source.mpp_x)
    return next(powers, None)


def _quoted(text: str) -> str:
    """A text that may be reported: where a name stands instead of a number, it may be a patient's and is masked."""
    return repr(_WORD.sub(lambda word: word[0] if word[0].lower() in _HARMLESS else "…", text[:40]))


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
    if name in ("ome.PhysicalSize", "imagej.PixelSize"):
        factor = _MICRONS.get(properties.get(f"{name}{axis}Unit", "µm"))
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


# --- the choice


def resolve_scale(
    sources: Sequence[ScaleSource], *, given: float | None = None, vendor: str | None = None
) -> SlideScale:
    """Choose one of the scales that a slide states, or refuse; never guess.

    Parameters
    ----------
    sources : sequence of ScaleSource
        As `scale_sources` gives them, in order of trust.
    given : float, optional
        The caller's own microns per pixel: precedes every source, and is compared with them.
    vendor : str, optional
        The slide's format. What OpenSlide says of a scanner's own format is trusted more than of a generic TIFF.

    Raises
    ------
    ScaleError
        If there is no usable source; the text names each one looked at. Or if `given` is no number in `MPP_RANGE`.
    """
    sources = tuple(sources)
    low, high = MPP_RANGE
    if given is not None:
        if not (math.isfinite(given) and given > 0):
            raise ScaleError(f"the given scale must be a positive number of microns per pixel, not {given}")
        if not low <= given <= high:
            raise ScaleError(
                f"the given scale, {given:g} microns per pixel, is outside {low:g} to {high:g}: --slide-mpp is that of"
                " the slide's own pixels, in microns"
            )
        warnings = _warnings(given, given, "the given scale", sources)
        return SlideScale(given, given, "given", "given", "given by the caller", sources, warnings)

    chosen = next((source for source in sources if source.mpp_x and source.name not in _POWERS), None)
    if chosen is None or chosen.mpp_x is None or chosen.mpp_y is None:
        seen = [f"{source.name}: {source.note}" for source in sources]
        absent = sorted({*_SIZES, *_POWERS} - {source.name for source in sources})
        sources_text = "; ".join([*seen, f"{'nothing else' if seen else 'nothing'} in the file states it"])
        raise ScaleError(
            f"no usable scale: {sources_text} (looked for {', '.join(absent)}). Give the microns per level-0 pixel,"
            f" {low:g} to {high:g}, with --slide-mpp"
        )
    name, warnings = chosen.name, _warnings(chosen.mpp_x, chosen.mpp_y, chosen.name, sources)
    broken = [source.name for source in sources[: sources.index(chosen)] if source.mpp_x is None]
    confidence: Confidence = "medium"
    if broken:
        confidence, reason = "low", f"{name} is plausible, but {', '.join(broken)} is there and unusable"
    elif warnings:
        confidence, reason = "low", f"{name} is the best source, with doubts: see the warnings"
    elif name in _VENDOR_STATES or (name == "openslide.mpp" and vendor not in (None, "generic-tiff")):
        confidence, reason = "high", f"stated by the scanner's own metadata ({name})"
    else:
        reason = f"plausible, and nothing contradicts it ({name})"
    return SlideScale(chosen.mpp_x, chosen.mpp_y, name, confidence, reason, sources, warnings)


def _warnings(x: float, y: float, name: str, sources: Iterable[ScaleSource]) -> tuple[str, ...]:
    uneven = [f"{name}: x ({x:.4g}) and y ({y:.4g}) differ; each is resampled on its own"]
    others = [
        f"{name} says {x:.4g} x {y:.4g}, {other.name} {other.mpp_x:.4g} x {other.mpp_y:.4g} microns"
        for other in sources
        if other.mpp_x and other.mpp_y and apart((x, y), (other.mpp_x, other.mpp_y)) > _DISAGREE
    ]
    return tuple((uneven if max(x, y) / min(x, y) > ANISOTROPIC else []) + others)


def apart(a: tuple[float, float], b: tuple[float, float]) -> float:
    """By which factor two pairs differ most."""
    return max(max(p, q) / min(p, q) for p, q in zip(a, b, strict=True))


def round_length(longest_um: float) -> tuple[float, str]:
    """Return the largest 1, 2 or 5 times a power of ten within a length in microns, and its label: for scale bars."""
    power = 10.0 ** math.floor(math.log10(longest_um))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= longest_um)
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
