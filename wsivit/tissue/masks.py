"""Where the tissue is: the default mask and its named alternatives, on a low-power view of the whole slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsivit.errors import UsageError
from wsivit.tissue.auto import AutoOptions, find_auto
from wsivit.tissue.classes import BoolMask, Tissue, TissueClass
from wsivit.tissue.geometry import polygons_mask, tissue_fractions
from wsivit.tissue.planes import otsu

OVERVIEW_MPP = 8.0
"""The scale at which :func:`find_tissue` likes its overview; finer ones are reduced, up to 16 are as good."""

Method: TypeAlias = str | Callable[[NDArray[np.uint8], float | None], BoolMask]


def find_tissue(image: NDArray[np.uint8], mpp: float | None, method: Method = "auto") -> Tissue:
    """Find the tissue on a low-power view of a whole slide.

    Parameters
    ----------
    image : uint8 ndarray, (h, w, 3)
        The whole slide, best at 8 to 16 microns per pixel.
    mpp : float or None
        Microns per pixel of that image; None where it is unknown, for fallbacks in pixels.
    method : {"auto", "otsu", "none"} or callable
        ``auto`` judges optical density over the slide's own glass; ``otsu`` is Otsu's threshold on saturation;
        ``none`` takes everything. A callable gets ``(image, mpp)`` and returns a bool mask of the whole slide.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UsageError(f"a tissue mask needs a uint8 image (h, w, 3), not {image.dtype} {image.shape}")
    if callable(method):
        name = getattr(method, "__qualname__", type(method).__qualname__)
        return Tissue(_checked(method(image, mpp), name), None, {"method": "callable", "name": name, "mpp": mpp})
    if method == "none":
        return Tissue(np.ones(image.shape[:2], np.bool_), None, {"method": "none"})
    if method == "otsu":
        return _saturation_otsu(image, mpp)
    if method == "auto":
        return find_auto(image, mpp, AutoOptions())
    raise UsageError(f"no tissue method {method!r}: choose auto, otsu, none, or give a callable")


def _checked(given: Any, name: str) -> BoolMask:
    mask: NDArray[Any] = np.asarray(given)
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
        raise UsageError(f"tissue method {name} must return a bool mask (h, w), not {mask.dtype} {mask.shape}")
    return mask


def _saturation_otsu(image: NDArray[np.uint8], mpp: float | None) -> Tissue:
    from scipy.ndimage import median_filter

    saturation = median_filter(np.asarray(Image.fromarray(image).convert("HSV"))[..., 1], size=7)
    levels = int(np.ptp(saturation))
    threshold = int(otsu(saturation, levels + 1)) if levels else 255
    return Tissue(saturation > threshold, None, {"method": "otsu", "threshold": threshold, "mpp": mpp})


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


def tissue_from_polygons(
    geometries: Iterable[shapely.Geometry], shape: tuple[int, int], downsample: tuple[float, float]
) -> Tissue:
    """Take outlines that a person drew or edited, in level-0 pixels, as the tissue; see :func:`polygons_mask`."""
    mask = polygons_mask(geometries, shape, downsample)
    return Tissue(mask, None, {"method": "polygons", "downsample": list(downsample)})
