"""Slide-level scores from tile scores: pure functions on arrays, and the table of many slides."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wsivit._keywords import options_as_keywords
from wsivit.errors import UsageError
from wsivit.heatmap.heatmap_data import HeatmapData, read_heatmap_data
from wsivit.heatmap.options import StitchOptions
from wsivit.heatmap.score_map import ScoreMap
from wsivit.io import Output, display_path, local_output, replacing
from wsivit.ranges import Count, Fraction, check_option
from wsivit.slide_list import Sources, find_stores

_FACTS = ("window", "smoothing_um", "trained_on_slide", "trained_on_share")
"""What the table records of the predictions: how they were stitched, and whether the model learned from the slide."""


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


@dataclass(frozen=True)
class AggregateOptions(StitchOptions):
    """How tile scores are aggregated.

    Parameters
    ----------
    class_name : str, optional
        Class to write. Default: all of them.
    threshold : float
        Probability from which tissue counts in the area fraction and the largest focus.
    thresholds : dict of str to float, optional
        Thresholds of single classes; on the command line ``--thresholds.tumor 0.3``.
    top_k : int
        Number of the highest tiles in the top-k mean.
    """

    thresholds: dict[str, Fraction] | None = None
    top_k: Count = 10


@options_as_keywords
def aggregate(
    stores: Sources,
    output: str | os.PathLike[str] = "slide_scores.csv",
    *,
    run: str | None = None,
    options: AggregateOptions = AggregateOptions(),
    **keywords: Any,
) -> Output:
    """Aggregate tile scores into slide-level scores: mean, top-k mean, noisy-or, area fraction, largest focus.

    The table has one row per slide and class, with the threshold, window and smoothing it was calculated with,
    and the share of the tiles that the model learned from.

    Parameters
    ----------
    stores : path or TileStore, or several
        Tile stores, folders of them, tables, the output of a cohort.
    output : path or URL
        The CSV to write.
    run : str, optional
        Which predictions. Default: the only run of each store.
    options : AggregateOptions
        Class, thresholds, blending.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    Path or str
        The table.

    Raises
    ------
    UsageError
        Without predictions, for an unknown run or class, or for an option out of its range.
    StoreError
        If a store or its predictions are damaged.
    OutputError
        If the table cannot be written.
    """
    rows: list[list[object]] = []
    classes: set[str] = set()
    for store in find_stores(stores):
        data = read_heatmap_data(store, run, options.window, options.smoothing)
        scores = score_slide(data, options.threshold, options.thresholds, options.top_k)
        if options.class_name is not None:
            scores = [scores[data.class_index(options.class_name)]]
        classes |= {score.class_name for score in scores}
        stitching = [data.facts[name] for name in _FACTS]
        rows += [[data.slide_id, data.run, *asdict(score).values(), *stitching] for score in scores]
    if unknown := set(options.thresholds or {}) - classes:
        raise UsageError(f"a threshold for {', '.join(sorted(unknown))}, which is a class of none of the slides")
    header = ["slide_id", "run", *(field.name for field in fields(SlideScore)), *_FACTS]
    with (
        local_output(output) as path,
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows([f"{x:.7g}" if isinstance(x, float) else x for x in row] for row in rows)
    return display_path(output)


def score_slide(
    data: HeatmapData, threshold: float, thresholds: Mapping[str, float] | None = None, top_k: int = 10
) -> list[SlideScore]:
    """Aggregate the tiles of a run, one score per class, each over its own of the `thresholds` or else `threshold`."""
    of_class = {name: (thresholds or {}).get(name, threshold) for name in data.classes}
    return slide_scores(data.probabilities[data.predicted], of_class, data.scores, data.slide_mpp, top_k=top_k)


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
        check_option("threshold", threshold, Fraction)
    check_option("top_k", top_k, Count)
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
