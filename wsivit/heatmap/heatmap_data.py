"""What every picture and export is made of: one run of one store, checked and stitched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.heatmap.score_map import ScoreMap, Window, smooth, stitch
from wsivit.heatmap.slide_score import SlideScore, slide_scores
from wsivit.slide import TileGrid
from wsivit.store import TileStore

# Of two classes the other one is what a heatmap is looked at for.
_NEGATIVE = {"normal", "benign", "negative", "background", "other", "none", "stroma", "healthy", "non-tumor"}
_PALETTE = (
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


@dataclass(frozen=True)
class HeatmapData:
    """One run of one store.

    Attributes
    ----------
    store : TileStore
    run : str
    classes : tuple of str
    probabilities : float32 (n, c)
        Per tile, in the order of the store; NaN where there is none.
    scores : ScoreMap
        The same, stitched.
    spread : float32 (n,), optional
        How far the views of each tile are apart, of the class where that is most.
    """

    store: TileStore
    run: str
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    scores: ScoreMap
    spread: NDArray[np.float32] | None = None

    @property
    def grid(self) -> TileGrid:
        """The lattice of the tiles."""
        return self.store.grid

    @property
    def slide_id(self) -> str:
        """Name of the slide."""
        return self.store.parameters.slide_id

    @property
    def slide_mpp(self) -> tuple[float, float]:
        """Microns per level-0 pixel, ``x, y``."""
        return self.store.parameters.slide_mpp

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Indexes of the tiles that have a prediction, int64."""
        readable = self.store.readable
        return readable[np.isfinite(self.probabilities[readable]).all(axis=1)]

    @property
    def main_class(self) -> int:
        """The class to show first: of two, the one whose name does not say "normal" or the like; else the last."""
        if len(self.classes) == 2 and self.classes[1].lower() in _NEGATIVE:
            return 0
        return len(self.classes) - 1

    def chosen(self, name: str | None) -> list[int]:
        """Places of the classes to show: the named one; for None the main one of two, or all of more."""
        if name is None and len(self.classes) > 2:
            return list(range(len(self.classes)))
        return [self.class_index(name)]

    def class_index(self, name: str | None) -> int:
        """Place of a class; the main one for None.

        Raises
        ------
        UsageError
            If the run has no such class.
        """
        if name is None:
            return self.main_class
        if name not in self.classes:
            raise UsageError(f"run {self.run} has no class {name!r}; it has {', '.join(self.classes)}")
        return self.classes.index(name)

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """RGB of every class: the palette in order; of two classes the main one is red."""
        order = list(range(len(self.classes)))
        if len(order) == 2 and self.main_class == 1:
            order.reverse()
        return [_PALETTE[k % len(_PALETTE)] for k in order]

    @property
    def view_origin(self) -> tuple[float, float]:
        """Level-0 corner from which viewers show the slide, ``x, y``: that of its bounds, where it has any.

        QuPath shows slides with bounds (MIRAX) from there, and gives coordinates from there.
        """
        x, y, _, _ = self.store.parameters.slide_bounds
        return x, y

    @property
    def facts(self) -> dict[str, Any]:
        """What an export says of itself: of which slide and run it is, and how it was stitched."""
        return {
            "slide_id": self.slide_id,
            "slide_fingerprint": self.store.parameters.slide_fingerprint,
            "run": self.run,
            "window": self.scores.window,
            "smoothing_um": self.scores.smoothing0 * self.slide_mpp[0],
            "uncertainty": self.scores.uncertainty_is,
        }

    def summary(
        self, threshold: float, top_k: int = 10, thresholds: Mapping[str, float] | None = None
    ) -> list[SlideScore]:
        """Sum the slide up, one entry per class; see `slide_scores`."""
        p, given = self.probabilities[self.predicted], thresholds or {}
        each = {name: given.get(name, threshold) for name in self.classes}
        return slide_scores(p, each, self.scores, self.slide_mpp, top_k=top_k)

    def boxes0(self) -> NDArray[np.float64]:
        """Extents of all tiles on the slide, float64 (n, 4): ``x_min, y_min, x_max, y_max`` in level-0 pixels."""
        boxes = self.grid.boxes0(self.store.col, self.store.row)
        width, height = self.store.parameters.slide_size
        return np.minimum(boxes, [width, height, width, height])


def read_heatmap_data(
    store: TileStore | str | os.PathLike[str],
    run: str | None = None,
    window: Window = "hann",
    smoothing_um: float = 0.0,
) -> HeatmapData:
    """Open a store's predictions and stitch them.

    Parameters
    ----------
    store : TileStore or path
    run : str, optional
        Which predictions; may be left out where there is one run only.
    window : {"hann", "uniform", "max"}
        How overlapping tiles are blended.
    smoothing_um : float
        Standard deviation of a Gaussian over the score grid, in microns; 0 for none.

    Raises
    ------
    UsageError
        Without predictions, for an unknown run, or for several runs with none chosen.
    StoreError
        If the predictions do not fit the tiles, are no probabilities, or hold not a single number.
    """
    opened = store if isinstance(store, TileStore) else TileStore(store)
    name = _choose_run(opened, run)
    found = opened.predictions(name)
    probabilities = np.asarray(found.probabilities, np.float32)
    _check(probabilities, len(opened), len(found.classes), f"{opened.url}: run {name}")
    spread = None if found.spread is None else found.spread.max(axis=1)
    scores = stitch(opened.grid, opened.col, opened.row, probabilities, opened.status, window, spread)
    scores = smooth(scores, smoothing_um / opened.parameters.slide_mpp[0])
    return HeatmapData(opened, name, tuple(found.classes), probabilities, scores, spread)


def _choose_run(store: TileStore, run: str | None) -> str:
    runs = sorted(store.runs)
    if not runs:
        raise UsageError(
            f"{store.url}: no finished predictions in this store; make or finish some: wsivit predict RUN {store.url}"
        )
    if run is None and len(runs) == 1:
        return runs[0]
    if run is None:
        raise UsageError(f"{store.url}: predictions of several runs in this store; choose one of {', '.join(runs)}")
    if run not in runs:
        raise UsageError(
            f"{store.url}: no finished predictions of a run {run!r} in this store; it has {', '.join(runs)}"
        )
    return run


def _check(probabilities: NDArray[np.float32], tiles: int, classes: int, where: str) -> None:
    if probabilities.shape != (tiles, classes):
        raise StoreError(
            f"{where} holds predictions of shape {probabilities.shape} for {tiles} tiles and {classes} classes; "
            "predict again"
        )
    known = probabilities[np.isfinite(probabilities).all(axis=1)]
    if not len(known):
        raise StoreError(f"{where} holds no number for any of {tiles} tiles; check the model and predict again")
    if known.min() < -1e-3 or known.max() > 1 + 1e-3:
        raise StoreError(
            f"{where} holds values from {known.min():.3g} to {known.max():.3g}: no probabilities; predict again"
        )
