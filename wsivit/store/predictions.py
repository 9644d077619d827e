"""What a model says of every tile: probabilities, and what they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError
from wsivit.io import Files
from wsivit.store import zarr_metadata
from wsivit.store.column_writer import Column, ColumnWriter
from wsivit.store.columns import ColumnLocation, find_column

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
        """The columns by name, in the order they are written in."""
        values = {name: getattr(self, name) for name in _COLUMNS}
        return {name: value for name, value in values.items() if value is not None}


def read_predictions(files: Files, run: str) -> Predictions:
    """Read ``predictions/<run>``; UsageError names the existing ones."""
    node = find_column(files, KIND, run)
    classes, attrs = (zarr_metadata.attribute(files, node, name) for name in ("classes", "attrs"))
    existing = {"probabilities", *zarr_metadata.nodes(files, node)} & set(_COLUMNS)
    columns = {name: zarr_metadata.read_array(files, f"{node}/{name}") for name in existing}
    return Predictions(classes=tuple(classes), attrs=attrs, **columns)


class PredictionsWriter(ColumnWriter):
    """Writes the predictions of a run block by block; from `TileStore.predictions_writer`. Use as a context manager.

    Parameters
    ----------
    location : ColumnLocation
    classes : sequence of str
    attrs : dict
    keeps : tuple of str
        What is kept with the probabilities: ``logits``; ``views`` (the logits of each view) and ``spread``.
    restart : bool
        Start anew whatever is there.
    """

    def __init__(
        self,
        location: ColumnLocation,
        classes: Sequence[str],
        attrs: dict[str, Any],
        keeps: Kept = (),
        *,
        restart: bool = False,
    ) -> None:
        each, names = (len(classes),), ("class",)
        columns = {}
        if "logits" in keeps:
            columns["logits"] = Column(each, names)
        if "views" in keeps:
            columns["logits"] = Column((VIEWS, *each), ("view", *names))
        if "spread" in keeps:
            columns["spread"] = Column(each, names)
        columns["probabilities"] = Column(each, names)  # the last: with them a block is complete
        super().__init__(location, columns, {"classes": list(classes), "attrs": attrs}, restart=restart)

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
            When `tiles` is not a block, the shapes do not fit, or a column is missing or not kept.
        """
        self.write_block(tiles, Predictions(probabilities, (), logits=logits, spread=spread).columns)


def write_predictions(location: ColumnLocation, predictions: Predictions) -> None:
    """Write all predictions of a run at once, and replace those of a run of the same name."""
    columns, n, classes = predictions.columns, location.n, predictions.classes
    keeps = tuple("views" if name == "logits" and values.ndim == 3 else name for name, values in columns.items())
    for values in columns.values():
        if len(values) != n or values.shape[-1] != len(classes):
            url = location.files.url
            raise StoreError(f"predictions for {url} must be {(n, len(classes))}, not {values.shape}")
    with PredictionsWriter(location, classes, predictions.attrs, keeps, restart=True) as writer:
        for block in writer.blocks():
            writer.write_block(block, {name: values[block.start : block.stop] for name, values in columns.items()})
        writer.finish()
