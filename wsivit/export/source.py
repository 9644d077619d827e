"""What every picture and export is made of: one run of one store, checked and stitched."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsivit.aggregate import ScoreGrid, Window, smooth, stitch
from wsivit.errors import StoreError, UsageError
from wsivit.grid import TileGrid
from wsivit.store import Status, TileStore

# Of two classes the other one is what a heatmap is looked at for.
_NEGATIVE = {"normal", "benign", "negative", "background", "other", "none", "stroma", "healthy", "non-tumor"}


@dataclass(frozen=True)
class Heat:
    """One run of one store.

    Attributes
    ----------
    store : TileStore
    run : str
    classes : tuple of str
    probabilities : float32 (n, c)
        Per tile, in the order of the store; NaN where there is none.
    scores : ScoreGrid
        The same, stitched.
    """

    store: TileStore
    run: str
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    scores: ScoreGrid

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
        readable = self.store.status != Status.UNREADABLE
        return np.flatnonzero(np.isfinite(self.probabilities).all(axis=1) & readable)

    @property
    def main_class(self) -> int:
        """The class to show first: of two, the one whose name does not say "normal" or the like; else the last."""
        if len(self.classes) == 2 and self.classes[1].lower() in _NEGATIVE:
            return 0
        return len(self.classes) - 1

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

    def boxes0(self) -> NDArray[np.float64]:
        """Extents of all tiles on the slide, float64 (n, 4): ``x_min, y_min, x_max, y_max`` in level-0 pixels."""
        boxes = self.grid.boxes0(self.store.col, self.store.row)
        width, height = self.store.parameters.slide_size
        return np.minimum(boxes, [width, height, width, height])


def read_heat(
    store: TileStore | str | os.PathLike[str],
    run: str | None = None,
    window: Window = "hann",
    smoothing_um: float = 0.0,
) -> Heat:
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
    _check(probabilities, len(opened), len(found.classes), f"{opened.path}: run {name}")
    scores = stitch(opened.grid, opened.col, opened.row, probabilities, opened.status, window)
    scores = smooth(scores, smoothing_um / opened.parameters.slide_mpp[0])
    return Heat(opened, name, tuple(found.classes), probabilities, scores)


def _choose_run(store: TileStore, run: str | None) -> str:
    runs = sorted(store.runs)
    if not runs:
        raise UsageError(f"{store.path}: no predictions in this store; make some with wsivit predict RUN {store.path}")
    if run is None and len(runs) == 1:
        return runs[0]
    if run not in runs:
        asked = "several runs" if run is None else f"no run {run!r}"
        raise UsageError(f"{store.path}: {asked} in this store; choose one of {', '.join(runs)}")
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
