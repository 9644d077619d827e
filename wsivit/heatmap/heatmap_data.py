"""What every picture and export is drawn from: one run of one store, checked and stitched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, UsageError
from wsivit.heatmap.colors import class_colors
from wsivit.heatmap.options import HeatmapOptions
from wsivit.heatmap.score_map import ScoreMap, Window, smooth, stitch
from wsivit.slide import TileGrid
from wsivit.store import TileStore

# Of two classes a heatmap shows the other one.
_NEGATIVE = {"normal", "benign", "negative", "background", "other", "none", "stroma", "healthy", "non-tumor"}


@dataclass(frozen=True)
class TrainedOn:
    """What the model saw of a slide before it predicted it.

    Attributes
    ----------
    tiles : bool (n,)
        Tiles that show something the model learned from.
    share : float or None
        Share of the predicted tiles; None where the model learned from the slide, but not known from which tiles.
    mismatch : tuple of str
        Differences between the model and the store that ``--allow-mismatch`` let pass.
    """

    tiles: NDArray[np.bool_]
    share: float | None = 0.0
    mismatch: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the predictions are to be read with care, in words for a picture."""
        if self.share is None:
            learned: tuple[str, ...] = ("the model learned from tiles of this slide",)
        elif self.share:
            learned = (f"the model learned from {max(1, round(100 * self.share))} % of these tiles",)
        else:
            learned = ()
        return learned + tuple(f"mismatch allowed: {difference}" for difference in self.mismatch)


