"""The default tissue mask: density and texture over the slide's own glass, and what is ink, dust or film."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsivit.tissue.classes import BoolMask, FloatImage, Tissue, TissueClass
from wsivit.tissue.focus import blurred
from wsivit.tissue.glass import Absorbance, absorbance
from wsivit.tissue.ink import ACHROMATIC, FAINT, Closely, Stain, find_ink, learn_stain, look_closely
from wsivit.tissue.planes import otsu, smoothed
from wsivit.tissue.shapes import close_gaps, erode, fill_holes, open_up, pieces, touched

ASSUMED_UM = 8.0
ASSUMED_SIDE = 2048
FOLDED = 1.25  # times the depth of the tissue's deepest twentieth
DARK = 0.7  # and darker than this, or the portal tracts of a pale liver would be folds
BLACK_DEPTH = 2.0  # deeper, a camera sees no colour any more
SAMPLES = 200_000  # pixels that tell a threshold


@dataclass(frozen=True)
class AutoOptions:
    """What the default mask is made with; lengths in microns, areas in mm², densities in natural log."""

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
    """What the default mask looks at, at its working scale."""

    light: Absorbance
    closely: Closely
    threshold: float
    stained: BoolMask

    @property
    def um(self) -> float:
        """Microns per pixel."""
        return self.closely.um


def find_auto(image: NDArray[np.uint8], mpp: float | None, options: AutoOptions) -> Tissue:
    """Find the tissue of a whole-slide view; see :func:`wsivit.tissue.masks.find_tissue`."""
    work, um = _working_view(_without_rim(image), mpp, options)
    view = _look(work, um, options)
    solid = smoothed(view.stained, options.grain_um / um) > options.fill
    stain, ink = None, np.zeros_like(solid)
    if not view.light.dark_field:
        stain = learn_stain(view.closely, solid)
        ink = find_ink(view.closely, solid, stain)
    mask = _clean(solid & ~ink & ~_grey(view, stain), view, stain, options)
    parameters = {
        "method": "auto",
        "mpp": mpp,
        **asdict(options),
        "working_um": round(um, 4),
        "glass": [round(level, 1) for level in view.light.glass],
        "dark_field": view.light.dark_field,
        "threshold": round(view.threshold, 5) if math.isfinite(view.threshold) else None,
    }
    return Tissue(mask, _classify(mask, ink, view, stain), parameters)


def _without_rim(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the last but one row and column: what a decoder padded shows in the last."""
    if min(image.shape[:2]) < 16:
        return image
    inner = image.copy()
    inner[0], inner[-1] = inner[1], inner[-2]
    inner[:, 0], inner[:, -1] = inner[:, 1], inner[:, -2]
    return inner


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
    light = absorbance(work)
    sigma = options.grain_um / um
    # Root mean square: pale tissue with texture counts like denser tissue without.
    squares = light.squares()
    strength = np.sqrt(smoothed(squares, sigma))
    threshold = _dark_threshold(strength) if light.dark_field else _threshold(strength[~light.void])
    edge = np.maximum(np.float32(options.edge) * strength, np.float32(threshold / 2))
    stained = (strength > threshold) & (squares > edge * edge) & ~light.void
    closely = look_closely(light, um)
    depth = np.maximum(closely.pooled.depth, FAINT)
    film = (depth < options.film) & (closely.contrast * depth < threshold / 6)
    return View(light, closely, threshold, stained & ~film)


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


def _dark_threshold(strength: FloatImage) -> float:
    return otsu(strength) if np.ptp(strength) > 0 else np.inf


def _grey(view: View, stain: Stain | None) -> BoolMask:
    """Tell dust, scratches, bubbles and coverslip edges by their lack of colour, where the tissue has one."""
    if view.light.dark_field or (stain is not None and stain.chroma < ACHROMATIC):
        return np.zeros_like(view.stained)
    close = view.closely.close
    limit = ACHROMATIC if stain is None else 0.4 * stain.chroma
    grey: BoolMask = (close.chroma() < limit) & (close.depth < BLACK_DEPTH)
    return grey


def _clean(candidate: BoolMask, view: View, stain: Stain | None, options: AutoOptions) -> BoolMask:
    """Close, fill and smooth; tell the pieces that are tissue from those that are dropped."""
    um = view.um
    mask = close_gaps(candidate, options.grain_um / um)
    mask = fill_holes(mask, options.max_hole_mm2 * 1e6 / um**2)
    mask = open_up(mask, options.grain_um / um)
    numbers, sizes = pieces(mask)
    keep = sizes * um**2 >= options.min_piece_mm2 * 1e6
    # Without colour nothing but its width tells tissue from dirt.
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
        depth, limit = view.closely.close.depth, max(FOLDED * stain.deepest, DARK)
        folds = touched(depth > 0.87 * limit, open_up(depth > limit, 16 / view.um))
        classes[mask & open_up(close_gaps(folds, 24 / view.um), 16 / view.um)] = TissueClass.FOLD
    classes[mask & blurred(view.light.grey, mask, view.um)] = TissueClass.BLUR
    classes[ink] = TissueClass.PEN
    return classes
