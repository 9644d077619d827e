"""Tile scores of one or more slides as slide-level scores, in one table."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from wsivit.errors import UsageError
from wsivit.heatmap.heatmap_data import read_heatmap_data
from wsivit.heatmap.options import StitchOptions
from wsivit.heatmap.slide_score import SlideScore
from wsivit.io import Output, display_path, local_output, replacing
from wsivit.store import TileStore


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

    thresholds: Mapping[str, float] | None = None
    top_k: int = 10


def aggregate(
    stores: Sequence[TileStore | str | os.PathLike[str]],
    output: str | os.PathLike[str] = "slide_scores.csv",
    *,
    run: str | None = None,
    options: AggregateOptions = AggregateOptions(),
) -> Output:
    """Aggregate tile scores into slide-level scores: mean, top-k mean, noisy-or, area fraction, largest focus.

    The table has one row per slide and class, with the threshold, window and smoothing it was calculated with.

    Parameters
    ----------
    stores : sequence of path or TileStore
    output : path or URL
        The CSV to write.
    run : str, optional
        Which predictions. Default: the only run of each store.
    options : AggregateOptions
        Class, thresholds, blending.

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
    for store in stores:
        data = read_heatmap_data(store, run, options.window, options.smoothing)
        scores = data.slide_scores(options.threshold, options.thresholds, options.top_k)
        if options.class_name is not None:
            scores = [scores[data.class_index(options.class_name)]]
        classes |= {score.class_name for score in scores}
        how = [data.facts["window"], data.facts["smoothing_um"]]
        rows += [[data.slide_id, data.run, *asdict(score).values(), *how] for score in scores]
    if unknown := set(options.thresholds or {}) - classes:
        raise UsageError(f"a threshold for {', '.join(sorted(unknown))}, which is a class of none of the slides")
    header = ["slide_id", "run", *(field.name for field in fields(SlideScore)), "window", "smoothing_um"]
    with (
        local_output(output) as path,
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows([f"{x:.7g}" if isinstance(x, float) else x for x in row] for row in rows)
    return display_path(output)