@dataclass(frozen=True)
class HeatmapData:
    """Predictions of one run of one store, per tile and stitched.

    Attributes
    ----------
    store : TileStore
    run : str
    classes : tuple of str
    probabilities : float32 (n, c)
        Per tile, in the order of the store; NaN where nothing was predicted.
    scores : ScoreMap
        The same, stitched to cells.
    training : TrainedOn
        What the model saw of the slide before.
    spread : float32 (n,), optional
        Standard deviation over the views of each tile, of the class where it is highest; only with several views.
    """

    store: TileStore
    run: str
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    scores: ScoreMap
    training: TrainedOn
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
        """Index of the class to show first: of two, the one not called "normal" or the like; else the last."""
        if len(self.classes) == 2 and self.classes[1].lower() in _NEGATIVE:
            return 0
        return len(self.classes) - 1

    def selected_classes(self, name: str | None) -> list[int]:
        """Indexes of the classes to show: the named one; for None the main one of two, or all of three and more."""
        if name is None and len(self.classes) > 2:
            return list(range(len(self.classes)))
        return [self.class_index(name)]

    def class_index(self, name: str | None) -> int:
        """Index of a class; the main one for None.

        Raises
        ------
        UsageError
            If the run has no such class.
        """
        if name is None:
            return self.main_class
        if name not in self.classes:
            raise UsageError(f"run {self.run} has no class {name!r}; its classes are {', '.join(self.classes)}")
        return self.classes.index(name)

    def quantity(self, name: str) -> str:
        """Name what is measured of a class, for tables and QuPath."""
        return f"{name} probability"

    def scale_label(self, name: str) -> str:
        """Return the text along the scale of colours."""
        return f"probability of {name}"

    @property
    def notes(self) -> tuple[str, ...]:
        """More small print for pictures."""
        return ()

    def fit(self, options: HeatmapOptions) -> HeatmapOptions:
        """Return the options with scale and threshold in units of the data."""
        return options

    def check_format(self, format: str) -> None:
        """Raise UsageError for a format that cannot hold the data."""

    @property
    def class_colors(self) -> list[tuple[int, int, int]]:
        """RGB of every class, in legends, QuPath and OME channels."""
        return class_colors(len(self.classes), self.main_class)

    @property
    def view_origin(self) -> tuple[float, float]:
        """Level-0 corner from which viewers show the slide, ``x, y``: that of its bounds, where it has any.

        QuPath shows slides with bounds (MIRAX) from there, and gives coordinates from there.
        """
        x, y, _, _ = self.store.parameters.slide_bounds
        return x, y

    @property
    def facts(self) -> dict[str, Any]:
        """What every export records: slide, run, and how the scores were stitched."""
        return {
            "slide_id": self.slide_id,
            "slide_fingerprint": self.store.parameters.slide_fingerprint,
            "run": self.run,
            "window": self.scores.window,
            "smoothing_um": self.scores.smoothing0 * self.slide_mpp[0],
            "uncertainty": self.scores.uncertainty_kind,
            "trained_on_slide": self.training.share != 0,
            "trained_on_share": self.training.share,
            "mismatch": list(self.training.mismatch),
        }

    @property
    def trained_cells(self) -> NDArray[np.bool_]:
        """Cells of the score map under a tile that the model learned from, bool (h, w)."""
        cells = np.zeros(self.scores.shape, bool)
        learned = np.flatnonzero(self.training.tiles)
        reach = range(-(-self.grid.tile_size // self.grid.step))
        for down in reach:
            for right in reach:
                row, col = self.store.row[learned] + down, self.store.col[learned] + right
                inside = (row < cells.shape[0]) & (col < cells.shape[1])
                cells[row[inside], col[inside]] = True
        return cells

    def boxes0(self) -> NDArray[np.float64]:
        """Extents of all tiles, cut at the slide, float64 (n, 4): ``x_min, y_min, x_max, y_max`` in level-0 pixels."""
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
        If the predictions do not fit the tiles, are no probabilities, or if no tile has one.
    """
    opened = store if isinstance(store, TileStore) else TileStore(store)
    # Unfinished predictions are not listed: their missing tiles would look like tissue without a score.
    runs = sorted(opened.runs)
    if not runs:
        advice = f"make or finish some: wsivit predict RUN {opened.url}"
        raise UsageError(f"{opened.url}: no finished predictions in this store; {advice}")
    if run is None and len(runs) > 1:
        raise UsageError(f"{opened.url}: predictions of several runs; choose one of {', '.join(runs)} (--run)")
    name = runs[0] if run is None else run
    if name not in runs:
        raise UsageError(f"{opened.url}: no finished predictions of run {run!r}; this store has {', '.join(runs)}")
    predictions = opened.predictions(name)
    probabilities = np.asarray(predictions.probabilities, np.float32)
    where, classes = f"{opened.url}: run {name}", tuple(predictions.classes)
    if probabilities.shape != (len(opened), len(classes)):
        raise StoreError(
            f"{where} holds predictions of shape {probabilities.shape} for {len(opened)} tiles and {len(classes)} "
            "classes; predict again"
        )
    known = probabilities[np.isfinite(probabilities).all(axis=1)]
    if not len(known):
        raise StoreError(f"{where} has no prediction for any of {len(opened)} tiles; check the model and predict again")
    # A little beyond 0 and 1 is rounding of float16; more is logits.
    if known.min() < -1e-3 or known.max() > 1 + 1e-3:
        raise StoreError(
            f"{where} has values from {known.min():.3g} to {known.max():.3g}, which are no probabilities; predict again"
        )
    spread = None if predictions.spread is None else predictions.spread.max(axis=1)
    scores = stitch(opened.grid, opened.col, opened.row, probabilities, opened.status, window, spread)
    scores = smooth(scores, smoothing_um / opened.parameters.slide_mpp[0])
    training = _trained_on(predictions.attrs, len(opened), opened.readable)
    return HeatmapData(opened, name, classes, probabilities, scores, training, spread)


def _trained_on(attrs: dict[str, Any], count: int, readable: NDArray[np.int64]) -> TrainedOn:
    """Read what `predict` recorded: ``trained_on`` holds runs of tiles, or None where only the slide is known."""
    mismatch, tiles = tuple(map(str, attrs.get("mismatch", ()))), np.zeros(count, bool)
    ranges = attrs.get("trained_on", [])
    if ranges is None:
        return TrainedOn(tiles, None, mismatch)
    for start, stop in ranges:
        tiles[start:stop] = True
    return TrainedOn(tiles, float(tiles[readable].mean()) if len(readable) else 0.0, mismatch)
