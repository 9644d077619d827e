"""The tissue of a slide from a low-power view: the default mask with its classes, and the named alternatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.errors import UsageError
from wsivit.tissue.focus import blurred
from wsivit.tissue.glass import Absorbance, absorbance
from wsivit.tissue.ink import ACHROMATIC, FAINT, Detail, Stain, find_ink, learn_stain, measure_detail
from wsivit.tissue.operations import (
    BoolMask,
    FloatImage,
    close_gaps,
    erode,
    fill_holes,
    open_up,
    otsu,
    pieces,
    smoothed,
    touched,
)

OVERVIEW_MPP = 8.0
"""The scale at which :func:`find_tissue` likes its overview; finer ones are reduced, up to 16 are as good."""
ASSUMED_UM = 8.0
ASSUMED_SIDE = 2048
FOLDED = 1.25  # times the depth of the tissue's deepest twentieth
DARK = 0.7  # and darker than this, or the portal tracts of a pale liver would be folds
BLACK_DEPTH = 2.0  # deeper, a camera sees no colour any more
SAMPLES = 200_000  # pixels are enough for a threshold

Method: TypeAlias = str | Callable[[NDArray[np.uint8], float | None], BoolMask]


class TissueClass(IntEnum):
    """What a pixel of the class map shows."""

    GLASS = 0
    TISSUE = 1
    FAT = 2
    PEN = 3
    FOLD = 4
    BLUR = 5
    DEBRIS = 6


@dataclass(frozen=True)
class Tissue:
    """Where the tissue of a slide is.

    Attributes
    ----------
    mask : bool ndarray, (h, w)
        Spans the complete slide; its scale is the slide's size over its shape.
    classes : uint8 ndarray, (h, w), or None
        A :class:`TissueClass` per pixel; None where the method knows no classes.
    parameters : dict
        Everything that determined the mask, plain values for JSON.
    """

    mask: BoolMask
    classes: NDArray[np.uint8] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AutoOptions:
    """Settings of the default mask; lengths in microns, areas in mm², densities in natural log."""

    finest_um: float = 8.0
    coarsest_um: float = 16.0
    max_pixels: int = 600_000  # work coarser than `finest_um` above this
    grain_um: float = 16.0  # over which density and texture are pooled
    fill: float = 0.35  # share of the grain that must be stained
    edge: float = 0.5  # share of the pooled density at which an outline lies
    film: float = 0.08  # paler than this, tissue must show texture
    min_piece_mm2: float = 0.02
    max_hole_mm2: float = 0.02
    min_width_um: float = 64.0


@dataclass(frozen=True)
class View:
    """A slide at the working scale of the default mask."""

    light: Absorbance
    detail: Detail
    threshold: float
    stained: BoolMask

    @property
    def um(self) -> float:
        """Microns per pixel."""
        return self.detail.um


def find_tissue(image: NDArray[np.uint8], mpp: float | None, method: Method = "auto") -> Tissue:
    """Find the tissue on a low-power view of a complete slide.

    Parameters
    ----------
    image : uint8 ndarray, (h, w, 3)
        The complete slide, best at 8 to 16 microns per pixel.
    mpp : float or None
        Microns per pixel of that image; None where it is unknown, for fallbacks in pixels.
    method : {"auto", "otsu", "none"} or callable
        ``auto`` judges optical density over the slide's own glass; ``otsu`` is Otsu's threshold on saturation;
        ``none`` takes everything. A callable gets ``(image, mpp)`` and returns a bool mask of the complete slide.

    Raises
    ------
    UsageError
        If the image or what a callable returns has another type or shape, or the method is unknown.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UsageError(f"a tissue mask needs a uint8 image (h, w, 3), not {image.dtype} {image.shape}")
    if callable(method):
        name = getattr(method, "__qualname__", type(method).__qualname__)
        mask = np.asarray(method(image, mpp))
        if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
            raise UsageError(f"tissue method {name} must return a bool mask (h, w), not {mask.dtype} {mask.shape}")
        return Tissue(mask, None, {"method": "callable", "name": name, "mpp": mpp})
    if method == "none":
        return Tissue(np.ones(image.shape[:2], np.bool_), None, {"method": "none"})
    if method == "otsu":
        from scipy.ndimage import median_filter

        saturation = median_filter(np.asarray(Image.fromarray(image).convert("HSV"))[..., 1], size=7)
        levels = int(np.ptp(saturation))
        threshold = int(otsu(saturation, levels + 1)) if levels else 255
        return Tissue(saturation > threshold, None, {"method": "otsu", "threshold": threshold, "mpp": mpp})
    if method == "auto":
        return find_auto(image, mpp, AutoOptions())
    raise UsageError(f"no tissue method {method!r}: choose auto, otsu, none, or give a callable")


