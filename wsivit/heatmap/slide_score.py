"""From tile scores to a score of the slide. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wsivit.errors import UsageError
from wsivit.heatmap.score_map import ScoreMap


@dataclass(frozen=True)
class SlideScore:
    """Five measures of how much of one class a slide shows.

    Attributes
    ----------
    class_name : str
    mean : float
        Mean over the predicted tiles.
    top_k_mean : float
        Mean of the `top_k` highest tiles.
    noisy_or : float
        Probability that any tile is positive, were tiles independent: ``1 - prod(1 - p)``. Grows with the
        number of tiles.
    area_fraction : float
        Share of the predicted area at or over `threshold`.
    largest_focus_mm2 : float
        Area of the largest connected region (8 neighbours) at or over `threshold`.
    threshold : float
    top_k : int
        Number of tiles in `top_k_mean`; fewer than requested on a slide with fewer.
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
    thresholds: Mapping[str, float],
    scores: ScoreMap,
    mpp: tuple[float, float],
    *,
    top_k: int = 10,
) -> list[SlideScore]:
    """Aggregate tile scores, one `SlideScore` per class.

    Parameters
    ----------
    probabilities : array_like (n, c)
        Of the tiles; rows with a NaN are left out.
    thresholds : dict of str to float
        Of each class, in the order of the probabilities.
    scores : ScoreMap
        Stitched from the same tiles: areas are measured on it, so that overlap is not counted twice.
    mpp : (float, float)
        Microns per level-0 pixel, ``x, y``.
    top_k : int, default 10

    Raises
    ------
    UsageError
        For a threshold outside [0, 1], a `top_k` below 1, or without a single predicted tile.
    """
    from scipy.ndimage import label

    for threshold in thresholds.values():
        check_threshold(threshold)
    if top_k < 1:
        raise UsageError(f"top_k must be at least 1, not {top_k}")
    p = np.asarray(probabilities, np.float64)
    p = p[np.isfinite(p).all(axis=1)]
    if not len(p):
        raise UsageError("no tile has a prediction: there is nothing to aggregate")
    areas = scores.cell_areas(mpp)
    known = np.isfinite(scores.scores[..., 0])
    k = min(top_k, len(p))
    # In logarithms: a product over 100,000 tiles would lose all digits. log1p(-1) is -inf, as it should be.
    with np.errstate(divide="ignore"):
        any_positive = -np.expm1(np.log1p(-np.clip(p, 0, 1)).sum(axis=0))
    result = []
    for i, (name, threshold) in enumerate(thresholds.items()):
        over = known & (scores.scores[..., i] >= threshold)
        foci, _ = label(over, structure=np.ones((3, 3)))
        result.append(
            SlideScore(
                class_name=name,
                mean=float(p[:, i].mean()),
                top_k_mean=float(np.partition(p[:, i], -k)[-k:].mean()),
                noisy_or=float(any_positive[i]),
                area_fraction=float(areas[over].sum() / areas[known].sum()),
                largest_focus_mm2=float(np.bincount(foci[over], weights=areas[over]).max(initial=0.0)),
                threshold=threshold,
                top_k=k,
                n_tiles=len(p),
            )
        )
    return result


def check_threshold(threshold: float) -> None:
    """Raise UsageError unless `threshold` is a probability."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is a probability and must be in [0, 1], not {threshold}")
