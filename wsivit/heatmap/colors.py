"""Where a heatmap's colours are chosen: of scores, classes, lines and text, and how they blend with tissue.

Colours are absolute: the same probability has the same colour in every picture.
"""

from __future__ import annotations

from colorsys import hsv_to_rgb
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError

RGB: TypeAlias = NDArray[np.uint8]
"""Picture, uint8 (height, width, 3)."""

CMAP = "coolwarm"
"""Of probabilities: perceptually even, neutral at 0.5."""
UNCERTAINTY_CMAP = "viridis"
"""Of uncertainty: not diverging, since it has no neutral middle."""
INK, QUIET, FRAME, WARNING = "#1a1a1a", "#555555", "#b8b8b8", "#b00020"
"""Text and threshold line, small print, frame of the slide, what makes a picture doubtful."""
TISSUE_OUTLINE, CONTOUR_HALO = "#30303a", "white"
_HATCH = (60, 60, 60)
_CLASSES = (
    (201, 45, 57),
    (58, 102, 184),
    (60, 150, 80),
    (226, 155, 38),
    (130, 82, 168),
    (32, 158, 164),
    (214, 96, 152),
    (140, 96, 60),
    (110, 110, 110),
    (168, 176, 42),
)


def class_colors(count: int, main_class: int) -> list[tuple[int, int, int]]:
    """Return the RGB of each of `count` classes: the palette in order; of two classes the main one is red."""
    order = [1, 0] if count == 2 and main_class == 1 else range(count)
    return [_CLASSES[k] if k < len(_CLASSES) else _further_color(k) for k in order]


def _further_color(k: int) -> tuple[int, int, int]:
    """Colour of a class beyond the palette: steps of the golden ratio around the hues, so that neighbours differ."""
    red, green, blue = hsv_to_rgb(k * 0.618034 % 1, 0.75 - 0.3 * (k % 3) / 2, 0.85 - 0.3 * (k % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def score_colors(scores: NDArray[np.float32], cmap: str, vmin: float, vmax: float) -> RGB:
    """Return the colours of scores on the absolute scale; uint8 (…, 3), undefined where NaN.

    Raises
    ------
    UsageError
        For a colormap that matplotlib does not have.
    """
    from matplotlib import colormaps

    if cmap not in colormaps:
        raise UsageError(f"matplotlib has no colormap {cmap!r}; coolwarm, viridis and magma are some it has")
    level = np.clip((scores - vmin) / (vmax - vmin), 0, 1)
    return np.asarray(colormaps[cmap](np.nan_to_num(level), bytes=True)[..., :3])


def alpha_blend(slide: RGB, grey: NDArray[np.float32], colors: RGB, where: NDArray[np.bool_], alpha: float) -> RGB:
    """Lay colours over the slide in the pixels `where`; all others keep the slide's own.

    The tissue under them is `grey`, so that a hue always means a score.
    """
    mixed = colors.astype(np.float32)
    mixed *= alpha
    mixed += (1 - alpha) * grey[..., None]
    np.rint(mixed, out=mixed)
    return np.where(where[..., None], mixed.astype(np.uint8), slide)


def hatch(rgb: RGB, where: NDArray[np.bool_]) -> RGB:
    """Return the picture with diagonal lines on a pale ground in the pixels `where`."""
    y, x = np.nonzero(where)
    hatched = rgb.copy()
    hatched[y, x] = rgb[y, x] // 2 + 112
    period = max(8, rgb.shape[1] // 150)
    line = (x + y) % period < max(2, period // 5)
    hatched[y[line], x[line]] = _HATCH
    return hatched


def line_over(rgb: RGB, where: NDArray[np.bool_]) -> RGB:
    """Return the picture with thin lines along the other diagonal in the pixels `where`, whose colours stay."""
    y, x = np.nonzero(where)
    period = max(10, rgb.shape[1] // 90)
    line = (x - y) % period < max(1, period // 10)
    lined = rgb.copy()
    lined[y[line], x[line]] = _HATCH
    return lined