def find_auto(image: NDArray[np.uint8], mpp: float | None, options: AutoOptions) -> Tissue:
    """Find tissue by density and texture over the slide's own glass, and set ink, dust and film apart."""
    if min(image.shape[:2]) >= 16:
        # The last row and column show what a decoder padded.
        image = image.copy()
        image[0], image[-1] = image[1], image[-2]
        image[:, 0], image[:, -1] = image[:, 1], image[:, -2]
    view = _look(*_working_view(image, mpp, options), options)
    solid = smoothed(view.stained, options.grain_um / view.um) > options.fill
    stain, ink, grey = None, np.zeros_like(solid), np.zeros_like(solid)
    if not view.light.dark_field:
        stain = learn_stain(view.detail, solid)
        ink = find_ink(view.detail, solid, stain)
        if stain is None or stain.chroma >= ACHROMATIC:
            # Dust, scratches, bubbles and coverslip edges have no colour, where the tissue has one.
            close = view.detail.close
            grey = (close.chroma() < (0.4 * stain.chroma if stain else ACHROMATIC)) & (close.depth < BLACK_DEPTH)
    mask = _clean(solid & ~ink & ~grey, view, stain, options)
    parameters = {
        "method": "auto",
        "mpp": mpp,
        **asdict(options),
        "working_um": round(view.um, 4),
        "glass": [round(level, 1) for level in view.light.glass],
        "dark_field": view.light.dark_field,
        "threshold": round(view.threshold, 5) if math.isfinite(view.threshold) else None,
    }
    return Tissue(mask, _classify(mask, ink, view, stain), parameters)


def _working_view(image: NDArray[np.uint8], mpp: float | None, options: AutoOptions) -> tuple[NDArray[np.uint8], float]:
    """Bring the view to its working scale by area averaging; never finer than it is."""
    height, width = image.shape[:2]
    if mpp is None:  # the lengths then mean pixels of a picture of at most this size
        um, factor = ASSUMED_UM, max(1.0, max(height, width) / ASSUMED_SIDE)
    else:
        crowded = mpp * (height * width / options.max_pixels) ** 0.5
        um = max(mpp, options.finest_um, min(crowded, options.coarsest_um))
        factor = um / mpp
    if factor <= 1.05:
        return image, um if mpp is None else mpp
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    work = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return work, um


def _look(work: NDArray[np.uint8], um: float, options: AutoOptions) -> View:
    """Measure density, contrast and what is stained, at `um` microns per pixel."""
    light = absorbance(work)
    red, green, blue = light.density
    squares = (red * red + green * green + blue * blue) / np.float32(3)
    # Root mean square: pale tissue with texture counts like denser tissue without.
    strength = np.sqrt(smoothed(squares, options.grain_um / um))
    if light.dark_field:
        threshold = otsu(strength) if np.ptp(strength) > 0 else np.inf
    else:
        threshold = _threshold(strength[~light.void])
    edge = np.maximum(np.float32(options.edge) * strength, np.float32(threshold / 2))
    stained = (strength > threshold) & (squares > edge * edge) & ~light.void
    detail = measure_detail(light, um)
    depth = np.maximum(detail.pooled.depth, FAINT)
    film = (depth < options.film) & (detail.contrast * depth < threshold / 6)
    return View(light, detail, threshold, stained & ~film)


