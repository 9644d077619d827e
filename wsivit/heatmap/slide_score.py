"""From tile scores to a score of the whole slide. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsivit.errors import UsageError
from wsivit.heatmap.score_map import ScoreMap


@dataclass(frozen=True)
class SlideScore:
    """How much of one class a slide shows, by five measures.

    Attributes
    ----------
    class_name : str
    mean : float
        Mean over the predicted tiles.
    top_k_mean : float
        Mean of the `top_k` highest tiles.
    noisy_or : float
        Probability that any tile is positive, were tiles independent: ``1 - prod(1 - p)``. Grows with tissue.
    area_fraction : float
        Share of the predicted area at or over `threshold`.
    largest_focus_mm2 : float
        Area of the largest connected region (8 neighbours) at or over `threshold`.
    threshold : float
    top_k : int
        How many tiles `top_k_mean` is of: fewer than asked for on a slide with fewer.
    n_tiles : int
        Predicted tiles.
    """

    class_name: str
    mean: float
    top_k_mean: float
    noisy_or: float
    area_fraction: float
    largest_focus_mm2: float
    threshold: float
    top_k: int
    n_tiles: int


def slide_scores(
    probabilities: ArrayLike,
    classes: Sequence[str] | Mapping[str, float],
    heat: ScoreMap,
    mpp: tuple[float, float],
    *,
    threshold: float = 0.5,
    top_k: int = 10,
) -> list[SlideScore]:
    """Sum a slide up, one `SlideScore` per class.

    Parameters
    ----------
    probabilities : array_like (n, c)
        Of the tiles; rows with a NaN are left out.
    classes : sequence of str, or dict of str to float
        In the order of the probabilities; each with a threshold of its own, if it is a dict.
    heat : ScoreMap
        Stitched from the same tiles: areas are measured on it, so that nothing is counted twice.
    mpp : (float, float)
        Microns per level-0 pixel, ``x, y``.
    threshold : float, default 0.5
    top_k : int, default 10

    Raises
    ------
    UsageError
        For a `threshold` outside [0, 1], a `top_k` below 1, or without a single predicted tile.
    """
    thresholds = [*classes.values()] if isinstance(classes, Mapping) else [threshold] * len(classes)
    for each in thresholds:
        check_threshold(each)
    if top_k < 1:
        raise UsageError(f"top_k must be at least 1, not {top_k}")
    p = np.asarray(probabilities, np.float64)
    p = p[np.isfinite(p).all(axis=1)]
    if not len(p):
        raise UsageError("no tile has a prediction; there is nothing to sum up")
    areas = heat.cell_areas(mpp)
    known = np.isfinite(heat.scores[..., 0])
    k = min(top_k, len(p))
    with np.errstate(divide="ignore"):
        any_positive = -np.expm1(np.log1p(-np.clip(p, 0, 1)).sum(axis=0))
    result = []
    for i, (name, least) in enumerate(zip(classes, thresholds, strict=True)):
        over = known & (heat.scores[..., i] >= least)
        result.append(
            SlideScore(
                class_name=name,
                mean=float(p[:, i].mean()),
                top_k_mean=float(np.partition(p[:, i], -k)[-k:].mean()),
                noisy_or=float(any_positive[i]),
                area_fraction=float(areas[over].sum() / areas[known].sum()),
                largest_focus_mm2=_largest_focus(over, areas),
                threshold=least,
                top_k=k,
                n_tiles=len(p),
            )
        )
    return result


def check_threshold(threshold: float) -> None:
    """Raise UsageError unless `threshold` is a probability."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is a probability and must be in [0, 1], not {threshold}")


def _largest_focus(over: NDArray[np.bool_], areas: NDArray[np.float64]) -> float:
    from scipy.ndimage import label

    foci, _ = label(over, structure=np.ones((3, 3)))
    return float(np.bincount(foci[over], weights=areas[over]).max(initial=0.0))
