"""What a model says of every tile: probabilities, and what they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.io import Files
from wsivit.store import zarr_metadata as layout
from wsivit.store.column_writer import Column, ColumnLocation, ColumnWriter
from wsivit.store.columns import present

KIND = "predictions"
VIEWS = 8
"""Flips and quarter turns of a tile."""
_COLUMNS = ("logits", "spread", "probabilities")

Kept = tuple[str, ...]


@dataclass(frozen=True)
class Predictions:
    """What a model says of every tile.

    Attributes
    ----------
    probabilities : ndarray of float32 (n, classes)
        NaN where nothing was predicted. With several views of each tile, their mean.
    classes : tuple of str
    attrs : dict
        What else belongs to the run: model fingerprint, temperature, …; anything JSON can hold.
    logits : ndarray of float32 (n, classes) or (n, views, classes), optional
        What the model gave before the temperature; NaN where nothing was predicted.
    spread : ndarray of float32 (n, classes), optional
        Standard deviation of the probabilities over the views of each tile.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    logits: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None

    @property
    def columns(self) -> dict[str, NDArray[np.float32]]:
        """What is there, by name, in the order it is written in."""
        values = {name: getattr(self, name) for name in _COLUMNS}
        return {name: value for name, value in values.items() if value is not None}


def read_predictions(files: Files, run: str) -> Predictions:
    """Read ``predictions/<run>``; UsageError names the ones that are there."""
    node = present(files, KIND, run)
    classes, attrs = (layout.attribute(files, node, name) for name in ("classes", "attrs"))
    there = {"probabilities", *layout.nodes(files, node)} & set(_COLUMNS)
    columns = {name: layout.read_array(files, f"{node}/{name}") for name in there}
    return Predictions(classes=tuple(classes), attrs=attrs, **columns)


class PredictionsWriter(ColumnWriter):
    """The predictions of a run in the making; of `TileStore.predictions_writer`. Use it as a context manager.

    Parameters
    ----------
    place : Place
    classes : sequence of str
    attrs : dict
    keeps : tuple of str
        What is kept beside the probabilities: ``logits``; ``views`` (the logits of each view) and ``spread``.
    afresh : bool
    """

    def __init__(
        self,
        place: ColumnLocation,
        classes: Sequence[str],
        attrs: dict[str, Any],
        keeps: Kept = (),
        *,
        afresh: bool = False,
    ) -> None:
        each, names = (len(classes),), ("class",)
        columns = {}
        if "logits" in keeps:
            columns["logits"] = Column(each, names)
        if "views" in keeps:
            columns["logits"] = Column((VIEWS, *each), ("view", *names))
        if "spread" in keeps:
            columns["spread"] = Column(each, names)
        columns["probabilities"] = Column(each, names)  # the last: a block is there when these are
        super().__init__(place, columns, {"classes": list(classes), "attrs": attrs}, afresh=afresh)

    def write(
        self,
        tiles: range,
        probabilities: NDArray[np.float32],
        logits: NDArray[np.float32] | None = None,
        spread: NDArray[np.float32] | None = None,
    ) -> None:
        """Write one block of :meth:`pending`, float32 (len(tiles), classes); NaN where nothing was predicted.

        Raises
        ------
        StoreError
            When `tiles` is not a block, the shapes do not fit, or something is missing or not to be kept.
        """
        self.put(tiles, Predictions(probabilities, (), logits=logits, spread=spread).columns)


def save_predictions(files: Files, run: str, predictions: Predictions, n: int) -> None:
    """Write ``predictions/<run>`` into a store whole, in place of a run of the same name."""
    whole = predictions.columns
    kept = tuple("views" if name == "logits" and values.ndim == 3 else name for name, values in whole.items())
    for values in whole.values():
        if len(values) != n or values.shape[-1] != len(predictions.classes):
            raise StoreError(f"predictions for {files.url} must be {(n, len(predictions.classes))}, not {values.shape}")
    place = ColumnLocation(files, KIND, run, n)
    with PredictionsWriter(place, predictions.classes, predictions.attrs, kept, afresh=True) as writer:
        for block in writer.blocks():
            writer.put(block, {name: values[block.start : block.stop] for name, values in whole.items()})
        writer.finish()