def _threshold(strength: FloatImage) -> float:
    """Lie half-way, on the scale of the logarithm, between what glass and what tissue usually show."""
    if strength.size == 0:
        return 0.05
    log = np.log(np.maximum(strength[:: 1 + strength.size // SAMPLES], 0.004))
    cut = otsu(log) if np.ptp(log) > 0 else 0.0
    glass, tissue = log[log <= cut], log[log > cut]
    if not glass.size or not tissue.size or np.median(glass) > np.log(0.1):
        return 0.05
    middle = (max(np.log(0.005), float(np.median(glass))) + float(np.median(tissue))) / 2
    return float(np.clip(np.exp(middle), 0.02, 0.1))


def _clean(candidate: BoolMask, view: View, stain: Stain | None, options: AutoOptions) -> BoolMask:
    """Close, fill and smooth; drop the pieces that are too small or too narrow for tissue."""
    um = view.um
    mask = close_gaps(candidate, options.grain_um / um)
    mask = fill_holes(mask, options.max_hole_mm2 * 1e6 / um**2)
    mask = open_up(mask, options.grain_um / um)
    numbers, sizes = pieces(mask)
    keep = sizes * um**2 >= options.min_piece_mm2 * 1e6
    # Without colour only its width distinguishes tissue from dirt.
    width = options.min_width_um * (3 if stain is not None and stain.chroma < ACHROMATIC else 1)
    wide = np.unique(numbers[erode(mask, width / 2 / um)])
    keep &= np.isin(np.arange(len(sizes)), wide)
    keep |= sizes > 0.5 * mask.size  # a slide smaller than a speck
    keep[0] = False
    kept: BoolMask = keep[numbers]
    return kept


def _classify(mask: BoolMask, ink: BoolMask, view: View, stain: Stain | None) -> NDArray[np.uint8]:
    classes = np.full(mask.shape, TissueClass.GLASS, np.uint8)
    classes[view.stained] = TissueClass.DEBRIS
    classes[mask] = TissueClass.TISSUE
    if stain is not None:
        classes[mask & (smoothed(view.light.grey, 32 / view.um) < 0.35 * stain.depth)] = TissueClass.FAT
        depth, limit = view.detail.close.depth, max(FOLDED * stain.deepest, DARK)
        folds = touched(depth > 0.87 * limit, open_up(depth > limit, 16 / view.um))
        classes[mask & open_up(close_gaps(folds, 24 / view.um), 16 / view.um)] = TissueClass.FOLD
    classes[mask & blurred(view.light.grey, mask, view.um)] = TissueClass.BLUR
    classes[ink] = TissueClass.PEN
    return classes


def tissue_fractions(
    mask: BoolMask, boxes: NDArray[np.float64], slide_size: tuple[float, float]
) -> NDArray[np.float32]:
    """Measure how much of each box the mask covers: exact, whatever the scales.

    Parameters
    ----------
    mask : bool ndarray, (h, w)
        Spans the complete slide, at any resolution.
    boxes : float ndarray, (n, 4)
        ``x_min, y_min, x_max, y_max`` in level-0 pixels; clipped to the slide.
    slide_size : (float, float)
        Width and height of level 0.

    Returns
    -------
    float32 ndarray, (n,)
        Covered share of the part of each box that lies on the slide; 0 where none does.
    """
    height, width = mask.shape
    to_mask = np.array([width / slide_size[0], height / slide_size[1]])
    corners = np.clip(np.asarray(boxes, np.float64).reshape(-1, 2, 2) * to_mask, 0, [width, height])
    table = np.zeros((height + 1, width + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=table[1:, 1:])

    def integral(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        # A mask is constant within a pixel, so its integral is bilinear there: interpolating the table is exact.
        col, row = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
        fx, fy = x - col, y - row
        upper = table[row, col] * (1 - fx) + table[row, col + 1] * fx
        lower = table[row + 1, col] * (1 - fx) + table[row + 1, col + 1] * fx
        value: NDArray[np.float64] = upper * (1 - fy) + lower * fy
        return value

    (left, top), (right, bottom) = corners[:, 0].T, corners[:, 1].T
    covered = integral(right, bottom) - integral(left, bottom) - integral(right, top) + integral(left, top)
    area = (right - left) * (bottom - top)
    fractions = np.divide(covered, area, out=np.zeros_like(covered), where=area > 0)
    clipped: NDArray[np.float32] = np.clip(fractions, 0, 1).astype(np.float32)
    return clipped


def qc_fractions(
    tissue: Tissue, boxes: NDArray[np.float64], slide_size: tuple[float, float]
) -> dict[str, NDArray[np.float32]]:
    """Measure how much of each box is pen, blur, fold or fat: float32 ``(n,)`` by name; empty without classes.

    ``boxes`` and ``slide_size`` are those of :func:`tissue_fractions`.
    """
    if tissue.classes is None:
        return {}
    present = np.bincount(tissue.classes.ravel(), minlength=len(TissueClass)) > 0
    return {
        kind.name.lower(): tissue_fractions(tissue.classes == kind, boxes, slide_size)
        if present[kind]
        else np.zeros(len(boxes), np.float32)
        for kind in (TissueClass.PEN, TissueClass.BLUR, TissueClass.FOLD, TissueClass.FAT)
    }
